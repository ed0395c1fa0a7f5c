//! How fast told places are dialled: of all clusters, of one, and each socket under whatever name or id it comes.
//!
//! What the Link names itself is never held up: it has its backoff, and there are few.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::limits;
use registry::base::rate::{Bucket, Rate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tunnel::Kind;

use super::dial::Pace;
use super::lock;

/// Bounds dials that are under way, and those that begin in a second.
#[derive(Debug)]
pub(super) struct Gate {
    under_way: Arc<Semaphore>,
    /// Short sections without await.
    begins: Mutex<Bucket>,
}

impl Gate {
    fn new(at_once: usize, rate: Rate) -> Self {
        Self { under_way: Arc::new(Semaphore::new(at_once)), begins: Mutex::new(Bucket::new(rate)) }
    }

    /// That of one cluster.
    pub(super) fn of_cluster() -> Self {
        let rate = Rate::per_second(limits::TOLD_DIALS_BURST, limits::TOLD_DIALS_PER_SECOND);
        Self::new(limits::TOLD_DIALS_MAX, rate)
    }

    /// That of all clusters.
    pub(super) fn of_all() -> Self {
        let rate = Rate::per_second(limits::TOLD_DIALS_IN_ALL_BURST, limits::TOLD_DIALS_IN_ALL_PER_SECOND);
        Self::new(limits::TOLD_DIALS_IN_ALL_MAX, rate)
    }

    /// Waits for a place among those under way; it is given back when it is dropped.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.under_way.clone().acquire_owned().await.ok()
    }

    /// Waits until another dial may begin.
    pub(super) async fn begin(&self) {
        loop {
            let taken = lock(&self.begins).take(1, now());
            match taken {
                Ok(()) => return,
                Err(wait) => sleep(wait).await,
            }
        }
    }
}

/// The moment, by the clock that tests stop.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A way to a socket: each is dialled by a task of its own.
pub(super) type Way = (Kind, u8, SocketAddr);

/// The backoff of every told socket of a cluster that was dialled lately.
#[derive(Debug, Default)]
pub(super) struct Sockets(BTreeMap<Way, Backoff>);

#[derive(Clone, Copy, Debug)]
struct Backoff {
    /// Not before then.
    next: Instant,
    /// The pause after the next failure.
    pause: Duration,
    dialled: Instant,
}

impl Sockets {
    /// Notes that `way` is dialled at `now`.
    ///
    /// # Errors
    /// How long to wait: it was dialled a moment ago, perhaps under another name.
    pub(super) fn begin(&mut self, way: Way, pace: Pace, now: Instant) -> Result<(), Duration> {
        let first = Backoff { next: now, pause: pace.first, dialled: now };
        let known = self.0.get(&way).copied().unwrap_or(first);
        if now < known.next {
            return Err(known.next - now);
        }
        if !self.0.contains_key(&way) && self.0.len() >= limits::TOLD_PACES_MAX {
            self.forget(now);
        }
        let pause = (known.pause * 2).min(pace.longest);
        self.0.insert(way, Backoff { next: now + known.pause, pause, dialled: now });
        Ok(())
    }

    /// The tunnel came up: after its end it is dialled as at first.
    pub(super) fn worked(&mut self, way: &Way, pace: Pace) {
        if let Some(backoff) = self.0.get_mut(way) {
            (backoff.next, backoff.pause) = (backoff.dialled + pace.first, pace.first);
        }
    }

    /// Makes room: for what is old, else for the one that was dialled longest ago.
    fn forget(&mut self, now: Instant) {
        let kept = |backoff: &Backoff| now.duration_since(backoff.dialled) < limits::TOLD_PACE_KEPT;
        self.0.retain(|_, backoff| kept(backoff));
        if self.0.len() >= limits::TOLD_PACES_MAX
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, backoff)| backoff.dialled).map(|(way, _)| *way)
        {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PACE: Pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

    fn way(n: u32) -> Way {
        (Kind::Quic, 0, SocketAddr::from((n.to_be_bytes(), 443)))
    }

    #[test]
    fn a_socket_keeps_its_pace_whoever_names_it() {
        let (mut sockets, start) = (Sockets::default(), Instant::now());
        let (mut dials, mut now) = (0, start);
        // As if a new id came with it each 10 ms.
        while now < start + Duration::from_secs(60) {
            dials += u32::from(sockets.begin(way(1), PACE, now).is_ok());
            now += Duration::from_millis(10);
        }
        // After 0.1, 0.2, 0.4, ... 3.2 s, then each 5 s.
        assert_eq!(dials, 17);
        assert_eq!(sockets.begin(way(2), PACE, now), Ok(()), "others are not held up");
        // One that worked is dialled as at first.
        let at = start + Duration::from_secs(100);
        sockets.begin(way(1), PACE, at).unwrap();
        sockets.worked(&way(1), PACE);
        assert_eq!(sockets.begin(way(1), PACE, at), Err(PACE.first));
        assert_eq!(sockets.begin(way(1), PACE, at + PACE.first), Ok(()));
    }

    #[test]
    fn endless_sockets_take_bounded_room() {
        let (mut sockets, start) = (Sockets::default(), Instant::now());
        for n in 0..10_000 {
            sockets.begin(way(n), PACE, start + Duration::from_millis(n.into())).unwrap();
            assert!(sockets.0.len() <= limits::TOLD_PACES_MAX);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dials_of_told_places_are_bounded_at_once_and_in_a_second() {
        let gate = Arc::new(Gate::of_cluster());
        let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for _ in 0..10_000 {
            let (gate, begun) = (gate.clone(), begun.clone());
            tokio::spawn(async move {
                let _place = gate.enter().await;
                gate.begin().await;
                begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // Nobody answers.
                sleep(Duration::from_millis(100)).await;
            });
        }
        let mut before = 0;
        for second in 1..=60 {
            sleep(Duration::from_secs(1)).await;
            let all = begun.load(std::sync::atomic::Ordering::Relaxed);
            let most = (limits::TOLD_DIALS_BURST + limits::TOLD_DIALS_PER_SECOND * second) as usize;
            assert!(all <= most, "{all} in {second} s");
            assert!(all > before, "they go on");
            before = all;
        }
        let hung = Gate::of_cluster();
        let places: Vec<_> = (0..limits::TOLD_DIALS_MAX)
            .map(|_| hung.under_way.clone().try_acquire_owned().unwrap())
            .collect();
        assert!(hung.under_way.try_acquire().is_err());
        drop(places);
    }
}
