//! Every process is restarted in turn, gracefully and not, with thousands of requests under way: none is lost.
#![allow(clippy::unwrap_used)]

use e2e::manifest::sharded;
use e2e::pair::CART;
use e2e::traffic::{Ask, Traffic};
use e2e::trio::{CLUSTERS, Trio};
use e2e::wait::AT_ONCE;

/// Callers at each gateway. Their requests take a while, so that as many are in flight at any moment.
const CALLERS: usize = 64;
const TARGET: &str = "/trickle/2/40";
const KEYS: u64 = 500;
/// Requests that are answered between two restarts, at each gateway.
const BETWEEN: usize = 200;

fn callers(trio: &Trio, clusters: impl Iterator<Item = &'static str>) -> Vec<Traffic> {
    let ask = Ask { target: TARGET.into(), keys: KEYS, ..Ask::get(CART) };
    let start = |cluster| Traffic::start(trio.gateways[cluster].site.http, CALLERS, ask.clone());
    let traffic: Vec<_> = clusters.map(start).collect();
    wait_more(&traffic);
    traffic
}

fn wait_more(traffic: &[Traffic]) {
    traffic.iter().for_each(|t| t.wait_more(BETWEEN));
}

/// How many there were; none of them failed.
fn count(traffic: Vec<Traffic>) -> usize {
    let count = |traffic: Traffic| {
        let report = traffic.stop();
        report.assert_none_failed();
        assert!(report.slowest() < AT_ONCE, "{:?}", report.slowest());
        report.done.len()
    };
    traffic.into_iter().map(count).sum()
}

#[test]
fn no_request_is_lost_when_every_process_is_restarted_in_turn() {
    let mut trio = Trio::start(&sharded(&CLUSTERS));
    let mut requests = 0;
    for cluster in CLUSTERS {
        // A caller that is connected to the process that ends would see that: others ask elsewhere.
        let traffic = callers(&trio, CLUSTERS.into_iter().filter(|c| *c != cluster));
        for graceful in [true, false] {
            if graceful {
                let ended = trio.gateway(cluster).process.terminate();
                assert!(ended.success(), "{cluster}: {ended}");
            } else {
                trio.gateway(cluster).process.kill();
            }
            wait_more(&traffic);
            trio.gateway(cluster).restart();
            trio.wait_all();
            wait_more(&traffic);
        }
        requests += count(traffic);
    }
    let traffic = callers(&trio, CLUSTERS.into_iter());
    for cluster in CLUSTERS {
        for endpoint in 0..2 {
            trio.backends.get_mut(cluster).unwrap()[endpoint].stop();
            wait_more(&traffic);
            trio.backends.get_mut(cluster).unwrap()[endpoint].start_again();
            wait_more(&traffic);
        }
    }
    requests += count(traffic);
    println!("{requests} requests");
    assert!(requests >= 10_000, "{requests}");
}
