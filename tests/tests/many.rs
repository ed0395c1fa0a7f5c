//! Many services of many peers, most of which stay while some change.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use e2e::exporter::Exporter;
use e2e::manifest::link;
use e2e::mesh::{Gateway, Mesh};
use e2e::wait_until;

/// Long enough for anything that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
const PEERS: [&str; 3] = ["east", "north", "south"];
const SERVICES: usize = 500;

fn name(n: usize) -> String {
    format!("s{n:03}")
}

/// Waits until `host` is a name that `gateway` knows, or none: nothing behind it answers in either case.
fn wait_known(gateway: &Gateway, host: &str, known: bool) {
    let status = if known { 503 } else { 404 };
    wait_until(&format!("{host} is answered {status}"), LIMIT, || {
        (gateway.get(host, "/").status == status).then_some(())
    });
}

#[test]
fn what_changes_at_one_peer_changes_and_the_rest_stays() {
    let mesh = Mesh::new();
    PEERS.iter().for_each(|peer| mesh.issue("ca", peer, &["west"], &mesh.dir().join(peer)));
    let west = mesh.site("west", &PEERS).start(&PEERS.map(|peer| link(peer, &[])));
    let mut exporters: Vec<_> = PEERS
        .iter()
        .map(|peer| {
            let target = ("west", west.site.tunnel);
            Exporter::link(&mesh.dir().join(peer), target, peer, (0..SERVICES).map(name)).unwrap()
        })
        .collect();
    for peer in PEERS {
        wait_known(&west, &format!("{}.shop.{peer}.mesh", name(SERVICES - 1)), true);
    }
    wait_known(&west, "s250.shop.mesh", true);
    wait_known(&west, "s250.shop.north.mesh:81", false);

    // It declares another port, and so leaves the union.
    exporters[1].change([name(250)]);
    wait_known(&west, "s250.shop.north.mesh:81", true);
    wait_known(&west, "s250.shop.north.mesh:80", false);
    for host in
        ["s250.shop.mesh:80", "s250.shop.east.mesh:80", "s249.shop.north.mesh:80", "s251.shop.mesh:80"]
    {
        assert_eq!(west.get(host, "/").status, 503, "{host}");
    }
    west.wait_status("the conflict is shown", LIMIT, |status| {
        let conditions = status["conditions"].as_array()?;
        let of = |condition: &&serde_json::Value| condition["object"] == "MeshService shop/s250";
        (conditions.iter().filter(of).count() == 1 && conditions.len() == 1).then_some(())
    });

    // What went back to what it was is as before, and a peer that is lost takes nothing with it.
    exporters[1].change([name(250)]);
    wait_known(&west, "s250.shop.north.mesh:80", true);
    west.wait_status("the conflict is over", LIMIT, |status| {
        status["conditions"].as_array()?.is_empty().then_some(())
    });
    drop(exporters.remove(1));
    west.wait_peer("north", "down");
    wait_known(&west, "s250.shop.north.mesh", true);
    wait_known(&west, "s250.shop.mesh", true);
}
