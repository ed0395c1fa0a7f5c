//! Ten thousand requests in flight at once, keyed, when one of three serving gateways is killed, and when one drains:
//! every one is answered. A file of its own: nothing else shall run beside it.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use e2e::manifest::{link, policy, service, sharded};
use e2e::mesh::{Gateway, Mesh, find, lanes};
use e2e::pair::CART;
use e2e::port::free_port;
use e2e::process::{Process, allow_files, ringway};
use e2e::wait::SOON;

const SERVING: [&str; 3] = ["east", "north", "south"];
/// So many ask, each again as soon as it is answered, for so many seconds.
const IN_FLIGHT: usize = 10_000;
const SECONDS: &str = "6";
/// They wait for a core most of the time; what is measured here is that none is lost.
const PATIENCE: &str = "60000";

/// The load tool of the benchmarks, for which ten thousand connections are one thread.
fn load(args: &[&str]) -> Command {
    let mut command = Command::new(ringway().with_file_name("load"));
    command.args(args);
    command
}

/// A cluster that serves the keys that are its own: its endpoint and its gateway.
fn serving(mesh: &Mesh, cluster: &str) -> (Process, Gateway) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let backend = load(&["backend", "--name", cluster, "--listen", &address.to_string()]);
    let backend = Process::start(cluster, backend, &mesh.dir().join(format!("{cluster}.log")));
    backend.wait_log(&["ready"]);
    let contract = policy("cart", &sharded(&SERVING).replace("x-user", "x-key"));
    let site = mesh.site(cluster, &["west"]);
    (backend, site.start(&[link("west", &[]), service("cart", &[("a", address)]), contract]))
}

/// Waits until every cluster serves, on as many tunnels as there will be: each has room for 4,096 streams.
fn wait_whole(west: &Gateway) {
    west.wait_service("shop/cart", &SERVING);
    west.wait_status("all tunnels are up", SOON, |status| {
        let whole = |cluster: &&str| {
            let tunnels = find(&status["peers"], "cluster", cluster)?["tunnels"].as_array()?;
            (tunnels.iter().filter(|t| t["carrier"] == "quic").count() == lanes()).then_some(())
        };
        SERVING.iter().all(|cluster| whole(cluster).is_some()).then_some(())
    });
}

/// Does `then` to `cluster` with most of them at the gateway, the others on their way to it or from it; none of them
/// fails. False: the machine was so busy that others were taken for dead as well, and some of what failed would have had
/// to fit on who was left.
fn amid(west: &Gateway, cluster: &str, in_flight: usize, then: impl FnOnce()) -> bool {
    let downs = || {
        let log = west.process.log();
        let others = |line: &&str| !line.contains(&format!("gateway gw-1 of {cluster}"));
        let down = |line: &&str| line.contains("tunnel given up") || line.contains("to=\"down\"");
        let peers = log.lines().filter(|line| line.contains("what=gateway"));
        peers.filter(down).filter(others).count()
    };
    let before = downs();
    let url = format!("http://{}/", west.site.http);
    let mut asking = load(&["closed", "--secs", SECONDS, "--timeout-ms", PATIENCE]);
    asking
        .args(["--conns", &in_flight.to_string()])
        .args(["--keys", "500", "--host", CART, "--url", &url])
        .stdout(Stdio::piped());
    let asking = asking.spawn().unwrap();
    west.wait_status("thousands are in flight", SOON, |status| {
        (status["requests_in_progress"].as_u64()? > in_flight as u64 / 2).then_some(())
    });
    then();
    let output = asking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let value = |name: &str| -> u64 {
        said.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap().parse().unwrap()
    };
    if downs() > before {
        return false;
    }
    assert_eq!(value("fail="), 0, "{said}");
    assert!(value("ok=") >= in_flight as u64, "{said}");
    true
}

#[test]
fn ten_thousand_requests_in_flight_survive_the_end_of_a_gateway() {
    allow_files(16_384);
    let mesh = Mesh::new();
    let mut clusters = SERVING.map(|cluster| serving(&mesh, cluster));
    let mut objects: Vec<_> =
        clusters.iter().map(|(_, at)| link(&at.site.cluster, &[at.site.tunnel])).collect();
    objects.push(policy("cart", "timeout: { head: 60s }"));
    let west = mesh.site("west", &SERVING).start(&objects);
    let [(_, east), (_, north), _] = &mut clusters;
    let kill = |gateway: &mut Gateway| gateway.process.kill();
    let drain = |gateway: &mut Gateway| {
        let ended = gateway.process.terminate();
        assert!(ended.success(), "{ended}");
    };
    // One after the other: with two of three clusters gone, what is left of the third's streams is not enough for all.
    let ends: [(_, fn(&mut Gateway)); 2] = [(east, kill), (north, drain)];
    for (gateway, end) in ends {
        let mut in_flight = IN_FLIGHT;
        loop {
            wait_whole(&west);
            let cluster = gateway.site.cluster.clone();
            let done = amid(&west, &cluster, in_flight, || end(gateway));
            gateway.restart();
            if done {
                break;
            }
            in_flight /= 2;
            println!("too busy a machine; again with {in_flight}");
            assert!(in_flight >= 1_000, "a machine that is too busy for anything");
        }
    }
}
