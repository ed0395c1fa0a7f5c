//! What operators ask a running gateway: how the ring is divided, what a change would move.
#![allow(clippy::unwrap_used)]

use e2e::manifest::{policy, sharded};
use e2e::mesh::find;
use e2e::pair::{Pair, Setup};
use e2e::process::{Said, cli};
use e2e::wait::{SOON, wait_until};
use serde_json::Value;

/// A pair whose cart is sharded over both clusters by `x-user`.
fn pair() -> Pair {
    Pair::with(Setup { east_policy: sharded(&["east", "west"]), ..Setup::default() })
}

/// `ringway ARGS --admin WEST`.
fn ask(pair: &Pair, args: &[&str]) -> Said {
    let admin = pair.west.site.admin.to_string();
    pair.mesh.cli(&[args, &["--admin", &admin]].concat())
}

/// The same with `-o json`: what it says, when it worked.
fn json(pair: &Pair, args: &[&str]) -> Value {
    let said = ask(pair, &[args, &["-o", "json"]].concat());
    assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{args:?}: {e}: {said:?}"))
}

fn hashes(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn shares_and_differences_of_the_running_ring_are_exact() {
    let pair = pair();
    pair.west.wait_status("east told its ring", SOON, |status| {
        let cart = find(&status["services"], "name", "shop/cart")?;
        find(&cart["members"], "cluster", "east")?["ring"].is_string().then_some(())
    });
    let shares = json(&pair, &["ring", "shares", "shop/cart"]);
    let members = shares["members"].as_array().unwrap();
    assert_eq!(
        (members.len(), &shares["mode"], &shares["contract_from"]),
        (2, &"sharded".into(), &"east".into())
    );
    assert_eq!(members.iter().map(|m| hashes(&m["hashes"])).sum::<u128>(), 1 << 64);
    let east = find(&shares["members"], "cluster", "east").unwrap();
    assert_eq!((&east["agrees"], &east["fair"]), (&true.into(), &0.5.into()), "{shares}");

    // Whoever leaves gives all it has, and nobody else anything.
    let gone = json(&pair, &["ring", "diff", "shop/cart", "--remove", "east"]);
    assert_eq!(gone["moved_hashes"], east["hashes"]);
    assert_eq!((&gone["flows"][0]["from"], &gone["flows"][0]["to"]), (&"east".into(), &"west".into()));

    // Against a file, and between files without a gateway.
    let heavier = sharded(&["east", "west"]).replacen("weight: 100", "weight: 300", 1);
    std::fs::write(pair.mesh.dir().join("new.yaml"), policy("cart", &heavier)).unwrap();
    std::fs::write(pair.mesh.dir().join("old.yaml"), policy("cart", &sharded(&["east", "west"]))).unwrap();
    let online = json(&pair, &["ring", "diff", "shop/cart", "-f", "new.yaml"]);
    assert_eq!((&online["flows"][0]["from"], &online["flows"][0]["to"]), (&"west".into(), &"east".into()));
    let files = ["ring", "diff", "shop/cart", "--from", "old.yaml", "-f", "new.yaml", "-o", "json"];
    let offline: Value = serde_json::from_str(&pair.mesh.cli(&files).out).unwrap();
    assert_eq!(offline, online);

    let text = ask(&pair, &["ring", "shares", "shop/cart"]).out;
    for words in ["CLUSTER", "the same", "50.00 %", "####"] {
        assert!(text.contains(words), "`{words}` is missing in\n{text}");
    }
    for (args, code) in [
        (&["ring", "shares", "shop/nothing"][..], 1),
        (&["ring", "diff", "shop/cart", "--remove", "south"], 1),
        (&["ring", "diff", "shop/cart"], 2),
    ] {
        let said = ask(&pair, args);
        assert_eq!(said.code, Some(code), "{said:?}");
    }
}

#[test]
fn a_request_is_explained_as_the_gateway_then_serves_it() {
    let mut pair = pair();
    let url = "http://cart.shop.mesh/basket?id=1";
    // Two users: both are east's or are placed there when west, which is a member, serves nothing.
    for user in ["ann", "bob", "carl", "dora"] {
        let told = json(&pair, &["explain", url, "-H", &format!("x-user: {user}")]);
        let located = json(&pair, &["ring", "locate", "shop/cart", user]);
        assert_eq!((&told["owner"], &told["key"]["hash"]), (&located["owner"], &located["hash"]), "{told}");
        assert_eq!((&told["key"]["source"], &told["chosen"]), (&"header x-user".into(), &"east".into()));
        let west = find(&told["clusters"], "cluster", "west").unwrap();
        assert_eq!((&west["place"], &west["availability"]), (&Value::Null, &"unreachable".into()));
        assert!(west["why"].as_str().unwrap().contains("declares no such service"), "{west}");
        assert_eq!((&told["way"]["gateway"], &told["rules"]["replayable"]), (&"gw-1".into(), &true.into()));
        assert_eq!(told["rejected"], Value::Null);
    }
    let told = json(&pair, &["explain", url, "--workload", "shop/checkout"]);
    let caller = told["caller"].as_str().unwrap();
    assert!(caller.starts_with("spiffe://acme.example/cluster/west/ns/shop/sa/checkout, "), "{caller}");
    assert_eq!(ask(&pair, &["explain", url, "--workload", "checkout"]).code, Some(1));
    let told = json(&pair, &["explain", url, "-X", "POST"]);
    assert_eq!((&told["key"], &told["rules"]["replayable"]), (&Value::Null, &false.into()));

    // At the cluster that serves it, the endpoint is chosen as well.
    let admin = pair.east.site.admin.to_string();
    let text = pair.mesh.cli(&["explain", "cart.shop.east.mesh/", "--admin", &admin]).out;
    for words in [
        "pinned to one cluster",
        "which is this cluster",
        "endpoints, p2c-ewma",
        "anonymous",
        "the name pins it",
    ] {
        assert!(text.contains(words), "`{words}` is missing in\n{text}");
    }

    for (url, status) in
        [("http://nothing.shop.mesh/", 404), ("http://example.com/", 404), ("http://cart.shop.mesh:99/", 404)]
    {
        let told = json(&pair, &["explain", url]);
        assert_eq!(told["rejected"]["status"], status, "{told}");
    }
    assert_eq!(ask(&pair, &["explain", "ftp://cart.shop.mesh/"]).code, Some(1));

    pair.east.process.kill();
    pair.west.wait_peer("east", "down");
    let told = json(&pair, &["explain", url, "-H", "x-user: ann"]);
    assert_eq!((&told["rejected"]["status"], &told["chosen"]), (&503.into(), &Value::Null));
    let east = find(&told["clusters"], "cluster", "east").unwrap();
    assert!(east["why"].as_str().unwrap().starts_with("no tunnel to it: "), "{east}");
    assert_eq!(pair.get("/").status, 503);
}

/// The results of the check `id` in a report, by object.
fn results(report: &Value, id: &str) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["id"] == id);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    checks.map(|check| (text(&check["object"]), text(&check["result"]))).collect()
}

/// `ringway check` of west: its exit code and its report.
fn check(pair: &Pair) -> (Option<i32>, Value) {
    let said = ask(pair, &["check", "-o", "json"]);
    (said.code, serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}")))
}

#[test]
fn a_check_names_what_is_broken_and_what_to_do() {
    let mut pair = pair();
    let list: Value = serde_json::from_str(&pair.mesh.cli(&["check", "--list", "-o", "json"]).out).unwrap();
    // Whichever came up first.
    pair.west.wait_status("tunnels over UDP and over TCP", SOON, |status| {
        let tunnels = &status["peers"][0]["tunnels"];
        ["quic", "tcp"].iter().all(|carrier| find(tunnels, "carrier", carrier).is_some()).then_some(())
    });
    let report = wait_until("all is well", SOON, || {
        let (code, report) = check(&pair);
        (code == Some(0)).then_some(report)
    });
    assert_eq!((&report["ok"], &report["failed"]), (&true.into(), &0.into()), "{report:#}");
    for check in report["checks"].as_array().unwrap() {
        assert!(
            find(&list["checks"], "id", check["id"].as_str().unwrap()).is_some(),
            "{check} is not listed"
        );
    }
    for (id, object) in [
        ("identity.name", "gw-1"),
        ("trust.bundle", "east"),
        ("link.tunnel", "east/gw-1"),
        ("link.udp", "east"),
        ("registry.age", "east"),
        ("clock", "east"),
        ("manifests.accepted", "gw-1"),
        ("ports.bound", "gw-1"),
        ("grant.denied", "shop/cart"),
    ] {
        assert_eq!(results(&report, id), [(object.to_owned(), "ok".to_owned())], "{id}: {report:#}");
    }
    assert_eq!(results(&report, "link.tcp")[0].1, "ok", "{report:#}");
    // West is a member by contract and serves nothing.
    assert_eq!(results(&report, "orphan.member"), [("shop/cart west".to_owned(), "warn".to_owned())]);

    // What the manifests alone tell; the ports are taken by the gateway that runs.
    let file = pair.west.site.file();
    let said = pair.mesh.cli(&["check", "-f", file.to_str().unwrap(), "-o", "json"]);
    let offline: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, results(&offline, "ports.bound")[0].1.as_str()), (Some(0), "warn"), "{offline:#}");
    assert_eq!(results(&offline, "identity.certificate")[0].1, "ok");

    std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + "---\nkind: Nonsense\n").unwrap();
    pair.west.process.hang_up();
    wait_until("the change is refused", SOON, || {
        let (code, report) = check(&pair);
        (code == Some(1) && results(&report, "manifests.accepted")[0].1 == "fail").then_some(())
    });

    pair.east.process.kill();
    pair.west.wait_peer("east", "down");
    let (code, report) = check(&pair);
    assert_eq!((code, &report["ok"]), (Some(1), &false.into()));
    let tunnel = find(&report["checks"], "id", "link.tunnel").unwrap();
    assert_eq!(tunnel["result"], "fail", "{tunnel}");
    assert!(tunnel["fix"].as_str().unwrap().contains("gateway of east"), "{tunnel}");
    let text = ask(&pair, &["check"]);
    assert_eq!(text.code, Some(1));
    for words in ["FAIL     link.tunnel east/gw-1: down for", "fix: ", " cannot be known from here"] {
        assert!(text.out.contains(words), "`{words}` is missing in\n{}", text.out);
    }
}

#[test]
fn the_registry_shows_what_is_declared_exported_and_mirrored() {
    let pair = pair();
    let key = "/ringway/v1/imports/east/shop/cart";
    let west = wait_until("the import is in the registry", SOON, || {
        let west = json(&pair, &["registry", "dump"]);
        let says = find(&west["stored"], "key", key)?["says"].as_str()?.to_owned();
        says.starts_with("ports web 80, region us-east").then_some(west)
    });
    let east = find(&west["imports"], "peer", "east").unwrap();
    assert!(east["revision"].as_u64() > Some(0) && east["age_seconds"].as_u64() < Some(60), "{east}");
    let cart = find(&east["services"], "name", "shop/cart").unwrap();
    assert_eq!((&cart["union"], &cart["ports"][0]), (&true.into(), &"web 80 http".into()), "{cart}");
    assert!(cart["contract"].as_str().unwrap().starts_with("sharded, generation 1"), "{cart}");
    assert_eq!(find(&west["declared"], "kind", "Link").unwrap()["name"], "east");

    let admin = pair.east.site.admin.to_string();
    let said = pair.mesh.cli(&["registry", "dump", "--admin", &admin, "-o", "json"]);
    let theirs: Value = serde_json::from_str(&said.out).unwrap();
    let exported = find(&theirs["exports"]["services"], "name", "shop/cart").unwrap();
    assert_eq!((&exported["to"][0], &exported["reaches"][0]), (&"*".into(), &"west".into()));
    assert_eq!(theirs["exports"]["epoch"], east["epoch"]);

    let text = ask(&pair, &["registry", "dump"]).out;
    for words in ["cluster west, revision", "imports of east, epoch", "the union", "web 80 http"] {
        assert!(text.contains(words), "`{words}` is missing in\n{text}");
    }
}

/// The audit lines in a log that hold every one of `parts`.
fn audits(log: &str, parts: &[&str]) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(" audit: Audit: "));
    lines.filter(|line| parts.iter().all(|part| line.contains(part))).map(String::from).collect()
}

#[test]
fn every_change_of_health_leaves_one_audit_line() {
    let mut pair =
        Pair::with(Setup { east_policy: sharded(&["east", "west"]), backends: 2, ..Setup::default() });
    pair.west.process.wait_log(&["Audit: link health changed.", "to=\"up\""]);
    pair.backends[0].stop();
    wait_until("the dead endpoint is taken out", SOON, || {
        pair.get("/");
        let log = pair.east.process.log();
        (!audits(&log, &["endpoint a at ", "to=\"out\""]).is_empty()).then_some(())
    });
    pair.mesh.issue("ca", "west", &["east"], &pair.west.site.dir.join("pki"));
    pair.west.process.wait_log(&["Audit: taken from the files: certificate changed."]);
    pair.east.process.kill();
    pair.west.wait_peer("east", "down");
    pair.west.process.wait_log(&["Audit: link health changed.", "to=\"down\""]);
    pair.west.process.wait_log(&["Audit: peer health changed.", "to=\"down\""]);

    let log = pair.west.process.log();
    for parts in [
        &["link health changed.", "what=link east", "to=\"up\"", "why=", "moved="][..],
        &["link health changed.", "what=link east", "to=\"down\"", "why=", "% of the keys of shop/cart"],
        &["peer health changed.", "what=gateway gw-1 of east", "to=\"down\"", "why=", "moved="],
        &["taken from the files: certificate changed.", "why=", "moved="],
    ] {
        assert_eq!(audits(&log, parts).len(), 1, "{parts:?}\n{log}");
    }
    let marked = log.lines().filter(|line| line.contains("Audit: ")).count();
    assert_eq!(audits(&log, &["what=", "why=", "moved="]).len(), marked, "{log}");
}

#[test]
fn every_command_teaches_by_example() {
    let dir = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 14] = [
        &["demo"],
        &["gateway"],
        &["pki", "init"],
        &["pki", "issue"],
        &["validate"],
        &["status"],
        &["explain"],
        &["check"],
        &["registry", "dump"],
        &["ring", "locate"],
        &["ring", "shares"],
        &["ring", "diff"],
        &["completion"],
        &[],
    ];
    for command in commands {
        let said = cli(dir.path(), &[command, &["--help"]].concat());
        let example = format!("  ringway {}", command.join(" "));
        assert!(said.code == Some(0) && said.out.contains(&example), "{command:?}:\n{}", said.out);
    }
    for shell in ["bash", "zsh", "fish"] {
        let said = cli(dir.path(), &["completion", shell]);
        assert!(said.code == Some(0) && said.out.contains("locate"), "{shell}: {said:?}");
    }
}
