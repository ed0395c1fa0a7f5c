//! Places for connections that nobody vouches for yet, shared by all threads of the process.
//!
//! [`Slots`] decides who gets one and who gives one up; here is who waits, and who is told. Requests do not come by.

mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use slots::{Limits, Source};

use slots::{Entry, Slots, Ticket};

/// The places of one port.
#[derive(Debug)]
pub struct Places {
    /// Short sections without await.
    taken: Mutex<Taken>,
    /// Told when one becomes free.
    freed: Notify,
}

#[derive(Debug)]
struct Taken {
    slots: Slots,
    /// Cancelled when one has to give its place up.
    told: HashMap<Ticket, CancellationToken>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    ticket: Ticket,
    gives_way: CancellationToken,
}

impl Places {
    /// All free.
    pub fn new(limits: Limits) -> Arc<Self> {
        let taken = Taken { slots: Slots::new(limits), told: HashMap::new() };
        Arc::new(Self { taken: Mutex::new(taken), freed: Notify::new() })
    }

    /// A place for a connection of `source`; waits for one while all are taken by such as make progress. `None`: its source
    /// has as many as one may have. Cancel safe.
    pub async fn enter(self: &Arc<Self>, source: Source) -> Option<Place> {
        loop {
            // Registered before the look, so that no place is missed between the two.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let entered = self.lock().enter(source, Instant::now());
            match entered {
                Ok((ticket, gives_way)) => {
                    return Some(Place { places: self.clone(), ticket, gives_way });
                }
                Err(Entry::Full(until)) => {
                    tokio::select! {
                        () = freed => {}
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().slots.taken()
    }

    /// How many of them by `source`.
    pub fn taken_of(&self, source: Source) -> usize {
        self.lock().slots.taken_of(source)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Whoever panicked left both maps whole: each change is one call.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// A place, with the token of who has it; whoever loses its own for that is told.
    fn enter(&mut self, source: Source, now: Instant) -> Result<(Ticket, CancellationToken), Entry> {
        match self.slots.enter(source, now) {
            Entry::Taken(ticket, loser) => {
                if let Some(told) = loser.and_then(|ticket| self.told.remove(&ticket)) {
                    told.cancel();
                }
                let gives_way = CancellationToken::new();
                self.told.insert(ticket, gives_way.clone());
                Ok((ticket, gives_way))
            }
            full @ (Entry::SourceFull | Entry::Full(_)) => Err(full),
        }
    }
}

impl Place {
    /// Who has it has said something: what comes next is up to us.
    pub fn heard(&self) {
        self.places.lock().slots.set_heard(self.ticket, true);
    }

    /// What comes next is up to who has it, as it is at first.
    pub fn waits(&self) {
        self.places.lock().slots.set_heard(self.ticket, false);
    }

    /// Waits until it must be given up.
    pub async fn gives_way(&self) {
        self.gives_way.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.told.remove(&self.ticket);
        let had_it = taken.slots.leave(self.ticket);
        drop(taken);
        if had_it {
            // All who wait: a place that only one of them could take must not be lost with it.
            self.places.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn source(n: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, n))
    }

    #[tokio::test]
    async fn whoever_gives_way_is_told_and_whoever_waits_comes_next() {
        let places = Places::new(Limits { all: 2, each: 1, grace: Duration::from_secs(3600) });
        let silent = places.enter(source(1)).await.unwrap();
        let heard = places.enter(source(2)).await.unwrap();
        heard.heard();
        let third = places.enter(source(3)).await.unwrap();
        silent.gives_way().await;
        drop(silent);
        assert_eq!(places.taken(), 2, "what gave way has nothing to give back");
        third.heard();
        assert!(places.enter(source(2)).await.is_none(), "one each");
        let mut waits = std::pin::pin!(places.enter(source(4)));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await
        );
        drop(heard);
        let fourth = waits.await.unwrap();
        assert_eq!((places.taken(), places.taken_of(source(4))), (2, 1));
        drop((third, fourth));
        assert_eq!(places.taken(), 0);
        assert!(places.lock().told.is_empty());
    }
}
