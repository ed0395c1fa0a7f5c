#![allow(clippy::unwrap_used)]

use tokio::sync::watch;

use super::*;
use crate::model::{self, Port, Protocol, ServiceName};
use crate::store::memory::MemoryStore;
use crate::tasks::election::{Candidate, Standing, stand};

fn peer(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn import(name: &str, revision: u64, port: u16) -> Arc<Import> {
    Arc::new(Import {
        name: ServiceName::new("shop", name).unwrap(),
        ports: [Port { name: "web".into(), number: port, protocol: Protocol::Http, proxy_header: false }]
            .into(),
        region: "us-east".into(),
        contract: None,
        revision,
    })
}

fn imports(synced_unix_ms: u64, imports: &[Arc<Import>]) -> Option<Arc<PeerImports>> {
    let services = imports.iter().map(|import| (import.name.clone(), import.clone())).collect();
    Some(Arc::new(PeerImports { epoch: 3, revision: 1, synced_unix_ms, services, ..PeerImports::default() }))
}

fn picture<const N: usize>(peers: [(&str, Option<Arc<PeerImports>>); N]) -> Picture {
    peers.into_iter().map(|(name, imports)| (peer(name), imports)).collect()
}

/// A guard as the election gives it.
async fn elected(store: &MemoryStore, id: &str) -> Guard {
    let (sender, mut standing) = watch::channel(Standing::unknown());
    let us = Candidate {
        id: id.into(),
        member: Member { home: u64::from(id.as_bytes()[3]), ..Member::default() },
    };
    let store = store.clone();
    tokio::spawn(async move { stand(store, us, &sender, std::future::pending()).await });
    let elected =
        standing.wait_for(|standing| matches!(standing, Standing::Elected(_))).await.unwrap().clone();
    match elected {
        Standing::Elected(guard) => guard,
        other => panic!("{other:?}"),
    }
}

/// Brings the store to `picture`, however long that takes; gives how many keys were written.
async fn settle(recorder: &mut Recorder, store: &MemoryStore, guard: &Guard, picture: &Picture) -> usize {
    let mut written = 0;
    loop {
        written += recorder.bring(store, guard, picture).await.unwrap();
        let Some(wait) = recorder.later().wait else { return written };
        tokio::time::sleep(wait).await;
    }
}

async fn take_over(store: &MemoryStore, guard: &Guard, picture: &Picture) -> (Recorder, usize) {
    let mut recorder = Recorder::begin(store, guard).await.unwrap();
    let stored = Stored::read(store).await.unwrap();
    let written = recorder.take_over(store, guard, &stored, picture).await.unwrap();
    (recorder, written)
}

#[tokio::test(start_paused = true)]
async fn a_store_is_brought_to_every_picture_from_any_other() {
    let (a, b, newer) = (import("a", 1, 80), import("b", 1, 80), import("a", 2, 81));
    let pictures = [
        picture([]),
        picture([("east", imports(1, &[a.clone(), b.clone()]))]),
        picture([
            ("east", imports(2, &[newer.clone(), b.clone()])),
            ("north", imports(2, std::slice::from_ref(&a))),
        ]),
        // The same in another history.
        picture([("east", imports(3, &[import("a", 7, 81), b.clone()]))]),
        picture([("north", imports(4, &[b]))]),
    ];
    for from in &pictures {
        for to in &pictures {
            let store = MemoryStore::default();
            let guard = elected(&store, "gw-1").await;
            let (mut recorder, _) = take_over(&store, &guard, from).await;
            settle(&mut recorder, &store, &guard, to).await;
            let after = Stored::read(&store).await.unwrap();
            for (name, imports) in to {
                let services = |imports: &PeerImports| -> Vec<_> {
                    imports.services.values().map(|i| (i.name.clone(), i.ports.clone())).collect()
                };
                let held = after.of(name).unwrap();
                assert_eq!(services(&held), services(imports.as_ref().unwrap()));
                assert_eq!(held.epoch, 0, "its place in the history is not known");
            }
            assert!(after.values.keys().all(|key| {
                to.keys().any(|peer| *key == keys::mirrored(peer) || key.starts_with(&keys::imports(peer)))
            }));
            assert_eq!(recorder.bring(&store, &guard, to).await.unwrap(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_takeover_writes_only_what_differs() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let many = |revision| (0..2000).map(|n| import(&format!("s{n}"), revision, 80)).collect::<Vec<_>>();
    let (_, written) = take_over(&store, &guard, &picture([("east", imports(9, &many(1)))])).await;
    assert_eq!(written, 2001);
    // By another gateway of the peer, whose history is another.
    let mut same = many(900);
    assert_eq!(take_over(&store, &guard, &picture([("east", imports(9, &same))])).await.1, 0);
    same[3] = import("s3", 901, 81);
    assert_eq!(
        take_over(&store, &guard, &picture([("east", imports(10, &same))])).await.1,
        2,
        "and the stamp"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_being_filled_keeps_what_the_store_has_of_it() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let full = picture([("east", imports(1, &[import("a", 1, 80), import("b", 1, 80)]))]);
    take_over(&store, &guard, &full).await;
    let (mut recorder, written) = take_over(&store, &guard, &picture([("east", None)])).await;
    assert_eq!(written, 0);
    assert_eq!(recorder.bring(&store, &guard, &picture([("east", None)])).await.unwrap(), 0);
    let after = picture([("east", imports(2, &[import("b", 5, 80)]))]);
    assert_eq!(recorder.bring(&store, &guard, &after).await.unwrap(), 2, "a deleted, and the stamp");
    // Of a peer without a link nothing stays, whoever wrote it.
    assert_eq!(take_over(&store, &guard, &picture([])).await.1, 2);
    assert_eq!(Stored::read(&store).await.unwrap(), Stored::default());
}

#[tokio::test(start_paused = true)]
async fn the_last_word_is_written_with_every_change_and_each_minute() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let a = import("a", 1, 80);
    let at = |ms| picture([("east", imports(ms, std::slice::from_ref(&a)))]);
    let (mut recorder, _) = take_over(&store, &guard, &at(1_000)).await;
    assert_eq!(recorder.bring(&store, &guard, &at(1_000 + STAMP_MS - 1)).await.unwrap(), 0);
    assert_eq!(settle(&mut recorder, &store, &guard, &at(1_000 + STAMP_MS)).await, 1);
    let read = Stored::read_peer(&store, &peer("east")).await.unwrap();
    assert_eq!(read.of(&peer("east")).unwrap().synced_unix_ms, 1_000 + STAMP_MS);
    assert_eq!(read.of(&peer("eas")), None);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_changes_all_the_time_is_written_seldom_and_ends_right() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    let mut rng = fastrand::Rng::with_seed(11);
    let (start, mut written, mut last) = (now(), 0, picture([]));
    let names: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    for revision in 1..3_000 {
        // Each comes, changes or goes.
        let change = |name: &String| (rng.u8(..4) > 0).then(|| import(name, revision, rng.u16(1..1_000)));
        let all: Vec<_> = names.iter().filter_map(change).collect();
        last = picture([("east", imports(revision, &all))]);
        written += recorder.bring(&store, &guard, &last).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let seconds = (now() - start).as_secs() as usize;
    // The stamp goes with each flush.
    assert!(written <= 40 * (seconds / 10 + 2) + seconds + 1, "{written} in {seconds} s");
    settle(&mut recorder, &store, &guard, &last).await;
    let held = Stored::read(&store).await.unwrap().of(&peer("east")).unwrap();
    let content = |imports: &PeerImports| -> Vec<_> {
        imports.services.values().map(|import| (import.name.clone(), import.ports.clone())).collect()
    };
    assert_eq!(content(&held), content(last[&peer("east")].as_ref().unwrap()));
    assert_eq!(recorder.bring(&store, &guard, &last).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn records_of_peers_take_the_room_that_is_theirs_and_what_is_deleted_needs_none() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    let many: Vec<_> = (0..100).map(|n| import(&format!("s{n:02}"), 1, 80)).collect();
    let full = picture([("east", imports(1, &many))]);
    let bytes =
        record::stored(&many[0]).encode_to_vec().len() + keys::import(&peer("east"), &many[0].name).len();
    recorder.allow(10 * bytes as u64);
    recorder.bring(&store, &guard, &full).await.unwrap();
    assert_eq!((recorder.later().no_room, recorder.room()), (90, 0));
    assert_eq!(Stored::read(&store).await.unwrap().of(&peer("east")).unwrap().services.len(), 10);
    // Two go, and what is new has still no room.
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let fewer = picture([("east", imports(2, &many[2..]))]);
    assert_eq!(recorder.bring(&store, &guard, &fewer).await.unwrap(), 3, "two deleted, and the stamp");
    assert_eq!(recorder.later().no_room, 90);
    recorder.allow(u64::MAX);
    settle(&mut recorder, &store, &guard, &fewer).await;
    assert_eq!(Stored::read(&store).await.unwrap().of(&peer("east")).unwrap().services.len(), 98);
    assert_eq!(recorder.later(), Later::default());
}

#[tokio::test(start_paused = true)]
async fn a_stamp_says_when_all_was_there_and_not_when_a_part_was() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    let stamped = async || Stored::read(&store).await.unwrap().of(&peer("east")).unwrap().synced_unix_ms;
    let many: Vec<_> = (0..10).map(|n| import(&format!("s{n}"), 1, 80)).collect();
    recorder.allow(200);
    recorder.bring(&store, &guard, &picture([("east", imports(1_000, &many))])).await.unwrap();
    assert!(recorder.later().no_room > 0);
    assert_eq!(stamped().await, 0, "it was never whole");
    recorder.allow(u64::MAX);
    settle(&mut recorder, &store, &guard, &picture([("east", imports(2_000, &many))])).await;
    assert_eq!(stamped().await, 2_000);
    // Later there is no room for what is new: the last time that all was there stands, for as long as that takes.
    recorder.allow(0);
    let more: Vec<_> = (0..11).map(|n| import(&format!("s{n}"), 1, 80)).collect();
    for seconds in 1..200 {
        let later = picture([("east", imports(2_000 + seconds * 1_000, &more))]);
        assert_eq!(recorder.bring(&store, &guard, &later).await.unwrap(), 0);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(stamped().await, 2_000);
    recorder.allow(u64::MAX);
    settle(&mut recorder, &store, &guard, &picture([("east", imports(900_000, &more))])).await;
    assert_eq!(stamped().await, 900_000);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_does_not_begin_the_pace_anew_and_removes_what_nobody_can_read() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let paces = Arc::<Mutex<Paces>>::default();
    let take_over = async |picture: &Picture| {
        let mut recorder = Recorder::begin_at(&store, &guard, paces.clone()).await.unwrap();
        let stored = Stored::read(&store).await.unwrap();
        let written = recorder.take_over(&store, &guard, &stored, picture).await.unwrap();
        (recorder, written)
    };
    let at = |port| picture([("east", imports(1, &[import("a", 1, port)]))]);
    take_over(&at(80)).await;
    let junk = |key: &str| Op::Put { key: key.into(), value: vec![0xff; 100].into(), lease: None };
    let keys = ["/ringway/v1/imports/east/shop/x", "/ringway/v1/imports/east/", "/ringway/v1/imports/../x"];
    put(&store, keys.map(junk).into()).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let (mut recorder, written) = take_over(&at(81)).await;
    assert_eq!(written, 3, "what is no record goes, and `a` waits");
    settle(&mut recorder, &store, &guard, &at(81)).await;
    assert_eq!(Stored::read(&store).await.unwrap().of(&peer("east")).unwrap().services.len(), 1);
    assert_eq!(store.range(&keys::all_imports()).await.unwrap().entries.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_peers_make_flap_is_written_seldom_and_ends_right() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    let mut written = 0;
    for second in 0..600 {
        let flapping = statuses(1, second % 2 == 0);
        written += recorder.bring_statuses(&store, &guard, &flapping, second).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(written <= 8 + 60, "{written}");
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    recorder.bring_statuses(&store, &guard, &statuses(1, true), 700).await.unwrap();
    let stored = &status::range(&store).await.unwrap()[&cart()];
    assert!(status::same(stored, &statuses(1, true)[&cart()]));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_deposed_changes_nothing() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    let seized = Op::Put { key: keys::LEADER.into(), value: Bytes::new(), lease: None };
    store.commit(Transaction { expect: Vec::new(), ops: vec![seized] }).await.unwrap();
    let news = picture([("east", imports(1, &[import("a", 1, 80)]))]);
    let refused = recorder.bring(&store, &guard, &news).await.unwrap_err();
    assert!(matches!(refused, RecordError::Deposed), "{refused}");
    assert_eq!(Stored::read(&store).await.unwrap(), Stored::default());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_put_back_is_noticed() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let news = picture([("east", imports(1, &[import("a", 1, 80)]))]);
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    recorder.verify(&store, &guard).await.unwrap();
    recorder.bring(&store, &guard, &news).await.unwrap();
    recorder.verify(&store, &guard).await.unwrap();
    // What we delete ourselves is no sign of it.
    recorder.bring(&store, &guard, &picture([])).await.unwrap();
    recorder.verify(&store, &guard).await.unwrap();
    // The key of the office is not as the last of these left it: what else there is does not count.
    store.commit(Transaction { expect: Vec::new(), ops: vec![guard.sign()] }).await.unwrap();
    assert!(matches!(recorder.verify(&store, &guard).await, Err(RecordError::Deposed)));
    assert!(matches!(recorder.bring(&store, &guard, &news).await, Err(RecordError::Deposed)));
    assert_eq!(Stored::read(&store).await.unwrap(), Stored::default());
    take_over(&store, &guard, &news).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_still_on_its_way_when_another_begins_changes_nothing() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut late, _) = take_over(&store, &guard, &picture([])).await;
    take_over(&store, &guard, &picture([])).await;
    let news = picture([("east", imports(1, &[import("a", 1, 80)]))]);
    assert!(matches!(late.bring(&store, &guard, &news).await, Err(RecordError::Deposed)));
    assert_eq!(Stored::read(&store).await.unwrap(), Stored::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_can_be_read() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    take_over(&store, &guard, &picture([("east", imports(7, &[import("a", 2, 80)]))])).await;
    let said: Vec<_> = (store.range(keys::ROOT).await.unwrap().entries.iter())
        .map(|entry| format!("{}: {}", entry.key, describe(&entry.key, &entry.value).unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            "/ringway/v1/gateways/gw-1: , boot 0000000000000000, dialled at ",
            "/ringway/v1/imports/east: last word at 7 ms",
            "/ringway/v1/imports/east/shop/a: ports web 80, region us-east",
            "/ringway/v1/leader: gateway gw-1",
            &format!("{}: the office of the elected gateway", guard.office()),
        ]
    );
    let west = cluster::encode(&peer("west"), [1; 16]);
    assert_eq!(describe(keys::CLUSTER, &west).unwrap(), format!("cluster west, uid {}", "01".repeat(16)));
    assert_eq!(describe("/ringway/v1/imports/east/shop/a", b"nonsense"), None);
    let config = "/ringway/v1/config/Link/default/east";
    assert_eq!(describe(config, b""), None);
    let applied = Applied { generation: 3, by: "uid 0".into(), ..Applied::default() };
    assert_eq!(describe(config, &applied.encode_to_vec()).unwrap(), "generation 3, by uid 0");
}

fn cart() -> ObjectName {
    ObjectName::new(crate::model::Kind::MeshService, "shop", "cart")
}

/// How `shop/cart` is at a generation.
fn statuses(generation: u64, in_use: bool) -> Statuses {
    let applied = model::Stored { generation, ..model::Stored::default() };
    Statuses::from([(cart(), status::of(&applied, &[], in_use))])
}

async fn put(store: &MemoryStore, ops: Vec<Op>) {
    store.commit(Transaction { expect: Vec::new(), ops }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_when_it_changes_and_outlives_a_takeover() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    let ready = |status: &Status| status.conditions.last().map(|c| (c.status, c.since_unix_ms)).unwrap();
    assert_eq!(recorder.bring_statuses(&store, &guard, &statuses(1, false), 10).await.unwrap(), 1);
    assert_eq!(recorder.bring_statuses(&store, &guard, &statuses(1, true), 20).await.unwrap(), 1);
    for later in [30, 40] {
        let revision = store.range("/").await.unwrap().revision;
        assert_eq!(recorder.bring_statuses(&store, &guard, &statuses(1, true), later).await.unwrap(), 0);
        assert_eq!(store.range("/").await.unwrap().revision, revision, "nothing is written at rest");
        assert_eq!(ready(&status::range(&store).await.unwrap()[&cart()]), (true, 20));
        // As another gateway finds it.
        recorder = take_over(&store, &guard, &picture([])).await.0;
    }
    assert_eq!(recorder.bring_statuses(&store, &guard, &statuses(2, true), 50).await.unwrap(), 1);
    let now = &status::range(&store).await.unwrap()[&cart()];
    assert_eq!((now.observed_generation, ready(now)), (2, (true, 20)));
}

#[tokio::test(start_paused = true)]
async fn a_status_goes_with_its_object_and_not_before() {
    let store = MemoryStore::default();
    let guard = elected(&store, "gw-1").await;
    let object = model::Stored { generation: 1, ..model::Stored::default() };
    put(&store, vec![Op::Put { key: applied::key(&cart()), value: object.encode(), lease: None }]).await;
    let later = keys::status("Later", "shop", "cart");
    put(&store, vec![Op::Put { key: later.clone(), value: Bytes::new(), lease: None }]).await;
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    recorder.bring_statuses(&store, &guard, &statuses(1, true), 10).await.unwrap();
    // Not heard of yet by whoever takes over.
    let (mut recorder, _) = take_over(&store, &guard, &picture([])).await;
    assert_eq!(recorder.bring_statuses(&store, &guard, &Statuses::new(), 20).await.unwrap(), 0);
    put(&store, vec![Op::Delete(applied::key(&cart()))]).await;
    assert_eq!(recorder.bring_statuses(&store, &guard, &Statuses::new(), 20).await.unwrap(), 1);
    assert!(status::range(&store).await.unwrap().is_empty());
    assert!(store.get(&later).await.unwrap().is_some(), "of a kind of a later version");
    assert!(describe(&status::key(&cart()), &statuses(1, true)[&cart()].encode_to_vec()).is_some());
}
