//! Exchanges that are not over: how many a tunnel has, and how the failures of one are to be read.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use proto::code::Code;
use tokio::sync::Notify;

use crate::bulk::Bulk;
use crate::error::TunnelError;

/// No GOAWAY yet.
const ALL: u64 = u64::MAX;

/// Those of one tunnel.
#[derive(Debug)]
pub(crate) struct Flights {
    /// That we opened.
    opened: AtomicUsize,
    /// Of the peer.
    accepted: AtomicUsize,
    /// One above the last stream of ours that the peer's GOAWAY accepts.
    taken: AtomicU64,
    /// What those that send much share.
    pub(crate) bulk: Bulk,
    /// Told when we open one while none is open.
    busy: OnceLock<Arc<Notify>>,
}

impl Default for Flights {
    fn default() -> Self {
        let (opened, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { opened, accepted, taken: AtomicU64::new(ALL), bulk: Bulk::default(), busy: OnceLock::new() }
    }
}

impl Flights {
    /// Those that we opened.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Those that the peer opened.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// `notify` is told whenever we open one while none is open. Only the first call counts.
    pub(crate) fn notify_when_busy(&self, notify: Arc<Notify>) {
        // A second call finds the cell set: the first owner keeps it.
        let _ = self.busy.set(notify);
    }

    /// The peer takes none of our streams from `index` on.
    pub(crate) fn end_at(&self, index: u64) {
        self.taken.fetch_min(index, Ordering::AcqRel);
    }

    /// Whether the peer has not said that it takes no more.
    pub(crate) fn peer_takes_all(&self) -> bool {
        self.taken.load(Ordering::Acquire) == ALL
    }

    fn peer_takes(&self, index: u64) -> bool {
        index < self.taken.load(Ordering::Acquire)
    }

    fn of(&self, ours: bool) -> &AtomicUsize {
        if ours { &self.opened } else { &self.accepted }
    }
}

/// Counts an exchange as long as something of it is held, and knows how its failures are to be read.
#[derive(Debug)]
pub(crate) struct Flight {
    /// `None` for streams that are not counted: control and sync streams last as long as the tunnel.
    among: Option<Arc<Flights>>,
    /// The tunnel, which lasts as long as one of its exchanges.
    _held: Option<Arc<dyn fmt::Debug + Send + Sync>>,
    index: u64,
    ours: bool,
    /// What was first said on our half: [`SAID_NOTHING`], [`SAID_DATA`], or the code that ended it.
    said: AtomicU32,
}

const SAID_NOTHING: u32 = 0;
const SAID_DATA: u32 = 1;

/// How an exchange that the peer opened was answered, for whoever counts them.
#[derive(Clone, Debug)]
pub struct Fate(Arc<Flight>);

/// What an exchange was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The beginning of an answer, at least.
    Data,
    /// A code, and nothing before it.
    Code(Code),
}

impl Fate {
    pub(crate) fn of(flight: &Arc<Flight>) -> Self {
        Self(flight.clone())
    }

    /// What it was answered with; none: nothing yet.
    pub fn answered(&self) -> Option<Answered> {
        match self.0.said.load(Ordering::Relaxed) {
            SAID_NOTHING => None,
            SAID_DATA => Some(Answered::Data),
            code => Some(Answered::Code(Code::from_wire(code.into()))),
        }
    }
}

impl Flight {
    /// The flight of a stream that lasts as long as the tunnel.
    pub(crate) fn uncounted() -> Arc<Self> {
        let said = AtomicU32::new(SAID_NOTHING);
        Arc::new(Self { among: None, _held: None, index: 0, ours: false, said })
    }

    /// The flight of a stream of `tunnel`, one more among its flights.
    pub(crate) fn begin(
        flights: &Arc<Flights>,
        tunnel: Arc<dyn fmt::Debug + Send + Sync>,
        index: u64,
        ours: bool,
    ) -> Arc<Self> {
        let first = flights.of(ours).fetch_add(1, Ordering::Relaxed) == 0;
        // Once it counts, and not before: whoever is told looks at once, and would find the tunnel idle.
        if first
            && ours
            && let Some(busy) = flights.busy.get()
        {
            busy.notify_one();
        }
        let (among, said) = (Some(flights.clone()), AtomicU32::new(SAID_NOTHING));
        Arc::new(Self { among, _held: Some(tunnel), index, ours, said })
    }

    /// What those that send much on its tunnel share; none: it is not counted.
    pub(crate) fn bulk(&self) -> Option<&Bulk> {
        self.among.as_deref().map(|flights| &flights.bulk)
    }

    /// Something was written on our half.
    pub(crate) fn say_data(&self) {
        self.said.store(SAID_DATA, Ordering::Relaxed);
    }

    /// Our half was ended with a code before anything was written on it.
    pub(crate) fn say_code(&self, code: Code) {
        self.said.store(code.to_wire(), Ordering::Relaxed);
    }

    /// A lost connection certifies that nothing was processed for a stream above the peer's GOAWAY.
    pub(crate) fn judge(&self, error: TunnelError) -> TunnelError {
        match (&error, &self.among) {
            (TunnelError::Lost(_), Some(flights)) if self.ours && !flights.peer_takes(self.index) => {
                TunnelError::Abandoned
            }
            _ => error,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(flights) = &self.among {
            flights.of(self.ours).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Wake, Waker};

    use super::*;

    /// Looks, when it is woken, how many are open.
    struct Looks(Arc<Flights>, AtomicUsize);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            self.1.store(self.0.opened(), Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_is_told_that_a_tunnel_is_busy_finds_it_so() {
        let flights = Arc::<Flights>::default();
        let notify = Arc::<Notify>::default();
        flights.notify_when_busy(notify.clone());
        let begin = |index, ours| Flight::begin(&flights, Arc::new(()), index, ours);
        let looks = Arc::new(Looks(flights.clone(), AtomicUsize::new(0)));
        let waker = Waker::from(looks.clone());
        for _ in 0..2 {
            let mut told = pin!(notify.notified());
            let mut context = Context::from_waker(&waker);
            assert!(told.as_mut().poll(&mut context).is_pending());
            let theirs = begin(0, false);
            assert!(told.as_mut().poll(&mut context).is_pending(), "what the peer opens it waits for itself");
            let first = begin(0, true);
            assert_eq!(looks.1.swap(0, Ordering::Relaxed), 1);
            assert!(told.as_mut().poll(&mut context).is_ready());
            let mut told = pin!(notify.notified());
            let second = begin(1, true);
            drop(first);
            assert!(told.as_mut().poll(&mut context).is_pending(), "it was busy before");
            drop((second, theirs));
        }
    }
}
