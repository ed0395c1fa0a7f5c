//! Records that would fill our registry, and a registry that is full or holds nonsense.

use std::time::{Duration, Instant};

use e2e::etcd::{ETCD_SOON, Etcd, of_the_system};
use e2e::hostile::records::{crowd, record, removed, snapshot, upsert, with};
use e2e::hostile::stage::{Setup, Stage};
use e2e::hostile::{Carrier, Hostile};
use e2e::mesh::{Gateway, find};
use e2e::stored::Stored;
use e2e::wait::SOON;
use e2e::wait_until;
use proto::limits::{PEER_BYTES_MAX, RECORD_BYTES_MAX};
use serde_json::Value;

const REVISION: u64 = 1_000_000_000_000_000;
/// Records that change all the time.
const RECORDS: u64 = 40;
const ATTACK: Duration = Duration::from_secs(12);

/// Changes [`RECORDS`] records of almost the largest size as fast as they are taken, some of them too large, and then
/// leaves each as the record `port(n)`.
fn flap(east: &Hostile) {
    east.export(REVISION, &snapshot(REVISION, []));
    let started = Instant::now();
    let mut revision = REVISION;
    wait_until("a sync stream is open", SOON, || (east.tell(&[]) > 0).then_some(()));
    while started.elapsed() < ATTACK {
        revision += 1;
        let events: Vec<_> = (0..RECORDS)
            .map(|n| {
                let mut contract = crowd(1_000, if n == 0 { 10_000 } else { 1 }, revision % 256);
                for member in contract.members.iter_mut().flat_map(|members| &mut members.members) {
                    member.region = "r".repeat(40);
                }
                upsert(with(record(&format!("s{n}"), revision), contract))
            })
            .chain([removed("s1", revision)])
            .collect();
        east.tell(&events);
    }
    let last = |n| {
        let mut record = record(&format!("s{n}"), revision + 1);
        record.ports[0].number = last_port(n);
        upsert(record)
    };
    east.tell(&(0..RECORDS).map(last).collect::<Vec<_>>());
}

fn last_port(n: u64) -> u32 {
    8_000 + n as u32
}

/// Puts a value by hand; false: the etcd refuses it.
fn put(etcd: &Etcd, key: &str, value: &[u8]) -> bool {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = etcd_client::Client::connect(etcd.endpoints(), None).await.unwrap();
        client.put(key, value, None).await.is_ok()
    })
}

/// What `ringway check` of `gateway` says under this id.
fn check(gateway: &Gateway, id: &str) -> Option<Value> {
    let report: Value = serde_json::from_slice(&gateway.admin("/v1/check")?.body).ok()?;
    find(&report["checks"], "id", id).cloned()
}

#[test]
fn records_that_change_all_the_time_fill_no_registry_in_a_file() {
    let mut stage = Stage::plain();
    let east = stage.east(Carrier::Tcp);
    flap(&east);
    stage.assert_unharmed(256);
    let room = check(&stage.west, "registry.room").unwrap();
    assert_eq!(room["result"], "ok", "{room}");
    wait_until("each record stands as it was told last", SOON, || {
        let dump = stage.west.admin("/v1/registry")?.text();
        (0..RECORDS).all(|n| dump.contains(&format!("web {}", last_port(n)))).then_some(())
    });
}

#[test]
fn records_that_change_all_the_time_fill_no_etcd_and_end_right() {
    let etcd = Etcd::start_with(&of_the_system(), 1, |_| vec!["--quota-backend-bytes=67108864".into()]);
    let stored = Stored::of(&etcd);
    let mut stage = Stage::set(Setup { etcd: Some(&etcd), ..Setup::default() });
    let before = stored.revision().unwrap();
    let east = stage.east(Carrier::Quic);
    flap(&east);
    // Each record once in ten seconds, and what goes with it.
    let written = stored.revision().unwrap() - before;
    println!("{written} revisions");
    assert!(written < 100, "{written} revisions");
    stage.assert_unharmed(256);
    wait_until("each record stands as it was told last", ETCD_SOON, || {
        let imports = stored.below("/ringway/v1/imports/east/")?;
        let right = imports.iter().filter(|entry| {
            let record = <proto::sync::Record as prost::Message>::decode(entry.value.clone());
            record.is_ok_and(|record| {
                (0..RECORDS).any(|n| record.name == format!("s{n}") && record.ports[0].number == last_port(n))
            })
        });
        (right.count() as u64 == RECORDS).then_some(())
    });
}

#[test]
fn a_peer_has_its_share_of_the_registry_and_no_more() {
    let mut stage = Stage::plain();
    let east = stage.east(Carrier::Tcp);
    // As much again as it may have, in records of which each is allowed.
    let contract = crowd(2, 1, 0);
    let large = |n: usize| {
        let mut record = with(record(&format!("s{n:05}"), REVISION), contract.clone());
        // Ports whose names fill it.
        record.ports = (1..=200)
            .map(|number| proto::sync::Port {
                name: format!("{number:0>200}"),
                number,
                protocol: proto::sync::Protocol::Http.into(),
                proxy_header: false,
            })
            .collect();
        record
    };
    let bytes = prost::Message::encoded_len(&large(0));
    assert!(bytes < RECORD_BYTES_MAX);
    let most = PEER_BYTES_MAX / bytes;
    east.export(REVISION, &snapshot(REVISION, (0..2 * most).map(large)));
    stage.wait_shown("RecordsLeftOut", "more than");
    stage.west.wait_status("what fits is imported", SOON, |status| {
        let imported = find(&status["links"], "cluster", "east")?["imported"].as_u64()? as usize;
        (imported > most * 9 / 10 && imported <= most).then_some(())
    });
    stage.assert_unharmed(640);
    assert_eq!(check(&stage.west, "registry.room").unwrap()["result"], "ok");
}

#[test]
fn nonsense_in_an_etcd_stops_nobody() {
    let etcd = Etcd::start(&of_the_system(), 1);
    let stored = Stored::of(&etcd);
    let mut stage = Stage::set(Setup { etcd: Some(&etcd), ..Setup::default() });
    let east = stage.east(Carrier::Quic);
    east.export(REVISION, &snapshot(REVISION, [record("s0", REVISION)]));
    wait_until("its record is there", ETCD_SOON, || {
        stored.below("/ringway/v1/imports/east/").map(|found| found.len()).filter(|&count| count == 1)
    });
    let long = format!("endpoints/shop/cart/{}", "i".repeat(2_000));
    for (key, value) in [
        ("config/MeshService/shop/cart2", &b"\xff\xfe garbage"[..]),
        ("config/MeshService/shop/big", &[b'x'; 1_400_000]),
        ("config/Nope/a/b", b""),
        ("config/Link/default/evil", b""),
        ("endpoints/shop/cart/a", b"\0"),
        (&long, b"zz"),
        ("imports/east/shop/s0", &[0xff; 100]),
        ("imports/east/shop/x", &[0xff; 100]),
        ("imports/east", b"junk"),
        ("imports/../x", b""),
        ("gateways/gw-9", b"junk"),
        ("status/MeshService/shop/cart", b"\xff\xff"),
    ] {
        assert!(put(&etcd, &format!("/ringway/v1/{key}"), value), "{key}");
    }
    stage.assert_unharmed(192);
    drop(stage.west.process);
    // One that starts on it.
    stage.west = stage.west.site.spawn();
    stage.west.wait_ready();
    stage.assert_applies("other");
    drop(stage);
    drop(etcd);
}

#[test]
fn an_etcd_without_room_is_told_of_and_serves_on() {
    let etcd = Etcd::start_with(&of_the_system(), 1, |_| vec!["--quota-backend-bytes=16777216".into()]);
    let stage = Stage::set(Setup { etcd: Some(&etcd), ..Setup::default() });
    let mut n = 0;
    while put(&etcd, &format!("/others/{n}"), &[b'x'; 1024 * 1024]) {
        n += 1;
        assert!(n < 64, "its quota is 16 MiB");
    }
    let full = wait_until("the check says so", ETCD_SOON, || {
        check(&stage.west, "registry.room").filter(|check| check["result"] == "fail")
    });
    assert!(full["cause"].as_str().unwrap().contains("full"), "{full}");
    let file = stage.mesh.dir().join("web.yaml");
    std::fs::write(&file, e2e::manifest::service("web", &[("a", stage.backends[0].address())])).unwrap();
    let said = stage.mesh.cli_at(&stage.west, &["apply", "-f", &file.to_string_lossy()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("space exceeded") && said.err.contains("alarm disarm"), "{said:?}");
    // A peer changes nothing about that, and what it says is served.
    let east = stage.east(Carrier::Quic);
    east.export(REVISION, &snapshot(REVISION, [record("s0", REVISION)]));
    wait_until("it is imported", SOON, || {
        (stage.west.get("s0.shop.east.mesh", "/").status == 503).then_some(())
    });
    assert_eq!(stage.west.get("cart.shop.west.mesh", "/").status, 200);
    assert_eq!(stage.status()["registry"]["standing"], "elected", "the lease is kept");
}
