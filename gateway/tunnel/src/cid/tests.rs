#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
const BOOT: u64 = 0x1122_3344_5566_7788;

fn codec(boot: u64) -> Arc<Codec> {
    Arc::new(Codec::new(&KEY, boot))
}

fn count(n: u8) -> NonZeroU8 {
    NonZeroU8::new(n).unwrap()
}

/// A datagram as a peer sends it to `cid` once the handshake is over.
fn short(cid: &[u8]) -> Vec<u8> {
    [&[0x43][..], cid, &[0x5a; 30]].concat()
}

/// One during the handshake.
fn long(cid: &[u8]) -> Vec<u8> {
    [&[0xc3, 0, 0, 0, 1, cid.len() as u8][..], cid, &[8], &[0x5a; 1200]].concat()
}

fn valid(codec: &Arc<Codec>, cid: &[u8]) -> bool {
    Generator::new(codec.clone(), 0).validate(&ConnectionId::new(cid)).is_ok()
}

/// A later version must know the IDs of an earlier one.
#[test]
fn the_layout_is_kept() {
    let codec = codec(BOOT);
    let made = |worker, n| codec.make(worker, n).map(|b| format!("{b:02x}")).concat();
    assert_eq!([made(0, 1), made(0, 2), made(255, 1)], GOLDEN);
}

/// Computed from the description in `cid.rs` by a program of its own.
const GOLDEN: [&str; 3] = [
    "9ab3c18f26f270d34b88d697c5a3b3d2",
    "8ff646efb547f9b679407175a0a97f5d",
    "37c51c7d086a94b94f7cf785806736f7",
];

#[test]
fn ids_of_a_tunnel_show_nothing_in_common() {
    let codec = codec(BOOT);
    let ids: Vec<_> = (0..2000).map(|n| codec.make(1, n)).collect();
    for at in 0..CID_BYTES {
        let seen: HashSet<u8> = ids.iter().map(|id| id[at]).collect();
        assert!(seen.len() > 240, "byte {at} has {} values in 2000 IDs", seen.len());
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
}

#[test]
fn first_packets_of_strangers_spread_over_the_workers() {
    let (codec, mut rng) = (codec(BOOT), fastrand::Rng::with_seed(1));
    let mut of = [0u32; 4];
    for _ in 0..4000 {
        let cid: [u8; 20] = std::array::from_fn(|_| rng.u8(..));
        match codec.owner(&long(&cid), count(4)) {
            Owner::One(worker) => of[usize::from(worker)] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(of.iter().all(|n| (850..1150).contains(n)), "{of:?}");
}

#[test]
fn a_first_packet_reaches_the_worker_that_it_wishes_for() {
    let (codec, mut rng) = (codec(BOOT), fastrand::Rng::with_seed(1));
    for (workers, wish, taker) in [(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 1, 1), (3, 4, 1)] {
        let first = first_choice(wish, &mut rng);
        assert_eq!(codec.owner(&long(&first), count(workers)), Owner::One(taker));
        assert!(!valid(&codec, &first));
    }
}

#[test]
fn only_what_can_be_a_reset_is_shown_to_all() {
    let codec = codec(BOOT);
    let stranger = |len: usize| codec.owner(&vec![0x41; len], count(4));
    assert_eq!(stranger(20), Owner::Any);
    assert_eq!(stranger(21), Owner::All);
    assert_eq!(stranger(1200), Owner::All);
    // Long headers are never resets, and those without an ID that could be ours are nobody's.
    assert_eq!(codec.owner(&long(b"1234567"), count(4)), Owner::Any);
    assert_eq!(codec.owner(&[0xc0, 0, 0, 0, 1, 8, 1, 2, 3], count(4)), Owner::Any);
}

#[test]
fn one_changed_bit_makes_a_dead_id_a_strangers() {
    let (dead, now) = (codec(BOOT).make(3, 9), codec(BOOT + 1));
    assert!(valid(&now, &dead));
    for bit in 0..CID_BYTES * 8 {
        let mut changed = dead;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!valid(&now, &changed), "bit {bit}");
    }
}

#[test]
fn an_id_of_another_length_is_not_ours() {
    let dead = codec(BOOT).make(0, 1);
    let longer = [&dead[..], &[0]].concat();
    for cid in [&[][..], &dead[..15], &longer] {
        assert!(!valid(&codec(BOOT + 1), cid));
    }
}

#[test]
fn debug_output_says_nothing_of_the_key() {
    let said = format!("{:?}", Codec::new(&KEY, 7));
    assert_eq!(said, "Codec { generation: 7, .. }");
}

proptest! {
    #[test]
    fn an_id_leads_to_its_worker(boot: u64, n: u64, workers in 1..=255u8, worker: u8) {
        let worker = worker % workers;
        let codec = codec(boot);
        let cid = codec.make(worker, n);
        prop_assert_eq!(codec.owner(&short(&cid), count(workers)), Owner::One(worker));
        prop_assert_eq!(codec.owner(&long(&cid), count(workers)), Owner::One(worker));
    }

    #[test]
    fn a_live_id_is_never_reset_and_a_dead_one_is(boot: u64, later: u64, n: u64, worker: u8) {
        prop_assume!(boot as u32 != later as u32);
        let cid = codec(boot).make(worker, n);
        prop_assert!(!valid(&codec(boot), &cid));
        prop_assert!(valid(&codec(later), &cid));
        // Whichever worker receives for a dead one resets it: once.
        prop_assert_eq!(codec(later).owner(&short(&cid), count(4)), Owner::Earlier);
        prop_assert_eq!(codec(later).owner(&long(&cid), count(4)), Owner::Earlier);
        let mut other = KEY;
        other[0] ^= 1;
        prop_assert!(!valid(&Arc::new(Codec::new(&other, later)), &cid));
    }

    #[test]
    fn any_datagram_can_be_looked_at(datagram in prop::collection::vec(any::<u8>(), 0..80), workers in 1..=255u8) {
        if let Owner::One(worker) = codec(BOOT).owner(&datagram, count(workers)) {
            prop_assert!(worker < workers);
        }
    }

    #[test]
    fn any_id_can_be_asked_for(cid in prop::collection::vec(any::<u8>(), 0..=20)) {
        prop_assert!(!valid(&codec(BOOT), &cid));
    }
}
