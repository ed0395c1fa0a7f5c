#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::num::NonZeroU8;

use bytes::BytesMut;
use proto::control::{Digest, ServiceDigest};
use proto::limits::LOOKUP_ANSWER_BYTES_MAX;
use proto::lookup::Meaning;
use proto::message::take_message;
use registry::base::time::Tick;
use registry::manifest::{Source, parse};
use registry::model::{Catalog, ClusterName, Import, PeerImports, ServiceName};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::peers::Peers;
use crate::telemetry::metrics::Metrics;
use crate::view::{View, ViewBuilder};

/// West, where `shop/s0` and `shop/s1` are declared, and east, which exports `shop/far`.
struct World {
    peers: Peers,
    metrics: Metrics,
    builder: ViewBuilder,
    view: Arc<View>,
    revision: u64,
}

fn name(text: &str) -> Arc<str> {
    text.into()
}

fn service(service: &str, port: u16) -> String {
    format!(
        "---\napiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: {{ name: {service}, namespace: shop }}\n\
         spec: {{ ports: [{{ name: web, port: 80, protocol: http }}], healthCheck: {{ tcp: {{}} }}, \
         endpoints: [{{ id: a, host: 127.0.0.1, ports: {{ web: {port} }} }}] }}\n"
    )
}

impl World {
    fn new() -> Self {
        let west = ClusterName::new("west").unwrap();
        let link = "apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: { name: east }\nspec: {}\n";
        let links = parse(&[Source { name: "x".into(), text: link.into() }]).unwrap().declared.links;
        let mut world = Self {
            peers: Peers::new(&west, "gw-1", &links, CancellationToken::new()),
            metrics: Metrics::new(NonZeroU8::MIN),
            builder: ViewBuilder::new(west, "w".into()),
            view: Arc::default(),
            revision: 0,
        };
        world.declare(9001, 9002);
        world
    }

    /// Both services have another port each.
    fn declare(&mut self, s0: u16, s1: u16) {
        let link = "apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: { name: east }\nspec: {}\n";
        let text = format!("{link}{}{}", service("s0", s0), service("s1", s1));
        let mut declared = parse(&[Source { name: "x".into(), text }]).unwrap().declared;
        // What is read anew and says the same is the same.
        for (name, before) in self.view.catalog.iter().flat_map(|c| c.declared.services.iter()) {
            if declared.services.get(name).is_some_and(|now| now == before) {
                declared.services.insert(name.clone(), before.clone());
            }
        }
        let far = ServiceName::new("shop", "far").unwrap();
        let ports = declared.services.values().next().unwrap().ports.clone();
        let import = Import { name: far.clone(), ports, region: "e".into(), contract: None, revision: 1 };
        let services = [(far, Arc::new(import))].into_iter().collect();
        let imports = PeerImports { services, ..PeerImports::default() };
        let before = self.view.catalog.as_ref().map(|catalog| catalog.imports.clone());
        let east = ClusterName::new("east").unwrap();
        self.revision += 1;
        let catalog = Catalog {
            revision: self.revision,
            cluster: ClusterName::new("west").unwrap(),
            region: "w".into(),
            declared,
            imports: before.unwrap_or_else(|| BTreeMap::from([(east, Arc::new(imports))])),
        };
        let view = self.builder.build(Arc::new(catalog), &self.peers, &self.metrics, &self.view, Tick::at(1));
        self.view = Arc::new(view);
    }

    fn book(&self) -> Book {
        Book::new("mesh".into(), Moment::of(self.view.clone()).unwrap())
    }

    fn tell(&self, ready: u32, now: Tick) {
        let far = ServiceDigest { namespace: "shop".into(), name: "far".into(), ready, ..Default::default() };
        let digest = Digest { services: vec![far], objections: Vec::new() };
        self.peers.get(&ClusterName::new("east").unwrap()).unwrap().facts.tell("gw-1", &digest, now);
    }
}

fn meaning((_, message): &Word) -> Option<Meaning> {
    take_message::<Answer>(&mut BytesMut::from(&message[..]), LOOKUP_ANSWER_BYTES_MAX)
        .unwrap()
        .unwrap()
        .meaning
}

fn port(word: &Word) -> u32 {
    meaning(word).unwrap().endpoints.unwrap().endpoints[0].ports[0].number
}

/// Looks at everything and says anew what has changed; which names that were.
fn look(book: &mut Book, world: &World, now: Tick) -> Vec<Arc<str>> {
    let mut changed = book.look(world.view.clone(), now);
    changed.iter().for_each(|name| book.renew(name, now));
    changed.sort();
    changed
}

fn taken(inbox: &Inbox) -> Vec<Arc<str>> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(inbox.take()).poll(&mut cx) {
        std::task::Poll::Ready(names) => names.into_iter().collect(),
        std::task::Poll::Pending => Vec::new(),
    }
}

#[test]
fn a_change_is_found_once_however_many_streams_use_the_name_and_each_is_told_once() {
    let mut world = World::new();
    let mut book = world.book();
    let inboxes: Vec<Arc<Inbox>> = (0..100).map(|_| Arc::default()).collect();
    for inbox in &inboxes {
        let number = book.number();
        for of in ["s0.shop", "s1.shop", "nothing.shop"] {
            book.follow(&name(of), number, inbox, Tick::at(1));
        }
    }
    assert_eq!(port(&book.word("s0.shop").unwrap()), 9001);
    assert_eq!(meaning(&book.word("nothing.shop").unwrap()), None);

    assert_eq!(look(&mut book, &world, Tick::at(2)), [], "nothing has changed");
    world.declare(9003, 9002);
    assert_eq!(look(&mut book, &world, Tick::at(3)), [name("s0.shop")], "only what has, and once");
    assert_eq!(port(&book.word("s0.shop").unwrap()), 9003);
    for inbox in &inboxes {
        assert_eq!(taken(inbox), [name("s0.shop")]);
        assert_eq!(taken(inbox), []);
    }
    // A new view that says nothing new of it.
    world.declare(9003, 9002);
    assert_eq!(look(&mut book, &world, Tick::at(4)), []);
}

#[test]
fn a_check_that_fails_is_told_and_so_is_the_one_that_passes_again() {
    let world = World::new();
    let mut book = world.book();
    let (number, inbox) = (book.number(), Arc::<Inbox>::default());
    let failing = |word: Word| meaning(&word).unwrap().endpoints.unwrap().endpoints[0].ports[0].failing;
    assert!(failing(book.follow(&name("s0.shop"), number, &inbox, Tick::at(1))), "not checked yet");
    let local = world.view.local("shop", "s0").unwrap();
    let endpoint = local.ports[0].1.get(0);
    for passes in [true, false, true] {
        let _ = endpoint.checked(passes, 1, 1, Tick::at(2));
        assert_eq!(look(&mut book, &world, Tick::at(2)), [name("s0.shop")]);
        assert_eq!(failing(book.word("s0.shop").unwrap()), !passes);
        assert_eq!(taken(&inbox), [name("s0.shop")]);
    }
}

#[test]
fn what_a_peer_tells_counts_until_it_is_old_and_somebody_looks_then() {
    let world = World::new();
    let mut book = world.book();
    let (number, inbox) = (book.number(), Arc::<Inbox>::default());
    let ready = |book: &Book| meaning(&book.word("far.shop.east").unwrap()).unwrap().servers[0].ready;
    book.follow(&name("far.shop.east"), number, &inbox, Tick::at(1));
    assert_eq!((ready(&book), book.until()), (None, None));
    world.tell(100, Tick::at(2));
    assert_eq!(look(&mut book, &world, Tick::at(2)), [name("far.shop.east")]);
    assert_eq!((ready(&book), taken(&inbox).len()), (Some(100), 1));
    let until = book.until().unwrap();
    // The same again: it counts for longer, and that is no news.
    world.tell(100, Tick::at(1_000_000));
    assert_eq!(look(&mut book, &world, Tick::at(1_000_000)), []);
    assert!(book.until().unwrap() > until);
    let until = book.until().unwrap();
    assert_eq!(look(&mut book, &world, Tick::at(until.micros() - 1)), []);
    assert_eq!(look(&mut book, &world, until), [name("far.shop.east")]);
    assert_eq!((ready(&book), book.until()), (None, None));
}

#[test]
fn what_nobody_uses_any_more_is_not_kept() {
    let mut world = World::new();
    let mut book = world.book();
    let (one, other, inbox) = (book.number(), book.number(), Arc::<Inbox>::default());
    for number in [one, other, one] {
        book.follow(&name("s0.shop"), number, &inbox, Tick::at(1));
    }
    book.leave("s0.shop", one);
    book.leave("s0.shop", one);
    assert!(book.word("s0.shop").is_some());
    book.leave("s0.shop", other);
    assert!(book.word("s0.shop").is_none());
    world.declare(1, 2);
    assert_eq!(look(&mut book, &world, Tick::at(2)), []);
    assert_eq!(taken(&inbox), []);
}
