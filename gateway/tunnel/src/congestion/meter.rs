//! What the owner of a tunnel says to its congestion control, and what that tells.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// How it is decided what may be in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Congestion {
    /// By what the path delivers and by its queue, and not by loss alone.
    #[default]
    Ringway,
    /// By loss (RFC 9438).
    Cubic,
    /// By loss (RFC 9002, section 7).
    NewReno,
    /// By what the path delivers (draft-cardwell-iccrg-bbr-congestion-control-00).
    Bbr,
}

impl Congestion {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ringway, Self::Cubic, Self::NewReno, Self::Bbr];

    /// The word in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ringway => "ringway",
            Self::Cubic => "cubic",
            Self::NewReno => "newreno",
            Self::Bbr => "bbr",
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Ringway => 0,
            Self::Cubic => 1,
            Self::NewReno => 2,
            Self::Bbr => 3,
        }
    }
}

/// How a tunnel may use its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shaping {
    /// What may be in flight.
    pub congestion: Congestion,
    /// Most bits per second; none: as many as the path takes.
    pub rate_max: Option<u64>,
}

/// What the congestion control of a tunnel has measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// How what may be in flight is decided.
    pub congestion: Congestion,
    /// Bits per second that the path was seen to carry; zero: not known.
    pub rate: u64,
    /// Bytes that may be in flight.
    pub window: u64,
    /// The share that was lost of what was sent in the last ten seconds.
    pub loss: f64,
    /// Whether small frames are sent twice.
    pub copying: bool,
}

/// Shared between a tunnel and its congestion control, which lives on the worker that owns it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    congestion: AtomicU8,
    rate: AtomicU64,
    window: AtomicU64,
    loss_ppm: AtomicU32,
    copying: AtomicBool,
    /// Whether the peer says that much is lost of what it sends.
    peer_loses: AtomicBool,
    /// Bytes of small frames that were written and have not left.
    marked: AtomicUsize,
}

impl Meter {
    pub(crate) fn set_congestion(&self, congestion: Congestion) {
        self.congestion.store(congestion.number(), Ordering::Relaxed);
    }

    pub(super) fn congestion(&self) -> Congestion {
        let number = self.congestion.load(Ordering::Relaxed);
        Congestion::ALL.into_iter().find(|congestion| congestion.number() == number).unwrap_or_default()
    }

    pub(super) fn tell(&self, rate: f64, window: u64, loss: f64, copying: bool) {
        self.rate.store((rate * 8.0) as u64, Ordering::Relaxed);
        self.window.store(window, Ordering::Relaxed);
        self.loss_ppm.store((loss * 1e6) as u32, Ordering::Relaxed);
        self.copying.store(copying, Ordering::Relaxed);
    }

    /// What is known of the path.
    pub(crate) fn path(&self) -> Path {
        Path {
            congestion: self.congestion(),
            rate: self.rate.load(Ordering::Relaxed),
            window: self.window.load(Ordering::Relaxed),
            loss: f64::from(self.loss_ppm.load(Ordering::Relaxed)) / 1e6,
            copying: self.copies(),
        }
    }

    /// What the peer finds of what it sends on the same path: it may send much more, and see by it what we cannot.
    pub(crate) fn heed(&self, peer_loses: bool) {
        self.peer_loses.store(peer_loses, Ordering::Relaxed);
    }

    /// The millionths that we lose, if they are worth copies; else zero. What the peer has said does not count: two that
    /// believe each other would never stop.
    pub(crate) fn own_loss(&self) -> u32 {
        let copying = self.copying.load(Ordering::Relaxed);
        if copying { self.loss_ppm.load(Ordering::Relaxed).max(1) } else { 0 }
    }

    fn copies(&self) -> bool {
        self.copying.load(Ordering::Relaxed) || self.peer_loses.load(Ordering::Relaxed)
    }

    /// A small frame is about to be written: what leaves next is worth a copy, if any is made.
    pub(crate) fn mark(&self, bytes: usize) {
        if self.copies() {
            self.marked.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What was marked since the last call.
    pub(super) fn take_marked(&self) -> usize {
        if self.marked.load(Ordering::Relaxed) == 0 { 0 } else { self.marked.swap(0, Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_them_can_be_chosen() {
        let meter = Meter::default();
        assert_eq!(meter.path().congestion, Congestion::Ringway);
        for congestion in Congestion::ALL {
            meter.set_congestion(congestion);
            assert_eq!((meter.congestion(), meter.path().congestion), (congestion, congestion));
        }
    }

    #[test]
    fn nothing_is_marked_while_no_copies_are_made() {
        let meter = Meter::default();
        meter.mark(100);
        assert_eq!(meter.take_marked(), 0);
        meter.tell(1e6, 1000, 0.01, true);
        meter.mark(100);
        meter.mark(50);
        assert_eq!((meter.take_marked(), meter.take_marked()), (150, 0));
        assert_eq!(meter.path().rate, 8_000_000);
    }

    #[test]
    fn what_the_peer_loses_is_heeded_and_not_said_back() {
        let meter = Meter::default();
        meter.heed(true);
        meter.mark(100);
        assert_eq!((meter.take_marked(), meter.path().copying, meter.own_loss()), (100, true, 0));
        meter.heed(false);
        meter.mark(100);
        assert_eq!((meter.take_marked(), meter.path().copying), (0, false));
        meter.tell(1e6, 1000, 0.01, true);
        assert_eq!(meter.own_loss(), 10_000);
        meter.tell(1e6, 1000, 0.0, true);
        assert_eq!(meter.own_loss(), 1, "copies are made still");
    }
}
