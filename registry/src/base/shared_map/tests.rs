#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// That the chunks are as they promise to be.
fn check(map: &SharedMap<u16, u8>) {
    let chunks = &map.chunks;
    assert!(chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.entries.len())));
    assert!(chunks.iter().all(|chunk| chunk.from <= chunk.entries[0].0));
    assert!(chunks.windows(2).all(|two| two[0].entries.last().unwrap().0 < two[1].from));
    assert!(map.keys().is_sorted());
    assert_eq!(map.len(), chunks.iter().map(|chunk| chunk.entries.len()).sum::<usize>());
}

/// Entries that are put in (`Some`) and taken out.
fn changes(max: usize) -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
    let change = (0_u16..500, prop_oneof![3 => any::<u8>().prop_map(Some), 2 => Just(None)]);
    prop::collection::vec(change, 0..max)
}

fn apply(changes: &[(u16, Option<u8>)], map: &mut SharedMap<u16, u8>, model: &mut BTreeMap<u16, u8>) {
    for (key, value) in changes {
        match value {
            Some(value) => assert_eq!(map.insert(*key, *value), model.insert(*key, *value)),
            None => assert_eq!(map.remove(key), model.remove(key)),
        }
        check(map);
    }
    assert!(map.iter().eq(model.iter()));
    assert!((0..500).all(|key| map.get(&key) == model.get(&key)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_holds_what_a_tree_holds_and_tells_two_versions_apart(before in changes(800), since in changes(200)) {
        let (mut map, mut model) = Default::default();
        apply(&before, &mut map, &mut model);
        let (old, old_model) = (map.clone(), model.clone());
        apply(&since, &mut map, &mut model);
        prop_assert!(old.iter().eq(old_model.iter()), "a clone follows the original");

        let differ = |key: &u16| old_model.get(key) != model.get(key);
        let expected: Vec<u16> = (0..500).filter(differ).collect();
        for (a, b) in [(&map, &old), (&old, &map)] {
            prop_assert_eq!(a.differing(b, |a, b| a == b).copied().collect::<Vec<_>>(), expected.clone());
        }
        prop_assert_eq!(map == old, expected.is_empty());
        prop_assert_eq!(&map, &model.into_iter().collect());
    }
}

#[test]
fn a_change_copies_one_chunk_and_is_found_without_a_look_at_the_others() {
    let old: SharedMap<u16, u8> = (0..10_000).map(|n| (n, 0)).collect();
    assert!(old.chunks.len() < 10_000 / CHUNK_MAX + 2, "keys that come in order fill the chunks");
    let mut new = old.clone();
    new.insert(5_000, 1);
    assert_eq!(new.unshared(&old).count(), CHUNK_MAX);
    assert_eq!(new.differing(&old, |a, b| a == b).collect::<Vec<_>>(), [&5_000]);
}

#[test]
fn a_map_that_shrinks_gives_its_chunks_back() {
    let mut map: SharedMap<u16, u8> = (0..10_000).map(|n| (n, 0)).collect();
    (0..10_000).filter(|n| n % 100 != 0).for_each(|n| assert_eq!(map.remove(&n), Some(0)));
    check(&map);
    assert_eq!(map.len(), 100);
    assert!(map.chunks.len() <= 20, "{}", map.chunks.len());
    assert_eq!((0..10_000).filter_map(|n| map.remove(&n)).count(), 100);
    assert!(map.is_empty() && map.chunks.is_empty());
}
