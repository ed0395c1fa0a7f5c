//! The registered endpoints that this process counts on: those in the store, and those on probation.
//!
//! Pure. As long as the store answers, its word is law: a record that goes, goes here. While it does not, nobody can keep
//! a lease alive, so that a lease which lapses says nothing about its endpoint. Then what was known stays, and what
//! checks and requests tell decides who is asked. When the store is back, whatever it has lost stays on probation for as
//! long as its registrar has to come back: one time to live. On probation it must pass, else it goes.
//!
//! ```text
//!                 read, put                         store lost: nothing changes
//!   (not known) ------------> in the store  -------------------------------------+
//!        ^  ^                  |        ^                                        |
//!        |  +------------------+        | put                                    v
//!        |     deleted, store well      |                     read or deleted within a time to live
//!        +------------------------- on probation <-------------- after the store came back
//!             fails, or the time is over
//! ```
//!
//! Who deregisters drains first. So a record that goes while it drains was taken off, store or no store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Endpoint, ServiceName};
use crate::pure::registration::Registered;

/// The endpoints of one service by id, as balancing is to see them.
pub type Endpoints = BTreeMap<Arc<str>, Endpoint>;

/// All registered endpoints. Times are milliseconds since any moment, the same for every call.
#[derive(Clone, Debug)]
pub struct Book {
    services: BTreeMap<ServiceName, BTreeMap<Arc<str>, Entry>>,
    store: Store,
    /// Services whose endpoints are not as they were when [`Book::take_changes`] was called last.
    changed: BTreeSet<ServiceName>,
    /// Endpoints on probation.
    on_probation: usize,
}

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    /// It does not answer.
    Lost,
    /// It answers, again since then.
    Well { since_ms: u64 },
}

#[derive(Clone, Debug)]
struct Entry {
    registered: Registered,
    /// On probation until then; none: it is in the store.
    until_ms: Option<u64>,
}

impl Entry {
    /// The time until which it could be on probation.
    fn probation_ends(&self, since_ms: u64) -> u64 {
        let ttl_ms = u64::try_from(self.registered.ttl.as_millis()).unwrap_or(u64::MAX);
        since_ms.saturating_add(ttl_ms)
    }
}

impl Book {
    /// Of a process that starts with what it knew last; the store has not answered yet.
    pub fn new(known: impl IntoIterator<Item = (ServiceName, Registered)>) -> Self {
        let (services, changed) = (BTreeMap::new(), BTreeSet::new());
        let mut book = Self { services, store: Store::Lost, changed, on_probation: 0 };
        for (service, registered) in known {
            book.put(service, registered);
        }
        book
    }

    /// Takes in all that the store holds, at `now_ms`.
    pub fn read(&mut self, held: impl IntoIterator<Item = (ServiceName, Registered)>, now_ms: u64) {
        if self.store == Store::Lost {
            self.store = Store::Well { since_ms: now_ms };
        }
        let mut absent: BTreeSet<(ServiceName, Arc<str>)> = self
            .services
            .iter()
            .flat_map(|(service, entries)| entries.keys().map(|id| (service.clone(), id.clone())))
            .collect();
        for (service, registered) in held {
            absent.remove(&(service.clone(), registered.endpoint.id.clone()));
            self.put(service, registered);
        }
        for (service, id) in absent {
            self.deleted(&service, &id, now_ms);
        }
    }

    /// A record is new or changed.
    pub fn put(&mut self, service: ServiceName, registered: Registered) {
        let entries = self.services.entry(service.clone()).or_default();
        let known = entries.get(&registered.endpoint.id);
        let was_on_probation = known.is_some_and(|entry| entry.until_ms.is_some());
        if known.is_none_or(|entry| entry.registered.effective() != registered.effective()) {
            self.changed.insert(service);
        }
        self.on_probation -= usize::from(was_on_probation);
        entries.insert(registered.endpoint.id.clone(), Entry { registered, until_ms: None });
    }

    /// A record is gone, at `now_ms`.
    pub fn deleted(&mut self, service: &ServiceName, id: &str, now_ms: u64) {
        let Some(entry) = self.services.get_mut(service).and_then(|entries| entries.get_mut(id)) else {
            return;
        };
        let was_on_probation = entry.until_ms.is_some();
        if let Store::Well { since_ms } = self.store
            && !entry.registered.draining
        {
            let ends = entry.probation_ends(since_ms);
            if now_ms < ends {
                entry.until_ms = Some(ends);
                self.on_probation += usize::from(!was_on_probation);
                return;
            }
        }
        self.on_probation -= usize::from(was_on_probation);
        self.remove(service, id);
    }

    /// The store does not answer any more.
    pub fn lost(&mut self) {
        self.store = Store::Lost;
    }

    /// Ends probations: of those that do not pass, and of those whose time is over at `now_ms`. While the store does not
    /// answer nobody's is.
    pub fn judge(&mut self, now_ms: u64, passes: impl Fn(&ServiceName, &str) -> bool) {
        if self.store == Store::Lost || self.on_probation == 0 {
            return;
        }
        let mut over = Vec::new();
        for (service, entries) in &self.services {
            for (id, entry) in entries {
                if entry.until_ms.is_some_and(|until| now_ms >= until || !passes(service, id)) {
                    over.push((service.clone(), id.clone()));
                }
            }
        }
        for (service, id) in over {
            self.on_probation -= 1;
            self.remove(&service, &id);
        }
    }

    /// How many endpoints are on probation.
    pub fn on_probation(&self) -> usize {
        self.on_probation
    }

    /// How many endpoints there are, those on probation included.
    pub fn len(&self) -> usize {
        self.services.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The endpoints of every service that changed since the last call; none: it has no more.
    pub fn take_changes(&mut self) -> Vec<(ServiceName, Endpoints)> {
        let changed = std::mem::take(&mut self.changed);
        let with_endpoints = |service| {
            let endpoints = self.endpoints(&service);
            (service, endpoints)
        };
        changed.into_iter().map(with_endpoints).collect()
    }

    /// Everything that is known, to be kept for a start without the store.
    pub fn known(&self) -> impl Iterator<Item = (&ServiceName, &Registered)> {
        let of = |(service, entries)| {
            let entries: &BTreeMap<Arc<str>, Entry> = entries;
            entries.values().map(move |entry| (service, &entry.registered))
        };
        self.services.iter().flat_map(of)
    }

    fn endpoints(&self, service: &ServiceName) -> Endpoints {
        let entries = self.services.get(service).into_iter().flatten();
        entries.map(|(id, entry)| (id.clone(), entry.registered.effective())).collect()
    }

    fn remove(&mut self, service: &ServiceName, id: &str) {
        let Some(entries) = self.services.get_mut(service) else { return };
        entries.remove(id);
        if entries.is_empty() {
            self.services.remove(service);
        }
        self.changed.insert(service.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    /// Time to live of all of them.
    const TTL_MS: u64 = 10_000;

    fn cart() -> ServiceName {
        ServiceName::new("shop", "cart").unwrap()
    }

    fn registered(id: &str) -> Registered {
        let endpoint = Endpoint {
            id: id.into(),
            host: "127.0.0.1".into(),
            ports: [("web", 9001)].into(),
            weight: 100,
            zone: "".into(),
            capacity: None,
        };
        let by = "uid 1000".into();
        Registered { endpoint, draining: false, ttl: Duration::from_millis(TTL_MS), registrar: [7; 16], by }
    }

    fn draining(id: &str) -> Registered {
        Registered { draining: true, ..registered(id) }
    }

    fn held(ids: &[&str]) -> Vec<(ServiceName, Registered)> {
        ids.iter().map(|id| (cart(), registered(id))).collect()
    }

    fn ids(book: &Book) -> Vec<String> {
        book.endpoints(&cart()).into_keys().map(|id| id.to_string()).collect()
    }

    fn all_pass(_: &ServiceName, _: &str) -> bool {
        true
    }

    /// A book of a store that has been well for long: `a` and `b` are in it.
    fn settled() -> Book {
        let mut book = Book::new(held(&[]));
        book.read(held(&["a", "b"]), 0);
        book.take_changes();
        book
    }

    const LATER: u64 = 1_000_000;

    #[test]
    fn while_the_store_is_well_its_word_is_law() {
        let mut book = settled();
        book.deleted(&cart(), "a", LATER);
        assert_eq!(ids(&book), ["b"]);
        book.put(cart(), registered("c"));
        // Read anew, because the history was compacted: nothing was lost.
        book.read(held(&["c"]), LATER);
        assert_eq!(ids(&book), ["c"]);
        assert_eq!(book.on_probation(), 0);
        book.deleted(&cart(), "c", LATER);
        assert!(book.is_empty());
        assert_eq!(book.take_changes(), [(cart(), Endpoints::new())]);
        assert_eq!(book.take_changes(), []);
    }

    #[test]
    fn while_the_store_is_lost_nothing_changes() {
        let mut book = settled();
        book.lost();
        book.judge(LATER, |_, _| false);
        assert_eq!(ids(&book), ["a", "b"]);
        assert_eq!(book.take_changes(), []);
    }

    #[test]
    fn what_the_store_has_lost_stays_for_a_time_to_live_after_its_return() {
        let mut book = settled();
        book.lost();
        book.read(held(&["b"]), LATER);
        assert_eq!((ids(&book).len(), book.on_probation()), (2, 1));
        book.judge(LATER + TTL_MS - 1, all_pass);
        assert_eq!(ids(&book), ["a", "b"]);
        book.judge(LATER + TTL_MS, all_pass);
        assert_eq!((ids(&book), book.on_probation()), (vec!["b".to_owned()], 0));
        assert_eq!(book.take_changes().len(), 1);
    }

    #[test]
    fn who_does_not_pass_goes_at_once() {
        let mut book = settled();
        book.lost();
        book.read(held(&[]), LATER);
        book.judge(LATER + 1, |_, id| id == "b");
        assert_eq!(ids(&book), ["b"]);
    }

    #[test]
    fn who_comes_back_in_time_was_never_gone() {
        let mut book = settled();
        book.lost();
        book.read(held(&["b"]), LATER);
        book.put(cart(), registered("a"));
        assert_eq!(book.on_probation(), 0);
        assert_eq!(book.take_changes(), [], "nobody saw anything");
        book.judge(LATER + TTL_MS, |_, _| false);
        assert_eq!(ids(&book), ["a", "b"]);
    }

    #[test]
    fn a_lease_that_lapses_soon_after_the_return_says_nothing_and_a_later_one_does() {
        let mut book = settled();
        book.lost();
        book.read(held(&["a", "b"]), LATER);
        book.deleted(&cart(), "a", LATER + TTL_MS - 1);
        assert_eq!((ids(&book).len(), book.on_probation()), (2, 1));
        book.deleted(&cart(), "b", LATER + TTL_MS);
        assert_eq!(ids(&book), ["a"]);
    }

    #[test]
    fn a_store_that_is_lost_again_gives_everyone_the_whole_time_again() {
        let mut book = settled();
        book.lost();
        book.read(held(&["b"]), LATER);
        book.lost();
        book.judge(LATER + TTL_MS, all_pass);
        book.read(held(&["b"]), LATER + TTL_MS);
        assert_eq!((ids(&book).len(), book.on_probation()), (2, 1));
        book.judge(LATER + 2 * TTL_MS - 1, all_pass);
        assert_eq!(ids(&book), ["a", "b"]);
        book.judge(LATER + 2 * TTL_MS, all_pass);
        assert_eq!((ids(&book), book.on_probation()), (vec!["b".to_owned()], 0));
    }

    #[test]
    fn who_was_drained_before_was_taken_off() {
        let mut book = settled();
        book.put(cart(), draining("a"));
        let weights: Vec<u32> = book.endpoints(&cart()).values().map(|endpoint| endpoint.weight).collect();
        assert_eq!(weights, [0, 100]);
        book.lost();
        book.read(held(&["b"]), LATER);
        assert_eq!((ids(&book), book.on_probation()), (vec!["b".to_owned()], 0));
    }

    #[test]
    fn a_start_without_the_store_knows_what_was_known() {
        let mut book = Book::new(settled().known().map(|(s, r)| (s.clone(), r.clone())));
        assert_eq!(book.take_changes().len(), 1);
        assert_eq!(ids(&book), ["a", "b"]);
        book.read(held(&["a"]), 5);
        assert_eq!((ids(&book).len(), book.on_probation()), (2, 1));
        book.judge(5 + TTL_MS, all_pass);
        assert_eq!(ids(&book), ["a"]);
    }
}
