//! How long an endpoint takes to answer, as the next request should expect it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use registry::base::time::{AtomicTick, Tick};

/// The time in which the weight of a sample falls to 1/e, in microseconds.
const DECAY_MICROS: f64 = 10_000_000.0;

/// The weight of one answer in what answers usually take.
const ANSWER_WEIGHT: f64 = 0.125;

/// A peak EWMA. Of two samples that end at the same instant one may be lost, which an average does not notice.
#[derive(Debug, Default)]
pub(super) struct Latency {
    /// In microseconds, as the bits of an `f64`; zero: never measured.
    mean: AtomicU64,
    /// When `mean` was true.
    measured_at: AtomicTick,
    /// What answers took, without those that never came; in microseconds, as the bits of an `f64`; zero: never measured.
    answers: AtomicU64,
}

impl Latency {
    /// In microseconds: the last peak, fading towards later samples, and towards nothing while there are none, so that
    /// an endpoint with a bad past is tried again. `None`: never measured.
    pub(super) fn expected(&self, now: Tick) -> Option<f64> {
        let mean = f64::from_bits(self.mean.load(Relaxed));
        (mean > 0.0).then(|| mean * self.faded(now))
    }

    /// What is slower than expected counts at once, what is faster by and by.
    pub(super) fn observe(&self, sample: f64, now: Tick) {
        let sample = sample.max(1.0);
        let old = f64::from_bits(self.mean.load(Relaxed));
        let faded = self.faded(now);
        let mean = if sample >= old { sample } else { old * faded + sample * (1.0 - faded) };
        self.mean.store(mean.to_bits(), Relaxed);
        self.measured_at.store(now);
    }

    /// What an answer usually takes, in microseconds; zero: there was none.
    pub(super) fn usual(&self) -> f64 {
        f64::from_bits(self.answers.load(Relaxed))
    }

    /// An answer came after so long.
    pub(super) fn answered(&self, sample: f64) {
        let old = self.usual();
        let mean = if old == 0.0 { sample.max(1.0) } else { old + (sample - old) * ANSWER_WEIGHT };
        self.answers.store(mean.to_bits(), Relaxed);
    }

    /// As if never measured.
    pub(super) fn forget(&self) {
        self.mean.store(0, Relaxed);
    }

    /// What is left at `now` of a sample's weight.
    fn faded(&self, now: Tick) -> f64 {
        let age = now.since(self.measured_at.load());
        (-(age as f64) / DECAY_MICROS).exp()
    }
}
