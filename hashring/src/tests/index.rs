//! The fast index against the plain one, where it has to look twice, and patches against rebuilds.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index as Choice, subsequence};

use super::sorted::Sorted;
use super::*;
use crate::index::Renumber;

/// Points on a few nodes: spread over the ring, so that there are many lines, and in clusters so narrow that
/// lines overflow, fractions are equal and positions too.
fn points() -> impl Strategy<Value = Vec<Point>> {
    let wide = vec((any::<u64>(), 0_u16..6).prop_map(|(position, node)| at(position, node)), 0..300);
    let cluster = (any::<u64>(), 0_u32..60).prop_flat_map(|(start, width)| {
        let position = (0..1_u64 << width).prop_map(move |offset| start.wrapping_add(offset));
        vec((position, 0_u16..6).prop_map(|(position, node)| at(position, node)), 0..60)
    });
    // A cluster at the very ends of the numbers, where the ring closes.
    let seam = vec((0_u64..40, 0_u16..6).prop_map(|(n, node)| at(n.wrapping_sub(20), node)), 0..10);
    (wide, vec(cluster, 0..3), seam).prop_map(|(wide, clusters, seam)| {
        let mut points = [wide, clusters.concat(), seam].concat();
        points.sort_unstable();
        points
    })
}

/// Hashes where the owner may change: positions, the middles between neighbours, and those beside.
fn neighbourhood(points: &[Point]) -> Vec<u64> {
    let around = points.iter().zip(points.iter().cycle().skip(1)).flat_map(|(a, b)| {
        let middle = a.position.wrapping_add(b.position.wrapping_sub(a.position) / 2);
        [a.position, middle]
            .into_iter()
            .flat_map(|at| (0..4).map(move |i| at.wrapping_add(i).wrapping_sub(1)))
    });
    around.chain([0, u64::MAX]).collect()
}

fn same_answers(points: &[Point]) -> Result<(), TestCaseError> {
    let (index, sorted) = (index_of(points), Sorted::new(points.to_vec()));
    for hash in neighbourhood(points) {
        let expected: Vec<_> = sorted.walk(hash).take(8).collect();
        prop_assert_eq!(index.owner(hash), expected.first().copied(), "owner of {:x}", hash);
        prop_assert_eq!(index.walk(hash).take(8).collect::<Vec<_>>(), expected, "walk from {:x}", hash);
    }
    // Neighbouring arcs that differ in their owner meet where the owner changes.
    let arcs: Vec<_> = index.arcs().collect();
    for pair in arcs.windows(2) {
        let ((_, before), (first, after)) = (pair[0], pair[1]);
        prop_assert!(pair[0].0 <= first);
        prop_assert_eq!(index.owner(first), Some(after));
        prop_assert!(first == 0 || index.owner(first - 1) == Some(before));
    }
    Ok(())
}

proptest! {
    #[test]
    fn answers_as_the_sorted_array(points in points()) {
        same_answers(&points)?;
    }

    #[test]
    fn does_not_depend_on_the_order_of_points(points in points().prop_flat_map(|points| (Just(points.clone()), Just(points).prop_shuffle()))) {
        prop_assert_eq!(index_of(&points.0), index_of(&points.1));
    }

    /// Some points go and some come, of nodes that stay.
    #[test]
    fn a_patch_is_a_rebuild(
        (points, gone) in points().prop_flat_map(|points| {
            let any = 0..=points.len();
            (Just(points.clone()), subsequence(points, any))
        }),
        new in points(),
    ) {
        let mut after: Vec<Point> = [points.clone(), new.clone()].concat();
        for point in &gone {
            after.remove(after.iter().position(|other| other == point).unwrap());
        }
        let patched = index_of(&points).patched(&gone, &new, Renumber::Keep);
        prop_assert_eq!(patched, index_of(&after));
    }

    /// A few points, so that the number of lines stays and lines are mended.
    #[test]
    fn a_small_patch_is_a_rebuild(
        points in points(),
        gone in vec(any::<Choice>(), 0..4),
        new in vec((any::<Choice>(), -3_i64..4, any::<u64>(), any::<bool>(), 0_u16..6), 0..4),
    ) {
        let gone: BTreeSet<usize> =
            gone.iter().filter(|_| !points.is_empty()).map(|choice| choice.index(points.len())).collect();
        // Anywhere, or at or beside a point that is there.
        let mut new: Vec<Point> = new
            .into_iter()
            .map(|(beside, offset, anywhere, is_beside, node)| match points.get(beside.index(points.len().max(1))) {
                Some(point) if is_beside => at(point.position.wrapping_add_signed(offset), node),
                _ => at(anywhere, node),
            })
            .collect();
        new.sort_unstable();
        let rest = points.iter().enumerate().filter(|(rank, _)| !gone.contains(rank)).map(|(_, point)| *point);
        let after: Vec<Point> = rest.chain(new.iter().copied()).collect();
        let gone: Vec<Point> = gone.iter().map(|rank| points[*rank]).collect();
        let patched = index_of(&points).patched(&gone, &new, Renumber::Keep);
        prop_assert_eq!(patched, index_of(&after));
    }

    /// A node goes with all its points, and comes back.
    #[test]
    fn nodes_that_come_and_go_renumber_the_others(points in points(), number in 0_u16..6) {
        let (gone, rest): (Vec<Point>, Vec<Point>) =
            points.iter().partition(|point| point.node == NodeIndex(number));
        let closed: Vec<Point> =
            rest.iter().map(|p| at(p.position, p.node.0 - u16::from(p.node.0 > number))).collect();
        let without = index_of(&points).patched(&gone, &[], Renumber::Remove(NodeIndex(number)));
        prop_assert_eq!(&without, &index_of(&closed));
        let with = without.patched(&[], &gone, Renumber::Insert(NodeIndex(number)));
        prop_assert_eq!(with, index_of(&points));
    }
}

/// Sixteen owners fit a line. What comes after them in its stretch of hashes is found all the same.
#[test]
fn lines_that_overflow_and_fractions_that_tie_are_exact() {
    for step in [1, 2, 3, 1 << 20, 1 << 44, 1 << 48, 1 << 49, 1 << 50] {
        for count in [14_u64, 15, 16, 17, 40] {
            let wide = (0..200).map(|i| at(crate::inner(i), 5));
            let narrow = (0..count).map(|i| at((1 << 63) + i * step, (i % 3) as u16));
            let mut points: Vec<Point> = wide.chain(narrow).collect();
            points.sort_unstable();
            same_answers(&points).unwrap();
        }
    }
}

/// The usual rings, at every position and boundary.
#[test]
fn answers_as_the_sorted_array_on_hashed_points() {
    for nodes in [1_u16, 2, 3, 10, 30, 100] {
        let mut points: Vec<Point> = (0..nodes)
            .flat_map(|node| (0..160).map(move |i| at(point(&node.to_be_bytes(), i, 7), node)))
            .collect();
        points.sort_unstable();
        same_answers(&points).unwrap();
    }
}
