//! Keeps the endpoints of one registrar in a store: under one lease, for as long as its owner says that it lives.
//!
//! A record is taken over by whoever shows the same registrar: a connection that breaks, or a gateway that dies, costs
//! nothing if the registrar is back, here or at another gateway, before its lease lapses. To anybody else an id belongs to
//! the first that has it until that one is gone.

use std::time::Duration;

use crate::model::{Endpoint, ServiceName};
use crate::pure::registration::{Begin, Registered};
use crate::store::{Expect, LeaseId, Op, Outcome, Store, StoreError, Transaction, keys};

/// Tries to claim a record that others change meanwhile. More than a few mean that two fight for it: later, then.
const TRIES: usize = 3;

/// What a registrar registers, and how far that has come.
#[derive(Debug)]
pub struct Registrar<S> {
    store: S,
    begin: Begin,
    by: String,
    lease: Option<LeaseId>,
    /// In the order of `begin`.
    claims: Vec<Claim>,
}

/// How the record of one endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Not written yet, or not as it should be.
    Open,
    /// In the store as it should be, last changed at this revision.
    Held(u64),
    /// Another registrar has it; for people, who.
    Taken(String),
    /// Its registrar has taken it off.
    Gone,
}

impl<S: Store> Registrar<S> {
    /// Of a registrar that is `by`; nothing is written yet.
    pub fn new(store: S, begin: Begin, by: String) -> Self {
        let claims = vec![Claim::Open; begin.endpoints.len()];
        Self { store, begin, by, lease: None, claims }
    }

    /// Its endpoints, and how their records are.
    pub fn claims(&self) -> impl Iterator<Item = (&ServiceName, &Endpoint, &Claim)> {
        let endpoints = self.begin.endpoints.iter();
        endpoints.zip(&self.claims).map(|((service, endpoint), claim)| (service, endpoint, claim))
    }

    /// How long its records live after its last word.
    pub fn ttl(&self) -> Duration {
        self.begin.ttl
    }

    /// Whether it drains.
    pub fn is_draining(&self) -> bool {
        self.begin.draining
    }

    /// The registrar has just said that it lives: keeps its lease alive, looks whether the store still has what it
    /// holds, and [settles](Self::settle) the rest. Records that others have are asked for again.
    ///
    /// # Errors
    /// The store's. What was done stays; the next call does the rest.
    pub async fn keep(&mut self) -> Result<(), StoreError> {
        if let Some(lease) = self.lease {
            match self.store.keep_alive(lease).await {
                Err(StoreError::LeaseGone(_)) => self.lose_lease(),
                kept => {
                    kept?;
                    self.verify().await?;
                }
            }
        }
        self.settle().await
    }

    /// Looks whether what is held is still in the store as it was written. A lease that lives says nothing about it: a
    /// restore from a backup keeps the lease and loses the records, and people delete some.
    async fn verify(&mut self) -> Result<(), StoreError> {
        let held = self.claims().filter_map(|(service, endpoint, claim)| match claim {
            Claim::Held(revision) => Some(Expect::Modified(keys::endpoint(service, &endpoint.id), *revision)),
            Claim::Open | Claim::Taken(_) | Claim::Gone => None,
        });
        let expect: Vec<_> = held.collect();
        if expect.is_empty() {
            return Ok(());
        }
        // It changes nothing: one question for all of them.
        if self.store.commit(Transaction { expect, ops: Vec::new() }).await? == Outcome::Conflict {
            self.claims.fill(Claim::Open);
        }
        Ok(())
    }

    /// Whether some record is not as it should be.
    pub fn is_unsettled(&self) -> bool {
        self.claims.iter().any(|claim| !matches!(claim, Claim::Held(_)))
    }

    /// Brings every record to what it should be; keeps nothing alive.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub async fn settle(&mut self) -> Result<(), StoreError> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => *self.lease.insert(self.store.grant(self.begin.ttl).await?),
        };
        for place in 0..self.claims.len() {
            if matches!(self.claims[place], Claim::Held(_)) {
                continue;
            }
            match self.claim(place, lease).await {
                Ok(claim) => self.claims[place] = claim,
                Err(error) => {
                    if matches!(error, StoreError::LeaseGone(_)) {
                        self.lose_lease();
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The lease has lapsed, and its records went with it.
    fn lose_lease(&mut self) {
        self.lease = None;
        self.claims.fill(Claim::Open);
    }

    /// Its endpoints take nothing new from now on.
    ///
    /// # Errors
    /// As [`Self::keep`]; it drains all the same.
    pub async fn drain(&mut self) -> Result<(), StoreError> {
        if !self.begin.draining {
            self.begin.draining = true;
            self.claims.fill(Claim::Open);
        }
        self.keep().await
    }

    /// Takes its records off, those that it still has. They drain before they go, if only for a moment: that is how all
    /// who follow the store tell them from records that it has lost (see [`crate::pure::probation`]).
    ///
    /// # Errors
    /// The store's: what is left goes when the lease lapses.
    pub async fn leave(&mut self) -> Result<(), StoreError> {
        for place in 0..self.claims.len() {
            if let Claim::Held(revision) = self.claims[place] {
                let gone = self.take_off(place, revision).await?;
                self.claims[place] = if gone { Claim::Gone } else { Claim::Open };
            }
        }
        match self.lease.take() {
            Some(lease) => self.store.revoke(lease).await,
            None => Ok(()),
        }
    }

    /// Takes one record off that was last changed at `revision`; false: it was changed since, so it is in other hands, or
    /// gone.
    async fn take_off(&self, place: usize, mut revision: u64) -> Result<bool, StoreError> {
        let (service, endpoint) = &self.begin.endpoints[place];
        let key = keys::endpoint(service, &endpoint.id);
        if !self.begin.draining {
            let value = self.record(endpoint, true).encode();
            let put = Op::Put { key: key.clone(), value, lease: self.lease };
            let expect = vec![Expect::Modified(key.clone(), revision)];
            match self.store.commit(Transaction { expect, ops: vec![put] }).await {
                Ok(Outcome::Committed(drains)) => revision = drains,
                // It went with the lease.
                Ok(Outcome::Conflict) | Err(StoreError::LeaseGone(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let expect = vec![Expect::Modified(key.clone(), revision)];
        let outcome = self.store.commit(Transaction { expect, ops: vec![Op::Delete(key)] }).await?;
        Ok(outcome != Outcome::Conflict)
    }

    fn record(&self, endpoint: &Endpoint, draining: bool) -> Registered {
        Registered {
            endpoint: endpoint.clone(),
            draining,
            ttl: self.begin.ttl,
            registrar: self.begin.registrar,
            by: self.by.clone(),
        }
    }

    /// Writes one record, unless it is somebody else's or as it should be already.
    async fn claim(&self, place: usize, lease: LeaseId) -> Result<Claim, StoreError> {
        let (service, endpoint) = &self.begin.endpoints[place];
        let key = keys::endpoint(service, &endpoint.id);
        let value = self.record(endpoint, self.begin.draining).encode();
        for _ in 0..TRIES {
            let expect = match self.store.get(&key).await? {
                None => Expect::Absent(key.clone()),
                Some(entry) => match Registered::decode(&key, &entry.value) {
                    Ok((_, found)) if found.registrar == self.begin.registrar => {
                        if entry.value == value && entry.lease == Some(lease) {
                            return Ok(Claim::Held(entry.modified));
                        }
                        Expect::Modified(key.clone(), entry.modified)
                    }
                    Ok((_, found)) => return Ok(Claim::Taken(found.by)),
                    // Whoever wrote it knows more than this version does.
                    Err(_) => return Ok(Claim::Taken("another version of Ringway".into())),
                },
            };
            let put = Op::Put { key: key.clone(), value: value.clone(), lease: Some(lease) };
            let transaction = Transaction { expect: vec![expect], ops: vec![put] };
            if let Outcome::Committed(revision) = self.store.commit(transaction).await? {
                return Ok(Claim::Held(revision));
            }
        }
        Ok(Claim::Open)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::pure::registration::RegistrarId;
    use crate::store::memory::MemoryStore;
    use crate::store::{Event, Watch};

    const TTL: Duration = Duration::from_secs(10);
    const ANN: RegistrarId = [1; 16];
    const BOB: RegistrarId = [2; 16];

    fn begin(registrar: RegistrarId, ids: &[&str]) -> Begin {
        let endpoint = |id: &&str| {
            let endpoint = Endpoint {
                id: (*id).into(),
                host: "127.0.0.1".into(),
                ports: [("web", 9001)].into(),
                weight: 100,
                zone: "".into(),
                capacity: None,
            };
            (ServiceName::new("shop", "cart").unwrap(), endpoint)
        };
        Begin { registrar, ttl: TTL, endpoints: ids.iter().map(endpoint).collect(), draining: false }
    }

    fn registrar(store: &MemoryStore, id: RegistrarId, ids: &[&str]) -> Registrar<MemoryStore> {
        let by = if id == ANN { "ann" } else { "bob" };
        Registrar::new(store.clone(), begin(id, ids), by.into())
    }

    /// What is in the store: ids, whose, and whether they drain.
    async fn held(store: &MemoryStore) -> Vec<(String, String, bool)> {
        let entries = store.range(&keys::all_endpoints()).await.unwrap().entries;
        let read = |entry: &crate::store::Entry| {
            let (_, record) = Registered::decode(&entry.key, &entry.value).unwrap();
            (record.endpoint.id.to_string(), record.by, record.draining)
        };
        entries.iter().map(read).collect()
    }

    fn record(id: &str, by: &str) -> (String, String, bool) {
        (id.into(), by.into(), false)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_alive_stays_and_the_rest_goes() {
        let store = MemoryStore::default();
        let (mut ann, mut bob) = (registrar(&store, ANN, &["a", "b"]), registrar(&store, BOB, &["c"]));
        ann.keep().await.unwrap();
        bob.keep().await.unwrap();
        for _ in 0..4 {
            tokio::time::sleep(TTL / 3).await;
            ann.keep().await.unwrap();
        }
        assert_eq!(held(&store).await, [record("a", "ann"), record("b", "ann")]);
        assert!(ann.claims().all(|(_, _, claim)| matches!(claim, Claim::Held(_))));
        // Whose lease has lapsed gets another.
        bob.keep().await.unwrap();
        assert_eq!(held(&store).await.len(), 3);
        // To settle is no sign of life.
        for _ in 0..4 {
            tokio::time::sleep(TTL / 3).await;
            ann.keep().await.unwrap();
            let _lapsed = bob.settle().await;
        }
        assert_eq!(held(&store).await.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_is_its_registrars_wherever_that_one_comes_back() {
        let store = MemoryStore::default();
        let mut here = registrar(&store, ANN, &["a"]);
        here.keep().await.unwrap();
        tokio::time::sleep(TTL / 2).await;
        let mut there = registrar(&store, ANN, &["a"]);
        there.keep().await.unwrap();
        // The old lease lapses, or is given up: the record has another by now.
        here.leave().await.unwrap();
        tokio::time::sleep(TTL * 2 / 3).await;
        assert_eq!(held(&store).await, [record("a", "ann")]);
        tokio::time::sleep(TTL).await;
        assert_eq!(held(&store).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_belongs_to_the_first_until_that_one_is_gone() {
        let store = MemoryStore::default();
        let (mut ann, mut bob) = (registrar(&store, ANN, &["a"]), registrar(&store, BOB, &["a", "b"]));
        ann.keep().await.unwrap();
        bob.keep().await.unwrap();
        assert_eq!(bob.claims().next().unwrap().2, &Claim::Taken("ann".into()));
        assert_eq!(held(&store).await, [record("a", "ann"), record("b", "bob")]);
        // What he does not have he does not take off.
        bob.leave().await.unwrap();
        assert_eq!(held(&store).await, [record("a", "ann")]);
        bob.keep().await.unwrap();
        assert!(bob.is_unsettled());
        ann.leave().await.unwrap();
        bob.settle().await.unwrap();
        assert!(!bob.is_unsettled());
        assert_eq!(held(&store).await, [record("a", "bob"), record("b", "bob")]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_drains_before_it_leaves() {
        let store = MemoryStore::default();
        let mut ann = registrar(&store, ANN, &["a"]);
        ann.keep().await.unwrap();
        ann.drain().await.unwrap();
        assert!(ann.is_draining());
        assert_eq!(held(&store).await, [("a".into(), "ann".into(), true)]);
        // Whoever comes back draining does not undo it.
        let mut again =
            Registrar::new(store.clone(), Begin { draining: true, ..begin(ANN, &["a"]) }, "ann".into());
        again.keep().await.unwrap();
        assert_eq!(held(&store).await, [("a".into(), "ann".into(), true)]);
        again.leave().await.unwrap();
        assert_eq!(held(&store).await, []);
        // Its lease is gone with it, not only its record.
        assert_eq!(again.lease, None);
        assert_eq!(store.keep_alive(LeaseId(u64::MAX)).await, Err(StoreError::LeaseGone(LeaseId(u64::MAX))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_lost_or_changed_is_claimed_again() {
        let store = MemoryStore::default();
        let key = |id| keys::endpoint(&ServiceName::new("shop", "cart").unwrap(), id);
        let write = async |op| {
            let transaction = Transaction { expect: Vec::new(), ops: vec![op] };
            assert!(matches!(store.commit(transaction).await, Ok(Outcome::Committed(_))));
        };
        let revision = async || store.range(&keys::all_endpoints()).await.unwrap().revision;
        let mut ann = registrar(&store, ANN, &["a", "b"]);
        ann.keep().await.unwrap();
        let before = revision().await;
        ann.keep().await.unwrap();
        assert_eq!(revision().await, before, "what is as it should be is not written");

        // The lease lives on through all of this, as it does through a restore of etcd.
        write(Op::Delete(key("a"))).await;
        ann.keep().await.unwrap();
        assert_eq!(held(&store).await, [record("a", "ann"), record("b", "ann")]);
        assert_eq!(revision().await, before + 2, "only what was lost is written");

        let full = store.get(&key("a")).await.unwrap().unwrap();
        ann.drain().await.unwrap();
        write(Op::Put { key: key("a"), value: full.value, lease: ann.lease }).await;
        ann.keep().await.unwrap();
        assert!(held(&store).await.iter().all(|(_, _, draining)| *draining));

        let mut bob = registrar(&store, BOB, &["a"]);
        write(Op::Delete(key("a"))).await;
        bob.keep().await.unwrap();
        ann.keep().await.unwrap();
        assert_eq!(ann.claims().next().unwrap().2, &Claim::Taken("bob".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_an_older_conversation_wrote_last_does_not_go_with_its_lease() {
        let store = MemoryStore::default();
        let (mut old, mut new) = (registrar(&store, ANN, &["a"]), registrar(&store, ANN, &["a"]));
        // Its claim was made while the new one began.
        new.keep().await.unwrap();
        old.keep().await.unwrap();
        for _ in 0..6 {
            tokio::time::sleep(TTL / 3).await;
            new.keep().await.unwrap();
        }
        assert_eq!(held(&store).await, [record("a", "ann")]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_its_own_is_gone_when_it_leaves() {
        let store = MemoryStore::default();
        let (mut ann, mut bob) =
            (registrar(&store, ANN, &["a", "b", "c"]), registrar(&store, BOB, &["c", "d"]));
        bob.keep().await.unwrap();
        ann.keep().await.unwrap();
        // Another conversation of hers has one by now.
        registrar(&store, ANN, &["b"]).keep().await.unwrap();
        ann.leave().await.unwrap();
        let claims: Vec<_> = ann.claims().map(|(_, _, claim)| claim.clone()).collect();
        assert_eq!(claims, [Claim::Gone, Claim::Open, Claim::Taken("bob".into())]);
        assert_eq!(held(&store).await, [record("b", "ann"), record("c", "bob"), record("d", "bob")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_this_version_cannot_read_is_left_alone() {
        let store = MemoryStore::default();
        let key = "/ringway/v1/endpoints/shop/cart/a".to_owned();
        let put = Op::Put { key, value: bytes::Bytes::from_static(b"\xff"), lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        let mut ann = registrar(&store, ANN, &["a"]);
        ann.keep().await.unwrap();
        assert!(matches!(ann.claims().next().unwrap().2, Claim::Taken(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_without_a_drain_is_seen_to_have_left() {
        let store = MemoryStore::default();
        let mut ann = registrar(&store, ANN, &["a"]);
        ann.keep().await.unwrap();
        let prefix = keys::all_endpoints();
        let from = store.range(&prefix).await.unwrap().revision + 1;
        let mut watch = store.watch(&prefix, from).await.unwrap();
        ann.leave().await.unwrap();
        let mut seen = watch.next().await.unwrap().events;
        seen.extend(watch.next().await.unwrap().events);
        let [Event::Put(drains), Event::Deleted(gone)] = &seen[..] else { panic!("{seen:?}") };
        assert!(Registered::decode(&drains.key, &drains.value).unwrap().1.draining);
        assert_eq!(gone, &drains.key);
    }
}
