//! One cluster's mirror of another: the stream that feeds it, its store, and what may never happen to either.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::sync::Event;
use proto::sync::event::Kind;
use registry::model::EXPIRE_AFTER;
use registry::model::{ClusterName, Import, ImportRule, Link, PeerImports, Placement, Position, ServiceName};
use registry::pure::export::{Export, Feed};
use registry::pure::mirror::{BELIEVED_AT_ONCE, Changed, Desync, HOLD, Mirror};

use crate::cluster::owns;

pub(crate) struct SimLink {
    importer: ClusterName,
    exporter: ClusterName,
    namespaces: &'static [Option<&'static str>],
    pub(crate) mirror: Mirror,
    stream: Option<Stream>,
    pub(crate) cut: bool,
    /// What the importer's disk holds: the last catalog, whole.
    saved: Arc<PeerImports>,
    backup: Arc<PeerImports>,
    history: History,
}

struct Stream {
    feed: Feed,
    on_the_way: VecDeque<Sent>,
}

/// An event and when it was sent, in the order of all events of the link.
#[derive(Clone)]
struct Sent {
    at: u64,
    event: Event,
}

/// What the checks know of what the mirror was told.
#[derive(Default)]
struct History {
    sent: u64,
    /// When what is known of each service was sent: that it is there, or that it is gone.
    told: BTreeMap<ServiceName, (u64, Known)>,
    /// Services known before the last snapshot began, and those that it named.
    known: usize,
    named: BTreeSet<ServiceName>,
    /// Since when no snapshot has named a service, by the importer's clock.
    missing: BTreeMap<ServiceName, u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    There,
    Gone,
}

/// What selections of a link there are.
pub(crate) const EVERYTHING: &[Option<&str>] = &[None];
const SELECTIONS: [&[Option<&str>]; 3] = [&[], &[Some("shop")], EVERYTHING];

fn is_mark(event: &Event) -> bool {
    !matches!(event.kind, Some(Kind::Upsert(_) | Kind::Removed(_)))
}

impl SimLink {
    pub(crate) fn new(importer: ClusterName, exporter: ClusterName) -> Self {
        let mirror = Mirror::new(&declared(&exporter, EVERYTHING), Arc::default());
        Self {
            importer,
            exporter,
            namespaces: EVERYTHING,
            mirror,
            stream: None,
            cut: false,
            saved: Arc::default(),
            backup: Arc::default(),
            history: History::default(),
        }
    }

    /// Watches, seldom with a lie. True: it claims to know more than there is.
    pub(crate) fn connect(&mut self, export: &Export, rng: &mut fastrand::Rng) -> bool {
        if self.cut || self.stream.is_some() && self.mirror.is_watching() {
            return false;
        }
        let mut watch = self.mirror.watch();
        if rng.u8(..10) == 0 {
            let Position { epoch, revision } = export.position();
            (watch.epoch, watch.revision) = (epoch, revision.saturating_add(rng.u64(..)));
        }
        let feed = Feed::new(self.importer.clone(), &watch, export, rng).unwrap();
        let lies = feed.claims_more(export);
        self.stream = Some(Stream { feed, on_the_way: VecDeque::new() });
        lies
    }

    /// The tunnel broke: what was on its way is lost, and nothing that is known.
    pub(crate) fn disconnect(&mut self) {
        let before = Arc::clone(self.mirror.imports());
        self.stream = None;
        self.mirror.lost();
        assert_eq!(*self.mirror.imports(), before, "a lost link took something along");
    }

    /// The importer's process dies: what was not saved is lost, and what was is served from the start.
    pub(crate) fn restart(&mut self) {
        self.disconnect();
        self.mirror = Mirror::new(&declared(&self.exporter, self.namespaces), Arc::clone(&self.saved));
        // The link's rules may have changed since it was saved.
        let taken = |name: &&ServiceName| self.takes(name);
        let expected: Vec<_> = self.saved.services.keys().filter(taken).collect();
        assert_eq!(self.mirror.imports().services.keys().collect::<Vec<_>>(), expected, "a start forgot");
        self.history.missing.clear();
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = Arc::clone(&self.saved);
    }

    /// The importer's disk is as it was; a restart follows.
    pub(crate) fn restore(&mut self) {
        self.saved = Arc::clone(&self.backup);
        // What it knows now was told before all that it was told since.
        self.history.told.clear();
    }

    pub(crate) fn change_selection(&mut self, rng: &mut fastrand::Rng) {
        self.select(SELECTIONS[rng.usize(..SELECTIONS.len())]);
    }

    pub(crate) fn select(&mut self, namespaces: &'static [Option<&'static str>]) {
        self.namespaces = namespaces;
        let changes = self.mirror.select(&declared(&self.exporter, namespaces));
        for change in &changes {
            assert!(matches!(change, Changed::Delete(name) if !self.takes(name)), "{change:?}");
        }
    }

    /// Puts the feed's next events on the way, some twice, some swapped with a neighbour. True: the peer has been
    /// told everything.
    pub(crate) fn send(&mut self, export: &Export, rng: &mut fastrand::Rng) -> bool {
        let Some(Stream { feed, on_the_way }) = &mut self.stream else { return false };
        let mut events = feed.next(export, rng.usize(1..8));
        if events.is_empty() {
            events.extend(feed.heartbeat(export));
        }
        for event in events {
            self.history.sent += 1;
            let sent = Sent { at: self.history.sent, event };
            let twice = rng.u8(..5) == 0;
            for sent in std::iter::repeat_n(sent, 1 + usize::from(twice)) {
                let reach = on_the_way.iter().rev().take_while(|earlier| !is_mark(&earlier.event)).count();
                let back = if is_mark(&sent.event) { 0 } else { rng.usize(..=reach) };
                on_the_way.insert(on_the_way.len() - back, sent);
            }
        }
        feed.heartbeat(export).is_some()
    }

    /// Gives the mirror what arrives next. False: nothing was on its way.
    pub(crate) fn deliver(&mut self, now_unix_ms: u64) -> bool {
        let Some(sent) = self.stream.as_mut().and_then(|stream| stream.on_the_way.pop_front()) else {
            return false;
        };
        let before = Arc::clone(self.mirror.imports());
        match self.mirror.apply(&sent.event, now_unix_ms) {
            Ok(changes) => {
                self.check(&sent, &before, &changes, now_unix_ms);
                self.check_changes(&before, &changes);
            }
            // An honest exporter's stream ends thus only because the selection or time closed the watch.
            Err(desync) => {
                assert_eq!(desync, Desync::NotWatching);
                self.disconnect();
            }
        }
        true
    }

    /// Time goes by. Returns how many held services went with it, and how many for want of any word.
    pub(crate) fn tick(&mut self, now_unix_ms: u64) -> (usize, usize) {
        let before = Arc::clone(self.mirror.imports());
        let changes = self.mirror.tick(now_unix_ms);
        let silent_ms = now_unix_ms.saturating_sub(before.synced_unix_ms);
        let expired = u128::from(silent_ms) >= EXPIRE_AFTER.as_millis();
        for change in &changes {
            let Changed::Delete(name) = change else { panic!("time made {change:?}") };
            assert!(expired || self.history.is_overdue(name, now_unix_ms), "time alone took {name}");
        }
        if expired {
            self.history.missing.clear();
        }
        let gone = changes.len();
        if expired { (0, gone) } else { (gone, 0) }
    }

    /// Saves the last catalog.
    pub(crate) fn save(&mut self) {
        self.saved = Arc::clone(self.mirror.imports());
    }

    /// Imports are the exports, no more and no less.
    pub(crate) fn check_equal(&self, export: &Export) {
        let who = format!("{} of {}", self.importer, self.exporter);
        assert_eq!(self.mirror.held().collect::<Vec<_>>(), [] as [&ServiceName; 0], "{who}");
        let facts = |import: &Import| (import.name.clone(), import.ports.clone());
        let exported: Vec<_> = export.granted_to(&self.importer).map(facts).collect();
        let imports = self.mirror.imports();
        assert_eq!(
            imports.services.values().map(|import| facts(import)).collect::<Vec<_>>(),
            exported,
            "{who}"
        );
        assert_eq!(self.mirror.skipped(), 0, "{who}");
    }

    /// What is said to have changed is what differs.
    fn check_changes(&self, before: &PeerImports, changes: &[Changed]) {
        let differing = self.mirror.imports().services.differing(&before.services, PartialEq::eq);
        let mut said: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Changed::Put(import) => &import.name,
                Changed::Delete(name) => name,
            })
            .collect();
        said.sort();
        assert_eq!(differing.collect::<Vec<_>>(), said, "{} of {}", self.importer, self.exporter);
    }

    fn takes(&self, name: &ServiceName) -> bool {
        self.namespaces.iter().any(|taken| taken.is_none_or(|taken| *name.namespace == *taken))
    }

    /// What one event may make of what was known.
    fn check(&mut self, sent: &Sent, before: &PeerImports, changes: &[Changed], now_unix_ms: u64) {
        let who = format!("{} of {}", self.importer, self.exporter);
        let history = &mut self.history;
        match &sent.event.kind {
            Some(Kind::SnapshotBegin(_)) => {
                history.known = before.services.len();
                history.named.clear();
            }
            Some(Kind::Upsert(record)) => {
                let name = ServiceName::new(&record.namespace, &record.name).unwrap();
                history.missing.remove(&name);
                history.named.insert(name);
            }
            Some(Kind::SnapshotEnd(_)) => history.check_absences(before, changes, now_unix_ms),
            _ => {}
        }
        for change in changes {
            let (name, known) = match change {
                Changed::Put(import) => (&import.name, Known::There),
                Changed::Delete(name) => (name, Known::Gone),
            };
            assert!(owns(&self.exporter, name), "{who} has an import of an import: {name}");
            assert!(
                known == Known::There
                    || matches!(sent.event.kind, Some(Kind::Removed(_) | Kind::SnapshotEnd(_))),
                "{who}: {:?} took {name} away",
                sent.event
            );
            let earlier = history.told.insert(name.clone(), (sent.at, known));
            if let Some((at, was)) = earlier {
                assert!(at <= sent.at, "{who}: {name} was {was:?} and, by an older word, is {known:?}");
            }
            if known == Known::Gone {
                history.missing.remove(name);
            }
        }
    }
}

impl History {
    fn is_overdue(&self, name: &ServiceName, now_unix_ms: u64) -> bool {
        let overdue = |since: &u64| u128::from(now_unix_ms.saturating_sub(*since)) >= HOLD.as_millis();
        self.missing.get(name).is_some_and(overdue)
    }

    /// A snapshot that misses more than a few services, and more than half, takes none of them away but those that
    /// were missing for long enough.
    fn check_absences(&mut self, before: &PeerImports, changes: &[Changed], now_unix_ms: u64) {
        let missing = before.services.keys().filter(|name| !self.named.contains(*name));
        let missing: Vec<_> = missing.cloned().collect();
        let believed = missing.len() <= BELIEVED_AT_ONCE.max(self.known / 2);
        for name in missing {
            self.missing.entry(name).or_insert(now_unix_ms);
        }
        for change in changes {
            let Changed::Delete(name) = change else { panic!("the end of a snapshot made {change:?}") };
            assert!(!self.named.contains(name), "{name} was named and taken away");
            assert!(believed || self.is_overdue(name, now_unix_ms), "{name} went with too many others");
        }
    }
}

fn declared(exporter: &ClusterName, namespaces: &[Option<&str>]) -> Link {
    let rule = |namespace: &Option<&str>| ImportRule {
        namespace: namespace.map(Into::into),
        union: true,
        placement: Placement::Accept,
    };
    Link {
        cluster: exporter.clone(),
        addresses: Vec::new(),
        trust_domain: "acme.example".into(),
        import: namespaces.iter().map(rule).collect(),
        expire_after: EXPIRE_AFTER,
        congestion: registry::model::Congestion::default(),
        max_rate: None,
        allow_apply: Vec::new(),
    }
}
