//! Idle connections to endpoints, of one worker: the one used last is used next, so that the others can be closed.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use registry::model::HostPort;

/// An idle connection is closed after this long: below the 60 s at which servers commonly close theirs.
pub(super) const IDLE_WAIT: Duration = Duration::from_secs(50);
/// What cannot be sent twice takes only a connection that was idle for less: an endpoint that closes idle connections early
/// may be closing an older one at this moment.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Idle connections by endpoint address.
#[derive(Debug)]
pub(super) struct Idle<C> {
    lists: RefCell<HashMap<HostPort, VecDeque<(C, Instant)>>>,
    /// Kept per endpoint; more are closed.
    most: usize,
}

impl<C> Idle<C> {
    /// None yet, of which `most` are kept per endpoint.
    pub(super) fn new(most: usize) -> Self {
        Self { lists: RefCell::default(), most }
    }

    /// The `usable` connection that was used last. One that was idle for `most` or longer is closed: the new one that takes
    /// its place comes back.
    pub(super) fn take(&self, address: &HostPort, most: Duration, usable: impl Fn(&C) -> bool) -> Option<C> {
        let mut lists = self.lists.borrow_mut();
        let list = lists.get_mut(address)?;
        while let Some((last, since)) = list.pop_back() {
            if since.elapsed() >= most {
                return None;
            }
            if usable(&last) {
                return Some(last);
            }
        }
        None
    }

    /// It can be used again.
    pub(super) fn give_back(&self, address: &HostPort, connection: C) {
        let mut lists = self.lists.borrow_mut();
        let list = match lists.get_mut(address) {
            Some(list) => list,
            None => lists.entry(address.clone()).or_default(),
        };
        if list.len() < self.most {
            list.push_back((connection, Instant::now()));
        }
    }

    /// Closes what was idle for too long, and what is not `usable`.
    pub(super) fn sweep(&self, usable: impl Fn(&C) -> bool) {
        let now = Instant::now();
        self.lists.borrow_mut().retain(|_, list| {
            list.retain(|(connection, since)| now.duration_since(*since) < IDLE_WAIT && usable(connection));
            !list.is_empty()
        });
    }

    /// Closes all; whether there was any.
    pub(super) fn close(&self) -> bool {
        !std::mem::take(&mut *self.lists.borrow_mut()).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: fn(&u8) -> bool = |_| true;

    fn host(host: &str) -> HostPort {
        HostPort { host: host.into(), port: 1 }
    }

    #[test]
    fn the_last_is_taken_first_and_what_is_of_no_use_is_closed() {
        let (idle, at) = (Idle::new(3), host("a"));
        (1..=4).for_each(|n| idle.give_back(&at, n));
        assert_eq!(idle.take(&at, IDLE_WAIT, |n| *n != 3), Some(2), "there is no room for the fourth");
        assert_eq!(idle.take(&at, IDLE_WAIT, ANY), Some(1));
        assert_eq!(idle.take(&at, IDLE_WAIT, ANY), None);
        assert_eq!(idle.take(&host("b"), IDLE_WAIT, ANY), None);
    }

    #[test]
    fn one_that_is_too_old_is_closed_and_not_kept_beside_the_one_that_takes_its_place() {
        let (idle, at) = (Idle::new(3), host("a"));
        (1..=2).for_each(|n| idle.give_back(&at, n));
        assert_eq!(idle.take(&at, Duration::ZERO, ANY), None);
        assert_eq!(idle.take(&at, IDLE_WAIT, ANY), Some(1));
        idle.give_back(&at, 5);
        idle.sweep(|n| *n != 5);
        assert!(!idle.close());
    }
}
