//! Timers of idle connections: coarse, and free until they are due. One sweep a second looks at all of them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// The timers of one thread.
#[derive(Debug, Default)]
pub struct Timers {
    all: RefCell<Vec<Weak<State>>>,
}

/// A timer, due when [`Timers::sweep`] is called at or after its time.
#[derive(Debug)]
pub struct Timer(Rc<State>);

#[derive(Debug, Default)]
struct State {
    due: Cell<Option<Instant>>,
    /// When it was set.
    since: Cell<Option<Instant>>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Timers {
    /// A timer that is not set.
    pub fn timer(&self) -> Timer {
        let state = Rc::<State>::default();
        self.all.borrow_mut().push(Rc::downgrade(&state));
        Timer(state)
    }

    /// Wakes those that are due. To be called about every second.
    pub fn sweep(&self, now: Instant) {
        self.all.borrow_mut().retain(|timer| {
            let Some(timer) = timer.upgrade() else { return false };
            if timer.due.get().is_some_and(|due| due <= now) {
                timer.expire();
            }
            true
        });
    }
}

impl Timers {
    /// Makes the one due that has been set for longest, since its room is needed; false: none is set.
    pub fn expire_oldest(&self) -> bool {
        let all = self.all.borrow();
        let set = all.iter().filter_map(Weak::upgrade).filter(|timer| timer.due.get().is_some());
        let Some(oldest) = set.min_by_key(|timer| timer.since.get()) else { return false };
        oldest.expire();
        true
    }
}

impl State {
    fn expire(&self) {
        self.due.set(None);
        self.expired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Timer {
    /// Sets it anew.
    pub fn set(&self, wait: Duration) {
        self.0.expired.set(false);
        let now = Instant::now();
        self.0.since.set(Some(now));
        self.0.due.set(Some(now + wait));
    }

    /// Never due, until it is set again.
    pub fn clear(&self) {
        self.0.due.set(None);
        self.0.expired.set(false);
    }

    /// Ready once it is due.
    pub fn poll_due(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.expired.get() {
            return Poll::Ready(());
        }
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_due_with_the_sweep_after_its_time_and_a_cleared_one_never() {
        let timers = Timers::default();
        let (one, other) = (timers.timer(), timers.timer());
        one.set(Duration::from_secs(3));
        other.set(Duration::from_secs(3));
        other.clear();
        let mut due = std::pin::pin!(poll_fn(|cx| one.poll_due(cx)));
        for second in 0..3 {
            timers.sweep(Instant::now());
            assert!(futures_now(due.as_mut()).is_pending(), "{second}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        timers.sweep(Instant::now());
        assert!(futures_now(due.as_mut()).is_ready());
        assert!(futures_now(std::pin::pin!(poll_fn(|cx| other.poll_due(cx)))).is_pending());
        // The one that waits for longest, whichever is due first.
        one.set(Duration::from_secs(9));
        tokio::time::advance(Duration::from_secs(1)).await;
        other.set(Duration::from_secs(5));
        assert!(timers.expire_oldest());
        assert!(futures_now(std::pin::pin!(poll_fn(|cx| one.poll_due(cx)))).is_ready());
        assert!(futures_now(std::pin::pin!(poll_fn(|cx| other.poll_due(cx)))).is_pending());
        other.clear();
        assert!(!timers.expire_oldest(), "none is set");
        drop(other);
        timers.sweep(Instant::now());
        assert_eq!(timers.all.borrow().len(), 1);
    }

    fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }
}
