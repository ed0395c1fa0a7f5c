//! Keeps the registry's store at what is known, while this gateway is the one that writes for its cluster.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry::store::{Store, StoreError};
use registry::tasks::election::{Guard, Standing, TTL};
use registry::tasks::recorder::{Paces, RecordError, Recorder, Stored};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::Knowledge;
use crate::base::clock::unix_ms;
use crate::proxy::worker::Shared;

/// Writes follow each other at most so often: what changes meanwhile goes with the next.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait after a write that failed; twice as long each time.
const RETRY: Duration = Duration::from_secs(1);
/// At most: a store that is full, or has gone, is not asked for everything over and over.
const RETRY_MAX: Duration = Duration::from_secs(16);
/// The same failure again is only said every so often.
const SAY_AGAIN: u32 = 20;
/// How often it is asked how full the store is.
const ROOM_LOOK: Duration = Duration::from_secs(5);
/// How often it is looked whether the last words of peers are due, and whether the store still has what was written.
const LOOK: Duration = Duration::from_secs(5);
/// The statuses of applied objects are written at most so often.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// One write of everything may take so long.
const WRITE_WAIT: Duration = Duration::from_secs(60);

/// Why the store is not at what is known.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the store has not answered for {0:?}")]
    Silent(Duration),
}

/// What is known of the store, whoever holds the office.
#[derive(Default)]
struct Known {
    paces: Arc<Mutex<Paces>>,
    /// Bytes that were left for records of peers, and when that was asked.
    room: Option<(Instant, u64)>,
}

/// What one office has written.
struct Office {
    guard: Guard,
    recorder: Recorder,
    /// When statuses were brought last, and by the view of which catalog's revision.
    stated: Option<(Instant, u64)>,
}

/// Brings `store` after every change to what is known, whenever this gateway is elected, until the process drains; a store
/// that fails is tried again.
pub async fn record<S: Store>(
    knowledge: Arc<Knowledge>,
    shared: Arc<Shared>,
    store: S,
    mut standing: watch::Receiver<Standing>,
) {
    let stop = shared.stop.clone();
    // None: what the store holds must be read.
    let mut office: Option<Office> = None;
    let mut known = Known::default();
    let mut failures = 0u32;
    loop {
        // Before the look, so that what changes during the writes is seen.
        let stopping = stop.is_cancelled();
        let guard = standing.borrow_and_update().guard(Instant::now());
        let Some(guard) = guard else {
            office = None;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = standing.changed() => if changed.is_err() { return },
                // A guard that its own clock ended may be renewed without a word.
                () = sleep(RETRY) => {}
            }
            continue;
        };
        let wait = if stopping { TTL } else { WRITE_WAIT };
        let held = office.take().filter(|office| office.guard.is_of(&guard));
        let written = timeout(wait, bring(&knowledge, &shared, &store, &mut known, guard, held));
        let pause = match written.await.unwrap_or(Err(Failed::Silent(wait))) {
            Ok(brought) => {
                office = Some(brought);
                failures = 0;
                PAUSE
            }
            Err(Failed::Record(RecordError::Store(StoreError::Closed))) => return,
            Err(Failed::Record(RecordError::Deposed)) => {
                info!("Registry write rejected: leadership or state changed; nothing was written.");
                RETRY
            }
            Err(error) => {
                // Whether a failed write was kept is not known.
                if failures.is_multiple_of(SAY_AGAIN) {
                    warn!(error = &error as &dyn std::error::Error, "Registry write failed; retrying.");
                }
                failures += 1;
                known.room = None;
                (RETRY * 2_u32.pow((failures - 1).min(8))).min(RETRY_MAX)
            }
        };
        if stopping {
            return;
        }
        if let Some(office) = &office {
            tokio::select! {
                () = stop.cancelled() => {}
                () = knowledge.unrecorded.notified() => {}
                changed = standing.changed() => if changed.is_err() { return },
                () = sleep_until(office.look_at(&shared)) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
}

/// The revision of the catalog that the view shows.
fn viewed(shared: &Shared) -> u64 {
    shared.view.load().catalog.as_ref().map_or(0, |catalog| catalog.revision)
}

impl Office {
    /// When it is due again, if nothing happens.
    fn look_at(&self, shared: &Shared) -> Instant {
        let left = self.recorder.later().wait.unwrap_or(LOOK);
        let look = Instant::now() + LOOK.min(left);
        match self.stated {
            Some((at, revision)) if revision != viewed(shared) => look.min(at + STATUS_PAUSE),
            _ => look,
        }
    }

    /// Whether statuses may have changed: with the view, or by what peers tell.
    fn states(&self, shared: &Shared) -> bool {
        self.stated.is_none_or(|(at, revision)| {
            let wait = if revision == viewed(shared) { LOOK } else { STATUS_PAUSE };
            at.elapsed() >= wait
        })
    }
}

async fn bring<S: Store>(
    knowledge: &Knowledge,
    shared: &Shared,
    store: &S,
    known: &mut Known,
    guard: Guard,
    office: Option<Office>,
) -> Result<Office, Failed> {
    let room = room(store, known).await;
    let (mut office, mut written) = match office {
        Some(mut office) => {
            office.recorder.verify(store, &guard).await?;
            office.recorder.allow(room);
            let written = office.recorder.bring(store, &guard, &knowledge.picture()).await?;
            (Office { guard, ..office }, written)
        }
        None => {
            let mut recorder = Recorder::begin_at(store, &guard, known.paces.clone()).await?;
            recorder.allow(room);
            let stored = Stored::read(store).await.map_err(RecordError::from)?;
            // Who wrote before may know of peers that we do not reach.
            knowledge.follow(&stored);
            let written = recorder.take_over(store, &guard, &stored, &knowledge.picture()).await?;
            (Office { guard, recorder, stated: None }, written)
        }
    };
    // Counted as used until it is asked again.
    known.room = known.room.map(|(at, _)| (at, office.recorder.room()));
    knowledge.unwritten.store(office.recorder.later().no_room, Relaxed);
    if office.states(shared) {
        let view = shared.view.load_full();
        let statuses = knowledge.statuses(shared, &view);
        office.stated = Some((Instant::now(), view.catalog.as_ref().map_or(0, |catalog| catalog.revision)));
        written += office.recorder.bring_statuses(store, &guard, &statuses, unix_ms()).await?;
    }
    if written > 0 {
        debug!(written, "Registry in sync.");
    }
    Ok(office)
}

/// Bytes that records of peers may still take: the last quarter of the store is for what this cluster declares and for its
/// leases. A store that does not say is trusted to refuse.
async fn room<S: Store>(store: &S, known: &mut Known) -> u64 {
    if let Some((at, left)) = known.room
        && at.elapsed() < ROOM_LOOK
    {
        return left;
    }
    let left = match store.room().await {
        Ok(room) => room.for_others(),
        Err(error) => {
            debug!(%error, "Registry does not report its usage.");
            u64::MAX
        }
    };
    known.room = Some((Instant::now(), left));
    left
}
