//! Ringway's own congestion control: as much in flight as the path holds, and a millisecond more.
//!
//! What a path holds is the largest rate at which it delivered lately times its smallest round-trip time, as in BBR
//! ("BBR: Congestion-Based Congestion Control", ACM Queue 14(5), 2016). Unlike there the window itself holds the rate
//! back, so that no queue is left for long; a loss alone is no sign of congestion, for on wide-area links it mostly is
//! none: only loss beside a queue, or so much of it that nothing else explains it; and a longer round trip is first
//! answered by sending less, for only that tells a longer path from a queue of our own.

use std::time::{Duration, Instant};

use super::delivery::{Deliveries, Sample};
use super::estimates::{LargestRate, SmallestRtt};

/// Datagrams that may be in flight whatever is known, but for congestion: an answer of 64 KiB leaves at once. On a narrow
/// path that is a queue of its own.
const WINDOW_LEAST: u64 = 64;
/// The same where there is congestion.
const CONGESTED_LEAST: u64 = 4;
/// The queue that is allowed for, so that no acknowledgement that comes late leaves the path empty.
const QUEUE_ALLOWED: Duration = Duration::from_millis(1);
/// What is tried every few rounds; a step further as long as it makes the path deliver more.
const PROBES: [f64; 4] = [1.1, 1.25, 1.5, 2.0];
/// Of the window, until what a probe may have left in a queue is gone.
const DRAIN: f64 = 0.85;
/// Rounds between a drain and the next probe, at least; up to as many more by chance, so that senders that share a path
/// do not probe together.
const CRUISE_ROUNDS: u32 = 5;
const CRUISE_SPREAD: u32 = 3;
/// The start ends where the rate grew by less than this in each of so many rounds, ...
const STARTUP_GROWTH: f64 = 1.25;
const STARTUP_ROUNDS: u8 = 3;
/// Of what was sent in a round, and datagrams: less is not taken for congestion ...
const LOSS_LEAST: f64 = 0.05;
const LOST_DATAGRAMS_LEAST: u64 = 8;
/// ... and from here on even without a queue, if so many rounds in a row lose as much: a policer drops and does not delay.
const LOSS_ANYWAY: f64 = 0.25;
const LOSS_ANYWAY_ROUNDS: u8 = 3;
/// Rounds in a row with a longer round trip after which less is sent, to see whose queue it is, and for how long.
const LONGER_ROUNDS: u8 = 3;
const YIELD_ROUNDS: u8 = 2;
/// Of the window: whoever has as much in flight is held back by it; less some datagrams that are acknowledged together.
const FILLED: f64 = 0.8;
const BATCH: u64 = 10;
/// What is left of the window where congestion is met with little in flight.
const LESS: f64 = 0.7;
/// How a limit that congestion has set grows with each round without it.
const CEILING_GROWTH: f64 = 1.05;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The window doubles with each round, until the rate does not.
    Startup { best: f64, stalled: u8 },
    /// Less than the path holds is in flight, until a queue is gone; `probed`: how far was tried, and the rate before.
    Drain { probed: Option<(usize, f64)> },
    /// As much as it holds, for so many rounds.
    Cruise { rounds: u32 },
    /// More, by this step of [`PROBES`]; the rate before.
    Probe { step: usize, before: f64 },
    /// Far less, for so many rounds, to see whether that shortens the round trip.
    Yield { rounds: u8 },
}

/// What happened since the last round began.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    /// Bytes delivered when it began; it ends when what was sent from then on is acknowledged.
    delivered: u64,
    lost: u64,
    /// Whether a router marked something (ECN).
    marked: bool,
    rtt: Option<Duration>,
    /// Whether there was little to send for some of it ...
    app_limited: bool,
    /// ... and whether as much was in flight as might be, at some time.
    filled: bool,
}

/// The model of one path.
#[derive(Clone, Debug)]
pub(super) struct Model {
    datagram_bytes: u64,
    deliveries: Deliveries,
    rate: LargestRate,
    rtt: SmallestRtt,
    rounds: u64,
    round: Round,
    /// Rounds in a row whose round trip was longer than the smallest by far.
    longer: u8,
    /// Rounds in a row that lost very much.
    lossy: u8,
    phase: Phase,
    /// The window of the start.
    startup: u64,
    /// What congestion allows.
    ceiling: Option<f64>,
    window: u64,
    rng: fastrand::Rng,
}

impl Model {
    pub(super) fn new(now: Instant, datagram_bytes: u64, rng: fastrand::Rng) -> Self {
        let window = WINDOW_LEAST * datagram_bytes;
        Self {
            datagram_bytes,
            deliveries: Deliveries::new(now),
            rate: LargestRate::default(),
            rtt: SmallestRtt::new(now),
            rounds: 0,
            round: Round::new(now, 0),
            longer: 0,
            lossy: 0,
            phase: Phase::Startup { best: 0.0, stalled: 0 },
            startup: window,
            ceiling: None,
            window,
            rng,
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// The rate of the path in bytes per second; zero: not known.
    pub(super) fn rate(&self) -> f64 {
        self.rate.get()
    }

    pub(super) fn set_datagram_bytes(&mut self, bytes: u64) {
        self.datagram_bytes = bytes;
    }

    pub(super) fn sent(&mut self, now: Instant, copied: bool) {
        self.deliveries.sent(now, copied);
    }

    /// Whether what departed then was copied.
    pub(super) fn was_copied(&self, sent: Instant) -> bool {
        self.deliveries.was_copied(sent)
    }

    /// A packet has arrived. Whether it was copied.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
    ) -> bool {
        if matches!(self.phase, Phase::Startup { .. }) && !app_limited {
            self.startup += bytes;
        }
        self.deliveries.acknowledged(now, sent, bytes, app_limited)
    }

    /// All that was acknowledged at one moment was told.
    pub(super) fn acknowledged_all(&mut self, now: Instant, in_flight: u64) {
        let Some(sample) = self.deliveries.sample(now, in_flight) else { return };
        self.rtt.add(now, sample.rtt);
        self.round.rtt = Some(self.round.rtt.map_or(sample.rtt, |rtt| rtt.min(sample.rtt)));
        self.round.app_limited |= sample.app_limited;
        let filled = (in_flight + BATCH * self.datagram_bytes) as f64 >= FILLED * self.window as f64;
        self.round.filled |= filled;
        if let Some(rate) = sample.rate {
            // Where it was not the window that held it back, a small rate says nothing of the path.
            self.rate.add(self.rounds, rate, sample.app_limited || !filled);
        }
        if sample.delivered_before >= self.round.delivered {
            self.end_round(now, &sample);
        }
        if let Phase::Drain { probed } = self.phase
            && (in_flight as f64) <= self.held()
        {
            self.drained(probed);
        }
        self.set_window();
    }

    /// Bytes were lost.
    pub(super) fn lost(&mut self, bytes: u64) {
        self.round.lost += bytes;
    }

    /// A router marked a packet instead of dropping it.
    pub(super) fn marked(&mut self) {
        self.round.marked = true;
    }

    /// Nothing at all arrives: the path may be another one when it does again.
    pub(super) fn restart(&mut self, now: Instant) {
        self.startup = WINDOW_LEAST * self.datagram_bytes;
        self.phase = Phase::Startup { best: 0.0, stalled: 0 };
        self.rate = LargestRate::default();
        self.rtt = SmallestRtt::new(now);
        (self.ceiling, self.longer) = (None, 0);
        self.set_window();
    }

    /// Bytes that the path holds without a queue.
    fn held(&self) -> f64 {
        self.rate.get() * (self.rtt.get().unwrap_or_default() + QUEUE_ALLOWED).as_secs_f64()
    }

    fn end_round(&mut self, now: Instant, sample: &Sample) {
        let round = std::mem::replace(&mut self.round, Round::new(now, self.deliveries.delivered()));
        self.rounds += 1;
        let smallest = self.rtt.get().unwrap_or_default();
        let queue = round.rtt.map_or(Duration::ZERO, |rtt| rtt.saturating_sub(smallest));
        let arrived = (self.deliveries.delivered() - round.delivered) as f64;
        let took = now.duration_since(round.began).max(Duration::from_micros(1));
        let rate = arrived / took.as_secs_f64();
        if self.is_congestion(&round, arrived, queue, smallest) {
            // Of a round with little to send it is not known what the path would have taken.
            self.ceiling = Some(if round.app_limited { self.window as f64 * LESS } else { arrived });
            if !round.app_limited && rate < self.rate.get() {
                self.rate.replace(self.rounds, rate);
            }
            self.phase = Phase::Drain { probed: None };
            self.longer = 0;
            return;
        }
        self.ceiling = self.ceiling.map(|ceiling| ceiling * CEILING_GROWTH);
        self.look_for_a_longer_path(queue, smallest, rate, round.app_limited);
        match self.phase {
            Phase::Startup { best, stalled } => self.start_further(best, stalled, queue, smallest, sample),
            Phase::Drain { probed } => self.drained(probed),
            Phase::Cruise { rounds: 0 } if round.filled || !round.app_limited => self.probe(0),
            Phase::Cruise { rounds } => self.phase = Phase::Cruise { rounds: rounds.saturating_sub(1) },
            Phase::Probe { step, before } => self.phase = Phase::Drain { probed: Some((step, before)) },
            Phase::Yield { rounds: 0 } => self.judge_the_path(now, &round, smallest),
            Phase::Yield { rounds } => self.phase = Phase::Yield { rounds: rounds - 1 },
        }
    }

    fn is_congestion(&mut self, round: &Round, arrived: f64, queue: Duration, smallest: Duration) -> bool {
        let much = round.lost >= LOST_DATAGRAMS_LEAST * self.datagram_bytes;
        let share = round.lost as f64 / (round.lost as f64 + arrived).max(1.0);
        self.lossy = if much && share > LOSS_ANYWAY { self.lossy.saturating_add(1) } else { 0 };
        let queued = queue >= (smallest / 32).max(Duration::from_millis(2));
        round.marked || self.lossy >= LOSS_ANYWAY_ROUNDS || (much && share > LOSS_LEAST && queued)
    }

    fn start_further(
        &mut self,
        best: f64,
        stalled: u8,
        queue: Duration,
        smallest: Duration,
        sample: &Sample,
    ) {
        let rate = self.rate.get();
        // ... or where a queue builds up.
        let queued = !sample.app_limited && queue > (smallest / 8).max(Duration::from_millis(4));
        let (best, stalled) = if rate >= best * STARTUP_GROWTH {
            (rate, 0)
        } else {
            (best, stalled + u8::from(!sample.app_limited))
        };
        self.phase = if queued || stalled >= STARTUP_ROUNDS {
            Phase::Drain { probed: None }
        } else {
            Phase::Startup { best, stalled }
        };
    }

    fn probe(&mut self, step: usize) {
        self.phase = Phase::Probe { step, before: self.rate.get() };
    }

    /// What a probe has left in a queue is gone.
    fn drained(&mut self, probed: Option<(usize, f64)>) {
        match probed {
            // It delivered more, by about what was tried: there may be much more.
            Some((step, before)) if self.rate.get() >= before * f64::midpoint(1.0, PROBES[step]) => {
                self.probe((step + 1).min(PROBES.len() - 1));
            }
            _ => self.phase = Phase::Cruise { rounds: CRUISE_ROUNDS + self.rng.u32(..CRUISE_SPREAD) },
        }
    }

    /// A round trip that stays longer by far is a queue, or another path.
    fn look_for_a_longer_path(&mut self, queue: Duration, smallest: Duration, rate: f64, app_limited: bool) {
        // A lone datagram is acknowledged late: that is no queue.
        let longer = !app_limited && queue > smallest / 4 + Duration::from_millis(2);
        self.longer = if longer { self.longer.saturating_add(1) } else { 0 };
        if matches!(self.phase, Phase::Startup { .. } | Phase::Yield { .. }) || self.longer < LONGER_ROUNDS {
            return;
        }
        self.longer = 0;
        self.rate.replace(self.rounds, rate);
        self.phase = Phase::Yield { rounds: YIELD_ROUNDS };
    }

    /// With little of ours in flight: is the round trip still longer?
    fn judge_the_path(&mut self, now: Instant, round: &Round, smallest: Duration) {
        let rtt = round.rtt.unwrap_or(smallest);
        if rtt > smallest + smallest / 4 + Duration::from_millis(2) {
            self.rtt.replace(now, rtt);
        }
        // What was given up is taken back, if it is there.
        self.probe(PROBES.len() - 1);
    }

    fn set_window(&mut self) {
        let held = self.held();
        let wanted = match self.phase {
            Phase::Startup { .. } => self.startup as f64,
            Phase::Drain { .. } | Phase::Yield { .. } => held * DRAIN,
            Phase::Cruise { .. } => held,
            Phase::Probe { step, .. } => held * PROBES[step],
        };
        let mut window = wanted.max((WINDOW_LEAST * self.datagram_bytes) as f64);
        match self.ceiling {
            Some(ceiling) if ceiling < window => window = ceiling,
            // It was passed: it holds nothing back any more.
            _ => self.ceiling = None,
        }
        self.window = (window as u64).max(CONGESTED_LEAST * self.datagram_bytes);
    }
}

impl Round {
    fn new(began: Instant, delivered: u64) -> Self {
        Self { began, delivered, lost: 0, marked: false, rtt: None, app_limited: false, filled: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: u64 = 1450;
    const MS: Duration = Duration::from_millis(1);

    /// A sender that has one small message at a time, each acknowledged after `late` more than ten milliseconds.
    fn messages(model: &mut Model, start: Instant, count: u32, late: impl Fn(u32) -> Duration) -> Instant {
        let mut now = start;
        for n in 0..count {
            now = start + n * 100 * MS;
            model.sent(now, false);
            let back = now + 10 * MS + late(n);
            model.acknowledged(back, now, 300, true);
            model.acknowledged_all(back, 0);
        }
        now
    }

    fn model(now: Instant) -> Model {
        Model::new(now, DATAGRAM, fastrand::Rng::with_seed(1))
    }

    #[test]
    fn lone_messages_that_are_acknowledged_late_are_no_queue() {
        let start = Instant::now();
        let mut model = model(start);
        messages(&mut model, start, 600, |n| if n % 4 == 0 { Duration::ZERO } else { 5 * MS });
        assert!(matches!(model.phase, Phase::Startup { .. }), "{:?}", model.phase);
        assert_eq!(model.window(), WINDOW_LEAST * DATAGRAM);
        assert_eq!(model.rtt.get(), Some(10 * MS));
    }

    #[test]
    fn a_mark_on_a_lone_message_leaves_most_of_the_window() {
        let start = Instant::now();
        let mut model = model(start);
        let now = messages(&mut model, start, 5, |_| Duration::ZERO);
        model.marked();
        messages(&mut model, now + 100 * MS, 2, |_| Duration::ZERO);
        let window = model.window();
        assert!((WINDOW_LEAST * DATAGRAM / 2..WINDOW_LEAST * DATAGRAM).contains(&window), "{window}");
    }

    #[test]
    fn after_a_time_without_a_word_all_begins_anew() {
        let start = Instant::now();
        let mut model = model(start);
        let now = messages(&mut model, start, 50, |_| Duration::ZERO);
        model.restart(now);
        assert_eq!((model.rate(), model.rtt.get()), (0.0, None));
        assert!(matches!(model.phase, Phase::Startup { .. }));
        assert_eq!(model.window(), WINDOW_LEAST * DATAGRAM);
        messages(&mut model, now + 1000 * MS, 3, |_| 90 * MS);
        assert_eq!(model.rtt.get(), Some(100 * MS));
    }
}
