//! What a gateway opens before anybody hears of it. Disks are asked on threads that may be left behind: a process that
//! waits for one can still be told to end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::Credentials;
use registry::model::Gateway;
use registry::pure::sources::Files;
use registry::store::AnyStore;
use registry::tasks::state::{self, StateDir};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;
use tunnel::{EndpointError, Secrets};

use super::files::Look;
use super::load::{Loaded, load};
use super::{EndSignals, StartError};

/// A disk that has not answered is spoken of so often.
const SAY_SLOW: Duration = Duration::from_secs(10);

/// What was opened.
pub(super) struct Opened {
    pub(super) gateway: Gateway,
    pub(super) files: Arc<Files>,
    /// How the files looked before they were read.
    pub(super) look: Look,
    pub(super) credentials: Arc<Credentials>,
    pub(super) directory: StateDir,
    /// What the state directory has from earlier starts.
    pub(super) kept: state::Loaded,
    /// When that was written, Unix milliseconds; 0: never.
    pub(super) saved_unix_ms: u64,
    /// The number of the state directory.
    pub(super) home: u64,
    pub(super) secrets: Secrets,
    pub(super) store: AnyStore,
}

/// What was read from the files, whole and usable: nothing is opened yet.
pub(super) struct Read {
    pub(super) gateway: Gateway,
    files: Arc<Files>,
    look: Look,
    credentials: Arc<Credentials>,
}

/// Reads `files`. Blocks on the disk.
pub(super) fn read(files: &[PathBuf]) -> Result<Read, StartError> {
    let loaded = load(files)?;
    loaded.say_warnings();
    let Loaded { gateway, files, certificate, look, .. } = loaded;
    Ok(Read { gateway, files, look, credentials: certificate.valid()? })
}

/// Opens the state directory and the registry that was `read` of. Blocks on the disk.
pub(super) fn open(read: Read) -> Result<Opened, StartError> {
    let Read { gateway, files, look, credentials } = read;
    let mut directory = StateDir::open(&gateway.state_dir)?;
    let kept = directory.load(&mut fastrand::Rng::new())?;
    if kept.skipped > 0 {
        warn!(
            skipped = kept.skipped,
            "Skipped records of the last catalog: written by another version; peers send them again."
        );
    }
    let store = AnyStore::open(&gateway)?;
    let saved_unix_ms = directory.saved_unix_ms().unwrap_or_default();
    let home = directory.home(&mut fastrand::Rng::new())?;
    let secrets = Secrets::load_or_create(&gateway.state_dir).map_err(EndpointError::from)?;
    Ok(Opened { gateway, files, look, credentials, directory, kept, saved_unix_ms, home, secrets, store })
}

/// What `work` gives, which blocks on the disk that `what` is on; none: the process was told to `end` meanwhile.
///
/// # Errors
/// When the work panicked.
pub(super) async fn on_disk<T: Send + 'static>(
    end: &mut EndSignals,
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, StartError> {
    let mut working = spawn_blocking(work);
    loop {
        tokio::select! {
            () = end.told() => return Ok(None),
            done = &mut working => {
                return done.map(Some).map_err(|panic| StartError::Thread(io::Error::other(panic)));
            }
            () = sleep(SAY_SLOW) => warn!("Still waiting for the disk: {what}. Does it hang?"),
        }
    }
}
