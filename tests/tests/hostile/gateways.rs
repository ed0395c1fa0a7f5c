//! Gateways without end, and services without end that nobody asks for.

use e2e::hostile::records::{record, snapshot};
use e2e::hostile::stage::Stage;
use e2e::hostile::{Carrier, Hostile};
use e2e::wait::SOON;
use e2e::wait_until;
use proto::limits::PEER_GATEWAYS_MAX;

/// West's rows of east's gateways.
fn rows(stage: &Stage) -> usize {
    let status = stage.status();
    let peers = status["peers"].as_array().unwrap();
    peers.iter().filter(|peer| peer["cluster"] == "east").count()
}

#[test]
fn a_peer_has_so_many_gateways_and_those_that_are_gone_make_room() {
    let mut stage = Stage::plain();
    let carrier = |n: usize| Carrier::ALL[n % 2];
    let up = |n: usize| stage.gateway(&format!("gw-{n}"), carrier(n));
    let mut gateways: Vec<Hostile> = (1..=PEER_GATEWAYS_MAX).map(|n| up(n).unwrap()).collect();
    wait_until("all have a row", SOON, || (rows(&stage) == PEER_GATEWAYS_MAX).then_some(()));
    // One more comes up, or not, and is closed.
    let more = up(PEER_GATEWAYS_MAX + 1);
    assert!(more.is_err() || more.is_ok_and(|more| more.closed().contains("too many gateways")));
    stage.wait_shown("OverBudget", "further ones are refused");
    assert_eq!(rows(&stage), PEER_GATEWAYS_MAX);
    // Those that go make room for those that come.
    for n in 1..=8 {
        drop(gateways.remove(0));
        stage.west.wait_status("one is down", SOON, |status| {
            let gone = |peer: &&serde_json::Value| {
                let tunnels = peer["tunnels"].as_array().map_or(0, Vec::len);
                peer["cluster"] == "east" && peer["state"] == "down" && tunnels == 0
            };
            status["peers"].as_array()?.iter().find(gone).map(drop)
        });
        gateways.push(up(PEER_GATEWAYS_MAX + 1 + n).unwrap());
        assert_eq!(rows(&stage), PEER_GATEWAYS_MAX);
    }
    stage.assert_unharmed(256);
}

#[test]
fn services_that_nobody_asks_for_have_no_series() {
    const SERVICES: usize = 20_000;
    let mut stage = Stage::plain();
    let east = stage.east(Carrier::Quic);
    east.export(1, &snapshot(1, (0..SERVICES).map(|n| record(&format!("s{n}"), 1))));
    wait_until("the last one is known", SOON, || {
        (stage.west.get(&format!("s{}.shop.east.mesh", SERVICES - 1), "/").status == 503).then_some(())
    });
    // An exchange is counted when it ends, and that may be after its answer was read.
    let asked_for = format!("service=\"shop/s{}\"", SERVICES - 1);
    let metrics = wait_until("that one was asked for", SOON, || {
        Some(stage.west.admin("/metrics")?.text()).filter(|metrics| metrics.contains(&asked_for))
    });
    assert!(!metrics.contains("service=\"shop/s7\""));
    assert!(metrics.len() < 64 * 1024, "{} bytes", metrics.len());
    stage.assert_unharmed(512);
}
