//! The store that a gateway's manifest asks for.

use std::time::Duration;

use super::embedded::{self, EmbeddedStore, EmbeddedWatch};
use super::etcd::{self, EtcdStore, EtcdWatch};
use super::{Changes, Entry, LeaseId, Outcome, Range, Room, Store, StoreError, Transaction, Watch};
use crate::model::{Backend, Gateway};

/// One of the stores in which a registry is kept.
#[derive(Clone, Debug)]
pub enum AnyStore {
    /// In a file of this process.
    Embedded(EmbeddedStore),
    /// In etcd, shared by the gateways of a cluster.
    Etcd(EtcdStore),
}

/// A watch of an [`AnyStore`].
#[derive(Debug)]
pub enum AnyWatch {
    /// See [`AnyStore::Embedded`].
    Embedded(EmbeddedWatch),
    /// See [`AnyStore::Etcd`].
    Etcd(Box<EtcdWatch>),
}

/// Why the store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file in the state directory cannot be used.
    #[error(transparent)]
    Embedded(#[from] embedded::OpenError),
    /// A file that names us to etcd cannot be used.
    #[error("`spec.registry.etcd` cannot be used")]
    Etcd(#[from] etcd::FileError),
}

impl AnyStore {
    /// Opens what `gateway` declares. Blocks on the disk, and waits for no etcd: what needs one that is gone says so
    /// when it is asked.
    ///
    /// # Errors
    /// [`OpenError`]: a file cannot be used.
    pub fn open(gateway: &Gateway) -> Result<Self, OpenError> {
        Ok(match &gateway.registry {
            Backend::Embedded => Self::Embedded(EmbeddedStore::open(&gateway.state_dir)?),
            Backend::Etcd(options) => Self::Etcd(EtcdStore::open(options.clone())?),
        })
    }

    /// Lets go of it: an embedded store first writes what waits, and is free for another process then.
    pub async fn close(&self) {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Etcd(_) => {}
        }
    }

    /// Lets another process of this host have it for a while, if only one at a time can; see [`EmbeddedStore::lend`].
    ///
    /// # Errors
    /// As there.
    pub async fn lend(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.lend().await,
            Self::Etcd(_) => Ok(()),
        }
    }

    /// Gives every lease its full time to live again, where this process counts it.
    pub fn renew_leases(&self) {
        match self {
            Self::Embedded(store) => store.renew_leases(),
            Self::Etcd(_) => {}
        }
    }

    /// Takes it back; see [`EmbeddedStore::take_back`].
    ///
    /// # Errors
    /// As there.
    pub async fn take_back(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.take_back().await,
            Self::Etcd(_) => Ok(()),
        }
    }
}

impl Store for AnyStore {
    type Watch = AnyWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Embedded(store) => store.get(key).await,
            Self::Etcd(store) => store.get(key).await,
        }
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        match self {
            Self::Embedded(store) => store.range(prefix).await,
            Self::Etcd(store) => store.range(prefix).await,
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(store) => store.commit(transaction).await,
            Self::Etcd(store) => store.commit(transaction).await,
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self {
            Self::Embedded(store) => store.grant(ttl).await,
            Self::Etcd(store) => store.grant(ttl).await,
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.keep_alive(lease).await,
            Self::Etcd(store) => store.keep_alive(lease).await,
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.revoke(lease).await,
            Self::Etcd(store) => store.revoke(lease).await,
        }
    }

    async fn room(&self) -> Result<Room, StoreError> {
        match self {
            Self::Embedded(store) => store.room().await,
            Self::Etcd(store) => store.room().await,
        }
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<AnyWatch, StoreError> {
        Ok(match self {
            Self::Embedded(store) => AnyWatch::Embedded(store.watch(prefix, from).await?),
            Self::Etcd(store) => AnyWatch::Etcd(Box::new(store.watch(prefix, from).await?)),
        })
    }
}

impl Watch for AnyWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        match self {
            Self::Embedded(watch) => watch.next().await,
            Self::Etcd(watch) => watch.next().await,
        }
    }
}
