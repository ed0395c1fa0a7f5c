#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::{Contract, Endpoint, Import, Kind, Port, Protocol, ServiceName};

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// Endpoints of one service, of these weights.
fn registered(weights: &[u32]) -> RegisteredEndpoints {
    let endpoint = |(n, &weight): (usize, &u32)| {
        let (id, host) = (Arc::<str>::from(format!("e{n}")), "127.0.0.1".into());
        let ports = [("web", 9001)].into();
        (id.clone(), Endpoint { id, host, ports, weight, zone: "a".into(), capacity: Some(7) })
    };
    let endpoints = weights.iter().enumerate().map(endpoint).collect();
    [(ServiceName::new("shop", "cart").unwrap(), endpoints)].into()
}

#[test]
fn what_was_registered_is_kept_unless_it_drained() {
    let saved = Saved { registered: registered(&[100, 0, 50]), ..sample() };
    let kept = decode(&encode(&saved), Path::new("catalog")).unwrap().saved.registered;
    let ids: Vec<&str> = kept.values().flatten().map(|(id, _)| &**id).collect();
    assert_eq!(ids, ["e0", "e2"]);
}

fn sample() -> Saved {
    let name = ServiceName::new("shop", "cart").unwrap();
    let import = Import {
        name: name.clone(),
        ports: [Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false }]
            .into(),
        region: "us-east".into(),
        contract: Some(Box::new(Contract { generation: 3, tiers: Some(Vec::new()), ..Contract::default() })),
        revision: 12,
    };
    let services = [(name, Arc::new(import))].into_iter().collect();
    let synced_unix_ms = 1_700_000_000_000;
    let east = PeerImports {
        epoch: 5,
        revision: 14,
        synced_unix_ms,
        partial_since_ms: Some(0),
        services,
        ..PeerImports::default()
    };
    let stored =
        Stored { text: "spec: 1\n".into(), generation: 2, by: "root".into(), unix_ms: 4, revision: 9 };
    Saved {
        uid: [9; 16],
        export: Position { epoch: 77, revision: 8 },
        peers: [(ClusterName::new("east").unwrap(), Arc::new(east))].into(),
        registered: registered(&[100]),
        applied: [(ObjectName::new(Kind::Link, "default", "east"), Arc::new(stored))].into(),
    }
}

#[test]
fn what_could_not_be_saved_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateDir::open(dir.path()).unwrap();
    // In its place stands what no file replaces.
    std::fs::create_dir(dir.path().join(CATALOG)).unwrap();
    let error = state.save(&sample()).unwrap_err();
    assert!(error.to_string().starts_with("cannot replace"), "{error}");
    assert!(!dir.path().join("catalog.new").exists());
    std::fs::remove_dir(dir.path().join(CATALOG)).unwrap();
    state.save(&sample()).unwrap();
}

#[test]
fn what_was_saved_is_loaded_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/west");
    let mut state = StateDir::open(&path).unwrap();
    state.save(&sample()).unwrap();
    drop(state);
    let loaded = StateDir::open(&path).unwrap().load(&mut rng()).unwrap();
    assert_eq!(loaded, Loaded { saved: sample(), skipped: 0, fresh: false });
}

#[test]
fn the_uid_and_the_epoch_are_drawn_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateDir::open(dir.path()).unwrap();
    let first = state.load(&mut rng()).unwrap();
    let home = state.home(&mut rng()).unwrap();
    assert!(first.fresh);
    assert_ne!(first.saved.export.epoch, 0);
    state.save(&first.saved).unwrap();
    drop(state);
    let mut state = StateDir::open(dir.path()).unwrap();
    let second = state.load(&mut fastrand::Rng::with_seed(8)).unwrap();
    assert_eq!(second, Loaded { fresh: false, ..first });
    assert_eq!(state.home(&mut fastrand::Rng::with_seed(8)).unwrap(), home);
}

#[test]
fn two_processes_never_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let first = StateDir::open(dir.path()).unwrap();
    let refused = StateDir::open(dir.path()).unwrap_err();
    assert!(matches!(refused, StateError::InUse(_)), "{refused}");
    assert!(refused.to_string().contains(&*dir.path().to_string_lossy()));
    drop(first);
    StateDir::open(dir.path()).unwrap();
}

#[test]
fn a_planted_link_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (state, precious) = (dir.path().join("state"), dir.path().join("precious"));
    StateDir::open(&state).unwrap().save(&sample()).unwrap();
    std::fs::copy(state.join(CATALOG), &precious).unwrap();
    let before = std::fs::read(&precious).unwrap();
    let plant = |name: &str| {
        let _ = std::fs::remove_file(state.join(name));
        std::os::unix::fs::symlink(&precious, state.join(name)).unwrap();
    };
    plant(CATALOG);
    plant("catalog.new");
    let mut opened = StateDir::open(&state).unwrap();
    let error = opened.load(&mut rng()).unwrap_err().to_string();
    assert!(error.contains("symbolic link") && error.contains("remove it"), "{error}");
    opened.save(&Saved { uid: [1; 16], ..sample() }).unwrap();
    drop(opened);
    plant(LOCK);
    assert!(matches!(StateDir::open(&state), Err(StateError::File(FileError::Link(_)))));
    assert_eq!(std::fs::read(&precious).unwrap(), before);
}

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o775)).unwrap();
    let error = StateDir::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("mode 0775") && error.contains("chmod go-w"), "{error}");
}

#[test]
fn a_lock_that_no_gateway_wrote_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join(LOCK);
    for (written, fresh) in [("", true), ("\0\0\0\0", true), ("something of somebody's", false)] {
        std::fs::write(&lock, written).unwrap();
        let home = StateDir::open(dir.path()).unwrap().home(&mut rng());
        match fresh {
            true => assert_eq!(StateDir::open(dir.path()).unwrap().home(&mut rng()).unwrap(), home.unwrap()),
            false => {
                assert!(matches!(home, Err(StateError::Lock(_))));
                assert_eq!(std::fs::read_to_string(&lock).unwrap(), written);
            }
        }
    }
}

#[test]
fn nobody_else_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    StateDir::open(&path).unwrap().save(&sample()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join(CATALOG))), (0o700, 0o600));
}

#[test]
fn a_crash_while_saving_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = StateDir::open(dir.path()).unwrap();
    state.save(&sample()).unwrap();
    std::fs::write(dir.path().join("catalog.new"), b"half").unwrap();
    assert_eq!(state.load(&mut rng()).unwrap().saved, sample());
    state.save(&sample()).unwrap();
    assert!(!dir.path().join("catalog.new").exists());
}

#[test]
fn every_damaged_byte_and_every_cut_is_noticed() {
    let whole = encode(&sample());
    let path = Path::new("state/west/catalog");
    for len in 0..whole.len() {
        let error = decode(&whole[..len], path).unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "cut to {len}: {error}");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        decode(&bytes, path).unwrap_err();
    }
}

#[test]
fn damage_is_told_with_the_file_and_the_remedy_and_the_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(CATALOG);
    std::fs::write(&file, b"ringway\x01garbage!garbage").unwrap();
    let error = StateDir::open(dir.path()).unwrap().load(&mut rng()).unwrap_err().to_string();
    for part in [&*file.to_string_lossy(), "checksum is wrong", "move it away", "new UID"] {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"ringway\x01garbage!garbage");
}

#[test]
fn a_later_format_is_no_damage() {
    let mut bytes = encode(&sample());
    bytes[7] = 2;
    let error = decode(&bytes, Path::new("catalog")).unwrap_err();
    assert!(matches!(error, StateError::Format { found: 2, .. }), "{error}");
}

#[test]
fn a_record_that_cannot_be_read_costs_only_itself() {
    let bytes = encode(&sample());
    let mut catalog = LastCatalog::decode(&bytes[HEADER_BYTES..]).unwrap();
    let mut unreadable = catalog.peers[0].records[0].clone();
    unreadable.name = "Not A Label".into();
    catalog.peers[0].records.push(unreadable);
    let body = catalog.encode_to_vec();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(xxh3_64(&body).to_be_bytes());
    bytes.extend(body);
    assert_eq!(
        decode(&bytes, Path::new("catalog")).unwrap(),
        Loaded { saved: sample(), skipped: 1, fresh: false }
    );
}
