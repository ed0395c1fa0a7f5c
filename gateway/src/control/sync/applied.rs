//! Follows what is applied, as it stands in the registry.

use std::sync::Arc;
use std::time::Duration;

use registry::model::Gateway;
use registry::pure::sources::AppliedObjects;
use registry::store::{Store, StoreError, Watch, keys};
use registry::tasks::applied::{self, StoredObjects};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a start waits for the registry before it serves what was applied when it last ran.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Wait before the registry is read again after it failed.
const RETRY: Duration = Duration::from_secs(1);

/// What is applied at the start: as the registry has it, else as it was `kept`.
pub async fn first_applied<S: Store>(store: &S, gateway: &Gateway, kept: &StoredObjects) -> AppliedObjects {
    let stored = match tokio::time::timeout(FIRST_WAIT, applied::range(store)).await {
        Ok(Ok((_, stored))) => stored,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "Registry read failed; keeping last known applied objects.");
            kept.clone()
        }
        Err(_) => {
            warn!("Registry read timed out; keeping last known applied objects.");
            kept.clone()
        }
    };
    applied::read_all(gateway, &stored, &AppliedObjects::new())
}

/// Tells `objects` of every change of what is applied, until `stop`. While the registry does not answer the last word
/// stays.
pub async fn follow_applied<S: Store>(
    store: S,
    gateway: Arc<Gateway>,
    objects: watch::Sender<AppliedObjects>,
    stop: CancellationToken,
) {
    let mut warned = false;
    loop {
        let error = tokio::select! {
            () = stop.cancelled() => return,
            error = follow(&store, &gateway, &objects, &mut warned) => error,
        };
        match error {
            StoreError::Closed => return,
            // Slower than the registry keeps history: it is read anew.
            StoreError::Compacted(revision) => debug!(revision, "Reading all applied objects again."),
            error => {
                if !std::mem::replace(&mut warned, true) {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "Registry watch failed; keeping last known applied objects.");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Follows one watch to its end.
async fn follow<S: Store>(
    store: &S,
    gateway: &Arc<Gateway>,
    objects: &watch::Sender<AppliedObjects>,
    warned: &mut bool,
) -> StoreError {
    let (revision, mut stored) = match applied::range(store).await {
        Ok(found) => found,
        Err(error) => return error,
    };
    tell(gateway, &stored, objects).await;
    let mut watch = match store.watch(&keys::configs(), revision + 1).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    if std::mem::take(warned) {
        warn!("Registry watch of applied objects resumed.");
    }
    loop {
        match watch.next().await {
            Ok(changes) => changes.events.iter().for_each(|event| applied::follow(&mut stored, event)),
            Err(error) => return error,
        }
        tell(gateway, &stored, objects).await;
    }
}

/// Reads what is new of `stored` and tells it, if anything is.
async fn tell(gateway: &Arc<Gateway>, stored: &StoredObjects, objects: &watch::Sender<AppliedObjects>) {
    let (gateway, stored, known) = (gateway.clone(), stored.clone(), objects.borrow().clone());
    // Thousands of documents take a while, and the control plane has other things to do.
    let read = spawn_blocking(move || {
        let now = applied::read_all(&gateway, &stored, &known);
        (now != known).then_some(now)
    });
    match read.await {
        Ok(Some(now)) => {
            objects.send_replace(now);
        }
        Ok(None) => {}
        Err(panic) => warn!(error = %panic, "Reading applied objects panicked; keeping the last known ones."),
    }
}
