//! Follows the registered endpoints as the registry has them, whichever gateway they talk to.

use std::sync::Arc;
use std::time::Duration;

use registry::base::time::Tick;
use registry::model::{Endpoint, ServiceName};
use registry::pure::probation::{Book, Endpoints};
use registry::pure::registration::Registered;
use registry::pure::sources::RegisteredEndpoints;
use registry::store::{Changes, Event, Store, StoreError, Watch, keys};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::proxy::worker::Shared;
use crate::telemetry::audit;
use crate::telemetry::limited::limited;
use crate::view::View;
use policy::balance::Eligibility;

/// How long a start waits for the registry before it serves without it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Wait before a registry that failed is read again.
const RETRY: Duration = Duration::from_millis(500);
/// Changes are told at most so often: many come best at once.
const PAUSE: Duration = Duration::from_millis(20);
/// Revisions of one telling.
const BATCH: usize = 1024;
/// The time to live of endpoints that are remembered: that of registrars that do not choose.
const REMEMBERED_TTL: Duration = Duration::from_secs(10);
/// How often those on probation are looked at.
const JUDGE: Duration = Duration::from_millis(250);

/// What is registered as a process starts, told once before it serves: as the registry has it, if that answers in time.
pub async fn first<S: Store>(store: &S, book: &mut Book, now_ms: u64) {
    match timeout(FIRST_WAIT, read(store, book, now_ms)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            let error: &dyn std::error::Error = &error;
            warn!(error, "Registry read failed; keeping last known registered endpoints.");
        }
        Err(_) => {
            warn!("Registry read timed out; keeping last known registered endpoints.")
        }
    }
}

/// Reads all that is registered into `book`; gives the registry's revision.
///
/// # Errors
/// The store's.
pub async fn read<S: Store>(store: &S, book: &mut Book, now_ms: u64) -> Result<u64, StoreError> {
    let range = store.range(&keys::all_endpoints()).await?;
    book.read(range.entries.iter().filter_map(|entry| record(&entry.key, &entry.value)), now_ms);
    Ok(range.revision)
}

/// Tells `tell` every change of what is registered, as whole services, until the process drains. While the registry does
/// not answer, what is known stays.
pub async fn follow<S: Store>(
    shared: Arc<Shared>,
    store: S,
    book: Book,
    tell: impl FnMut(Vec<(ServiceName, Endpoints)>),
) {
    let mut follower = Follower { shared, book, tell, lost: false };
    let stop = follower.shared.stop.clone();
    loop {
        let error = tokio::select! {
            () = stop.cancelled() => return,
            error = follower.follow(&store) => error,
        };
        match error {
            StoreError::Closed => return,
            // Slower than the registry keeps history: it is read anew.
            StoreError::Compacted(revision) => debug!(revision, "Reading all registered endpoints again."),
            error => follower.lose(&error),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = follower.judge_for(RETRY) => {}
        }
    }
}

struct Follower<T> {
    shared: Arc<Shared>,
    book: Book,
    tell: T,
    /// Whether it has said that the registry does not answer.
    lost: bool,
}

impl<T: FnMut(Vec<(ServiceName, Endpoints)>)> Follower<T> {
    /// Follows one watch to its end.
    async fn follow<S: Store>(&mut self, store: &S) -> StoreError {
        let now_ms = self.now_ms();
        let revision = match read(store, &mut self.book, now_ms).await {
            Ok(revision) => revision,
            Err(error) => return error,
        };
        self.publish();
        let mut watch = match store.watch(&keys::all_endpoints(), revision + 1).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        if std::mem::take(&mut self.lost) {
            let on_probation = self.book.on_probation();
            info!(on_probation, "Registry watch of registered endpoints resumed.");
        }
        loop {
            let told = Instant::now();
            let first = tokio::select! {
                first = watch.next() => first,
                () = sleep(JUDGE), if self.book.on_probation() > 0 => {
                    self.judge();
                    continue;
                }
            };
            match first {
                Ok(changes) => self.apply(&changes),
                Err(error) => return error,
            }
            sleep_until(told + PAUSE).await;
            for _ in 0..BATCH {
                match at_hand(&mut watch).await {
                    None => break,
                    Some(Ok(changes)) => self.apply(&changes),
                    Some(Err(error)) => {
                        self.publish();
                        return error;
                    }
                }
            }
            self.publish();
        }
    }

    fn apply(&mut self, changes: &Changes) {
        let now_ms = self.now_ms();
        for event in &changes.events {
            match event {
                Event::Put(entry) => {
                    if let Some((service, registered)) = record(&entry.key, &entry.value) {
                        self.book.put(service, registered);
                    }
                }
                Event::Deleted(key) => {
                    let Some((namespace, name, id)) = keys::parse_endpoint(key) else { continue };
                    if let Ok(service) = ServiceName::new(namespace, name) {
                        self.book.deleted(&service, id, now_ms);
                    }
                }
            }
        }
    }

    /// The registry does not answer any more.
    fn lose(&mut self, error: &StoreError) {
        self.book.lost();
        if !std::mem::replace(&mut self.lost, true) {
            let error: &dyn std::error::Error = error;
            let endpoints = self.book.len();
            warn!(error, endpoints, "Registry watch failed; keeping last known endpoints.");
        }
    }

    /// Looks after those on probation for a while.
    async fn judge_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.judge();
            sleep_until(end.min(Instant::now() + JUDGE)).await;
        }
    }

    fn judge(&mut self) {
        let (now, view) = (self.shared.clock.now(), self.shared.view.load_full());
        let before = self.book.on_probation();
        let now_ms = self.now_ms();
        self.book.judge(now_ms, |service, id| passes(&view, service, id, now));
        let ended = before - self.book.on_probation();
        if ended > 0 {
            audit::change(
                "registered endpoints taken off after their probation",
                ended,
                "nobody registered them again, or they do not pass",
                "requests to their services",
            );
        }
        self.publish();
    }

    fn publish(&mut self) {
        let changes = self.book.take_changes();
        if !changes.is_empty() {
            (self.tell)(changes);
        }
    }

    fn now_ms(&self) -> u64 {
        self.shared.clock.unix_ms()
    }
}

/// A record that this version can read.
fn record(key: &str, value: &[u8]) -> Option<(ServiceName, Registered)> {
    match Registered::decode(key, value) {
        Ok(known) => Some(known),
        Err(error) => {
            limited!(WARN, KNOWN, key, "Registered endpoint ignored.", key, %error);
            None
        }
    }
}

/// Changes that are here already.
async fn at_hand(watch: &mut impl Watch) -> Option<Result<Changes, StoreError>> {
    tokio::select! {
        biased;
        changes = watch.next() => Some(changes),
        () = std::future::ready(()) => None,
    }
}

/// Whether an endpoint takes requests on each of its ports, as far as checks and requests tell. One whose checks have not
/// said anything yet is given the time for it.
fn passes(view: &View, service: &ServiceName, id: &str, now: Tick) -> bool {
    let Some(local) = view.local(&service.namespace, &service.name) else { return false };
    local.ports.iter().all(|(_, endpoints)| {
        let endpoint = endpoints.iter().find(|endpoint| endpoint.id() == id);
        endpoint.is_some_and(|e| e.is_waiting() || e.eligibility(now) == Eligibility::Eligible)
    })
}

/// What was registered when the process ran last, from the endpoints that it kept: who did it is not known any more, and
/// has a usual time to live to come back.
pub fn remembered(kept: &RegisteredEndpoints) -> Book {
    let registered = |service: &ServiceName, endpoint: &Endpoint| {
        let (endpoint, by) = (endpoint.clone(), "an earlier run".to_owned());
        let registered =
            Registered { endpoint, draining: false, ttl: REMEMBERED_TTL, registrar: [0; 16], by };
        (service.clone(), registered)
    };
    let all =
        kept.iter().flat_map(|(service, of)| of.values().map(move |endpoint| registered(service, endpoint)));
    Book::new(all)
}
