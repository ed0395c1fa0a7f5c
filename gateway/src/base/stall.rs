//! Slow-reader detection: a response whose reader takes nothing for 2 s is aborted, for its unread bytes pin the shared
//! window of its tunnel. What was sent to one waits in the receive window of its tunnel, which all exchanges of
//! the tunnel share: a few dozen of them would stop everybody else. Nobody else notices: a body that nobody polls
//! cannot end itself.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A reader that took nothing for this long has stalled.
const STALLED_AFTER: Duration = Duration::from_secs(2);
/// Stalled readers of a worker that are borne with until their idle time is over; with more, the longest stalled are
/// given up. Each holds at most the window of a stream, and a tunnel has room for 64 of those.
const STALLED_MAX: usize = 48;

/// The readers of one worker.
#[derive(Debug, Default)]
pub struct Stalls {
    readers: RefCell<Vec<Weak<Reader>>>,
}

/// Someone who takes a body piece by piece.
#[derive(Debug)]
pub struct Reader {
    /// When it last took a piece and has not asked for another since; `None` while it waits for one.
    holds_since: Cell<Option<Instant>>,
    idle: Duration,
    give_up: CancellationToken,
}

impl Reader {
    /// It took a piece of the body.
    pub fn took(&self) {
        self.holds_since.set(Some(Instant::now()));
    }

    /// It asks for more, and there is nothing yet: whoever is slow, it is not this reader.
    pub fn waits(&self) {
        self.holds_since.set(None);
    }

    fn stalled(&self, now: Instant) -> Option<Duration> {
        let held = now.saturating_duration_since(self.holds_since.get()?);
        (held >= STALLED_AFTER).then_some(held)
    }
}

impl Stalls {
    /// Watches a reader for as long as the result is held; `give_up` is cancelled when it has stalled for `idle`, or
    /// earlier if there are too many.
    pub fn watch(&self, idle: Duration, give_up: CancellationToken) -> Rc<Reader> {
        let reader = Rc::new(Reader { holds_since: Cell::new(None), idle, give_up });
        self.readers.borrow_mut().push(Rc::downgrade(&reader));
        reader
    }

    /// Gives up on readers; call it about every second. Says on how many.
    pub fn sweep(&self, now: Instant) -> usize {
        let mut readers = self.readers.borrow_mut();
        readers.retain(|reader| reader.strong_count() > 0);
        let mut stalled: Vec<(Duration, Rc<Reader>)> =
            readers.iter().filter_map(Weak::upgrade).filter_map(|r| Some((r.stalled(now)?, r))).collect();
        stalled.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        let excess = stalled.len().saturating_sub(STALLED_MAX);
        let over = |&(place, (held, reader)): &(usize, &(Duration, Rc<Reader>))| {
            place < excess || *held >= reader.idle
        };
        stalled.iter().enumerate().filter(over).map(|(_, (_, reader))| reader.give_up.cancel()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn readers(stalls: &Stalls, count: usize) -> Vec<(Rc<Reader>, CancellationToken)> {
        let one = |_| {
            let token = CancellationToken::new();
            (stalls.watch(IDLE, token.clone()), token)
        };
        (0..count).map(one).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_for_its_idle_time_is_given_up() {
        let stalls = Stalls::default();
        let all = readers(&stalls, 2);
        all[0].0.took();
        tokio::time::advance(IDLE - Duration::from_millis(1)).await;
        assert_eq!(stalls.sweep(Instant::now()), 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(stalls.sweep(Instant::now()), 1);
        assert!(all[0].1.is_cancelled());
        assert!(!all[1].1.is_cancelled(), "it waits for the other side");
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_longest_stalled_go_first() {
        let stalls = Stalls::default();
        let all = readers(&stalls, STALLED_MAX + 3);
        for (reader, _) in &all {
            reader.took();
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        tokio::time::advance(STALLED_AFTER).await;
        assert_eq!(stalls.sweep(Instant::now()), 3);
        let gone: Vec<usize> = (0..all.len()).filter(|&i| all[i].1.is_cancelled()).collect();
        assert_eq!(gone, [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_on_or_is_gone_is_not_counted() {
        let stalls = Stalls::default();
        let mut all = readers(&stalls, STALLED_MAX + 2);
        all.iter().for_each(|(reader, _)| reader.took());
        tokio::time::advance(STALLED_AFTER).await;
        all[0].0.took();
        all[1].0.waits();
        assert_eq!(stalls.sweep(Instant::now()), 0);
        all.truncate(1);
        assert_eq!(stalls.readers.borrow().iter().filter(|r| r.strong_count() > 0).count(), 1);
    }
}
