#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::num::NonZeroU8;

use registry::manifest::{Source, parse};
use registry::model::{Hosts, Import};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::peers::Peers;
use crate::telemetry::metrics::Metrics;
use registry::model::{Member, Service as Declared};
use registry::testing::cluster;

const LINKS: &str = "apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: { name: east }\nspec: { import: [{ union: true }] }\n\
                     ---\napiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: { name: north }\nspec: { import: [{ union: true }] }\n";
const PEERS: [&str; 2] = ["east", "north"];

fn service(n: usize) -> ServiceName {
    ServiceName::new(["shop", "bank"][n % 2], &format!("s{n}")).unwrap()
}

fn ports(number: u16) -> Arc<[Port]> {
    let text = format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: {{ name: s, namespace: shop }}\n\
         spec: {{ ports: [{{ name: web, port: {number}, protocol: http }}] }}\n"
    );
    let declared = parse(&[Source { name: "x.yaml".into(), text }]).unwrap().declared;
    declared.services.values().next().unwrap().ports.clone()
}

/// The catalog of west with two links and nothing else.
fn west() -> Catalog {
    let declared = parse(&[Source { name: "x.yaml".into(), text: LINKS.into() }]).unwrap().declared;
    Catalog { revision: 1, cluster: cluster("west"), region: "w".into(), declared, imports: BTreeMap::new() }
}

/// A service comes, changes or goes: our own, or one of a peer.
fn edit(catalog: &mut Catalog, rng: &mut fastrand::Rng) {
    let (name, gone) = (service(rng.usize(..6)), rng.u8(..3) == 0);
    let ports = ports(80 + rng.u16(..2));
    let peer = cluster(PEERS[rng.usize(..PEERS.len())]);
    match rng.u8(..3) {
        0 if gone => drop(catalog.declared.services.remove(&name)),
        0 => {
            let (endpoints, health_check, export) = (Vec::new(), None, Grant::Everyone);
            let service = Declared {
                name: name.clone(),
                ports,
                endpoints,
                health_check,
                export,
                registration: Hosts::default(),
            };
            catalog.declared.services.insert(name, service.into());
        }
        _ => {
            let services = &mut Arc::make_mut(catalog.imports.entry(peer).or_default()).services;
            if gone {
                services.remove(&name);
            } else {
                let import = Import {
                    name: name.clone(),
                    ports,
                    region: "e".into(),
                    contract: None,
                    revision: rng.u64(..),
                };
                services.insert(name, import.into());
            }
        }
    }
}

/// All that can be seen of a view.
fn seen(view: &View) -> Vec<String> {
    let shown = |key: String, service: &Service| {
        let server = |(node, member): (NodeIndex, &Member)| {
            let local = |local: &Arc<LocalService>| local.ports[0].0.number;
            match service.server(node) {
                Server::Local(of) => format!("{} here {}", member.cluster, local(of)),
                Server::Peer(peer, _) => format!("{} {}", member.cluster, peer.name),
                other => format!("{} {other:?}", member.cluster),
            }
        };
        let servers: Vec<_> = service.placement.nodes().map(server).collect();
        format!(
            "{key} {} {:?} {:?} {servers:?} {}",
            service.name, service.ports, service.contract_from, service.pinned
        )
    };
    let union = view.union.iter().map(|(name, service)| shown(format!("union {name}"), service));
    let pinned = view.pinned.iter().flat_map(|(cluster, services)| {
        services.iter().map(move |(name, service)| shown(format!("{cluster} {name}"), service))
    });
    let locals =
        view.locals().map(|local| format!("local {} {:?} {:?}", local.name, local.ports[0].0, local.grant));
    let conditions = view.conditions.iter().map(|condition| format!("{condition:?}"));
    let mut seen: Vec<_> = union.chain(pinned).chain(locals).chain(conditions).collect();
    seen.sort();
    seen
}

#[test]
fn a_view_that_follows_another_is_the_view_of_its_catalog() {
    let metrics = Metrics::new(NonZeroU8::MIN);
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..15 {
        let mut catalog = west();
        let peers = Peers::new(&catalog.cluster, "gw-1", &catalog.declared.links, CancellationToken::new());
        let builder = || ViewBuilder::new(cluster("west"), "w".into());
        let (mut following, mut view) = (builder(), View::default());
        for step in 0..20 {
            (0..rng.usize(..4)).for_each(|_| edit(&mut catalog, &mut rng));
            // Seldom everything changes, with a rule of a link.
            if step % 7 == 6 {
                catalog.declared.links.get_mut(&cluster("east")).unwrap().import[0].union = rng.bool();
            }
            view = following.build(Arc::new(catalog.clone()), &peers, &metrics, &view, Tick::at(step));
            let fresh = builder().build(
                Arc::new(catalog.clone()),
                &peers,
                &metrics,
                &View::default(),
                Tick::at(step),
            );
            assert_eq!(seen(&view), seen(&fresh));
        }
    }
}

#[test]
fn what_did_not_change_is_shared_with_the_view_before() {
    let metrics = Metrics::new(NonZeroU8::MIN);
    let mut catalog = west();
    let peers = Peers::new(&catalog.cluster, "gw-1", &catalog.declared.links, CancellationToken::new());
    let mut builder = ViewBuilder::new(cluster("west"), "w".into());
    let put = |catalog: &mut Catalog, n: usize, number: u16| {
        let (name, ports) = (service(n), ports(number));
        let import = Import { name: name.clone(), ports, region: "e".into(), contract: None, revision: 1 };
        let imports = catalog.imports.entry(cluster("east")).or_default();
        Arc::make_mut(imports).services.insert(name, import.into());
    };
    (0..3).for_each(|n| put(&mut catalog, n, 80));
    let first = builder.build(Arc::new(catalog.clone()), &peers, &metrics, &View::default(), Tick::at(1));
    put(&mut catalog, 1, 81);
    let second = builder.build(Arc::new(catalog.clone()), &peers, &metrics, &first, Tick::at(2));
    let same =
        |n: usize| Arc::ptr_eq(first.union_of(&service(n)).unwrap(), second.union_of(&service(n)).unwrap());
    assert_eq!([same(0), same(1), same(2)], [true, false, true]);
    let budgets = |view: &View| Arc::as_ptr(&view.union_of(&service(1)).unwrap().budgets);
    assert_eq!(budgets(&first), budgets(&second), "a budget looks back over a change");
}
