//! What stands in an etcd, read as a gateway reads it.

use registry::model::EtcdOptions;
use registry::store::etcd::EtcdStore;
use registry::store::{Entry, Store, keys};
use tokio::runtime::Runtime;

use crate::etcd::{ETCD_SOON, Etcd};
use crate::wait::wait_until;

/// A reader of its own.
#[derive(Debug)]
pub struct Stored {
    runtime: Runtime,
    store: EtcdStore,
}

impl Stored {
    /// Of `etcd`, without prefix, TLS or user.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn of(etcd: &Etcd) -> Self {
        let options = EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() };
        let runtime = Runtime::new().expect("threads");
        Self { runtime, store: EtcdStore::open(options).expect("options without files") }
    }

    /// Every record that was written of peers; none while etcd does not answer.
    pub fn imports(&self) -> Option<Vec<Entry>> {
        let entries = self.below(&keys::all_imports())?;
        // Without the peers' own keys, which tell when something was heard last.
        Some(entries.into_iter().filter(|entry| entry.key.matches('/').count() > 4).collect())
    }

    /// Everything below `prefix`; none while etcd does not answer.
    pub fn below(&self, prefix: &str) -> Option<Vec<Entry>> {
        Some(self.runtime.block_on(self.store.range(prefix)).ok()?.entries)
    }

    /// How many changes it has seen; none while etcd does not answer.
    pub fn revision(&self) -> Option<u64> {
        Some(self.runtime.block_on(self.store.range(keys::CLUSTER)).ok()?.revision)
    }

    /// Waits until something was written of a service `shop/NAME` of a peer.
    ///
    /// # Panics
    /// When it never is.
    pub fn wait_import(&self, name: &str) {
        wait_until(&format!("{name} is in etcd"), ETCD_SOON, || {
            let end = format!("/{name}");
            self.imports()?.iter().any(|entry| entry.key.ends_with(&end)).then_some(())
        });
    }
}
