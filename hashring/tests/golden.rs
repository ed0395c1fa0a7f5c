//! The golden vectors of ring-v1, computed by a program independent of this crate: every line is checked.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;

use hashring::{KeyHash, NodeIndex, Ring, RingBuilder, inner, point, threshold};
use xxhash_rust::xxh3::xxh3_64;

const GOLDEN: &str = include_str!("golden/ring-v1.txt");

/// `name -> value` of the lines `name = value`, and the nodes.
fn golden() -> (RingBuilder, HashMap<&'static str, &'static str>) {
    let (mut nodes, mut values) = (Ring::builder(), HashMap::new());
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        if let Some(node) = line.strip_prefix("node ") {
            let [_, id, weight, zone] = node.split(' ').collect::<Vec<_>>().try_into().unwrap();
            nodes = nodes.node(id, weight.parse().unwrap(), zone);
        } else {
            let (name, value) = line.split_once('=').unwrap();
            values.insert(name.trim(), value.trim());
        }
    }
    (nodes, values)
}

/// A node's number in the file, by its place there; the ring's own indices are by id.
fn numbers(ring: &Ring) -> Vec<u8> {
    let mut numbers = vec![u8::MAX; ring.len()];
    for node in GOLDEN.lines().filter_map(|line| line.strip_prefix("node ")) {
        let mut words = node.split(' ');
        let number = words.next().unwrap().parse().unwrap();
        numbers[ring.index_of(words.next().unwrap().as_bytes()).unwrap().get()] = number;
    }
    numbers
}

fn key(i: u32) -> Vec<u8> {
    format!("key-{i}").into_bytes()
}

fn digits(order: &[u8]) -> String {
    order.iter().map(|number| char::from(b'0' + number)).collect()
}

#[test]
fn every_golden_value_holds() {
    let (nodes, mut golden) = golden();
    let ring = nodes.clone().build().unwrap();
    let sip = nodes.key_hash(KeyHash::SipHash13).build().unwrap();
    let numbers = numbers(&ring);
    let number = |node: NodeIndex| numbers[node.get()];
    let hash = ring.hash(b"key-0");
    let mut check = |name: &str, ours: String| assert_eq!(golden.remove(name), Some(&*ours), "{name}");

    check("point a 0", format!("{:016x}", point(b"a", 0, 0)));
    check("point b 319", format!("{:016x}", point(b"b", 319, 0)));
    check("hash key-0", format!("{hash:016x}"));
    check("siphash-1-3 key-0", format!("{:016x}", sip.hash(b"key-0")));
    check("inner key-0", format!("{:016x}", inner(hash)));
    check("threshold key-0 transition 7", format!("{:016x}", threshold(hash, 7)));
    check("fingerprint", format!("{:016x}", ring.fingerprint()));

    let owners: Vec<u8> = (0..100_000).map(|i| number(ring.owner(ring.hash(&key(i))).unwrap())).collect();
    check("owners first16", digits(&owners[..16]));
    check("owners digest100000", format!("{:016x}", xxh3_64(&owners)));

    let mut orders = |name: &str, order: &dyn Fn(u64) -> Vec<NodeIndex>| {
        let all: Vec<u8> = (0..1000).flat_map(|i| order(ring.hash(&key(i)))).map(number).collect();
        let first: Vec<String> = all.chunks(5).take(8).map(digits).collect();
        check(&format!("{name} first8"), first.join(" "));
        check(&format!("{name} digest1000"), format!("{:016x}", xxh3_64(&all)));
    };
    orders("sequence", &|hash| ring.sequence(hash).collect());
    orders("near", &|hash| ring.near(hash).collect());
    orders("spread", &|hash| ring.spread(hash).collect());

    assert!(golden.is_empty(), "lines that nothing checks: {golden:?}");
}
