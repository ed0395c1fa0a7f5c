//! When the files of a process are to be read again: they have changed and come to rest, or a SIGHUP asks for it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::task::{JoinError, spawn_blocking};

use super::files::Look;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Files that have not changed for so long are whole: a new certificate and its key come one after the other.
const SETTLE: Duration = Duration::from_millis(200);
/// Looks until files that do not stop changing are read all the same.
const SETTLE_LOOKS_MAX: u32 = 25;

/// The files of one process.
#[derive(Debug)]
pub(super) struct Files {
    manifests: Vec<PathBuf>,
    identity: PathBuf,
    seen: Look,
}

impl Files {
    /// The `manifests`, and the certificates and bundles in `identity`, which looked like `seen` before they were read.
    pub(super) fn new(manifests: Vec<PathBuf>, identity: PathBuf, seen: Look) -> Self {
        Self { manifests, identity, seen }
    }

    /// The manifests.
    pub(super) fn manifests(&self) -> &[PathBuf] {
        &self.manifests
    }

    /// Waits until they are to be read again; true: `hangup` asked for it. Not cancel safe: a change may be missed.
    pub(super) async fn changed(&mut self, hangup: &mut Signal) -> bool {
        loop {
            let told = tokio::select! {
                signal = hangup.recv() => signal.is_some(),
                () = tokio::time::sleep(LOOK) => false,
            };
            let Ok(now) = self.look().await else { continue };
            if now != self.seen || told {
                self.seen = self.settled(now).await;
                return told;
            }
        }
    }

    async fn look(&self) -> Result<Look, JoinError> {
        let (manifests, identity) = (self.manifests.clone(), self.identity.clone());
        spawn_blocking(move || Look::at(&manifests, &identity)).await
    }

    /// Waits until the files have not changed for a while, as long as that is not for ever.
    async fn settled(&self, mut last: Look) -> Look {
        for _ in 0..SETTLE_LOOKS_MAX {
            tokio::time::sleep(SETTLE).await;
            match self.look().await {
                Ok(now) if now != last => last = now,
                _ => break,
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::signal::unix::{SignalKind, signal};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_are_read_again_only_if_they_changed_after_the_look_before_they_were_read() {
        let dir = tempfile::tempdir().unwrap();
        let (manifests, identity) = (vec![dir.path().join("west.yaml")], dir.path().join("pki"));
        std::fs::write(&manifests[0], "as it is read").unwrap();
        let seen = Look::at(&manifests, &identity);
        let mut hangup = signal(SignalKind::hangup()).unwrap();
        let mut files = Files::new(manifests.clone(), identity, seen);
        assert!(timeout(LOOK * 5, files.changed(&mut hangup)).await.is_err());
        std::fs::write(&manifests[0], "changed meanwhile").unwrap();
        assert!(!files.changed(&mut hangup).await);
        assert!(timeout(LOOK * 5, files.changed(&mut hangup)).await.is_err());
    }
}
