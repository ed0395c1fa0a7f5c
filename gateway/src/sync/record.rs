//! Keeps the registry's store at what is known, while this gateway is the one that writes for its cluster.

use std::sync::Arc;
use std::time::Duration;

use registry::cluster::{self, UidError};
use registry::election::{Guard, Standing, TTL};
use registry::recorder::{RecordError, Recorder, Stored};
use registry::store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Knowledge;

/// Writes follow each other at most so often: what changes meanwhile goes with the next.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether the last words of peers are due, and whether the store still has what was written.
const LOOK: Duration = Duration::from_secs(5);
/// One write of everything may take so long.
const WRITE_WAIT: Duration = Duration::from_secs(60);

/// Why the store is not at what is known.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Uid(#[from] UidError),
    #[error("the store has not answered for {0:?}")]
    Silent(Duration),
}

/// Brings `store` after every change to what is known, whenever this gateway is elected, until `stop`; a store that fails
/// is tried again.
pub async fn record<S: Store>(
    knowledge: Arc<Knowledge>,
    store: S,
    mut standing: watch::Receiver<Standing>,
    stop: CancellationToken,
) {
    // With the guard that it writes under; none: what the store holds must be read.
    let mut recorder: Option<(Guard, Recorder)> = None;
    loop {
        // Before the look, so that what changes during the writes is seen.
        let stopping = stop.is_cancelled();
        let guard = standing.borrow_and_update().guard(Instant::now());
        let Some(guard) = guard else {
            recorder = None;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = standing.changed() => if changed.is_err() { return },
                // A guard that its own clock ended may be renewed without a word.
                () = sleep(RETRY) => {}
            }
            continue;
        };
        let wait = if stopping { TTL } else { WRITE_WAIT };
        let held = recorder.take().filter(|(office, _)| office.is_of(&guard));
        let written = timeout(wait, bring(&knowledge, &store, &guard, held.map(|(_, recorder)| recorder)));
        let pause = match written.await.unwrap_or(Err(Failed::Silent(wait))) {
            Ok(brought) => {
                recorder = Some((guard, brought));
                PAUSE
            }
            Err(Failed::Record(RecordError::Store(StoreError::Closed))) => return,
            Err(Failed::Record(RecordError::Deposed)) => {
                info!(
                    "The registry is not as we left it, or another gateway writes now; nothing was changed."
                );
                RETRY
            }
            Err(error) => {
                // Whether a failed write was kept is not known.
                warn!(error = &error as &dyn std::error::Error, "The registry does not follow; tried again.");
                RETRY
            }
        };
        if stopping {
            return;
        }
        if recorder.is_some() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = knowledge.unrecorded.notified() => {}
                changed = standing.changed() => if changed.is_err() { return },
                () = sleep(LOOK) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}

async fn bring<S: Store>(
    knowledge: &Knowledge,
    store: &S,
    guard: &Guard,
    recorder: Option<Recorder>,
) -> Result<Recorder, Failed> {
    let (recorder, written) = match recorder {
        Some(mut recorder) => {
            recorder.verify(store, guard).await?;
            let written = recorder.bring(store, guard, &knowledge.picture()).await?;
            (recorder, written)
        }
        None => {
            // A store that was wiped has none.
            if cluster::settle(store, knowledge.uid()).await? != knowledge.uid() {
                warn!(
                    "The registry's store is of a cluster with another UID; restart this gateway to take it over."
                );
            }
            let mut recorder = Recorder::begin(store, guard).await?;
            let stored = Stored::read(store).await.map_err(RecordError::from)?;
            // Who wrote before may know of peers that we do not reach.
            knowledge.follow(&stored);
            let written = recorder.take_over(store, guard, &stored, &knowledge.picture()).await?;
            (recorder, written)
        }
    };
    if written > 0 {
        debug!(written, "The registry holds what is known.");
    }
    Ok(recorder)
}
