//! The thread that writes: it alone changes what the store holds, on the disk first and in memory then.
//!
//! What came while the last commit was under way goes into the next one together (group commit), so nobody waits for
//! company and a slow disk is used no more often than it can take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use files::{Lock, PrivateDir};

use super::disk::Disk;
use super::queue::Write;
use super::{FILE, Inconsistent, LOCK, OpenError, Shared, open};
use crate::store::staged::{Batch, Staged};
use crate::store::{Cause, StoreError, unix_ms};

/// How long after a failure the disk is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The same failure again is only said every so often: the log may be on that disk, too.
const SAY_AGAIN: u32 = 30;

/// Later than this after the moment it had asked for, the thread takes the whole process to have been frozen, and so
/// deaf to keep-alives. Time in which the disk was waited for does not count: keep-alives do not wait for it.
const FROZEN_AFTER: Duration = Duration::from_millis(500);

/// What answers one write, given whether its batch was kept.
type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

/// The writing thread's own things.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: PrivateDir,
    pub(super) disk: Result<Disk, Broken>,
    /// None while the file is lent.
    pub(super) lock: Option<Lock>,
}

/// Why a store takes no writes for a while.
#[derive(Debug, thiserror::Error)]
#[error("its file is lent to the process that takes over")]
struct Lent;

/// A disk that failed.
pub(super) struct Broken {
    retry_at: Instant,
    error: StoreError,
    /// Attempts that failed since it last took writes.
    failures: u32,
}

impl Writer {
    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self) {
        // The last moment of which we know that it was not the disk that we waited for.
        let mut awake = Instant::now();
        loop {
            let until = self.next_duty();
            let Some(writes) = self.shared.queue.take(until) else { return };
            let now = Instant::now();
            if until.is_some_and(|until| now.saturating_duration_since(until.max(awake)) > FROZEN_AFTER) {
                self.shared.state().keep_all_alive(now);
            }
            let (turns, writes) = writes
                .into_iter()
                .partition(|write: &Write| matches!(write, Write::Lend(_) | Write::TakeBack(_)));
            awake = self.round(writes, now);
            for turn in turns {
                awake = self.turn(turn);
            }
        }
    }

    /// Lets go of the file, or takes it back. Who does not wait for that any more is not told.
    fn turn(&mut self, turn: Write) -> Instant {
        match turn {
            Write::Lend(reply) => {
                // Nothing is tried again without the lock. The file is closed before others may open it.
                let error = StoreError::Unkept(Cause::new(Lent));
                self.disk = Err(Broken { retry_at: Instant::now(), error, failures: 0 });
                self.lock = None;
                drop(reply.send(Ok(())));
            }
            Write::TakeBack(reply) => drop(reply.send(self.take_back())),
            Write::Commit(..) | Write::Grant(..) | Write::Revoke(..) => {}
        }
        Instant::now()
    }

    /// Goes on from what the file holds now: another process may have written to it.
    fn take_back(&mut self) -> Result<(), StoreError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let unkept = |error: OpenError| StoreError::Unkept(Cause::new(error));
        let locked = self.directory.lock(LOCK).map_err(|error| unkept(error.into()))?;
        let lock = locked.ok_or_else(|| unkept(OpenError::InUse(self.directory.path().into())))?;
        let (disk, kept) = open(&self.directory).map_err(unkept)?;
        self.shared.state().replace(kept, Instant::now()).map_err(|reason| {
            let path = self.directory.join(FILE);
            unkept(OpenError::Damaged { path, source: Cause::new(Inconsistent(reason)) })
        })?;
        (self.disk, self.lock) = (Ok(disk), Some(lock));
        self.shared.changed.send_replace(false);
        Ok(())
    }

    /// When leases lapse that nobody asks for.
    fn next_duty(&self) -> Option<Instant> {
        // While the file is lent they are the other process's business.
        self.lock.as_ref()?;
        let lapse = self.shared.state().next_lapse()?;
        Some(self.disk.as_ref().map_or_else(|broken| lapse.max(broken.retry_at), |_| lapse))
    }

    /// Decides, keeps, shows and answers what waited, and what lapsed by `now`. Returns when the disk was done.
    fn round(&mut self, writes: VecDeque<Write>, now: Instant) -> Instant {
        let (batch, answers) = self.decide(writes, now);
        let kept = if batch.is_empty() { Ok(()) } else { self.keep(&batch) };
        let done = Instant::now();
        if kept.is_ok() {
            self.shared.state().apply(batch, done);
            self.shared.changed.send_replace(false);
        }
        for answer in answers {
            answer(kept.clone());
        }
        done
    }

    fn decide(&self, writes: VecDeque<Write>, now: Instant) -> (Batch, Vec<Answer>) {
        let mut state = self.shared.state();
        let lapsed = state.lapse(now);
        let mut staged = Staged::on(&state, unix_ms());
        for lease in lapsed {
            staged.end(lease);
        }
        let answers = writes.into_iter().map(|write| answer(write, &mut staged)).collect();
        (staged.finish(), answers)
    }

    fn keep(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if let Err(broken) = &self.disk
            && broken.retry_at <= Instant::now()
            && self.lock.is_some()
        {
            self.disk = self.mend(broken.failures);
        }
        let disk = self.disk.as_ref().map_err(|broken| broken.error.clone())?;
        disk.write(batch).map_err(|error| {
            let broken = self.broken(error, 0);
            let error = broken.error.clone();
            self.disk = Err(broken);
            error
        })
    }

    /// Writes all anew from memory. After a failed write or fsync nobody can tell what the old file holds: the system
    /// may show pages that never reached the disk. `failures`: those before.
    fn mend(&self, failures: u32) -> Result<Disk, Broken> {
        let kept = self.shared.state().kept();
        let path = self.directory.join(FILE);
        let disk = Disk::create(&self.directory, &kept).map_err(|error| self.broken(error, failures))?;
        tracing::info!(path = %path.display(), revision = kept.revision, "the registry's file takes writes again");
        Ok(disk)
    }

    fn broken(&self, error: redb::Error, failures: u32) -> Broken {
        if failures.is_multiple_of(SAY_AGAIN) {
            let path = self.directory.join(FILE);
            tracing::error!(path = %path.display(), %error, "the registry's file takes no writes; free or mend its disk");
        }
        Broken {
            retry_at: Instant::now() + RETRY_AFTER,
            error: StoreError::Unkept(Cause::new(error)),
            failures: failures + 1,
        }
    }
}

impl Drop for Writer {
    /// Whatever ends the thread, nobody waits for it in vain.
    fn drop(&mut self) {
        self.shared.queue.close();
        while self.shared.queue.take(None).is_some() {}
    }
}

/// Decides one write; whoever asked hears of it once it is kept, or that it is not.
fn answer(write: Write, staged: &mut Staged<'_>) -> Answer {
    // Who no longer listens does not want to know.
    match write {
        Write::Commit(transaction, reply) => {
            let decided = staged.commit(transaction);
            Box::new(move |kept| drop(reply.send(kept.and(decided))))
        }
        Write::Grant(ttl, reply) => {
            let decided = staged.grant(ttl);
            Box::new(move |kept| drop(reply.send(kept.and(decided))))
        }
        Write::Revoke(lease, reply) => {
            staged.end(lease);
            Box::new(move |kept| drop(reply.send(kept)))
        }
        // Not among those that are written.
        Write::Lend(reply) | Write::TakeBack(reply) => Box::new(move |kept| drop(reply.send(kept))),
    }
}
