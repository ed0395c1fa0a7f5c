//! The command line: what a newcomer reads, exit codes, JSON.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use e2e::manifest::{link, service};
use e2e::mesh::{Mesh, find};
use e2e::pair::Pair;
use e2e::process::{Said, cli};
use e2e::wait::{SOON, wait_until};
use serde_json::Value;

fn validate(dir: &Path, text: &str) -> Said {
    std::fs::write(dir.join("x.yaml"), text).unwrap();
    cli(dir, &["validate", "-f", "x.yaml"])
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

#[test]
fn wrong_manifests_name_place_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let good = service("cart", &[("a", ([127, 0, 0, 1], 9001).into())]);
    assert_eq!(validate(dir.path(), &good).code, Some(0));
    let policy = |rest: &str| format!("{good}---\n{}", e2e::manifest::policy("cart", rest));
    // What is wrong, and the words that must stand in what is said of it.
    let cases: [(String, &[&str]); 12] = [
        (good.replace("endpoints:", "endpoint:"), &["x.yaml:6:", "endpoint", "did you mean `endpoints`"]),
        (policy("timeout: { head: 10 sec }"), &["x.yaml:", "10 sec", "10s"]),
        (policy("timeout: { head: 10 }"), &["x.yaml:", "10", "10s"]),
        (policy("retry: { budget: 20 }"), &["20%"]),
        (policy("retry: { budget: 200% }"), &["200%"]),
        (policy("balance: { algorithm: maglev }"), &["maglev", "p2c-ewma"]),
        (policy("balance: { algorithm: random }"), &["random", "not available yet"]),
        (policy("limits: { requests: 5 }"), &["limits", "not available yet"]),
        (format!("{good}---\n{good}"), &["cart", "declared twice", "x.yaml:3", "x.yaml:11:"]),
        (good.replace("kind: MeshService", "kind: Service"), &["Service", "MeshService"]),
        (good.replace("v1alpha1", "v1"), &["ringway.dev/v1alpha1"]),
        (good.replace("{ id: a", "{ id: [a"), &["x.yaml:"]),
    ];
    for (text, words) in cases {
        let said = validate(dir.path(), &text);
        assert_eq!(said.code, Some(1), "{text}\n{}", said.err);
        for word in words {
            assert!(said.err.contains(word), "`{word}` is missing for\n{text}\nin\n{}", said.err);
        }
    }
}

#[test]
fn every_error_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bad = |name: &str| service(name, &[("a", ([127, 0, 0, 1], 9001).into())]).replace("export", "exprot");
    let said = validate(dir.path(), &format!("{}---\n{}", bad("one"), bad("two")));
    assert!(said.err.matches("exprot").count() >= 2, "{}", said.err);
    assert_eq!(said.err.matches("did you mean `export`").count(), 2, "{}", said.err);
}

#[test]
fn a_dangling_reference_is_a_warning_and_the_rest_works() {
    let dir = tempfile::tempdir().unwrap();
    let text = e2e::manifest::policy("nothing", "retry: { attempts: 2 }");
    let said = validate(dir.path(), &text);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!((said.out.clone() + &said.err).contains("nothing"), "{said:?}");
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["validate", "gateway"] {
        let said = cli(dir.path(), &[command, "-f", "nowhere.yaml"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("nowhere.yaml"), "{said:?}");
    }
    let said = cli(dir.path(), &["validate", "-f", "nowhere.yaml", "-o", "json"]);
    assert_eq!((said.code, json(&said)["error"].is_string()), (Some(1), true));
}

#[test]
fn a_file_without_a_gateway_starts_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.yaml"), service("cart", &[])).unwrap();
    let said = cli(dir.path(), &["gateway", "-f", "x.yaml"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("Gateway"), "{said:?}");
}

#[test]
fn a_taken_port_is_named() {
    let mesh = Mesh::new();
    let mut site = mesh.site("east", &["west"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    site.http = taken.local_addr().unwrap();
    site.write(&[]);
    let said = cli(&site.dir, &["gateway", "-f", site.file().to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains(&site.http.to_string()), "{said:?}");
}

#[test]
fn wrong_usage_exits_2_and_help_exits_0() {
    let dir = tempfile::tempdir().unwrap();
    for args in
        [&["gateway"][..], &["nonsense"], &["pki", "issue"], &["ring", "locate"], &["status", "extra"], &[]]
    {
        assert_eq!(cli(dir.path(), args).code, Some(2), "{args:?}");
    }
    for args in [
        &["--help"][..],
        &["--version"],
        &["gateway", "--help"],
        &["pki", "issue", "--help"],
        &["demo", "--help"],
    ] {
        let said = cli(dir.path(), args);
        assert!(said.code == Some(0) && !said.out.is_empty(), "{args:?}: {said:?}");
    }
}

#[test]
fn status_says_what_is_linked_as_text_and_json() {
    let pair = Pair::new();
    let admin = pair.west.site.admin.to_string();
    let text = pair.mesh.cli(&["status", "--admin", &admin]);
    assert_eq!(text.code, Some(0), "{text:?}");
    for word in ["east", "up", "shop/cart"] {
        assert!(text.out.contains(word), "`{word}` is missing in\n{}", text.out);
    }
    let said = json(&pair.mesh.cli(&["status", "--admin", &admin, "-o", "json"]));
    assert_eq!((&said["cluster"], &said["gateway"]), (&"west".into(), &"gw-1".into()));
    let peer = &said["peers"][0];
    assert_eq!((&peer["cluster"], &peer["state"]), (&"east".into(), &"up".into()));
    assert!(peer["since_unix_ms"].as_u64() > Some(1_600_000_000_000), "{peer}");
    let tunnels = &peer["tunnels"];
    assert!(
        find(tunnels, "carrier", "quic").is_some() && find(tunnels, "carrier", "tcp").is_some(),
        "{peer}"
    );
}

#[test]
fn a_gateway_that_is_not_there_is_a_failure_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", e2e::port::free_port());
    for args in
        [&["status", "--admin", &nobody][..], &["ring", "locate", "shop/cart", "k", "--admin", &nobody]]
    {
        let said = cli(dir.path(), args);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains(&nobody) && said.err.contains("hint"), "{said:?}");
    }
}

#[test]
fn locating_a_key_of_an_unknown_service_fails() {
    let pair = Pair::new();
    let admin = pair.west.site.admin.to_string();
    let said = pair.mesh.cli(&["ring", "locate", "shop/nothing", "k", "--admin", &admin]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("shop/nothing"), "{said:?}");
}

#[test]
fn pki_refuses_to_overwrite_an_authority() {
    let mesh = Mesh::new();
    let before = std::fs::read(mesh.dir().join("ca/ca.key")).unwrap();
    let said = mesh.cli(&["pki", "init", "--trust-domain", "acme.example", "--out", "ca"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("ca.key") || said.err.contains("ca.crt"), "{said:?}");
    assert_eq!(std::fs::read(mesh.dir().join("ca/ca.key")).unwrap(), before);
}

#[test]
fn the_admin_port_says_live_ready_and_metrics() {
    let pair = Pair::new();
    pair.get("/");
    for path in ["/live", "/ready"] {
        assert_eq!(pair.west.admin(path).unwrap().status, 200, "{path}");
    }
    assert_eq!(pair.west.admin("/nothing").unwrap().status, 404);
    // A request is counted once it is over, which its caller may hear of a little earlier.
    for name in [
        "ringway_requests_total",
        "ringway_request_duration_seconds",
        "ringway_tunnel_up{",
        "peer=\"east\"",
        "service=\"shop/cart\"",
    ] {
        wait_until(&format!("the metrics show `{name}`"), SOON, || {
            pair.west.admin("/metrics")?.text().contains(name).then_some(())
        });
    }
}

#[test]
fn ready_does_not_depend_on_peers() {
    let mesh = Mesh::new();
    let nobody = ([127, 0, 0, 1], e2e::port::free_port()).into();
    let west = mesh.site("west", &["east"]).start(&[link("east", &[nobody])]);
    assert_eq!(west.admin("/ready").unwrap().status, 200);
    let status = west.status().unwrap();
    assert_eq!(status["peers"].as_array().map(Vec::len), Some(0), "never up, so no peer yet: {status}");
    assert_ne!(status["links"][0]["state"], "up");
}

#[test]
fn sigterm_ends_a_gateway_in_order() {
    let mut pair = Pair::new();
    let status = pair.west.process.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    pair.east.wait_peer("west", "down");
}

#[test]
fn conditions_show_what_is_without_effect() {
    let mesh = Mesh::new();
    let dangling = e2e::manifest::policy("nothing", "retry: { attempts: 2 }");
    // No link, so nobody could ever bring what it names.
    let west = mesh.site("west", &["east"]).start(&[dangling]);
    wait_until("the policy is said to lead nowhere", SOON, || {
        let complaints = west.complaints("TrafficPolicy shop/nothing");
        complaints.iter().any(|c| c.starts_with("ResolvedRefs")).then_some(())
    });
}
