//! Keeps the registry at what is known.

use std::sync::Arc;
use std::time::Duration;

use registry::recorder;
use registry::state::Saved;
use registry::store::{Store, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Knowledge;

/// Writes follow each other at most so often: what changes meanwhile goes with the next.
const PAUSE: Duration = Duration::from_millis(50);
/// Wait after a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Brings `store` after every change to what is known, until `stop`; a store that fails is tried again.
pub async fn record<S: Store>(knowledge: Arc<Knowledge>, store: S, stop: CancellationToken) {
    // What it holds for certain; none: it must be read.
    let mut held: Option<Saved> = None;
    loop {
        // Before the look, so that what changes during the writes is seen.
        let stopping = stop.is_cancelled();
        let wanted = knowledge.saved();
        let pause = match recorder::bring(&store, held.as_ref(), &wanted).await {
            Ok(written) => {
                debug!(written, "The registry holds what is known.");
                held = Some(wanted);
                PAUSE
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                // Whether a failed write was kept is not known.
                held = None;
                warn!(error = &error as &dyn std::error::Error, "The registry does not follow; tried again.");
                RETRY
            }
        };
        if stopping {
            return;
        }
        if held.is_some() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = knowledge.unrecorded.notified() => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
