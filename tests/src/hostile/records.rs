//! What a hostile cluster exports: records as they are, and as they should not be.

use proto::sync::{
    Contract, Current, Event, HashKey, Member, Members, Mode, OnOwnerUnavailable, Port, Protocol, Record,
    Removed, SnapshotBegin, SnapshotEnd, event, hash_key,
};

/// The history that a hostile cluster tells of.
pub const EPOCH: u64 = 5;

/// `shop/NAME` with the port 80, as [`crate::manifest::service`] declares it, at `revision`.
pub fn record(name: &str, revision: u64) -> Record {
    Record {
        namespace: "shop".into(),
        name: name.into(),
        ports: vec![Port {
            name: "web".into(),
            number: 80,
            protocol: Protocol::Http.into(),
            proxy_header: false,
        }],
        region: "us-east".into(),
        contract: None,
        epoch: EPOCH,
        revision,
    }
}

/// The same with a contract.
pub fn with(record: Record, contract: Contract) -> Record {
    Record { contract: Some(contract), ..record }
}

/// A sharded contract over `members` (cluster and weight).
pub fn sharded(generation: u64, seed: u64, members: &[(&str, u32)]) -> Contract {
    let member = |(cluster, weight): &(&str, u32)| Member {
        cluster: (*cluster).into(),
        region: format!("us-{cluster}"),
        weight: *weight,
    };
    Contract {
        generation,
        mode: Mode::Sharded.into(),
        members: Some(Members { members: members.iter().map(member).collect() }),
        seed,
        tiers: None,
        hash: vec![HashKey { kind: Some(hash_key::Kind::Header("x-user".into())) }],
        on_owner_unavailable: OnOwnerUnavailable::Next.into(),
    }
}

/// A contract over `count` clusters that nobody knows, each of this weight.
pub fn crowd(count: usize, weight: u32, seed: u64) -> Contract {
    let names: Vec<_> = (0..count).map(|n| format!("c{n:04}")).collect();
    let members: Vec<_> = names.iter().map(|name| (&**name, weight)).collect();
    sharded(1, seed, &members)
}

/// The start of a snapshot at `revision`.
pub fn begin(revision: u64) -> Event {
    event(event::Kind::SnapshotBegin(SnapshotBegin { epoch: EPOCH, revision }))
}

/// Its end.
pub fn end(revision: u64) -> Event {
    event(event::Kind::SnapshotEnd(SnapshotEnd { revision }))
}

/// A whole snapshot of these records.
pub fn snapshot(revision: u64, records: impl IntoIterator<Item = Record>) -> Vec<Event> {
    let records = records.into_iter().map(upsert);
    std::iter::once(begin(revision)).chain(records).chain([end(revision)]).collect()
}

/// A new or changed record.
pub fn upsert(record: Record) -> Event {
    event(event::Kind::Upsert(record))
}

/// `shop/NAME` was taken back.
pub fn removed(name: &str, revision: u64) -> Event {
    event(event::Kind::Removed(Removed { namespace: "shop".into(), name: name.into(), revision }))
}

/// Nothing is newer than this.
pub fn current(revision: u64) -> Event {
    event(event::Kind::Current(Current { epoch: EPOCH, revision }))
}

fn event(kind: event::Kind) -> Event {
    Event { kind: Some(kind) }
}
