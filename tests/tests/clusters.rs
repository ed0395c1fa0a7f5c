//! `--clusters`: what an operator of one cluster applies in linked ones, as far as each of them grants it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use e2e::backend::Backend;
use e2e::client::Request;
use e2e::exporter::Exporter;
use e2e::manifest::{link, link_that_allows, object, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::peer::{Peer, hello};
use e2e::process::{Said, memory_kib};
use e2e::sidecar::SidecarSite;
use e2e::wait::SOON;
use proto::code::Code;
use proto::control::Hello;
use proto::limits::{OBJECTS_ANSWER_BYTES_MAX, OBJECTS_ASK_BYTES_MAX};
use proto::message::{encode_message, take_message};
use proto::objects::{Answer, ApplyRequest, Ask, Source, answer, ask};
use proto::stream::StreamKind;
use serde_json::Value;

/// A linked cluster that does not answer is told of within this time, busy machine included: twice what the gateway
/// allows it.
const DEADLINE: Duration = Duration::from_secs(60);

/// West with links to east and north, which allow it to apply what these rules grant (none: no such field).
struct Linked {
    west: Gateway,
    east: Gateway,
    north: Gateway,
    mesh: Mesh,
}

impl Linked {
    fn start(east: Option<&str>, north: Option<&str>, objects_of_north: &[String]) -> Self {
        let mesh = Mesh::new();
        let peers = ["west", "east", "north"];
        let sites = peers.map(|cluster| mesh.site(cluster, &peers));
        let [west, east_site, north_site] = &sites;
        let to_west = |allow: Option<&str>| {
            allow.map_or_else(|| link("west", &[]), |rules| link_that_allows("west", &[], rules))
        };
        let east = east_site.start(&[to_west(east)]);
        let north = north_site.start(&[&[to_west(north)], objects_of_north].concat());
        let west = west.start(&[link("east", &[east_site.tunnel]), link("north", &[north_site.tunnel])]);
        west.wait_peer("east", "up");
        west.wait_peer("north", "up");
        Self { west, east, north, mesh }
    }

    fn write(&self, file: &str, documents: &[String]) {
        fs::write(self.mesh.dir().join(file), documents.join("---\n")).unwrap();
    }

    /// `ringway ARGS` at west.
    fn at_west(&self, args: &[&str]) -> Said {
        ask_at(&self.mesh, &self.west, args)
    }

    /// The names of what is applied in a cluster.
    fn applied(&self, gateway: &Gateway) -> Vec<String> {
        let said = ask_at(&self.mesh, gateway, &["get", "-o", "json"]);
        let found: Value = serde_json::from_str(&said.out).unwrap();
        let objects = found["objects"].as_array().unwrap().iter().filter(|o| o["file"].is_null());
        objects.map(|o| format!("{} {}", o["kind"].as_str().unwrap(), o["name"].as_str().unwrap())).collect()
    }
}

fn ask_at(mesh: &Mesh, gateway: &Gateway, args: &[&str]) -> Said {
    let admin = gateway.site.admin.to_string();
    mesh.cli(&[args, &["--admin", &admin]].concat())
}

/// What became of the part of one cluster, of what `-o json` says.
fn part<'a>(json: &'a Value, cluster: &str) -> &'a Value {
    json["clusters"].as_array().unwrap().iter().find(|part| part["cluster"] == cluster).unwrap()
}

#[test]
fn what_is_granted_is_applied_in_every_cluster_and_serves_there() {
    let all = Linked::start(Some("{ namespace: shop }"), Some("{ namespace: \"*\" }"), &[]);
    let backend = Backend::start("cart/a");
    all.write("cart.yaml", &[service("cart", &[("a", backend.address())])]);
    let diff = all.at_west(&["diff", "--clusters", "west,east,north", "-f", "cart.yaml", "-o", "json"]);
    let diff: Value = serde_json::from_str(&diff.out).unwrap();
    assert_eq!(part(&diff, "north")["diff"]["objects"][0]["outcome"], "created", "{diff}");

    let said = all.at_west(&["apply", "--clusters", "west,east,north", "-f", "cart.yaml"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let table = "  OBJECT                  OUTCOME   GENERATION\n  MeshService shop/cart   created   1\n";
    assert_eq!(said.out, ["west", "east", "north"].map(|c| format!("{c}: applied\n{table}")).concat());
    for gateway in [&all.west, &all.east, &all.north] {
        e2e::wait_until("cart is answered by its own cluster", SOON, || {
            let answer = gateway.ask(&Request::get(&format!("cart.shop.{}.mesh", gateway.site.cluster), "/"));
            (answer.ok()?.status == 200).then_some(())
        });
    }
    // Whose it is stands beside it, and in the audit line: the cluster that was proven, the operator as told.
    let wide = ask_at(&all.mesh, &all.east, &["get", "MeshService", "-o", "wide"]).out;
    assert!(wide.contains("cluster west, told operator uid "), "{wide}");
    all.east.process.wait_log(&["Audit: created by an operator", "cluster west, told operator uid "]);

    let seen = all.at_west(&["get", "MeshService", "--clusters", "east", "-o", "json"]);
    let seen: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!(part(&seen, "east")["objects"][0]["name"], "cart", "{seen}");
    let said = all.at_west(&["delete", "-f", "cart.yaml", "--clusters", "east,north"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!((all.applied(&all.east), all.applied(&all.west).len()), (Vec::new(), 1));
}

#[test]
fn what_one_cluster_denies_or_finds_wrong_is_applied_in_none() {
    let backend = Backend::start("cart/a");
    let cart = service("cart", &[("a", backend.address())]);
    let of_file = service("web", &[("a", backend.address())]);
    let policy = object("TrafficPolicy", "cart, namespace: shop", "service: cart\n  timeout: { head: 2s }");
    let only_services = "{ namespace: shop, kinds: [MeshService] }, { namespace: bank }";
    let all = Linked::start(Some("{ namespace: shop }"), Some(only_services), std::slice::from_ref(&of_file));
    all.write("cart.yaml", std::slice::from_ref(&cart));
    all.write("both.yaml", &[cart.clone(), policy]);
    all.write("link.yaml", &[cart.clone(), link("south", &[])]);
    all.write("web.yaml", &[cart.clone(), of_file.clone()]);

    let applied_nowhere = |file: &str, clusters: &str, words: &[&str]| {
        let said = all.at_west(&["apply", "--clusters", clusters, "-f", file]);
        assert_eq!(said.code, Some(1), "{file}: {said:?}");
        let text = format!("{}{}", said.out, said.err);
        for words in [words, &["nothing was changed anywhere"]].concat() {
            assert!(text.contains(words), "{file}: `{words}` is missing in {text}");
        }
        for gateway in [&all.west, &all.east, &all.north] {
            assert_eq!(all.applied(gateway), Vec::<String>::new(), "{file}: {}", gateway.site.cluster);
        }
        let json = all.at_west(&["apply", "--clusters", clusters, "-f", file, "-o", "json"]);
        let json: Value = serde_json::from_str(&json.out).unwrap();
        assert!(json["error"].is_string(), "{json}");
        json
    };
    let json =
        applied_nowhere("both.yaml", "west,east,north", &["north: failed, denied: TrafficPolicy shop/cart"]);
    assert_eq!(part(&json, "east")["result"], "not applied");
    assert_eq!(
        (&part(&json, "north")["result"], &part(&json, "north")["reason"]),
        (&"failed".into(), &"denied".into())
    );
    let denied =
        ["Audit: what a linked cluster asked for is denied", "TrafficPolicy shop/cart", "cluster west"];
    all.north.process.wait_log(&denied);
    // A Link is never granted by a rule that does not name it.
    applied_nowhere("link.yaml", "east", &["denied: Link south"]);
    // North declares it in a file: an error of its own, with the place in ours.
    let json = applied_nowhere("web.yaml", "east,north", &["web.yaml:", "declared in"]);
    assert_eq!(part(&json, "north")["reason"], "invalid");
    let json = applied_nowhere("cart.yaml", "east,south", &["there is no link to a cluster `south` here"]);
    assert_eq!(part(&json, "south")["reason"], "not found");
    // A grant counts from the moment that the Link has it.
    all.north.site.write(&[link_that_allows("west", &[], "{ namespace: shop }"), of_file.clone()]);
    e2e::wait_until("north grants policies as well", SOON, || {
        let said = all.at_west(&["apply", "--dry-run", "--clusters", "north", "-f", "both.yaml"]);
        (said.code == Some(0)).then_some(())
    });
    // West grants nothing to east, whoever east is to west.
    let said = ask_at(&all.mesh, &all.east, &["get", "--clusters", "west"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("denied"), "{said:?}");
    // And a dry run that all would take changes nothing either.
    let said = all.at_west(&["apply", "--dry-run", "--clusters", "west,east,north", "-f", "cart.yaml"]);
    assert_eq!((said.code, said.out.matches("would apply").count()), (Some(0), 3), "{said:?}");
    assert_eq!(all.applied(&all.east), Vec::<String>::new());
}

#[test]
fn what_changed_meanwhile_in_one_cluster_is_not_overwritten_from_another() {
    let all = Linked::start(Some("{ namespace: shop }"), Some("{ namespace: shop }"), &[]);
    let backend = Backend::start("cart/a");
    all.write("cart.yaml", &[service("cart", &[("a", backend.address())])]);
    let said = all.at_west(&["apply", "--clusters", "east,north", "-f", "cart.yaml"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let shown =
        || ask_at(&all.mesh, &all.east, &["get", "MeshService", "cart", "-n", "shop", "-o", "yaml"]).out;
    e2e::wait_until("east shows what was applied", SOON, || {
        shown().contains("resourceVersion").then_some(())
    });
    let first = shown();
    all.write("second.yaml", &[first.replace("id: a", "id: second")]);
    all.write("third.yaml", &[first.replace("id: a", "id: third")]);
    let said = ask_at(&all.mesh, &all.east, &["apply", "-f", "second.yaml"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = all.at_west(&["apply", "--clusters", "east", "-f", "third.yaml"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out.contains("east: failed, conflict: MeshService shop/cart was changed by uid"),
        "{said:?}"
    );
    e2e::wait_until("east shows the second", SOON, || shown().contains("id: second").then_some(()));
}

#[test]
fn a_cluster_that_is_down_or_stands_still_or_is_older_is_told_of_in_time() {
    let mut all = Linked::start(Some("{ namespace: shop }"), Some("{ namespace: shop }"), &[]);
    let backend = Backend::start("cart/a");
    all.write("cart.yaml", &[service("cart", &[("a", backend.address())])]);
    let fails = |all: &Linked, clusters: &str, words: &str| {
        let began = Instant::now();
        let said = all.at_west(&["apply", "--clusters", clusters, "-f", "cart.yaml"]);
        assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.out.contains(words), "`{words}` is missing in {said:?}");
        assert_eq!(all.applied(&all.east), Vec::<String>::new());
    };
    all.north.process.freeze();
    fails(&all, "east,north", "north: failed, ");
    all.north.process.kill();
    all.west.wait_peer("north", "down");
    fails(&all, "east,north", "north: failed, unavailable: no tunnel to it is up");

    // A peer that refuses streams whose purpose it does not know, as versions before this one do.
    let old = all.mesh.site("old", &["west"]);
    let west = &all.west.site;
    let mut bundles = fs::read_dir(west.dir.join("pki/bundles")).unwrap();
    assert!(bundles.any(|b| b.unwrap().file_name() == "east.pem"), "all clusters have one authority");
    fs::copy(west.dir.join("pki/bundles/east.pem"), west.dir.join("pki/bundles/old.pem")).unwrap();
    west.write(&[link("east", &[all.east.site.tunnel]), link("old", &[])]);
    let target = ("west", west.tunnel);
    let _old = e2e::wait_until("west takes the old peer", SOON, || {
        Exporter::link(&old.dir.join("pki"), target, "old", ["cart".to_owned()]).ok()
    });
    all.west.wait_peer("old", "up");
    fails(
        &all,
        "east,old",
        "old: failed, not known to its version: its gateway gw-1 is of a version that does not know",
    );
}

#[test]
fn no_sidecar_and_no_stranger_changes_anything_and_too_much_is_not_read() {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["west", "north"]);
    let east = site.start(&[link_that_allows("west", &[], "{ namespace: \"*\" }"), link("north", &[])]);
    let source = Source { name: "cart.yaml".into(), text: service("cart", &[]) };
    let apply = ask::Kind::Apply(ApplyRequest { sources: vec![source], dry_run: false });
    let question = encode_message(&Ask { operator: "root".into(), kind: Some(apply) });
    let stream = |message: &[u8]| -> Bytes { [&[StreamKind::Objects.to_wire()], message].concat().into() };
    let target = ("east", east.site.tunnel);

    // A workload of east's own, which it serves otherwise.
    let sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &east.site);
    let own = Hello { gateway: "cart-1".into(), ..hello("east", [7; 16]) };
    let workload = e2e::wait_until("east serves sidecars", SOON, || {
        Peer::dial(&sidecar.dir.join("pki"), target, &own).ok()
    });
    assert_eq!(workload.ask_raw(stream(&question)), e2e::peer::Answer::Reset(Code::Cancelled));

    // A peer that is granted nothing, and one that is granted everything and sends more than is taken.
    mesh.site("north", &["east"]);
    let north = Peer::dial(&mesh.dir().join("north/pki"), target, &hello("north", [8; 16])).unwrap();
    // Before it has asked anything: nothing is read of it.
    let refused = |word: Option<Bytes>| {
        let mut word = BytesMut::from(&word.unwrap()[..]);
        let answer = take_message::<Answer>(&mut word, OBJECTS_ANSWER_BYTES_MAX).unwrap().unwrap();
        match answer.kind {
            Some(answer::Kind::Refusal(refusal)) => refusal.message,
            other => panic!("{other:?}"),
        }
    };
    let said = refused(north.first_word(&[StreamKind::Objects.to_wire()]));
    assert!(said.contains("nothing is granted (`spec.allow.apply` of the Link)"), "{said}");
    east.process.wait_log(&["Audit: what a linked cluster asked for is denied", "cluster north"]);
    for _ in 0..100 {
        let large = [&question[..], &[0; 60_000]].concat();
        assert_eq!(refused(north.first_word(&stream(&large))), said);
    }
    let denials = east.process.log().matches("what a linked cluster asked for is denied").count();
    assert!(denials < 50, "{denials} lines of 101 questions");
    mesh.site("west", &["east"]);
    let west = Peer::dial(&mesh.dir().join("west/pki"), target, &hello("west", [9; 16])).unwrap();
    let mut announced = Vec::new();
    proto::varint::put(&mut announced, OBJECTS_ASK_BYTES_MAX as u64 + 1);
    assert!(matches!(west.ask_raw(stream(&announced)), e2e::peer::Answer::Reset(_)));
    let shown = ask_at(&mesh, &east, &["get", "-o", "json"]);
    assert!(!shown.out.contains("cart"), "{shown:?}");
    // The same question of the one that is granted it.
    west.tell(stream(&question));
    e2e::wait_until("it is applied for west", SOON, || {
        ask_at(&mesh, &east, &["get", "-o", "wide"])
            .out
            .contains("cluster west, told operator root")
            .then_some(())
    });
}

#[test]
fn questions_that_are_asked_and_reset_are_bounded_and_the_gateway_answers_beside_them() {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["west"]);
    let east = site.start(&[link_that_allows("west", &[], "{ namespace: shop }")]);
    mesh.site("west", &["east"]);
    let target = ("east", east.site.tunnel);
    let west = Peer::dial(&mesh.dir().join("west/pki"), target, &hello("west", [9; 16])).unwrap();
    // As much as is taken at once, granted, and slow to read.
    let endpoints: Vec<String> = (0..200).map(|n| format!("e{n}")).collect();
    let endpoints: Vec<_> = endpoints.iter().map(|id| (id.as_str(), east.site.http)).collect();
    let mut text = String::new();
    for n in 0.. {
        let next = service(&format!("s{n}"), &endpoints);
        if text.len() + next.len() > OBJECTS_ASK_BYTES_MAX - 1024 {
            break;
        }
        text = text + "---\n" + &next;
    }
    let ask = |namespace: &str| {
        let text = text.replace("namespace: shop", &format!("namespace: {namespace}"));
        let source = Source { name: "many.yaml".into(), text };
        let apply = ask::Kind::Apply(ApplyRequest { sources: vec![source], dry_run: true });
        let question = encode_message(&Ask { operator: "root".into(), kind: Some(apply) });
        [&[StreamKind::Objects.to_wire()][..], &question].concat()
    };
    let said = |word: Option<Bytes>| {
        let mut word = BytesMut::from(&word?[..]);
        let answer = take_message::<Answer>(&mut word, OBJECTS_ANSWER_BYTES_MAX).ok()??;
        match answer.kind {
            Some(answer::Kind::Refusal(refusal)) => Some(refusal.message),
            _ => None,
        }
    };
    // What is not granted is found in the first of its documents, and nothing else is read of them.
    let denied = said(west.first_word(&ask("bank"))).unwrap();
    assert!(denied.contains("MeshService bank/s0 is not granted"), "{denied}");
    west.open_and_reset(&ask("shop"), 30);
    // Sooner or later it is told that it asks too much, by count or by length.
    e2e::wait_until("west is refused", SOON, || {
        let refused = said(west.first_word(&ask("shop")))?;
        (refused.contains("at once") || refused.contains("more is asked")).then_some(())
    });
    assert_eq!(east.get("none.shop.mesh", "/").status, 404);
    let shown = ask_at(&mesh, &east, &["get", "-o", "json"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let used = memory_kib(east.process.pid(), "VmHWM").unwrap() / 1024;
    println!("at most {used} MiB");
    assert!(used <= 384, "{used} MiB");
}
