//! The last catalog, in the state directory: what a start without peers and registry serves from.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use registry::base::lent::Holder;
use registry::tasks::state::StateDir;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Knowledge;

/// It is saved at most so often.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// And so many times as seldom as it takes long: a large one that peers change all the time must not keep the disk busy.
const SAVE_SHARE: u32 = 20;
/// And one that could not be saved so often: what is too large for a disk is not written over and over.
const SAVE_AGAIN: Duration = Duration::from_secs(5);
/// The disk is waited for so long at the end of a drain.
const LAST_SAVE_WAIT: Duration = Duration::from_secs(5);
/// The same failure again is only said every so often: the log may be on that disk, too.
const SAY_AGAIN: u32 = 60;
/// How often the directory is tried again that another process still has.
const TAKE_AGAIN: Duration = Duration::from_millis(100);

/// What keeps it.
struct Keeping {
    knowledge: Arc<Knowledge>,
    path: PathBuf,
    /// None while it is lent. Locked while it is written to.
    directory: Arc<Mutex<Option<StateDir>>>,
    /// In a row.
    failures: u32,
}

/// Keeps the last catalog on disk until `stop`, and once more then; and before the directory is lent to the process that
/// takes over. A disk that hangs holds up nothing else.
pub async fn keep(
    knowledge: Arc<Knowledge>,
    directory: StateDir,
    mut holder: Holder,
    stop: CancellationToken,
) {
    let path = directory.path().to_owned();
    let mut keeping =
        Keeping { knowledge, path, directory: Arc::new(Mutex::new(Some(directory))), failures: 0 };
    loop {
        tokio::select! {
            () = keeping.run() => {}
            () = holder.asked() => {}
            () = stop.cancelled() => return keeping.save_last().await,
        }
        tokio::select! {
            () = keeping.let_go() => {}
            () = stop.cancelled() => return keeping.save_last().await,
        }
        tokio::select! {
            () = holder.let_go() => {}
            // Another process keeps it now.
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = keeping.take_back() => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Keeping {
    /// Saves it as it changes, for ever.
    async fn run(&mut self) {
        let mut save_at = Instant::now();
        loop {
            self.knowledge.clone().unsaved.notified().await;
            loop {
                sleep_until(save_at).await;
                let began = Instant::now();
                let saved = self.save().await;
                let pause = if saved { SAVE_PAUSE } else { SAVE_AGAIN };
                save_at = Instant::now() + pause.max(began.elapsed() * SAVE_SHARE);
                if saved {
                    break;
                }
            }
        }
    }

    /// Saves it; gives whether that worked.
    async fn save(&mut self) -> bool {
        let (saved, directory) = (self.knowledge.saved(), self.directory.clone());
        let written = spawn_blocking(move || {
            let mut directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
            directory.as_mut().map_or(Ok(()), |directory| directory.save(&saved))
        });
        let failed: Box<dyn std::error::Error> = match written.await {
            Ok(Ok(())) => {
                if std::mem::take(&mut self.failures) > 0 {
                    info!("Saving the last catalog works again.");
                }
                return true;
            }
            Ok(Err(failed)) => Box::new(failed),
            Err(panic) => Box::new(panic),
        };
        if self.failures.is_multiple_of(SAY_AGAIN) {
            error!(error = &*failed, "Saving the last catalog failed; retrying.");
        }
        self.failures += 1;
        false
    }

    /// Saves it once more, and lets go of the directory.
    async fn let_go(&mut self) {
        self.save().await;
        let directory = self.directory.clone();
        // What is still being written has it locked.
        let let_go = move || drop(directory.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Err(panic) = spawn_blocking(let_go).await {
            error!(error = %panic, "The state directory was not let go of.");
        }
    }

    async fn save_last(&mut self) {
        if timeout(LAST_SAVE_WAIT, self.save()).await.is_err() {
            error!("The last catalog was not saved within {LAST_SAVE_WAIT:?}; does the disk hang?");
        }
    }

    /// Takes the directory again that was lent.
    async fn take_back(&mut self) {
        for tried in 0_u32.. {
            let path = self.path.clone();
            let opened = spawn_blocking(move || StateDir::open(&path)).await;
            let failed = match opened {
                Ok(Ok(directory)) => {
                    *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory);
                    // It may have changed meanwhile.
                    self.knowledge.unsaved.notify_one();
                    return;
                }
                Ok(Err(failed)) => failed.to_string(),
                Err(panic) => panic.to_string(),
            };
            // Whoever had it may still be ending.
            if tried.is_multiple_of(SAY_AGAIN) && tried > 0 {
                error!(error = failed, "The state directory cannot be taken back; retrying.");
            }
            sleep(TAKE_AGAIN).await;
        }
    }
}
