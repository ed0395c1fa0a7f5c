//! What moves when the set changes, and what a key does in a gradual change.

use proptest::prelude::*;

use super::*;
use crate::{moves, threshold};

/// An owner's id.
type Owner = Option<Vec<u8>>;

/// The owners, before and after, of every hash that has another one in the second ring.
fn moved(before: &Ring, after: &Ring, hashes: &[u64]) -> Vec<(Owner, Owner)> {
    let owner = |ring: &Ring, hash| ring.owner(hash).map(|node| ring.node(node).id.to_vec());
    let pairs = hashes.iter().map(|hash| (owner(before, *hash), owner(after, *hash)));
    pairs.filter(|(before, after)| before != after).collect()
}

proptest! {
    /// With two sets that differ in the points of one node, keys move only to the one with more of them.
    #[test]
    fn a_change_moves_keys_of_the_changed_node_only(
        declared in declared(),
        which in any::<prop::sample::Index>(),
        weights in [0_u32..=150, 0_u32..=150],
    ) {
        prop_assume!(!declared.nodes.is_empty());
        let which = which.index(declared.nodes.len());
        let id = Some(declared.nodes[which].0.clone());
        let (mut less, mut more) = (declared.clone(), declared.clone());
        less.nodes[which].1 = weights[0].min(weights[1]);
        more.nodes[which].1 = weights[0].max(weights[1]);
        let mut without = declared;
        without.nodes.remove(which);

        let hashes = more.hashes();
        let (without, less, more) = (without.ring(), less.ring(), more.ring());
        for (smaller, larger) in [(&without, &less), (&less, &more), (&without, &more)] {
            // Node joins or gains weight: it alone receives.
            for (_, after) in moved(smaller, larger, &hashes) {
                prop_assert_eq!(&after, &id);
            }
            // It leaves or loses weight: it alone gives.
            for (before, _) in moved(larger, smaller, &hashes) {
                prop_assert_eq!(&before, &id);
            }
        }
    }

    /// Without its first node a sequence is the rest of itself: on declared nodes, where ids keep their order.
    #[test]
    fn the_next_of_the_sequence_inherits(declared in declared()) {
        let ring = declared.ring();
        let ids = |ring: &Ring, hash| -> Vec<Vec<u8>> {
            ring.sequence(hash).map(|node| ring.node(node).id.to_vec()).collect()
        };
        for gone in &declared.nodes {
            let mut rest = declared.clone();
            rest.nodes.retain(|node| node.0 != gone.0);
            let rest = rest.ring();
            for hash in declared.hashes() {
                let mut expected = ids(&ring, hash);
                expected.retain(|id| *id != gone.0);
                prop_assert_eq!(ids(&rest, hash), expected);
            }
        }
    }

    /// The same where ties decide.
    #[test]
    fn the_next_of_the_sequence_inherits_in_a_crowd((zones, points) in crowded()) {
        let ring = ring_on(&zones, &points);
        for hash in edges(&points) {
            let mut sequence = ring.sequence(hash);
            let (Some(first), second) = (sequence.next(), sequence.next()) else { continue };
            let rest: Vec<_> = points.iter().copied().filter(|point| point.node != first).collect();
            prop_assert_eq!(ring_on(&zones, &rest).owner(hash), second);
        }
    }

    #[test]
    fn a_key_moves_once_as_the_fraction_grows(hash: u64, transition: u64, fraction in 0_u32..65_536) {
        prop_assert!(!moves(hash, transition, 0));
        prop_assert!(moves(hash, transition, 65_536));
        prop_assert!(!moves(hash, transition, fraction) || moves(hash, transition, fraction + 1));
        // The exact fraction at which this key goes.
        let own = (threshold(hash, transition) >> 48) as u32;
        prop_assert!(!moves(hash, transition, own) && moves(hash, transition, own + 1));
    }
}

#[test]
fn a_fraction_moves_that_share_of_the_keys_and_transitions_are_independent() {
    let quarter = |transition| (0..40_000_u64).filter(move |hash| moves(*hash, transition, 16_384));
    let (first, second) = (quarter(1).count(), quarter(2).count());
    assert!(first.abs_diff(10_000) < 300 && second.abs_diff(10_000) < 300, "{first} {second}");
    let both = quarter(1).filter(|hash| moves(*hash, 2, 16_384)).count();
    assert!(both.abs_diff(2500) < 200, "{both}");
}

/// A node is drained: key by key, as the fraction grows, each goes to where it would go without the node, and as
/// the fraction shrinks each returns at the same fraction.
#[test]
fn a_partial_drain_moves_each_key_once_and_where_it_belongs() {
    let builder = || Ring::builder().node("b", 100, "x").node("c", 100, "y").node("d", 50, "x");
    let (with, without) = (builder().node("a", 100, "y").build().unwrap(), builder().build().unwrap());
    let (draining, transition) = (with.index_of(b"a").unwrap(), 7);
    let owner = |hash, fraction| {
        let mut order =
            with.sequence(hash).skipping(|node| node == draining && moves(hash, transition, fraction));
        order.next().unwrap()
    };
    for hash in (0..2000).map(crate::inner) {
        let (before, after) = (with.owner(hash).unwrap(), without.owner(hash).unwrap());
        let after = with.index_of(without.node(after).id).unwrap();
        let own = (threshold(hash, transition) >> 48) as u32;
        assert_eq!([owner(hash, 0), owner(hash, own)], [before; 2]);
        assert_eq!([owner(hash, own + 1), owner(hash, 65_536)], [after; 2]);
        assert!(before == after || before == draining);
    }
}
