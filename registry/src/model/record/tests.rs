#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use prost::Message;

use super::*;

fn record() -> sync::Record {
    let name = ServiceName::new("shop", "cart").unwrap();
    let ports =
        [Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false }].into();
    let member = |name: &str| Member {
        cluster: ClusterName::new(name).unwrap(),
        region: format!("r-{name}"),
        weight: 100,
    };
    let contract = Contract {
        generation: 3,
        mode: Mode::LocalFirst,
        members: Some(vec![member("east"), member("west")]),
        seed: 5,
        tiers: Some(vec![vec![Tier::Local, Tier::Cluster(member("east").cluster)], vec![Tier::Any]]),
        hash: vec![HashKey::Header("x-user".into()), HashKey::Query("id".into()), HashKey::SourceIp],
        on_owner_unavailable: OnOwnerUnavailable::Fail,
    };
    let import =
        Import { name, ports, region: "r-east".into(), contract: Some(Box::new(contract)), revision: 7 };
    encode(&import, 9)
}

/// A record with a spoilt spot.
fn spoilt(spoil: impl FnOnce(&mut sync::Record)) -> BadRecord {
    let mut record = record();
    spoil(&mut record);
    decode(&record).unwrap_err()
}

fn contract(record: &mut sync::Record) -> &mut sync::Contract {
    record.contract.as_mut().unwrap()
}

fn members(record: &mut sync::Record) -> &mut Vec<sync::Member> {
    &mut contract(record).members.as_mut().unwrap().members
}

#[test]
fn what_is_not_understood_of_a_contract_spoils_the_record() {
    // 99: the word of a later version.
    assert_eq!(spoilt(|r| contract(r).mode = 99), BadRecord::Unknown("mode"));
    assert_eq!(spoilt(|r| contract(r).mode = 0), BadRecord::Unknown("mode"));
    let unavailable = BadRecord::Unknown("`onOwnerUnavailable`");
    assert_eq!(spoilt(|r| contract(r).on_owner_unavailable = 99), unavailable);
    assert_eq!(spoilt(|r| contract(r).hash[0].kind = None), BadRecord::Unknown("hash key"));
    let relative = |value| Some(sync::tier_entry::Kind::Relative(value));
    for kind in [None, relative(0), relative(99)] {
        let spoil =
            |r: &mut sync::Record| contract(r).tiers.as_mut().unwrap().tiers[0].entries[0].kind = kind;
        assert_eq!(spoilt(spoil), BadRecord::Unknown("tier"));
    }
}

#[test]
fn wrong_names_and_numbers_spoil_the_record() {
    assert!(matches!(spoilt(|r| r.name = "Cart".into()), BadRecord::Name(_)));
    assert!(matches!(spoilt(|r| r.namespace = "../etc".into()), BadRecord::Name(_)));
    assert!(matches!(spoilt(|r| members(r)[0].cluster = "a/b".into()), BadRecord::Name(_)));
    assert_eq!(spoilt(|r| r.region.clear()), BadRecord::Text("the region"));
    assert_eq!(spoilt(|r| r.region = "us\neast".into()), BadRecord::Text("the region"));
    assert_eq!(spoilt(|r| r.region = "x".repeat(limits::NAME_BYTES_MAX + 1)), BadRecord::Text("the region"));
    assert_eq!(spoilt(|r| r.ports[0].number = 0), BadRecord::PortNumber(0));
    assert_eq!(spoilt(|r| r.ports[0].number = 65_536), BadRecord::PortNumber(65_536));
    assert_eq!(spoilt(|r| r.ports.push(r.ports[0].clone())), BadRecord::Duplicate("ports' names"));
    assert_eq!(spoilt(|r| contract(r).generation = 0), BadRecord::NoGeneration);
    assert_eq!(spoilt(|r| members(r)[1].cluster = "east".into()), BadRecord::Duplicate("members"));
    assert_eq!(spoilt(|r| members(r)[1].weight = 10_001), BadRecord::Weight(10_001));
}

#[test]
fn every_list_has_its_limit() {
    let too_many = |what, max| BadRecord::TooMany { what, max };
    let port = |number: usize| sync::Port {
        name: number.to_string(),
        number: number as u32,
        protocol: 1,
        proxy_header: false,
    };
    let ports = |count| (1..=count).map(port).collect();
    let limit = limits::RECORD_PORTS_MAX;
    assert_eq!(spoilt(|r| r.ports = ports(limit + 1)), too_many("ports", limit));
    assert_eq!(decode(&sync::Record { ports: ports(limit), ..record() }).unwrap().ports.len(), limit);

    let member = |i| sync::Member { cluster: format!("c{i}"), region: "r".into(), weight: 1 };
    let limit = limits::CONTRACT_MEMBERS_MAX;
    assert_eq!(spoilt(|r| *members(r) = (0..=limit).map(member).collect()), too_many("members", limit));

    let limit = limits::CONTRACT_TIERS_MAX;
    let tier = sync::Tier { entries: Vec::new() };
    let spoil = |r: &mut sync::Record| contract(r).tiers.as_mut().unwrap().tiers = vec![tier; limit + 1];
    assert_eq!(spoilt(spoil), too_many("tiers", limit));

    let limit = limits::CONTRACT_HASH_KEYS_MAX;
    let spoil = |r: &mut sync::Record| contract(r).hash = vec![contract(r).hash[0].clone(); limit + 1];
    assert_eq!(spoilt(spoil), too_many("hash keys", limit));
}

#[test]
fn a_port_of_a_later_protocol_is_left_out_and_the_last_one_spoils_the_record() {
    let mut record = record();
    record.ports.insert(0, sync::Port { name: "rpc".into(), number: 81, protocol: 99, proxy_header: false });
    assert_eq!(decode(&record).unwrap().ports.len(), 1);
    record.ports.truncate(1);
    assert_eq!(decode(&record).unwrap_err(), BadRecord::NoPorts);
}

#[test]
fn the_order_in_which_members_are_sent_does_not_matter() {
    let mut reversed = record();
    members(&mut reversed).reverse();
    assert_eq!(decode(&reversed), decode(&record()));
}

#[test]
fn a_contract_that_contradicts_itself_spoils_the_record() {
    assert_eq!(spoilt(|r| contract(r).mode = sync::Mode::Sharded.into()), BadRecord::TiersInSharded);
    assert_eq!(spoilt(|r| members(r).clear()), BadRecord::NoMembers);
    assert_eq!(spoilt(|r| members(r).iter_mut().for_each(|member| member.weight = 0)), BadRecord::NoMembers);
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn any_contract() -> impl Strategy<Value = Contract> {
    let member = ("[a-z-]{1,9}", 1..=MEMBER_WEIGHT_MAX);
    let members = prop::collection::btree_map(label(), member, 1..5).prop_map(|members| {
        let member = |(cluster, (region, weight)): (String, (String, u32))| Member {
            cluster: ClusterName::new(&cluster).unwrap(),
            region,
            weight,
        };
        members.into_iter().map(member).collect::<Vec<_>>()
    });
    let cluster = label().prop_map(|name| Tier::Cluster(ClusterName::new(&name).unwrap()));
    let tier = prop_oneof![Just(Tier::Local), Just(Tier::SameRegion), Just(Tier::Any), cluster];
    let tiers = prop::collection::vec(prop::collection::vec(tier, 0..3), 0..3);
    let key = prop_oneof![
        "[a-z-]{1,9}".prop_map(HashKey::Header),
        "[a-zA-Z_%]{1,9}".prop_map(HashKey::Query),
        Just(HashKey::SourceIp),
    ];
    let mode = prop_oneof![Just(Mode::LocalFirst), Just(Mode::Sharded)];
    let unavailable = prop_oneof![Just(OnOwnerUnavailable::Next), Just(OnOwnerUnavailable::Fail)];
    let (members, tiers) = (prop::option::of(members), prop::option::of(tiers));
    (1_u64.., mode, members, any::<u64>(), tiers, prop::collection::vec(key, 0..4), unavailable).prop_map(
        |(generation, mode, members, seed, tiers, hash, on_owner_unavailable)| Contract {
            generation,
            mode,
            members,
            seed,
            tiers: tiers.filter(|_| mode == Mode::LocalFirst),
            hash,
            on_owner_unavailable,
        },
    )
}

proptest! {
    #[test]
    fn every_import_comes_back_as_it_was(
        namespace in label(),
        name in label(),
        numbers in prop::collection::btree_set(1_u16.., 1..5),
        region in "[a-z0-9-]{1,20}",
        contract in prop::option::of(any_contract()),
        revision: u64,
    ) {
        let protocol = |number: u16| if number.is_multiple_of(2) { Protocol::Http } else { Protocol::Grpc };
        let port = |number: u16| {
            let (name, protocol) = (format!("p{number}").into(), protocol(number));
            Port { name, number, protocol, proxy_header: number.is_multiple_of(3) }
        };
        let name = ServiceName::new(&namespace, &name).unwrap();
        let ports = numbers.into_iter().map(port).collect();
        let import = Import { name, ports, region: region.into(), contract: contract.map(Box::new), revision };
        let bytes = encode(&import, 4).encode_to_vec();
        prop_assert_eq!(decode(&sync::Record::decode(&bytes[..]).unwrap()).unwrap(), import);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = sync::Record::decode(&bytes[..]) {
            let _ = decode(&record);
        }
    }
}
