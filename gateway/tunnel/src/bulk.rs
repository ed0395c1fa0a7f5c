//! What the streams of a tunnel that send much share: places, so that small exchanges find room beside them, and a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::limits::BULK_STREAMS_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a stream waits for a place before it goes on without one: of those that have one some may have nothing to
/// send.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// How long nobody waits again after one has waited in vain.
const VAIN: Duration = Duration::from_secs(10);
/// What a pause may be made up for at once.
const BURST: Duration = Duration::from_millis(10);

/// The bulk of one side of a tunnel.
#[derive(Debug)]
pub(crate) struct Bulk {
    places: Arc<Semaphore>,
    began: Instant,
    /// All times are nanoseconds since it began. Until when nobody waits for a place.
    in_vain_until: AtomicU64,
    /// Bits per second; zero: no limit.
    rate_max: AtomicU64,
    /// When what was sent so far has left at that rate.
    sent_at: AtomicU64,
}

impl Default for Bulk {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(BULK_STREAMS_MAX)),
            began: Instant::now(),
            in_vain_until: AtomicU64::new(0),
            rate_max: AtomicU64::new(0),
            sent_at: AtomicU64::new(0),
        }
    }
}

impl Bulk {
    /// A place; none: there was none to be had in time.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Some(place);
        }
        if self.now() < self.in_vain_until.load(Ordering::Relaxed) {
            return None;
        }
        let place = tokio::time::timeout(PLACE_WAIT, self.places.clone().acquire_owned()).await;
        if place.is_err() {
            self.in_vain_until.store(self.now() + nanoseconds(VAIN), Ordering::Relaxed);
        }
        place.ok().and_then(Result::ok)
    }

    pub(crate) fn set_rate_max(&self, bits: Option<u64>) {
        self.rate_max.store(bits.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn rate_max(&self) -> Option<u64> {
        Some(self.rate_max.load(Ordering::Relaxed)).filter(|bits| *bits > 0)
    }

    /// Waits until `bytes` more may be sent.
    pub(crate) async fn pace(&self, bytes: usize) {
        let Some(bits) = self.rate_max() else { return };
        let now = self.now();
        let takes = (bytes as f64 * 8.0 / bits as f64 * 1e9) as u64;
        let mut begins = now;
        let book = |sent_at: u64| {
            begins = sent_at.max(now.saturating_sub(nanoseconds(BURST)));
            Some(begins.saturating_add(takes))
        };
        // It never says no.
        let _ = self.sent_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, book);
        if begins > now {
            tokio::time::sleep_until(self.began + Duration::from_nanos(begins)).await;
        }
    }

    fn now(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_place_waits_once_and_others_do_not() {
        let bulk = Bulk::default();
        let mut held = Vec::new();
        for _ in 0..BULK_STREAMS_MAX {
            held.push(bulk.place().await);
        }
        assert!(held.iter().all(Option::is_some));
        let began = Instant::now();
        assert!(bulk.place().await.is_none());
        assert_eq!(began.elapsed(), PLACE_WAIT);
        for _ in 0..10 {
            assert!(bulk.place().await.is_none());
        }
        assert_eq!(began.elapsed(), PLACE_WAIT, "all that have a place may have nothing to send");
        held.pop();
        assert!(bulk.place().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_for_all_together() {
        let bulk = Bulk::default();
        bulk.pace(usize::MAX).await;
        bulk.set_rate_max(Some(8_000_000));
        let began = Instant::now();
        let one = async {
            for _ in 0..50 {
                bulk.pace(10_000).await
            }
        };
        let other = async {
            for _ in 0..50 {
                bulk.pace(10_000).await
            }
        };
        tokio::join!(one, other);
        let took = began.elapsed();
        assert!((Duration::from_millis(970)..Duration::from_millis(1010)).contains(&took), "{took:?}");
        // A pause is not saved up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        for _ in 0..100 {
            bulk.pace(10_000).await;
        }
        assert!(began.elapsed() >= Duration::from_millis(970), "{:?}", began.elapsed());
    }
}
