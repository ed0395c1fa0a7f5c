//! Manifests, certificates and bundles change under load, and no request hears of it; a bad change changes nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant, SystemTime};

use e2e::client::{Connection, Request};
use e2e::http::Digest;
use e2e::manifest::{link, policy, service};
use e2e::mesh::{Gateway, find};
use e2e::pair::{CART, Pair, Setup};
use e2e::relay::Relay;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::SOON;
use identity::Role;
use identity::pki::{Issue, Validity, issue};

/// Requests at west for east's service while something changes.
fn load(pair: &Pair) -> Traffic {
    let traffic = Traffic::start(pair.west.site.http, 8, Ask::get(CART));
    traffic.wait_more(100);
    traffic
}

/// How often `gateway` has said so.
fn said(gateway: &Gateway, what: &str) -> usize {
    gateway.process.log().matches(what).count()
}

/// Waits until `gateway` has said so more often than `before`.
fn wait_said(gateway: &Gateway, what: &str, before: usize) {
    e2e::wait_until(&format!("{} says `{what}`", gateway.site.cluster), SOON, || {
        (said(gateway, what) > before).then_some(())
    });
}

#[test]
fn how_a_link_uses_its_path_is_changed_under_its_tunnels() {
    let pair = Pair::new();
    let path = |status: &serde_json::Value| {
        let tunnels = status["peers"][0]["tunnels"].as_array()?.clone();
        let quic = tunnels.iter().find(|tunnel| tunnel["carrier"] == "quic")?;
        Some((quic["path"]["congestion"].as_str()?.to_owned(), quic["path"]["max_rate_mbit"].as_f64()))
    };
    let wait_path = |words: (&str, Option<f64>)| {
        e2e::wait_until(&format!("the path is used by {words:?}"), SOON, || {
            // What it goes by is taken over with the next acknowledgement.
            assert_eq!(pair.get("/").status, 200);
            (path(&pair.west.status()?)? == (words.0.to_owned(), words.1)).then_some(())
        });
    };
    wait_path(("ringway", None));
    let east = link("east", &[pair.east.site.tunnel]);
    for congestion in ["cubic", "newreno", "bbr", "ringway"] {
        let spec = format!("  congestion: {congestion}\n  maxRate: 80Mbit\n  import:");
        pair.west.site.write(&[east.replace("  import:", &spec)]);
        pair.west.process.hang_up();
        wait_path((congestion, Some(80.0)));
        let answer =
            e2e::client::fetch(pair.west.site.http, &Request::post(CART, "/echo", &vec![b'x'; 300_000]));
        assert_eq!(answer.unwrap().status, 200, "{congestion}");
    }
    pair.west.site.write(&[east.replace("  import:", "  maxRate: 8Mbit\n  import:")]);
    pair.west.process.hang_up();
    wait_path(("ringway", Some(8.0)));
    let (began, upload) = (Instant::now(), Request::post(CART, "/echo", &vec![b'x'; 1_000_000]));
    assert_eq!(e2e::client::fetch(pair.west.site.http, &upload).unwrap().status, 200);
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "a megabyte takes a second: {:?}",
        began.elapsed()
    );
}

fn wait_tunnels(gateway: &Gateway, cluster: &str, open: usize) {
    gateway.wait_status("as many tunnels as before", SOON, |_| {
        (tunnels(gateway, cluster).len() == open).then_some(())
    });
}

/// The addresses of the tunnels to `cluster` that a status shows.
fn tunnels(gateway: &Gateway, cluster: &str) -> Vec<String> {
    let status = gateway.status().unwrap_or_default();
    let peer = find(&status["peers"], "cluster", cluster);
    let tunnels = peer.and_then(|p| p["tunnels"].as_array().cloned()).unwrap_or_default();
    tunnels.iter().map(|t| t["address"].as_str().unwrap_or_default().to_owned()).collect()
}

fn wait_gone(gateway: &Gateway, service: &str) {
    gateway.wait_status(&format!("{service} is gone"), SOON, |s| {
        find(&s["services"], "name", service).is_none().then_some(())
    });
}

#[test]
fn services_policies_and_links_change_under_load() {
    let pair = Pair::with(Setup { backends: 2, ..Setup::default() });
    let (a, b) = (&pair.backends[0], &pair.backends[1]);
    let traffic = load(&pair);

    // One endpoint leaves, a service comes, one is exported anew; west hears of it by the mirror.
    let web = service("web", &[("b", b.address())]);
    pair.east.site.write(&[link("west", &[]), service("cart", &[("b", b.address())]), web]);
    pair.west.wait_service("shop/web", &["east"]);
    pair.east.process.wait_log(&["Audit", "MeshService shop/cart changed"]);
    e2e::wait_until("the endpoint that left is not asked any more", SOON, || {
        let (before, answered) = (a.seen().len(), b.seen().len());
        traffic.wait_more(100);
        (a.seen().len() == before && b.seen().len() > answered + 50).then_some(())
    });

    // West takes a policy and a link to a cluster that starts meanwhile.
    let north = pair.mesh.site("north", &["west"]);
    let north = north.start(&[link("west", &[]), service("search", &[("a", a.address())])]);
    pair.mesh.issue("ca", "west", &["east", "north"], &pair.west.site.dir.join("pki"));
    let east = link("east", &[pair.east.site.tunnel]);
    let to_north = link("north", &[north.site.tunnel]);
    pair.west.site.write(&[east.clone(), to_north, policy("cart", "timeout: { head: 3s }")]);
    pair.west.wait_service("shop/search", &["north"]);
    assert_eq!(pair.west.get("search.shop.mesh", "/").status, 200);

    // And loses both again: the tunnel ends at once, and what came through it is gone.
    pair.west.site.write(&[east]);
    wait_gone(&pair.west, "shop/search");
    assert_eq!(pair.west.get("search.shop.mesh", "/").status, 404);
    north.wait_peer("west", "down");
    north.process.wait_log(&["Tunnel ended", "link-removed"]);
    e2e::wait_until("nothing of north is left in status and metrics", SOON, || {
        let metrics = pair.west.admin("/metrics")?.text();
        assert!(metrics.contains("ringway_tunnel_up{peer=\"east\""), "{metrics}");
        let gone = pair.west.peer_state("north").is_none();
        (gone && !metrics.contains("ringway_tunnel_up{peer=\"north\"")).then_some(())
    });
    traffic.stop().assert_none_failed();
}

#[test]
fn import_rules_count_from_the_moment_they_change() {
    let pair = Pair::new();
    let traffic = Traffic::start(pair.west.site.http, 4, Ask::get("cart.shop.east.mesh"));
    let rules = |rules: &str| {
        let link = link("east", &[pair.east.site.tunnel]);
        pair.west.site.write(&[link.replace("{ union: true }", rules)]);
    };
    rules("{ namespace: shop }");
    wait_gone(&pair.west, "shop/cart");
    assert_eq!(pair.get("/").status, 404);
    rules("{ namespace: shop, union: true }");
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(pair.get("/").status, 200);
    traffic.stop().assert_none_failed();

    // What is not taken in at all is gone under every name, and is asked for anew when it is wanted again.
    rules("{ namespace: other }");
    e2e::wait_until("the pinned name is gone", SOON, || {
        (pair.west.get("cart.shop.east.mesh", "/").status == 404).then_some(())
    });
    rules("{ union: true }");
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(said(&pair.west, "Tunnel ended."), 0);
}

#[test]
fn new_certificates_take_the_place_of_old_ones_under_load() {
    const BYTES: u64 = 64 * 1_048_576;
    let pair = Pair::new();
    let traffic = load(&pair);
    // A download that is slower than the change: what is on a tunnel is finished on it, the others end before.
    let mut slow = Connection::open(pair.west.site.http).unwrap();
    slow.send(&Request::get(CART, &format!("/bytes/{BYTES}"))).unwrap();

    // East does not dial: it asks west for another tunnel. West dials itself.
    for (gateway, cluster, peer) in [(&pair.east, "east", "west"), (&pair.west, "west", "east")] {
        let (up, ended) = (said(&pair.west, "Tunnel up."), said(&pair.west, "Tunnel ended."));
        let open = tunnels(&pair.west, "east").len();
        pair.mesh.issue("ca", cluster, &[peer], &gateway.site.dir.join("pki"));
        gateway.process.wait_log(&["Audit", "certificate changed"]);
        wait_said(&pair.west, "Tunnel up.", up + open - 1);
        traffic.wait_more(200);
        if cluster == "east" {
            wait_said(&pair.west, "Tunnel ended.", ended + open - 2);
            let answer = slow.receive("GET").unwrap();
            assert_eq!(answer.digest, Digest::of_pattern(BYTES));
        }
        wait_said(&pair.west, "Tunnel ended.", ended + open - 1);
        wait_tunnels(&pair.west, "east", open);
    }
    assert_eq!(said(&pair.west, "to=\"down\""), 0, "the peer was never without a tunnel");
    traffic.stop().assert_none_failed();
}

#[test]
fn a_bundle_that_goes_takes_the_link_down_until_it_is_back() {
    let pair = Pair::new();
    let bundle = pair.east.site.dir.join("pki/bundles/west.pem");
    let kept = fs::read(&bundle).unwrap();
    fs::remove_file(&bundle).unwrap();
    pair.east.wait_peer("west", "down");
    pair.west.process.wait_log(&["Tunnel ended", "link-removed"]);
    let complains = |text: &str| pair.east.complaints("Link west").iter().any(|c| c.contains(text));
    e2e::wait_until("the link says why", SOON, || complains("BundleNotUsable").then_some(()));
    fs::write(&bundle, kept).unwrap();
    pair.east.wait_peer("west", "up");
    pair.west.wait_peer("east", "up");
    assert_eq!(pair.get("/").status, 200);
    e2e::wait_until("the link complains no more", SOON, || (!complains("")).then_some(()));
}

#[test]
fn another_authority_takes_over_without_a_request_lost() {
    let pair = Pair::new();
    let traffic = load(&pair);
    let fresh = pair.mesh.dir().join("fresh");
    assert_eq!(
        pair.mesh.cli(&["pki", "init", "--trust-domain", "acme.example", "--out", "fresh"]).code,
        Some(0)
    );
    let (old, new) = (fs::read(pair.mesh.dir().join("ca/ca.crt")), fs::read(fresh.join("ca.crt")));
    let (old, new) = (old.unwrap(), new.unwrap());
    let bundle = pair.east.site.dir.join("pki/bundles/west.pem");
    let taken = |n| wait_said(&pair.east, "bundle of west changed", n);

    // First both are believed, then west moves, then the old one goes.
    fs::write(&bundle, [old, new.clone()].concat()).unwrap();
    taken(0);
    let (ended, open) = (said(&pair.east, "Tunnel ended."), tunnels(&pair.east, "west").len());
    let believed = format!("east={}", pair.mesh.dir().join("ca/ca.crt").display());
    pair.mesh.issue("fresh", "west", &[&believed], &pair.west.site.dir.join("pki"));
    wait_said(&pair.east, "Tunnel ended.", ended + open - 1);
    fs::write(&bundle, new).unwrap();
    taken(1);
    traffic.wait_more(200);
    wait_tunnels(&pair.east, "west", open);
    traffic.stop().assert_none_failed();
}

#[test]
fn a_tunnel_of_an_authority_that_is_believed_no_more_is_closed() {
    let pair = Pair::new();
    assert_eq!(
        pair.mesh.cli(&["pki", "init", "--trust-domain", "acme.example", "--out", "other"]).code,
        Some(0)
    );
    let other = pair.mesh.dir().join("other/ca.crt");
    fs::copy(other, pair.east.site.dir.join("pki/bundles/west.pem")).unwrap();
    pair.east.wait_peer("west", "down");
    pair.east.process.wait_log(&["Audit", "not believed any more"]);
    pair.west.process.wait_log(&["Tunnel ended", "link-removed"]);
}

#[test]
fn a_tunnel_ends_with_the_certificate_of_its_peer_and_a_new_one_brings_it_back() {
    let pair = Pair::new();
    let out = pair.west.site.dir.join("pki");
    let now = SystemTime::now();
    let short =
        Validity { not_before: now - Duration::from_secs(60), not_after: now + Duration::from_secs(15) };
    let west = Issue {
        ca_dir: pair.mesh.dir().join("ca"),
        cluster: "west".into(),
        role: Role::Gateway { id: "gw-1".into() },
        peers: vec![("east".into(), None)],
        out_dir: out.clone(),
        trust_domain: None,
        validity: short,
    };
    issue(&west).unwrap();
    let line = pair.east.process.wait_log(&["Audit", "not believed any more"]);
    assert!(line.contains("expired"), "{line}");
    pair.east.wait_peer("west", "down");
    pair.mesh.issue("ca", "west", &["east"], &out);
    pair.west.wait_peer("east", "up");
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_bad_change_is_refused_whole_and_the_old_state_serves_on() {
    let pair = Pair::new();
    let traffic = load(&pair);
    let good = vec![link("west", &[]), service("cart", &[("a", pair.backend().address())])];
    let refused = |reason: &str, text: &str| {
        e2e::wait_until(&format!("the change is refused: {reason}"), SOON, || {
            let complaints = pair.east.complaints("Gateway gw-1");
            complaints
                .iter()
                .any(|c| c.starts_with(&format!("Accepted {reason}")) && c.contains(text))
                .then_some(())
        });
    };

    // The link is gone and the service is wrong: neither counts.
    let elsewhere = service("cart", &[("a", ([127, 0, 0, 1], 1).into())]);
    pair.east.site.write(&[elsewhere.replace("endpoints:", "endpoint:")]);
    refused("InvalidManifests", "endpoint");
    fs::write(pair.east.site.file(), "").unwrap();
    refused("InvalidManifests", "no Gateway");

    let manifest = pair.east.site.manifest().replace("region: us-east", "region: eu");
    fs::write(pair.east.site.file(), [manifest, elsewhere].join("---\n")).unwrap();
    refused("RestartNeeded", "spec.region");

    pair.east.site.write(&good);
    e2e::wait_until("it is taken back", SOON, || {
        pair.east.complaints("Gateway gw-1").is_empty().then_some(())
    });

    let certificate = pair.east.site.dir.join("pki/tls.crt");
    let kept = fs::read(&certificate).unwrap();
    fs::copy(pair.west.site.dir.join("pki/tls.crt"), &certificate).unwrap();
    refused("InvalidIdentity", "does not fit");
    fs::write(&certificate, kept).unwrap();
    e2e::wait_until("it is taken back", SOON, || {
        pair.east.complaints("Gateway gw-1").is_empty().then_some(())
    });

    let bundle = pair.east.site.dir.join("pki/bundles/west.pem");
    fs::write(&bundle, "no bundle").unwrap();
    refused("InvalidBundle", "west");
    // What is applied meanwhile does not take it in either.
    let web = service("web", &[("a", pair.backend().address())]);
    fs::write(pair.mesh.dir().join("web.yaml"), web).unwrap();
    let admin = pair.east.site.admin.to_string();
    let applied = pair.mesh.cli(&["apply", "-f", "web.yaml", "--admin", &admin]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    pair.west.wait_service("shop/web", &["east"]);

    assert_eq!(said(&pair.west, "Tunnel ended."), 0);
    assert_eq!(said(&pair.east, "Audit: taken"), 0);
    traffic.stop().assert_none_failed();
}

#[test]
fn another_address_is_dialled_before_the_old_one_is_left() {
    let pair = Pair::with(Setup { relayed: true, ..Setup::default() });
    let traffic = load(&pair);
    let all_through = |relay: &Relay| {
        let tunnels = tunnels(&pair.west, "east");
        !tunnels.is_empty() && tunnels.iter().all(|t| *t == relay.address().to_string())
    };
    assert!(all_through(pair.relay()));
    let other = Relay::start(pair.east.site.tunnel, 2);
    pair.west.site.write(&[link("east", &[other.address()])]);
    pair.west.wait_status("only the new address is used", SOON, |_| all_through(&other).then_some(()));
    traffic.wait_more(100);
    assert_eq!(said(&pair.west, "to=\"down\""), 0, "the peer was never without a tunnel");
    traffic.stop().assert_none_failed();
}

#[test]
fn a_mounted_folder_that_is_swapped_is_read_and_a_hang_up_reads_at_once() {
    let mut pair = Pair::new();
    // As Kubernetes mounts a ConfigMap: the file is a link into a folder that is a link.
    let dir = pair.east.site.dir.clone();
    let mount = |version: &str, objects: &[String]| {
        fs::create_dir_all(dir.join(version)).unwrap();
        let text = [vec![pair.east.site.manifest()], objects.to_vec()].concat().join("---\n");
        // Relative paths count from the file that was named, not from where its link leads.
        fs::write(dir.join(version).join("gateway.yaml"), text).unwrap();
        symlink(version, dir.join("fresh")).unwrap();
        fs::rename(dir.join("fresh"), dir.join("data")).unwrap();
    };
    let cart = service("cart", &[("a", pair.backend().address())]);
    mount("v1", &[link("west", &[]), cart.clone()]);
    fs::remove_file(pair.east.site.file()).unwrap();
    symlink("data/gateway.yaml", pair.east.site.file()).unwrap();
    let web = service("web", &[("a", pair.backend().address())]);
    mount("v2", &[link("west", &[]), cart, web]);
    pair.west.wait_service("shop/web", &["east"]);

    let read = said(&pair.east, "Configuration reloaded: nothing changed");
    pair.east.process.hang_up();
    wait_said(&pair.east, "Configuration reloaded: nothing changed", read);
    assert_eq!(pair.get("/").status, 200);
    assert!(pair.east.process.ended().is_none());
}

#[test]
fn a_drain_finishes_what_was_accepted_and_takes_nothing_new() {
    const BYTES: u64 = 32 * 1_048_576;
    let mut pair = Pair::with(Setup { relayed: true, ..Setup::default() });
    let ask = |target: &str| {
        let mut connection = Connection::open(pair.west.site.http).unwrap();
        connection.send(&Request::get(CART, target)).unwrap();
        connection
    };
    let mut idle = ask("/");
    assert_eq!(idle.receive("GET").unwrap().status, 200);
    let mut held = ask("/hold");
    e2e::wait_until("the request is held", SOON, || (pair.backend().count("/hold") == 1).then_some(()));
    // An answer that the caller reads later than the gateway is done with it.
    let mut large = ask(&format!("/bytes/{BYTES}"));
    e2e::wait_until("the large answer began", SOON, || {
        (pair.backend().count(&format!("/bytes/{BYTES}")) == 1).then_some(())
    });

    pair.west.process.ask_to_end();
    pair.west.process.wait_log(&["Draining"]);
    e2e::wait_until("new connections are refused", SOON, || {
        Connection::open(pair.west.site.http).is_err().then_some(())
    });
    let mut byte = [0];
    let said = (&mut idle.socket()).read(&mut byte);
    assert!(
        matches!(said, Ok(0)) || said.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset),
        "it was kept"
    );
    pair.backend().release();
    assert_eq!(held.receive("GET").unwrap().status, 200);
    e2e::wait::pause(Duration::from_secs(1));
    assert!(pair.west.process.ended().is_none(), "it did not wait for its caller");
    assert_eq!(large.receive("GET").unwrap().digest, Digest::of_pattern(BYTES));
    let status = e2e::wait_until("the end of west", SOON, || pair.west.process.ended());
    assert!(status.success(), "{status}");
}

#[test]
fn a_draining_gateway_takes_no_new_tunnel() {
    let mut pair = Pair::new();
    let mut held = Connection::open(pair.west.site.http).unwrap();
    held.send(&Request::get(CART, "/hold")).unwrap();
    e2e::wait_until("the request is held", SOON, || (pair.backend().count("/hold") == 1).then_some(()));
    let up = said(&pair.west, "Tunnel up.");
    pair.east.process.ask_to_end();
    // West dials again and is told why not; what it asked before is answered through the old tunnel.
    pair.west.process.wait_log(&["No tunnel", "drains"]);
    assert_eq!(said(&pair.west, "Tunnel up."), up);
    assert_eq!(pair.get("/").status, 503);
    pair.backend().release();
    assert_eq!(held.receive("GET").unwrap().status, 200);
    let status = e2e::wait_until("the end of east", SOON, || pair.east.process.ended());
    assert!(status.success(), "{status}");
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let mut pair = Pair::new();
    let mut held = Connection::open(pair.west.site.http).unwrap();
    held.send(&Request::get(CART, "/hold")).unwrap();
    e2e::wait_until("the request is held", SOON, || (pair.backend().count("/hold") == 1).then_some(()));
    pair.west.process.ask_to_end();
    pair.west.process.wait_log(&["Draining"]);
    pair.west.process.ask_to_end();
    let ended = e2e::wait_until("the end of west", SOON, || pair.west.process.ended());
    assert!(ended.success(), "{ended}");
    pair.west.process.wait_log(&["Told to end at once"]);
    // Its caller hears of it: an error that is said, or a connection that ends.
    assert!(held.receive("GET").map_or(true, |answer| answer.status >= 500));
}
