//! This gateway's place among those of its cluster.

use std::net::TcpListener;
use std::pin::pin;
use std::time::Duration;

use proto::store::Member;
use registry::model::{ClusterName, Gateway};
use registry::pure::probation::Book;
use registry::store::{Store, StoreError};
use registry::tasks::applied;
use registry::tasks::cluster::{self, Settled, UidError};
use registry::tasks::election::{Candidate, Standing, TTL};
use registry::tasks::state::{Loaded, Saved};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{EndSignals, StartError};
use crate::admin;
use crate::admin::port::Hosts;
use crate::control::registrations;
use crate::telemetry::audit;

/// The store's answer is waited for so long at a start that can go on without it.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// One that cannot has much to read.
const READ_WAIT: Duration = Duration::from_secs(60);
/// Wait before it is asked again by one that cannot.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The same reason to wait is only said every so often.
const SAY_AGAIN: u32 = 10;
/// By then the lease of a process that died has lapsed.
const ID_WAIT: Duration = Duration::from_secs(3 * TTL.as_secs());
/// What the admin port answers meanwhile.
const WAITING: &str = "waiting for the registry's store (`spec.registry`): which cluster this is and what it serves stands \
                       there, and the state directory has no earlier answer\n";

/// Who this cluster is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) saved: Saved,
    /// Whether that is to be kept before any peer hears of it.
    pub(super) unsaved: bool,
    /// Whether the store said so.
    pub(super) answered: bool,
}

/// What this process says of itself to the gateways of its cluster.
pub(super) fn us(gateway: &Gateway, home: u64, boot: u64) -> Candidate {
    let member = Member {
        home,
        boot,
        addresses: gateway.advertise.iter().map(ToString::to_string).collect(),
        region: gateway.region.clone(),
        software: concat!("ringway/", env!("CARGO_PKG_VERSION")).into(),
    };
    Candidate { id: gateway.id.clone(), member }
}

/// Takes the UID that the store has for this cluster. A store that does not
/// answer is done without if an earlier start settled it; else it is waited for, for nobody may invent a second UID, or
/// take for nothing what it has not read. None: the process was told to end meanwhile.
pub(super) async fn settle<S: Store>(
    store: &S,
    gateway: &Gateway,
    loaded: Loaded,
    admin: &TcpListener,
    end: &mut EndSignals,
) -> Result<Option<Known>, StartError> {
    let Loaded { mut saved, fresh, .. } = loaded;
    let wait = if fresh { READ_WAIT } else { ANSWER_WAIT };
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    let mut waited = 0u32;
    let Settled { uid, put_back } = loop {
        let asked = tokio::select! {
            () = end.told() => return Ok(None),
            asked = timeout(wait, ask(store, &gateway.cluster, &mut saved, fresh)) => asked,
        };
        let why = match asked {
            Ok(Ok(settled)) => break settled,
            Ok(Err(
                failed @ (UidError::Malformed
                | UidError::OtherCluster { .. }
                | UidError::Store(StoreError::Closed)),
            )) => {
                return Err(failed.into());
            }
            Ok(Err(failed)) => failed.to_string(),
            Err(_) => format!("no answer within {wait:?}"),
        };
        if !fresh {
            warn!(error = why, "Registry store unreachable; starting from the state directory.");
            return Ok(Some(Known { saved, unsaved: false, answered: false }));
        }
        if waited.is_multiple_of(SAY_AGAIN) {
            error!(error = why, "Not started: {}", WAITING.trim_end());
        }
        if waited == 0 {
            let listener = admin.try_clone().map_err(StartError::Thread)?;
            let hosts = Hosts::new(&gateway.listen.admin_hosts, "Gateway");
            tokio::spawn(admin::serve_waiting(WAITING, listener, hosts, over.clone()));
        }
        waited += 1;
        tokio::select! {
            () = end.told() => return Ok(None),
            () = sleep(ASK_AGAIN) => {}
        }
    };
    if put_back > 0 {
        audit::taken_again(put_back);
    }
    if uid != saved.uid && !fresh {
        audit::change(
            "the cluster's UID is another one than before",
            "own cluster",
            "the registry's store counts; the state directory had another",
            "peers take over the name once no tunnel shows the old one",
        );
    }
    let unsaved = uid != saved.uid || fresh;
    saved.uid = uid;
    Ok(Some(Known { saved, unsaved, answered: true }))
}

/// Asks for the UID; a `fresh` start also reads what is applied and registered into `saved`, as an earlier run would have
/// kept it.
async fn ask<S: Store>(
    store: &S,
    cluster: &ClusterName,
    saved: &mut Saved,
    fresh: bool,
) -> Result<Settled, UidError> {
    let settled = cluster::settle(store, cluster, saved.uid, &saved.applied).await?;
    if fresh {
        (_, saved.applied) = applied::range(store).await?;
        let mut book = Book::new([]);
        registrations::read(store, &mut book, 0).await?;
        saved.registered = book.take_changes().into_iter().collect();
    }
    Ok(settled)
}

/// Waits until our id is ours, or the store does not answer any more. False: the process was told to `end` meanwhile.
///
/// # Errors
/// [`StartError::IdTaken`]: another process has it, and lives.
pub(super) async fn wait_for_id(
    us: &Candidate,
    mut standing: watch::Receiver<Standing>,
    end: impl Future<Output = ()>,
) -> Result<bool, StartError> {
    let mut end = pin!(end);
    let started = Instant::now();
    loop {
        let (until, other) = match &*standing.borrow_and_update() {
            Standing::Member(_) | Standing::Elected(_) => return Ok(true),
            Standing::Unknown { .. } => (started + ANSWER_WAIT, None),
            Standing::IdTaken(other) => (started + ID_WAIT, Some(other.clone())),
        };
        let changed = tokio::select! {
            () = &mut end => return Ok(false),
            changed = timeout_at(until, standing.changed()) => changed,
        };
        if changed.is_err() {
            return match other {
                None => Ok(true),
                Some(other) => Err(StartError::IdTaken { id: us.id.clone(), other }),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use registry::model::{Endpoint, ServiceName};
    use registry::pure::registration::Registered;
    use registry::store::memory::MemoryStore;
    use registry::store::{Op, Transaction, keys};
    use registry::tasks::state::StateDir;

    use super::*;

    #[tokio::test]
    async fn a_fresh_start_knows_what_the_store_holds_before_it_serves() {
        let store = MemoryStore::default();
        let dir = tempfile::tempdir().unwrap();
        let fresh = StateDir::open(dir.path()).unwrap().load(&mut fastrand::Rng::new()).unwrap().saved;
        let cart = ServiceName::new("shop", "cart").unwrap();
        let ports = [("web", 9001)].into();
        let endpoint = Endpoint {
            id: "a".into(),
            host: "127.0.0.1".into(),
            ports,
            weight: 100,
            zone: "".into(),
            capacity: None,
        };
        let registered = Registered {
            endpoint,
            draining: false,
            ttl: Duration::from_secs(10),
            registrar: [1; 16],
            by: "uid 0".into(),
        };
        let object =
            proto::store::Applied { text: "kind: Link\n".into(), generation: 1, ..Default::default() };
        let put = |key, value| Op::Put { key, value, lease: None };
        let ops = vec![
            put(keys::config("Link", "default", "east"), prost::Message::encode_to_vec(&object).into()),
            put(keys::endpoint(&cart, "a"), registered.encode()),
        ];
        store.commit(Transaction { expect: Vec::new(), ops }).await.unwrap();

        let west = ClusterName::new("west").unwrap();
        let mut saved = fresh.clone();
        assert_eq!(ask(&store, &west, &mut saved, true).await.unwrap().uid, fresh.uid);
        assert_eq!((saved.applied.len(), saved.registered[&cart].len()), (1, 1));
        // One that ran before goes on with what it kept, and reads as it serves.
        let mut saved = fresh.clone();
        ask(&store, &west, &mut saved, false).await.unwrap();
        assert_eq!(saved, fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_its_id_can_be_told_to_end() {
        let us = Candidate { id: "gw-1".into(), member: Member::default() };
        let (_told, standing) = watch::channel(Standing::IdTaken("another".into()));
        let told_to_end = wait_for_id(&us, standing.clone(), std::future::ready(())).await;
        assert!(!told_to_end.unwrap());
        let taken = wait_for_id(&us, standing, std::future::pending()).await;
        assert!(matches!(taken, Err(StartError::IdTaken { .. })), "{taken:?}");
    }
}
