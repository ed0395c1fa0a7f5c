#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A driver, a link and a peer in simulated time, counted from the moment the tunnel came up.
struct Sim {
    start: Instant,
    now: Duration,
    detector: Detector,
    rtt: Duration,
    /// Chance that a datagram is lost, each way.
    loss: f64,
    /// Whether requests are outstanding all the time.
    outstanding: bool,
    /// From when on the peer answers nothing.
    frozen: Option<Duration>,
    /// While our own loop does not run.
    stall: Option<(Duration, Duration)>,
    /// How late every timer of ours fires.
    late: Duration,
    rng: fastrand::Rng,
    pongs: VecDeque<Duration>,
    probes: usize,
    changes: Vec<(Duration, State)>,
}

impl Sim {
    fn new(rtt: Duration) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: Duration::ZERO,
            detector: Detector::new(start, rtt),
            rtt,
            loss: 0.0,
            outstanding: false,
            frozen: None,
            stall: None,
            late: Duration::ZERO,
            rng: fastrand::Rng::with_seed(7),
            pongs: VecDeque::new(),
            probes: 0,
            changes: Vec::new(),
        }
    }

    fn busy(rtt: Duration) -> Self {
        Self { outstanding: true, ..Self::new(rtt) }
    }

    /// When something due at `at` happens to us.
    fn awake(&self, at: Duration) -> Duration {
        match self.stall {
            Some((from, to)) if (from..to).contains(&at) => to,
            _ => at,
        }
    }

    fn run(&mut self, until: Duration) -> &mut Self {
        loop {
            let due = self.detector.due(self.start + self.now).unwrap() - self.start;
            let due = due.max(self.now);
            let fires = self.awake(due + self.late);
            let arrives = self.pongs.front().map(|&at| self.awake(at.max(self.now)));
            // At the end of a stall the timer fires first, the worse of both orders.
            let (at, pong) = match arrives {
                Some(arrives) if arrives < fires => (arrives, true),
                _ => (fires, false),
            };
            if at >= until {
                self.now = until;
                return self;
            }
            self.now = at;
            if pong {
                self.pongs.pop_front();
                let change = self.detector.answered(self.start + at, self.rtt);
                self.note(change);
            } else {
                self.tick();
            }
        }
    }

    fn tick(&mut self) {
        let now = self.start + self.now;
        let tick = self.detector.tick(now, self.outstanding);
        self.note(tick.transition);
        if tick.probe {
            self.probes += 1;
            self.detector.probe_sent(now);
            let reaches = self.now + self.rtt / 2;
            let frozen = self.frozen.is_some_and(|from| reaches >= from);
            let lost = (0..2).any(|_| self.rng.f64() < self.loss);
            if !frozen && !lost {
                self.pongs.push_back(self.now + self.rtt);
            }
        }
    }

    fn note(&mut self, change: Option<Transition>) {
        if let Some(change) = change {
            assert_ne!(change.from, change.to);
            assert_eq!(change.at, self.start + self.now);
            assert_eq!((self.detector.state(), self.detector.since()), (change.to, change.at));
            self.changes.push((self.now, change.to));
        }
    }

    fn when(&self, state: State) -> Option<Duration> {
        self.changes.iter().find(|change| change.1 == state).map(|change| change.0)
    }

    /// How long it was suspect in all, as a share of the time so far.
    fn suspect_share(&self) -> f64 {
        let ends = self.changes.iter().skip(1).map(|change| change.0).chain([self.now]);
        let suspect: Duration = self
            .changes
            .iter()
            .zip(ends)
            .filter(|(change, _)| change.1 == State::Suspect)
            .map(|(change, end)| end - change.0)
            .sum();
        suspect.as_secs_f64() / self.now.as_secs_f64()
    }
}

/// A driver that is always in time, with requests outstanding, but sends no probes.
fn tick_until(detector: &mut Detector, from: Instant, until: Instant) {
    let mut now = from;
    while now <= until {
        detector.tick(now, true);
        now = detector.due(now).unwrap();
    }
}

#[test]
fn probes_go_out_every_25_ms_when_busy_and_every_second_when_idle() {
    let mut busy = Sim::busy(ms(1));
    assert_eq!(busy.run(ms(10_000)).probes, 400);
    let mut idle = Sim::new(ms(1));
    assert_eq!(idle.run(ms(10_000)).probes, 10);
    assert!(busy.changes.is_empty() && idle.changes.is_empty());
}

#[test]
fn an_hour_of_loss_takes_nobody_down() {
    for (rtt, outstanding) in [(1, true), (50, true), (150, true), (1, false), (50, false), (150, false)] {
        let mut sim = Sim { outstanding, loss: 0.02, ..Sim::new(ms(rtt)) };
        sim.run(Duration::from_secs(3600));
        assert_eq!(sim.when(State::Down), None, "rtt {rtt} ms, busy {outstanding}");
        // What is hedged or placed elsewhere meanwhile must stay rare.
        let share = sim.suspect_share();
        assert!(share < 0.005, "rtt {rtt} ms, busy {outstanding}: {share}");
    }
}

#[test]
fn a_frozen_peer_is_suspect_in_80_ms_and_down_in_600_while_requests_flow() {
    for rtt in [1, 20, 50] {
        for freeze in (1000..1050).step_by(7) {
            let mut sim = Sim { frozen: Some(ms(freeze)), ..Sim::busy(ms(rtt)) };
            sim.run(ms(3000));
            let states: Vec<State> = sim.changes.iter().map(|change| change.1).collect();
            assert_eq!(states, [State::Suspect, State::Down]);
            // It is heard for as long as answers are under way; then one tick may pass until something is owed.
            let silent = ms(freeze + rtt / 2);
            let (suspect, down) = (sim.changes[0].0 - silent, sim.changes[1].0 - silent);
            assert!(suspect <= SUSPECT_AFTER + PROBE_BUSY, "rtt {rtt}, {freeze}: suspect after {suspect:?}");
            assert!((ms(450)..=ms(600)).contains(&down), "rtt {rtt}, {freeze}: down after {down:?}");
        }
    }
}

#[test]
fn a_frozen_idle_peer_is_found_by_the_next_probe() {
    let mut sim = Sim { frozen: Some(ms(1500)), ..Sim::new(ms(1)) };
    sim.run(ms(10_000));
    assert_eq!(sim.changes, [(ms(2080), State::Suspect), (ms(2500), State::Down)]);
}

#[test]
fn the_first_request_to_an_idle_frozen_peer_finds_it() {
    let mut sim = Sim { frozen: Some(ms(1100)), ..Sim::new(ms(1)) };
    sim.run(ms(1400));
    sim.outstanding = true;
    sim.tick();
    sim.run(ms(5000));
    assert_eq!(sim.changes, [(ms(1480), State::Suspect), (ms(1900), State::Down)]);
}

#[test]
fn a_long_way_is_no_silence() {
    for rtt in [100, 300, 600, 2000] {
        let mut sim = Sim::new(ms(rtt));
        sim.run(ms(5_500));
        sim.outstanding = true;
        sim.tick();
        sim.run(ms(60_000));
        assert!(sim.changes.is_empty(), "rtt {rtt} ms: {:?}", sim.changes);
        sim.frozen = Some(ms(60_000));
        sim.run(ms(70_000));
        // What was answered before is still under way; the last of it went out within the time of a probe.
        let heard_last = ms(60_000 + rtt);
        let suspect = sim.when(State::Suspect).unwrap() - heard_last;
        let (overdue, probe) = (ms(rtt) * 3 / 2, (ms(rtt) * 2 / 5).min(PROBE_BUSY_MAX));
        assert!((overdue - probe..=overdue + probe).contains(&suspect), "rtt {rtt} ms: {suspect:?}");
        let down = sim.when(State::Down).unwrap() - heard_last;
        assert!(down <= DOWN_AFTER.max(overdue + probe * 4) + probe * 2, "rtt {rtt} ms: {down:?}");
    }
}

#[test]
fn our_own_stall_accuses_nobody() {
    for (rtt, stall) in [(1, 2000), (50, 2000), (1, 120), (1, 60_000)] {
        for begin in (1000..1060).step_by(3) {
            for outstanding in [true, false] {
                let stall = Some((ms(begin), ms(begin + stall)));
                let mut sim = Sim { stall, outstanding, ..Sim::new(ms(rtt)) };
                sim.run(ms(100_000));
                assert!(sim.changes.is_empty(), "{stall:?}, rtt {rtt}, {outstanding}: {:?}", sim.changes);
            }
        }
    }
}

#[test]
fn a_stall_that_ends_with_a_new_request_accuses_nobody() {
    let start = Instant::now();
    let at = |after| start + ms(after);
    let mut detector = Detector::new(start, ms(1));
    for sent in [0, 50, 100] {
        assert_eq!(detector.tick(at(sent), true), Tick { probe: true, transition: None });
        detector.probe_sent(at(sent));
        detector.heard(at(sent + 1));
    }
    assert!(detector.tick(at(150), true).probe);
    detector.probe_sent(at(150));
    // Not the timer woke us, but a request: nothing says that we are late but the detector's own schedule.
    assert_eq!(detector.tick(at(2150), true).transition, None);
    detector.heard(at(2151));
    assert_eq!(detector.tick(at(2200), true).transition, None);
}

#[test]
fn a_peer_that_died_during_our_stall_is_found_after_it() {
    let mut sim = Sim { stall: Some((ms(1000), ms(3000))), frozen: Some(ms(1500)), ..Sim::busy(ms(1)) };
    sim.run(ms(10_000));
    let down = sim.when(State::Down).unwrap();
    assert!((ms(3400)..=ms(3700)).contains(&down), "{down:?}");
}

#[test]
fn a_loop_that_is_always_late_still_finds_a_dead_peer_and_accuses_no_live_one() {
    let mut sim = Sim { late: ms(40), ..Sim::busy(ms(1)) };
    sim.run(ms(100_000));
    assert!(sim.changes.is_empty(), "{:?}", sim.changes);
    sim.frozen = Some(ms(100_000));
    sim.run(ms(110_000));
    // 25 ms of each 65 are heard.
    assert!(sim.when(State::Down).unwrap() - ms(100_000) < ms(1500));
}

#[test]
fn a_suspect_that_wakes_is_up_at_its_first_word() {
    let mut sim = Sim { frozen: Some(ms(1000)), ..Sim::busy(ms(1)) };
    sim.run(ms(1300));
    assert_eq!(sim.detector.state(), State::Suspect);
    sim.frozen = None;
    sim.run(ms(1400));
    assert_eq!(sim.changes.last().unwrap().1, State::Up);
}

#[test]
fn suspicion_begins_at_80_ms_or_one_round_trip_and_a_half_and_not_before() {
    for (rtt, limit) in [(1, 80), (50, 80), (54, 81), (80, 120)] {
        let start = Instant::now();
        let mut detector = Detector::new(start, ms(rtt));
        detector.probe_sent(start);
        let at = |after| start + ms(after);
        assert_eq!(detector.tick(at(limit - 1), false).transition, None);
        let change = detector.tick(at(limit), false).transition.unwrap();
        assert_eq!((change.from, change.to), (State::Up, State::Suspect));
        assert_eq!(change.reason.to_string(), format!("silent for {limit} ms, 1 probes unanswered"));
    }
}

#[test]
fn outstanding_requests_are_owed_even_if_no_probe_can_be_sent() {
    let start = Instant::now();
    let mut detector = Detector::new(start, ms(1));
    assert_eq!(detector.tick(start, true).transition, None);
    tick_until(&mut detector, start, start + SUSPECT_AFTER - ms(1));
    assert_eq!(detector.state(), State::Up);
    tick_until(&mut detector, start, start + SUSPECT_AFTER);
    assert_eq!(detector.state(), State::Suspect);
}

#[test]
fn nothing_owed_is_no_silence() {
    let start = Instant::now();
    let mut detector = Detector::new(start, ms(1));
    let later = start + Duration::from_secs(3600);
    assert_eq!(detector.tick(later, false).transition, None);
    // A caller that gives up takes back what was owed to it.
    detector.tick(later, true);
    detector.tick(later + ms(50), false);
    assert_eq!(detector.tick(later + ms(150), false).transition, None);
}

#[test]
fn down_takes_both_five_probes_and_500_ms() {
    let start = Instant::now();
    let at = |after| start + ms(after);
    let state_after = |probes: &[u64], now| {
        let mut detector = Detector::new(start, ms(1));
        let mut last = 0;
        for &sent in probes {
            tick_until(&mut detector, at(last), at(sent));
            detector.probe_sent(at(sent));
            last = sent;
        }
        tick_until(&mut detector, at(last), at(now));
        detector.state()
    };
    let five = [0, 10, 20, 30, 40];
    assert_eq!(state_after(&five, 499), State::Suspect);
    assert_eq!(state_after(&five, 500), State::Down);
    assert_eq!(state_after(&five[..4], 60_000), State::Suspect);
    // The fifth must have had time to be answered.
    assert_eq!(state_after(&[0, 50, 100, 150, 450], 529), State::Suspect);
    assert_eq!(state_after(&[0, 50, 100, 150, 450], 530), State::Down);
}

#[test]
fn a_lost_tunnel_is_down_at_once_and_stays_so_until_another_comes() {
    let start = Instant::now();
    let mut detector = Detector::new(start, ms(1));
    let lost = detector.tunnel_lost(start, "reset by peer").unwrap();
    assert_eq!((lost.from, lost.to), (State::Up, State::Down));
    assert_eq!(lost.reason.to_string(), "tunnel lost: reset by peer");
    assert_eq!(detector.tunnel_lost(start, "again"), None);
    assert_eq!(detector.heard(start + ms(1)), None);
    assert_eq!(detector.answered(start + ms(1), ms(1)), None);
    assert_eq!(detector.due(start + ms(1)), None);
    assert_eq!(detector.tick(start + ms(1), true), Tick::default());

    let back = detector.tunnel_up(start + ms(2), ms(7)).unwrap();
    assert_eq!((back.from, back.to, back.reason), (State::Down, State::Up, Reason::TunnelUp));
    assert_eq!(detector.rtt(), ms(7));
    assert_eq!(detector.tunnel_up(start + ms(3), ms(9)), None, "one more changes nothing");
    assert_eq!(detector.rtt(), ms(7));
}

#[test]
fn a_silent_peer_stays_down_until_another_tunnel_comes_whatever_is_heard_late() {
    let start = Instant::now();
    let at = |after| start + ms(after);
    let mut detector = Detector::new(start, ms(1));
    for sent in (0..=600).step_by(25) {
        if detector.tick(at(sent), true).probe {
            detector.probe_sent(at(sent));
        }
    }
    assert_eq!(detector.state(), State::Down);
    assert_eq!(detector.heard(at(700)), None);
    assert_eq!(detector.answered(at(701), ms(100)), None);
    assert_eq!(detector.state(), State::Down);
    let back = detector.tunnel_up(at(800), ms(1)).unwrap();
    assert_eq!((back.from, back.to), (State::Down, State::Up));
}

#[test]
fn a_probe_that_could_not_be_sent_accuses_nobody_and_stops_no_loop() {
    let start = Instant::now();
    let mut detector = Detector::new(start, ms(1));
    let mut now = start;
    for _ in 0..100 {
        detector.tick(now, false);
        let next = detector.due(now).unwrap();
        assert!(next > now, "a driver that waits for `due` must not spin");
        now = next;
    }
    assert_eq!(detector.state(), State::Up);
}

#[test]
fn the_round_trip_is_smoothed() {
    let start = Instant::now();
    let mut detector = Detector::new(start, ms(500));
    detector.answered(start, ms(80));
    assert_eq!(detector.rtt(), ms(80), "the first measure replaces the handshake's");
    detector.answered(start, ms(160));
    assert_eq!(detector.rtt(), ms(90));
}

proptest! {
    /// Whatever happens in whatever order: no panic, a driver that never spins, and silence of less than the limits
    /// never changes a state.
    #[test]
    fn any_course_of_events_is_sane(
        events in prop::collection::vec((0u8..6, 0u64..120, any::<bool>()), 1..200),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut heard = start;
        let mut detector = Detector::new(start, ms(1));
        for (kind, pause, outstanding) in events {
            now += ms(pause);
            match kind {
                0 => {
                    detector.tunnel_lost(now, "closed");
                }
                1 => {
                    heard = now;
                    detector.tunnel_up(now, ms(1));
                }
                2 => {
                    heard = now;
                    detector.heard(now);
                }
                _ => {
                    let tick = detector.tick(now, outstanding);
                    if let Some(change) = tick.transition {
                        let least = if change.to == State::Down { DOWN_AFTER } else { SUSPECT_AFTER };
                        prop_assert!(now - heard >= least);
                    }
                    if tick.probe {
                        detector.probe_sent(now);
                    }
                    prop_assert!(detector.due(now).is_none_or(|due| due > now));
                }
            }
        }
    }
}

#[test]
fn where_round_trips_vary_an_answer_is_overdue_later() {
    let start = Instant::now();
    let after = |rtts: [u64; 2]| {
        let mut detector = Detector::new(start, ms(50));
        for n in 0..100 {
            detector.answered(start, ms(rtts[n % 2]));
        }
        tick_until(&mut detector, start, start + ms(300));
        detector.since() - start
    };
    assert_eq!(after([50, 50]), SUSPECT_AFTER);
    // On the average 20 off 60, and four times that is more than is ever waited for: two round trips.
    let varied = after([40, 80]);
    assert!((ms(100)..=ms(130)).contains(&varied), "{varied:?}");
    let one_off = {
        let mut detector = Detector::new(start, ms(1));
        detector.answered(start, ms(1));
        detector.answered(start, ms(1000));
        tick_until(&mut detector, start, start + ms(400));
        detector.since() - start
    };
    // An eighth of it is in the round trip.
    assert!(one_off <= ms(260), "one answer that we read late: {one_off:?}");
}
