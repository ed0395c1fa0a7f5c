//! What holds of every declaration.

use proptest::prelude::*;

use super::*;

proptest! {
    /// What DESIGN 6 promises whatever the declarations: all clusters that see the same offers take the same contract.
    #[test]
    fn every_fully_linked_cluster_takes_the_same_contract(
        generations in prop::collection::vec((prop::option::of(1_u64..4), 0_u64..2), 3),
    ) {
        let names = ["east", "north", "west"];
        let offer = |i: usize| generations[i].0.map(|generation| contract(generation, generations[i].1));
        let chosen: Vec<_> = (0..names.len()).map(|us| {
            let mut catalog = Catalog { cluster: cluster(names[us]), region: format!("r-{}", names[us]), ..west() };
            serve(&mut catalog, 80);
            policy(&mut catalog, offer(us));
            for peer in (0..names.len()).filter(|&peer| peer != us) {
                join_peer(&mut catalog, names[peer], offer(peer));
            }
            let mut resolved = resolve(&catalog);
            let placed = resolved.union.remove(&cart()).unwrap();
            (placed.contract, placed.contract_from, placed.members, placed.servers)
        }).collect();
        prop_assert_eq!(&chosen[0], &chosen[1]);
        prop_assert_eq!(&chosen[1], &chosen[2]);
        let highest = generations.iter().filter_map(|(generation, _)| *generation).max().unwrap_or(0);
        prop_assert_eq!(chosen[0].0.generation, highest);
    }
}

/// What one cluster of three declares: a generation, and members or none.
fn declaration() -> impl Strategy<Value = Option<Contract>> {
    let names = prop::sample::subsequence(vec!["east", "north", "west"], 1..=3);
    let generation = prop_oneof![1_u64..4, Just(u64::MAX), Just(1_795_973_307_123)];
    let some = (generation, prop::option::of(names)).prop_map(|(generation, names)| Contract {
        members: names.map(|names| members(&names)),
        ..contract(generation, 0)
    });
    prop::option::of(some)
}

proptest! {
    /// Whatever peers declare, our callers are kept from our own endpoints only by our own word.
    #[test]
    fn no_declaration_of_peers_takes_our_callers_away(east in declaration(), north in declaration(), ours in declaration()) {
        let mut catalog = west();
        serve(&mut catalog, 80);
        policy(&mut catalog, ours.clone());
        join_peer(&mut catalog, "east", east);
        join_peer(&mut catalog, "north", north);
        let resolved = resolve(&catalog);
        let placed = union_of(&resolved);
        let we_are_in = placed.members.iter().any(|member| member.cluster == cluster("west"));
        prop_assert!(we_are_in || Some(&placed.contract) == ours.as_ref(), "{:?}", placed);
        // And what we declare is outbid only by what includes everyone who does not agree.
        if let Some(ours) = ours {
            prop_assert!(placed.contract.generation >= ours.generation);
        }
    }
}
