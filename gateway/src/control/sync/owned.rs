//! Keeps the registry's store ours: one that was wiped is taken again, and one of another cluster is left alone.

use std::sync::Arc;
use std::time::Duration;

use registry::store::Store;
use registry::tasks::owned::{Owned, Owner};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Knowledge;
use crate::telemetry::audit;

/// Wait before a store that was wiped is taken again after that failed.
const RETRY: Duration = Duration::from_secs(1);
/// So long may it take to put everything back.
const TAKE_WAIT: Duration = Duration::from_secs(60);

/// Takes `store` again whenever it is nobody's, and says when it is another cluster's, until `stop`.
pub async fn keep_owned<S: Store>(knowledge: Arc<Knowledge>, store: Owned<S>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep(&knowledge, &store) => {}
    }
}

async fn keep<S: Store>(knowledge: &Knowledge, store: &Owned<S>) {
    let mut owner = store.owner();
    loop {
        let seen = owner.borrow_and_update().clone();
        match seen {
            Owner::Ours => {}
            Owner::Other(uid) => error!(
                uid,
                "The registry's store is of another cluster: nothing is read from it or written to it, and what is known \
                 serves on. Put ours back, or restart this gateway to take that cluster's place."
            ),
            Owner::Nobody => {
                let kept = knowledge.lock().applied();
                match timeout(TAKE_WAIT, store.take_again(&kept)).await {
                    Ok(Ok(put_back)) => audit::taken_again(put_back),
                    Ok(Err(failed)) => {
                        warn!(
                            error = &failed as &dyn std::error::Error,
                            "Registry store was wiped; claiming it again failed."
                        );
                    }
                    Err(_) => warn!("Registry store was wiped; claiming it again timed out."),
                }
                if *owner.borrow() == Owner::Nobody {
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        // Ends with the process, which holds a handle.
        if owner.changed().await.is_err() {
            return;
        }
        if *owner.borrow() == Owner::Ours {
            info!("Registry store claimed again.");
        }
    }
}
