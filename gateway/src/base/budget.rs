//! The process-wide budget of bytes held for requests and answers: what is kept of request bodies for another attempt,
//! and answers collected before they are forwarded. When it is spent, bodies are not kept (their requests lose their
//! replays) and answers are streamed at once: slower to forgive, never out of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be held by all reservations together.
pub const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A bounded number of bytes, shared by all workers.
#[derive(Debug)]
pub struct ByteBudget {
    left: AtomicUsize,
}

impl ByteBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    /// A reservation of nothing yet.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: self.clone(), held: 0 }
    }
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<ByteBudget>,
    held: usize,
}

impl Reservation {
    /// Takes `bytes` more, or none and says so.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let taken = self
            .budget
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_ok() {
            self.held += bytes;
        }
        taken.is_ok()
    }

    /// Gives so many of them back.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        self.held -= bytes;
        self.budget.left.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        self.budget.left.fetch_add(std::mem::take(&mut self.held), Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_says_no_and_what_is_given_back_can_be_taken_again() {
        let budget = ByteBudget::new(10);
        let mut a = budget.reservation();
        let mut b = budget.reservation();
        assert!(a.grow(6));
        assert!(!b.grow(5));
        assert!(b.grow(4));
        drop(a);
        assert!(b.grow(6));
        assert!(!b.grow(1));
    }
}
