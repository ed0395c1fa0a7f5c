//! A store that is used only for as long as it is our cluster's.
//!
//! An etcd may come back as that of another cluster, restored from the wrong backup or reached by the wrong address. Then
//! nothing that it says is believed, and nothing is written to it: each write expects our UID in the same transaction,
//! each answer counts only if our UID stands there after it. One that was wiped says of no cluster that it is its own: it
//! is taken again, once what was applied is back.

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::sync::watch;

use crate::model::ClusterName;
use crate::store::{
    Changes, Entry, Event, Expect, LeaseId, Outcome, Range, Room, Store, StoreError, Transaction, Watch, keys,
};
use crate::tasks::applied::StoredObjects;
use crate::tasks::cluster::{self, Settled, Uid, UidError};

/// Whose a store is, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Our cluster's, or it was not asked yet.
    Ours,
    /// Nobody's: it was wiped.
    Nobody,
    /// Another cluster's: its name and UID, for people.
    Other(String),
}

/// A [`Store`] of our cluster. Handles share what is known of its owner.
#[derive(Clone, Debug)]
pub struct Owned<S> {
    inner: S,
    cluster: ClusterName,
    uid: Uid,
    owner: watch::Sender<Owner>,
}

/// A watch of an [`Owned`] store.
#[derive(Debug)]
pub struct OwnedWatch<S: Store> {
    store: Owned<S>,
    inner: S::Watch,
    /// Came, and not told yet.
    ready: Option<Changes>,
}

impl<S: Store> Owned<S> {
    /// `inner`, as the store of the cluster of this name and UID.
    pub fn new(inner: S, cluster: ClusterName, uid: Uid) -> Self {
        Self { inner, cluster, uid, owner: watch::Sender::new(Owner::Ours) }
    }

    /// The store itself, whoever owns it.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Whose it is: looked at with every request.
    pub fn owner(&self) -> watch::Receiver<Owner> {
        self.owner.subscribe()
    }

    /// Takes a store again that is nobody's: see [`cluster::settle`]. Gives how many objects were put back.
    ///
    /// # Errors
    /// [`UidError`].
    pub async fn take_again(&self, kept: &StoredObjects) -> Result<usize, UidError> {
        let Settled { put_back, .. } = cluster::settle(&self.inner, &self.cluster, self.uid, kept).await?;
        match self.check().await {
            Err(error) => Err(error.into()),
            Ok(()) => Ok(put_back),
        }
    }

    /// Looks whose it is.
    async fn check(&self) -> Result<(), StoreError> {
        let owner = match self.inner.get(keys::CLUSTER).await? {
            None => Owner::Nobody,
            Some(entry) if entry.value == cluster::encode(&self.cluster, self.uid) => Owner::Ours,
            // From the time of versions that did not name the cluster.
            Some(entry) if cluster::decode(&entry.value) == Some((String::new(), self.uid)) => Owner::Nobody,
            Some(entry) => Owner::Other(cluster::describe(&entry.value)),
        };
        self.owner.send_if_modified(|known| {
            let news = *known != owner;
            known.clone_from(&owner);
            news
        });
        match owner {
            Owner::Ours => Ok(()),
            Owner::Nobody => Err(StoreError::Unclaimed),
            Owner::Other(uid) => Err(StoreError::Foreign(uid)),
        }
    }
}

impl<S: Store> Store for Owned<S> {
    type Watch = OwnedWatch<S>;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let found = self.inner.get(key).await?;
        self.check().await?;
        Ok(found)
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        let found = self.inner.range(prefix).await?;
        self.check().await?;
        Ok(found)
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction
            .expect
            .push(Expect::Equals(keys::CLUSTER.into(), cluster::encode(&self.cluster, self.uid)));
        let outcome = self.inner.commit(transaction).await?;
        if outcome == Outcome::Conflict {
            self.check().await?;
        }
        Ok(outcome)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.check().await?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn room(&self) -> Result<Room, StoreError> {
        self.inner.room().await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<Self::Watch, StoreError> {
        let inner = self.inner.watch(prefix, from).await?;
        self.check().await?;
        Ok(OwnedWatch { store: self.clone(), inner, ready: None })
    }
}

impl<S: Store> Watch for OwnedWatch<S> {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        // Kept until it is told: dropped while it waits, this future loses nothing.
        if self.ready.is_none() {
            self.ready = Some(self.inner.next().await?);
        }
        let deletes =
            |changes: &Changes| changes.events.iter().any(|event| matches!(event, Event::Deleted(_)));
        // Who wipes a running store deletes the UID with the rest. Else a store is another one only after a restart, which
        // no watch outlives.
        if self.ready.as_ref().is_some_and(deletes) {
            self.store.check().await?;
        }
        self.ready.take().ok_or(StoreError::Closed)
    }
}
