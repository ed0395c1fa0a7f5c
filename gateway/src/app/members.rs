//! This gateway's place among those of its cluster.

use std::net::TcpListener;
use std::time::Duration;

use proto::store::Member;
use registry::cluster::{self, UidError};
use registry::election::{Candidate, Standing, TTL};
use registry::model::Gateway;
use registry::state::{Loaded, Saved, StateDir};
use registry::store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{EndSignals, StartError};
use crate::{admin, audit};

/// The store's answer is waited for so long at a start that can go on without it.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Wait before it is asked again by one that cannot.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// The same reason to wait is only said every so often.
const SAY_AGAIN: u32 = 10;
/// By then the lease of a process that died has lapsed.
const ID_WAIT: Duration = Duration::from_secs(3 * TTL.as_secs());
/// What the admin port answers meanwhile.
const WAITING: &str = "waiting for the registry's store (`spec.registry`): which cluster this is stands there, and the \
                       state directory has no earlier answer\n";

/// Who this cluster is.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) saved: Saved,
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

/// Takes the UID that the store has for this cluster, and keeps it before any peer hears of it. A store that does not
/// answer is done without if an earlier start settled it; else it is waited for, for nobody may invent a second UID.
/// None: the process was told to end meanwhile.
pub(super) async fn settle<S: Store>(
    store: &S,
    gateway: &Gateway,
    directory: &mut StateDir,
    loaded: Loaded,
    admin: &TcpListener,
    end: &mut EndSignals,
) -> Result<Option<Settled>, StartError> {
    let Loaded { mut saved, fresh, .. } = loaded;
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    let mut waited = 0u32;
    let uid = loop {
        let why = match timeout(ANSWER_WAIT, cluster::settle(store, &gateway.cluster, saved.uid)).await {
            Ok(Ok(uid)) => break uid,
            Ok(Err(
                failed @ (UidError::Malformed
                | UidError::OtherCluster { .. }
                | UidError::Store(StoreError::Closed)),
            )) => {
                return Err(failed.into());
            }
            Ok(Err(failed)) => failed.to_string(),
            Err(_) => format!("no answer within {ANSWER_WAIT:?}"),
        };
        if !fresh {
            warn!(
                error = why,
                "The registry's store does not answer; starting with what the state directory has."
            );
            return Ok(Some(Settled { saved, answered: false }));
        }
        if waited.is_multiple_of(SAY_AGAIN) {
            error!(error = why, "Not started: {}", WAITING.trim_end());
        }
        if waited == 0 {
            let listener = admin.try_clone().and_then(tokio::net::TcpListener::from_std);
            let listener = listener.map_err(StartError::Thread)?;
            tokio::spawn(admin::serve_waiting(WAITING, listener, over.clone()));
        }
        waited += 1;
        tokio::select! {
            () = end.told() => return Ok(None),
            () = sleep(ASK_AGAIN) => {}
        }
    };
    if uid != saved.uid && !fresh {
        audit::change(
            "the cluster's UID is another one than before",
            "own cluster",
            "the registry's store counts; the state directory had another",
            "peers take over the name once no tunnel shows the old one",
        );
    }
    if uid != saved.uid || fresh {
        saved.uid = uid;
        directory.save(&saved)?;
    }
    Ok(Some(Settled { saved, answered: true }))
}

/// Waits until our id is ours, or the store does not answer any more.
///
/// # Errors
/// [`StartError::IdTaken`]: another process has it, and lives.
pub(super) async fn wait_for_id(
    us: &Candidate,
    mut standing: watch::Receiver<Standing>,
) -> Result<(), StartError> {
    let started = Instant::now();
    loop {
        let (until, other) = match &*standing.borrow_and_update() {
            Standing::Member | Standing::Elected(_) => return Ok(()),
            Standing::Unknown { .. } => (started + ANSWER_WAIT, None),
            Standing::IdTaken(other) => (started + ID_WAIT, Some(other.clone())),
        };
        if timeout_at(until, standing.changed()).await.is_err() {
            return match other {
                None => Ok(()),
                Some(other) => Err(StartError::IdTaken { id: us.id.clone(), other }),
            };
        }
    }
}
