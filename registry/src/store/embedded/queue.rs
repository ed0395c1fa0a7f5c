//! The writes that wait for the disk: a bounded queue, taken whole.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::{LeaseId, Outcome, StoreError, TRANSACTION_BYTES_MAX, Transaction};

/// Writes that may wait: what a disk of 10 ms per commit answers well within a second, as they go together.
const WAITING_MAX: usize = 1024;

/// Bytes of keys and values that may wait, and so go into one commit.
const WAITING_BYTES_MAX: usize = 8 * TRANSACTION_BYTES_MAX;

/// Where a writer waits for what became of its write.
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A write, checked against its limits.
#[derive(Debug)]
pub(super) enum Write {
    Commit(Transaction, Reply<Outcome>),
    Grant(Duration, Reply<LeaseId>),
    Revoke(LeaseId, Reply<()>),
    /// Once what came before is kept, the file is to be free for another process.
    Lend(Reply<()>),
    /// It is to be read and written again.
    TakeBack(Reply<()>),
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Commit(transaction, _) => transaction.bytes(),
            Self::Grant(..) | Self::Revoke(..) | Self::Lend(_) | Self::TakeBack(_) => 0,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Something waits, or the queue was closed.
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    writes: VecDeque<Write>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// Puts a write at the end.
    ///
    /// # Errors
    /// [`StoreError::Busy`] or [`StoreError::Closed`]: it was not put there.
    pub(super) fn push(&self, write: Write) -> Result<(), StoreError> {
        let bytes = write.bytes();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        if waiting.writes.len() >= WAITING_MAX || waiting.bytes + bytes > WAITING_BYTES_MAX {
            return Err(StoreError::Busy);
        }
        waiting.bytes += bytes;
        waiting.writes.push_back(write);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes everything that waits as soon as there is something, or at `until`; none: closed, and all was taken.
    pub(super) fn take(&self, until: Option<Instant>) -> Option<VecDeque<Write>> {
        let mut waiting = self.waiting();
        while waiting.writes.is_empty() && !waiting.closed {
            waiting = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    self.filled.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if waiting.closed && waiting.writes.is_empty() {
            return None;
        }
        waiting.bytes = 0;
        Some(std::mem::take(&mut waiting.writes))
    }

    /// Takes nothing more in.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.filled.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under the lock panics; if it did, what waits could still be answered.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::{Op, VALUE_BYTES_MAX};

    fn revoke() -> Write {
        Write::Revoke(LeaseId(1), oneshot::channel().0)
    }

    fn large() -> Write {
        let put = Op::Put { key: "/a".into(), value: vec![0; VALUE_BYTES_MAX].into(), lease: None };
        Write::Commit(Transaction { expect: Vec::new(), ops: vec![put] }, oneshot::channel().0)
    }

    #[test]
    fn a_full_queue_says_so_and_takes_again_once_it_was_taken() {
        let queue = Queue::default();
        for _ in 0..WAITING_MAX {
            queue.push(revoke()).unwrap();
        }
        assert_eq!(queue.push(revoke()), Err(StoreError::Busy));
        assert_eq!(queue.take(None).unwrap().len(), WAITING_MAX);
        queue.push(revoke()).unwrap();
    }

    #[test]
    fn large_writes_fill_it_sooner() {
        let queue = Queue::default();
        let taken = (0..WAITING_MAX).take_while(|_| queue.push(large()).is_ok()).count();
        assert_eq!(taken, WAITING_BYTES_MAX / (VALUE_BYTES_MAX + "/a".len()));
        assert_eq!(queue.push(large()), Err(StoreError::Busy));
        queue.push(revoke()).unwrap();
        queue.take(None).unwrap();
        queue.push(large()).unwrap();
    }

    #[test]
    fn a_closed_queue_gives_what_it_has_and_then_ends() {
        let queue = Queue::default();
        queue.push(revoke()).unwrap();
        queue.close();
        assert_eq!(queue.push(revoke()), Err(StoreError::Closed));
        assert_eq!(queue.take(None).unwrap().len(), 1);
        assert!(queue.take(None).is_none());
    }

    #[test]
    fn an_empty_queue_waits_no_longer_than_told() {
        assert!(Queue::default().take(Some(Instant::now())).unwrap().is_empty());
    }
}
