#![allow(clippy::unwrap_used)]

use super::*;
use crate::model::{HashKey, Mode, OnOwnerUnavailable, Port, Protocol};
use crate::testing::cluster;

fn meaning() -> Meaning {
    let members: Vec<Member> = ["east", "west"]
        .map(|name| Member { cluster: cluster(name), region: format!("r-{name}"), weight: 100 })
        .into();
    let server = |name: &str| (cluster(name), Server { region: format!("r-{name}") });
    let endpoint = Endpoint {
        id: "a".into(),
        host: "10.0.0.1".into(),
        ports: [("web", 9001), ("rpc", 9002)].into(),
        weight: 50,
        zone: "z".into(),
        capacity: Some(8),
    };
    Meaning {
        region: "r-west".into(),
        placed: Placed {
            name: ServiceName::new("shop", "cart").unwrap(),
            ports: [
                Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false },
                Port { name: "rpc".into(), number: 81, protocol: Protocol::Grpc, proxy_header: false },
            ]
            .into(),
            servers: [server("east"), server("west")].into(),
            contract: Contract {
                generation: 3,
                mode: Mode::Sharded,
                members: Some(members.clone()),
                seed: 5,
                tiers: None,
                hash: vec![HashKey::Header("x-user".into())],
                on_owner_unavailable: OnOwnerUnavailable::Fail,
            },
            contract_from: Some(cluster("east")),
            members,
            retry: Retry {
                on: RetryOn { reset: false, statuses: Vec::new(), ..Retry::default().on },
                methods: vec!["POST".into()],
                ..Retry::default()
            },
            timeout: Timeout { total: Some(Duration::from_secs(7)), ..Timeout::default() },
            balance: Algorithm::Ring,
        },
        states: [
            (cluster("east"), State { reach: Reach::Suspect, ready: Some(300) }),
            (cluster("west"), State { reach: Reach::Up, ready: None }),
        ]
        .into(),
        local: Some(LocalEndpoints { checked: true, endpoints: vec![(endpoint, vec![false, true])] }),
    }
}

/// A message with a spoilt spot.
fn spoilt(spoil: impl FnOnce(&mut lookup::Meaning)) -> BadRecord {
    let mut message = encode(&meaning());
    spoil(&mut message);
    decode(&message).unwrap_err()
}

fn endpoint(message: &mut lookup::Meaning) -> &mut lookup::Endpoint {
    &mut message.endpoints.as_mut().unwrap().endpoints[0]
}

#[test]
fn a_meaning_comes_back_whole() {
    assert_eq!(decode(&encode(&meaning())), Ok(meaning()));
}

#[test]
fn nobody_s_contract_and_no_endpoints_stay_so() {
    let mut bare = meaning();
    bare.placed.contract = Contract::default();
    bare.placed.contract_from = None;
    bare.local = None;
    assert_eq!(decode(&encode(&bare)), Ok(bare));
}

#[test]
fn a_sidecar_does_not_try_again_what_the_gateway_has_tried() {
    let mut policy = meaning();
    policy.placed.retry = Retry::default();
    let read = decode(&encode(&policy)).unwrap().placed.retry;
    assert!(!read.on.reset && read.on.statuses.is_empty(), "{read:?}");
    assert!(read.on.connect && read.on.refused && read.on.unavailable);
}

#[test]
fn what_is_not_understood_spoils_it() {
    assert_eq!(spoilt(|m| m.servers[0].reach = 99), BadRecord::Unknown("reach of a server"));
    assert_eq!(spoilt(|m| m.balance = 99), BadRecord::Unknown("algorithm"));
    assert_eq!(spoilt(|m| m.ports[1].protocol = 99), BadRecord::Unknown("ports"));
    assert_eq!(spoilt(|m| m.members = None), BadRecord::NoMembers);
    assert_eq!(spoilt(|m| endpoint(m).ports.truncate(1)), BadRecord::Unknown("ports of an endpoint"));
}

#[test]
fn what_is_out_of_range_spoils_it() {
    assert_eq!(spoilt(|m| endpoint(m).ports[0].number = 70_000), BadRecord::PortNumber(70_000));
    assert_eq!(spoilt(|m| endpoint(m).weight = 10_001), BadRecord::Weight(10_001));
    assert_eq!(spoilt(|m| endpoint(m).id.clear()), BadRecord::Text("an endpoint's id"));
    let twice = |m: &mut lookup::Meaning| {
        let again = endpoint(m).clone();
        m.endpoints.as_mut().unwrap().endpoints.push(again);
    };
    assert_eq!(spoilt(twice), BadRecord::Duplicate("endpoints"));
    assert!(matches!(spoilt(|m| m.name = "Cart".into()), BadRecord::Name(_)));
}
