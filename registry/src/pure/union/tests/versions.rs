//! What is derived name by name, and only for the names that changed, is what is derived of the whole.

use proptest::prelude::*;

use super::*;

/// A change of a catalog, of the service or peer of this number.
#[derive(Clone, Debug)]
enum Edit {
    Serve(usize, Option<u16>),
    Policy(usize, Option<Option<u64>>),
    Link(usize, Option<bool>),
    Import(usize, usize, Option<u16>),
    Forget(usize),
}

const PEERS: [&str; 3] = ["east", "north", "zulu"];

fn edit() -> impl Strategy<Value = Edit> {
    let (name, peer, port) = (0_usize..4, 0..PEERS.len(), prop::option::weighted(0.7, 80_u16..82));
    prop_oneof![
        2 => (name.clone(), port.clone()).prop_map(|(name, port)| Edit::Serve(name, port)),
        2 => (name.clone(), prop::option::of(prop::option::of(1_u64..3))).prop_map(|(n, p)| Edit::Policy(n, p)),
        1 => (peer.clone(), prop::option::weighted(0.8, any::<bool>())).prop_map(|(peer, l)| Edit::Link(peer, l)),
        6 => (peer.clone(), name, port).prop_map(|(peer, name, port)| Edit::Import(peer, name, port)),
        1 => peer.prop_map(Edit::Forget),
    ]
}

fn name(n: usize) -> ServiceName {
    ServiceName::new("shop", &format!("s{n}")).unwrap()
}

fn apply(edit: &Edit, catalog: &mut Catalog) {
    // By the helpers for one service, of which there are several here.
    match *edit {
        Edit::Serve(n, None) => drop(catalog.declared.services.remove(&name(n))),
        Edit::Serve(n, Some(number)) => {
            let mut one = west();
            serve(&mut one, number);
            let service = Service { name: name(n), ..(*one.declared.services[&cart()]).clone() };
            catalog.declared.services.insert(name(n), service.into());
        }
        Edit::Policy(n, None) => drop(catalog.declared.policies.remove(&name(n))),
        Edit::Policy(n, Some(generation)) => {
            let mut one = west();
            policy(&mut one, generation.map(|generation| contract(generation, 0)));
            let policy = Policy { service: name(n), ..(*one.declared.policies[&cart()]).clone() };
            catalog.declared.policies.insert(name(n), policy.into());
        }
        Edit::Link(peer, None) => drop(catalog.declared.links.remove(&cluster(PEERS[peer]))),
        Edit::Link(peer, Some(union)) => link(catalog, PEERS[peer], &[(None, union)]),
        Edit::Import(peer, n, number) => {
            let services = catalog.imports.entry(cluster(PEERS[peer])).or_default();
            let services = &mut Arc::make_mut(services).services;
            match number {
                None => drop(services.remove(&name(n))),
                Some(number) => {
                    let mut one = west();
                    import(&mut one, PEERS[peer], number, Some(contract(1, u64::from(number))));
                    let import = &one.imports[&cluster(PEERS[peer])].services[&cart()];
                    services.insert(name(n), Import { name: name(n), ..(**import).clone() }.into());
                }
            }
        }
        Edit::Forget(peer) => drop(catalog.imports.remove(&cluster(PEERS[peer]))),
    }
}

proptest! {
    #[test]
    fn a_name_alone_means_what_the_whole_says_and_stays_unless_it_is_named_as_changed(
        before in prop::collection::vec(edit(), 0..30),
        since in prop::collection::vec(edit(), 0..6),
    ) {
        let mut old = west();
        PEERS.iter().for_each(|peer| link(&mut old, peer, &[(None, true)]));
        before.iter().for_each(|edit| apply(edit, &mut old));
        let mut new = old.clone();
        since.iter().for_each(|edit| apply(edit, &mut new));

        let whole: BTreeMap<_, _> = meanings(&new).collect();
        let changed = changed(&old, &new);
        for n in 0..4 {
            let name = name(n);
            let alone = meaning(&new, &name);
            prop_assert_eq!(whole.get(&name).cloned().unwrap_or_default(), alone.clone());
            if changed.as_ref().is_some_and(|names| !names.contains(&name)) {
                prop_assert_eq!(meaning(&old, &name), alone);
            }
        }
        prop_assert!(changed.is_some() || old.declared.links != new.declared.links);
        // And what is not said of any name is said of none.
        let mut conditions: Vec<_> = whole.into_values().flat_map(|meaning| meaning.conditions).collect();
        conditions.sort();
        prop_assert_eq!(resolve(&new).conditions, conditions);
    }
}
