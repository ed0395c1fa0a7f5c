//! The time as decisions take it: microseconds since the process started; and when an exchange last moved.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::base::time::Tick;
use tokio::time::Instant;

/// The system's clock, in Unix milliseconds: for people, and to begin with.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that starts when it is made; virtual where the runtime's time is.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    started_unix_ms: u64,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { start: Instant::now(), started_unix_ms: unix_ms() }
    }

    /// When it was zero.
    pub fn epoch(&self) -> std::time::Instant {
        self.start.into_std()
    }

    /// The Unix milliseconds of that moment by the system's clock.
    pub fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    /// Unix milliseconds of now, if the system's clock was right at the start: it goes on evenly whatever is done to
    /// that clock since, so that nothing grows old by a correction of the time.
    pub fn unix_ms(&self) -> u64 {
        self.started_unix_ms.saturating_add(self.now().micros() / 1000)
    }

    /// The point in time that it shows.
    pub fn now(&self) -> Tick {
        Tick::at(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// When something last moved in an exchange, in either direction, and how much has come of what its caller sends.
#[derive(Clone, Debug)]
pub struct Activity(Rc<Moved>);

#[derive(Debug)]
struct Moved {
    last: Cell<Instant>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl Activity {
    /// Starts now.
    pub fn new(now: Instant) -> Self {
        Self(Rc::new(Moved { last: Cell::new(now), received: Cell::new(0), sent: Cell::new(0) }))
    }

    /// Something moved.
    pub fn touch(&self) {
        self.0.last.set(Instant::now());
    }

    /// So many bytes came of what the caller sends.
    pub fn receive(&self, bytes: usize) {
        self.0.received.set(self.0.received.get() + bytes as u64);
        self.touch();
    }

    /// So many bytes went to the caller.
    pub fn send(&self, bytes: usize) {
        self.0.sent.set(self.0.sent.get() + bytes as u64);
        self.touch();
    }

    /// How many went to it by [`Activity::send`].
    pub fn sent(&self) -> u64 {
        self.0.sent.get()
    }

    /// How many have come.
    pub fn received(&self) -> u64 {
        self.0.received.get()
    }

    /// Ends when nothing has moved for `idle`.
    pub async fn silent(&self, idle: std::time::Duration) {
        while self.last() + idle > Instant::now() {
            tokio::time::sleep_until(self.last() + idle).await;
        }
    }

    /// When it did.
    pub fn last(&self) -> Instant {
        self.0.last.get()
    }
}

/// A duration in words, to its largest unit.
pub fn span(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_words() {
        let shown = [1, 119, 120, 7200, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(shown, ["1 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
