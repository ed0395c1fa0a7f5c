//! The files of a process: looked at again and again, and read when it is time.
//!
//! Disks are asked on threads that may be left behind, one job at a time: a file system that hangs holds up nothing else,
//! and whoever drives this is told.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::files::Look;
use super::pace::{Outcome, Pace, Why};

/// A disk that has not answered for so long is told of: the longest that reading takes where nothing hangs.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// Watches files, which are read as a `T`.
#[derive(Debug)]
pub(super) struct Watcher<T> {
    manifests: Vec<PathBuf>,
    identity: PathBuf,
    hangup: Signal,
    pace: Pace,
    look_at: Instant,
    /// What is asked of the disk, since when.
    job: Option<(Job<T>, Instant)>,
    /// A SIGHUP has come that was not yet followed.
    hung_up: bool,
    /// The job under way was told of.
    slow: bool,
}

#[derive(Debug)]
enum Job<T> {
    Look(JoinHandle<Look>),
    Read(Why, JoinHandle<T>),
}

enum Done<T> {
    Looked(Result<Look, JoinError>),
    Read(Why, Result<T, JoinError>),
}

/// What there is to tell.
#[derive(Debug)]
pub(super) enum Told<T> {
    /// The files were read; what came of it is to be told to [`Watcher::came`].
    Read(Why, Result<T, JoinError>),
    /// The disk has not answered for [`SLOW`].
    Slow,
    /// It answers again, if only about how the files look.
    Answers,
}

impl<T: Send + 'static> Watcher<T> {
    /// For the `manifests`, and the certificates and bundles in `identity`, which looked like `seen` before they were read.
    /// A `hangup` has them read at once.
    pub(super) fn new(manifests: Vec<PathBuf>, identity: PathBuf, seen: Look, hangup: Signal) -> Self {
        let (pace, look_at) = (Pace::new(seen), Instant::now());
        Self { manifests, identity, hangup, pace, look_at, job: None, hung_up: false, slow: false }
    }

    /// What came of reading for `why`.
    pub(super) fn came(&mut self, why: Why, outcome: Outcome) {
        self.pace.came(why, outcome, Instant::now());
    }

    /// Waits until there is something to tell. `reader` gives what reads the files, blocking on the disk.
    ///
    /// Cancel safe.
    pub(super) async fn next<R: FnOnce() -> T + Send + 'static>(
        &mut self,
        reader: impl Fn() -> R,
    ) -> Told<T> {
        loop {
            let Some((job, since)) = &mut self.job else {
                tokio::select! {
                    Some(()) = self.hangup.recv() => self.hung_up = true,
                    () = sleep_until(self.look_at) => {}
                }
                let (manifests, identity) = (self.manifests.clone(), self.identity.clone());
                let look = spawn_blocking(move || Look::at(&manifests, &identity));
                self.job = Some((Job::Look(look), Instant::now()));
                continue;
            };
            let done = tokio::select! {
                done = job.done() => done,
                Some(()) = self.hangup.recv() => {
                    self.hung_up = true;
                    continue;
                }
                () = sleep_until(*since + SLOW), if !self.slow => {
                    self.slow = true;
                    return Told::Slow;
                }
            };
            self.job = None;
            let now = Instant::now();
            self.look_at = now + self.pace.pause();
            let was_slow = std::mem::take(&mut self.slow);
            let look = match done {
                Done::Read(why, read) => return Told::Read(why, read),
                Done::Looked(Ok(look)) => look,
                Done::Looked(Err(panic)) => {
                    error!(error = %panic, "File watch failed.");
                    continue;
                }
            };
            let why = match std::mem::take(&mut self.hung_up) {
                true => Some(self.pace.told(look)),
                false => self.pace.looked(look, now, SystemTime::now()),
            };
            self.look_at = now + self.pace.pause();
            self.job = why.map(|why| (Job::Read(why, spawn_blocking(reader())), now));
            if was_slow {
                return Told::Answers;
            }
        }
    }
}

impl<T> Job<T> {
    /// Cancel safe.
    async fn done(&mut self) -> Done<T> {
        match self {
            Self::Look(look) => Done::Looked(look.await),
            Self::Read(why, read) => Done::Read(*why, read.await),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::sync_channel;
    use std::sync::{Arc, Mutex};

    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::super::pace::STILL;
    use super::*;

    fn watched() -> (tempfile::TempDir, PathBuf, Watcher<()>) {
        let dir = tempfile::tempdir().unwrap();
        let (manifest, identity) = (dir.path().join("west.yaml"), dir.path().join("pki"));
        std::fs::write(&manifest, "as it is read").unwrap();
        let seen = Look::at(std::slice::from_ref(&manifest), &identity);
        // Not SIGHUP: tests of other files have that of their own.
        let hangup = signal(SignalKind::user_defined2()).unwrap();
        let watcher = Watcher::new(vec![manifest.clone()], identity, seen, hangup);
        (dir, manifest, watcher)
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_read_again_only_if_they_changed_after_the_look_before_they_were_read() {
        let (_dir, manifest, mut watcher) = watched();
        assert!(timeout(STILL * 5, watcher.next(|| || ())).await.is_err());
        std::fs::write(&manifest, "changed meanwhile").unwrap();
        assert!(matches!(watcher.next(|| || ()).await, Told::Read(Why::Changed, Ok(()))));
        watcher.came(Why::Changed, Outcome::Taken);
        assert!(timeout(STILL * 5, watcher.next(|| || ())).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_told_of_once_and_what_it_says_at_last_counts() {
        let (_dir, manifest, mut watcher) = watched();
        std::fs::write(&manifest, "changed meanwhile").unwrap();
        let (answer, hangs) = sync_channel::<()>(0);
        let (hangs, begun) = (Arc::new(Mutex::new(hangs)), Arc::new(Notify::new()));
        let reader = || {
            let (hangs, begun) = (hangs.clone(), begun.clone());
            move || {
                begun.notify_one();
                let _ = hangs.try_lock().expect("one reader at a time").recv();
            }
        };
        tokio::select! {
            told = watcher.next(reader) => panic!("{told:?}"),
            () = begun.notified() => {}
        }
        // While a thread blocks, a paused clock goes on only by hand.
        tokio::time::advance(SLOW).await;
        assert!(matches!(watcher.next(reader).await, Told::Slow));
        tokio::time::advance(SLOW * 10).await;
        tokio::select! {
            biased;
            told = watcher.next(reader) => panic!("{told:?}"),
            () = tokio::task::yield_now() => {}
        }
        answer.send(()).unwrap();
        assert!(matches!(watcher.next(reader).await, Told::Read(Why::Changed, Ok(()))));
    }
}
