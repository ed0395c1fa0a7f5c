//! How fast what peers cause is written to a store: pure pacing, with time as a parameter.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use proto::limits;

use crate::base::rate::{Bucket, Rate};
use crate::model::{ClusterName, ObjectName, ServiceName};

/// The records of one peer are written at most so often: what changes meanwhile goes with the next, and so does the word
/// of how fresh they are.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// What was written lately, whoever held the office.
#[derive(Debug)]
pub struct Paces {
    peers: BTreeMap<ClusterName, Pace<ServiceName>>,
    pub(super) statuses: Pace<ObjectName>,
}

/// What was written lately of one kind.
#[derive(Debug)]
pub(super) struct Pace<K> {
    flush: Bucket,
    writes: Bucket,
    bytes: Bucket,
    each: Rate,
    /// Of those that may not be written as if they never had been.
    keys: HashMap<K, Bucket>,
    sweep_at: Option<Instant>,
}

impl Default for Paces {
    fn default() -> Self {
        let each = Rate::every(limits::STATUS_WRITES_BURST, limits::STATUS_WRITE_EVERY);
        Self { peers: BTreeMap::new(), statuses: Pace::new(each) }
    }
}

impl Paces {
    /// The pace of a peer.
    pub(super) fn of(&mut self, peer: &ClusterName) -> &mut Pace<ServiceName> {
        let pace = || Pace::new(Rate::every(1, limits::RECORD_WRITE_EVERY));
        self.peers.entry(peer.clone()).or_insert_with(pace)
    }

    /// Forgets every peer that is not `linked`.
    pub(super) fn retain(&mut self, linked: impl Fn(&ClusterName) -> bool) {
        self.peers.retain(|peer, _| linked(peer));
    }
}

impl<K: Eq + Hash> Pace<K> {
    fn new(each: Rate) -> Self {
        let bytes = u32::try_from(limits::PEER_BYTES_MAX).unwrap_or(u32::MAX);
        Self {
            flush: Bucket::new(Rate::every(1, FLUSH_EVERY)),
            writes: Bucket::new(Rate::per_second(limits::PEER_WRITES_BURST, limits::PEER_WRITES_PER_SECOND)),
            bytes: Bucket::new(Rate::per_second(bytes, limits::PEER_WRITE_BYTES_PER_SECOND)),
            each,
            keys: HashMap::new(),
            sweep_at: None,
        }
    }

    /// How long to wait until anything may be written.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.flush.wait(1, now)
    }

    /// How long to wait until this one may be.
    pub(super) fn wait_for<Q: Eq + Hash + ?Sized>(&self, key: &Q, now: Instant) -> Duration
    where
        K: Borrow<Q>,
    {
        let of_key = self.keys.get(key).map_or(Duration::ZERO, |bucket| bucket.wait(1, now));
        of_key.max(self.writes.wait(1, now))
    }

    /// Counts a write of so many bytes.
    ///
    /// # Errors
    /// How long to wait until it may be made; nothing was counted.
    pub(super) fn take(&mut self, key: K, bytes: usize, now: Instant) -> Result<(), Duration> {
        let wait = self.wait_for(&key, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.bytes.take(bytes, now)?;
        // Neither has to wait.
        let _ = self.writes.take(1, now);
        let _ = self.keys.entry(key).or_insert_with(|| Bucket::new(self.each)).take(1, now);
        Ok(())
    }

    /// Everything that was counted at `now` goes out together, and what must wait is not looked for again at once.
    pub(super) fn flushed(&mut self, now: Instant) {
        let _ = self.flush.take(1, now);
        if self.sweep_at.is_none_or(|at| now >= at) {
            self.keys.retain(|_, bucket| !bucket.is_full(now));
            self.sweep_at = Some(now + limits::RECORD_WRITE_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn pace() -> Pace<u32> {
        Pace::new(Rate::every(1, limits::RECORD_WRITE_EVERY))
    }

    #[test]
    fn one_record_is_written_once_in_ten_seconds_and_others_are_not_held_up() {
        let (mut pace, start) = (pace(), Instant::now());
        pace.take(1, 100, start).unwrap();
        assert_eq!(pace.take(1, 100, start), Err(limits::RECORD_WRITE_EVERY));
        pace.take(2, 100, start).unwrap();
        let later = start + limits::RECORD_WRITE_EVERY;
        pace.take(1, 100, later).unwrap();
        pace.flushed(later);
        assert_eq!(pace.keys.len(), 1, "what may be written again is not remembered");
        assert_eq!(pace.wait(later), FLUSH_EVERY);
    }

    #[test]
    fn whoever_changes_all_the_time_writes_no_more_than_the_budget_says() {
        let (mut pace, start) = (pace(), Instant::now());
        let (mut writes, mut bytes) = (0_usize, 0_usize);
        let seconds = 600;
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            for key in 0..40 {
                if pace.take(key, limits::RECORD_BYTES_MAX, now).is_ok() {
                    writes += 1;
                    bytes += limits::RECORD_BYTES_MAX;
                }
            }
            for key in 1_000..60_000 {
                writes += usize::from(pace.take(key, 1, now).is_ok());
            }
            pace.flushed(now);
        }
        let seconds = seconds as usize;
        let most = limits::PEER_WRITES_BURST as usize + seconds * limits::PEER_WRITES_PER_SECOND as usize;
        assert!(writes <= most, "{writes} writes");
        let most = limits::PEER_BYTES_MAX + seconds * limits::PEER_WRITE_BYTES_PER_SECOND as usize;
        assert!(bytes <= most, "{bytes} bytes");
        assert!(pace.keys.len() <= limits::PEER_WRITES_BURST as usize * 2, "{}", pace.keys.len());
    }
}
