//! A peer gateway over all ways to it: it is as well as the best of them.

use std::time::{Duration, Instant};

use super::{Detector, Reason, State, Transition};

/// What tunnels to a peer gateway run on, as far as it can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// QUIC on UDP.
    Quic = 0,
    /// TLS on TCP or a Unix socket.
    Stream = 1,
}

impl Way {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Quic, Self::Stream];

    fn other(self) -> Self {
        match self {
            Self::Quic => Self::Stream,
            Self::Stream => Self::Quic,
        }
    }
}

/// What a tick over all ways asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Send a probe on these ways, by their number, and call [`Ways::probe_sent`].
    pub probe: [bool; 2],
    /// Nothing comes on this way while the peer is up on another: give up its tunnels.
    pub given_up: Option<Way>,
    /// The state changed.
    pub transition: Option<Transition>,
}

/// The detectors of one peer gateway, one for each way that was ever open, and what follows from all of them: up if one
/// is, suspect if one is, else down.
#[derive(Clone, Debug)]
pub struct Ways {
    detectors: [Option<Detector>; 2],
    state: State,
}

impl Ways {
    /// No way has ever been open.
    pub const fn none() -> Self {
        Self { detectors: [None, None], state: State::Down }
    }

    /// The state of the peer.
    pub fn state(&self) -> State {
        self.state
    }

    /// How one way is.
    pub fn of(&self, way: Way) -> State {
        self.open(way).map_or(State::Down, Detector::state)
    }

    /// The smoothed round-trip time: of QUIC if that is open.
    pub fn rtt(&self) -> Duration {
        let open = Way::ALL.into_iter().find_map(|way| self.open(way));
        open.or(self.detectors.iter().flatten().next()).map_or(Duration::ZERO, Detector::rtt)
    }

    /// A tunnel came up; `rtt` is what its handshake measured.
    pub fn tunnel_up(&mut self, now: Instant, way: Way, rtt: Duration) -> Option<Transition> {
        let detector = self.detectors[way as usize].get_or_insert_with(|| Detector::new(now, rtt));
        detector.tunnel_up(now, rtt);
        self.settle(now, Reason::TunnelUp)
    }

    /// The last tunnel of a way is gone. `cut`: it broke off without a word, as when a process dies. One sign alone does
    /// not make a peer down that shows itself on another way: there it is asked at once.
    pub fn lost(&mut self, now: Instant, way: Way, why: &str, cut: bool) -> Option<Transition> {
        self.detector(way)?.tunnel_lost(now, why);
        if cut && let Some(other) = self.detector(way.other()) {
            other.doubt(now);
        }
        self.settle(now, Reason::TunnelLost(why.to_owned()))
    }

    /// Anything authenticated came on `way`.
    pub fn heard(&mut self, now: Instant, way: Way) -> Option<Transition> {
        self.detector(way)?.heard(now);
        self.settle(now, Reason::Heard)
    }

    /// A probe on `way` was answered after `rtt`. Includes [`Ways::heard`].
    pub fn answered(&mut self, now: Instant, way: Way, rtt: Duration) -> Option<Transition> {
        self.detector(way)?.answered(now, rtt);
        self.settle(now, Reason::Heard)
    }

    /// A probe that a tick asked for went out.
    pub fn probe_sent(&mut self, now: Instant, way: Way) {
        if let Some(detector) = self.detector(way) {
            detector.probe_sent(now);
        }
    }

    /// Looks at the clock. Whatever is outstanding, on any way, is asked after on all: so what says that the peer lives,
    /// while one way is silent, is as fresh as that silence.
    pub fn tick(&mut self, now: Instant, outstanding: bool) -> Ticks {
        let mut ticks = Ticks::default();
        let mut reason = None;
        for way in Way::ALL {
            if let Some(detector) = self.detector(way) {
                let tick = detector.tick(now, outstanding);
                ticks.probe[way as usize] = tick.probe;
                reason = tick.transition.map(|change| change.reason).or(reason);
            }
        }
        ticks.transition = reason.and_then(|reason| self.settle(now, reason));
        let silent = |way: &Way| self.open(*way).is_some_and(|d| d.state() == State::Down);
        ticks.given_up = Way::ALL.into_iter().find(silent).filter(|_| self.state == State::Up);
        ticks
    }

    /// When [`Ways::tick`] is to be called next; `None` while there is no tunnel.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.detectors.iter().flatten().filter_map(|detector| detector.due(now)).min()
    }

    fn detector(&mut self, way: Way) -> Option<&mut Detector> {
        self.detectors[way as usize].as_mut()
    }

    fn open(&self, way: Way) -> Option<&Detector> {
        self.detectors[way as usize].as_ref().filter(|detector| detector.has_tunnel())
    }

    fn settle(&mut self, now: Instant, reason: Reason) -> Option<Transition> {
        let of = Way::ALL.map(|way| self.of(way));
        let best = [State::Up, State::Suspect].into_iter().find(|state| of.contains(state));
        let to = best.unwrap_or(State::Down);
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then_some(Transition { from, to, at: now, reason })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::health::{DOWN_AFTER, SUSPECT_AFTER};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A peer in simulated time that answers, after 2 ms, on the ways that are open to it.
    struct Sim {
        start: Instant,
        now: Duration,
        ways: Ways,
        answers: [bool; 2],
        outstanding: bool,
        changes: Vec<(Duration, State)>,
        given_up: Vec<(Duration, Way)>,
        probes: [usize; 2],
    }

    impl Sim {
        fn new() -> Self {
            let start = Instant::now();
            let mut ways = Ways::none();
            assert_eq!(ways.tunnel_up(start, Way::Quic, ms(2)).unwrap().to, State::Up);
            assert_eq!(ways.tunnel_up(start, Way::Stream, ms(2)), None);
            Self {
                start,
                now: Duration::ZERO,
                ways,
                answers: [true; 2],
                outstanding: false,
                changes: Vec::new(),
                given_up: Vec::new(),
                probes: [0; 2],
            }
        }

        fn note(&mut self, change: Option<Transition>) {
            self.changes.extend(change.map(|change| (self.now, change.to)));
        }

        fn lose(&mut self, way: Way, cut: bool) {
            let change = self.ways.lost(self.start + self.now, way, "gone", cut);
            self.note(change);
        }

        fn run(&mut self, until: Duration) {
            while let Some(due) = self.ways.due(self.start + self.now) {
                self.now = (due - self.start).max(self.now);
                if self.now >= until {
                    break;
                }
                let ticks = self.ways.tick(self.start + self.now, self.outstanding);
                self.note(ticks.transition);
                self.given_up.extend(ticks.given_up.map(|way| (self.now, way)));
                for way in Way::ALL.into_iter().filter(|way| ticks.probe[*way as usize]) {
                    self.probes[way as usize] += 1;
                    self.ways.probe_sent(self.start + self.now, way);
                    if self.answers[way as usize] {
                        let answered = self.start + self.now + ms(2);
                        let change = self.ways.answered(answered, way, ms(2));
                        self.note(change);
                    }
                }
                if let Some(way) = ticks.given_up {
                    self.lose(way, false);
                }
            }
            self.now = until;
        }
    }

    #[test]
    fn a_dead_process_is_down_as_soon_as_its_silence_confirms_the_cut() {
        let mut sim = Sim::new();
        sim.run(ms(5_300));
        sim.answers = [false; 2];
        sim.lose(Way::Stream, true);
        assert_eq!(sim.changes, [(ms(5_300), State::Suspect)], "suspect at once");
        sim.run(ms(7_000));
        let (down, state) = sim.changes[1];
        assert_eq!(state, State::Down);
        assert!(down >= ms(5_300) + SUSPECT_AFTER && down <= ms(5_300) + SUSPECT_AFTER + ms(30), "{down:?}");
    }

    #[test]
    fn a_connection_that_is_cut_alone_moves_nothing_for_longer_than_a_round_trip() {
        let mut sim = Sim::new();
        sim.run(ms(5_300));
        sim.lose(Way::Stream, true);
        sim.run(ms(10_000));
        let states: Vec<_> = sim.changes.iter().map(|change| change.1).collect();
        assert_eq!(states, [State::Suspect, State::Up]);
        assert!(sim.changes[1].0 - sim.changes[0].0 <= ms(10), "{:?}", sim.changes);
    }

    #[test]
    fn a_way_that_ends_with_a_word_is_no_sign_of_death() {
        let mut sim = Sim::new();
        sim.run(ms(1_500));
        sim.lose(Way::Stream, false);
        sim.run(ms(5_000));
        assert_eq!(sim.changes, []);
        sim.lose(Way::Quic, false);
        assert_eq!(sim.changes, [(ms(5_000), State::Down)], "the last way is gone");
    }

    #[test]
    fn what_was_sent_before_the_cut_does_not_answer_for_it() {
        let mut sim = Sim::new();
        sim.run(ms(1_500));
        let now = sim.start + sim.now;
        sim.lose(Way::Stream, true);
        // Late words of the dead, and the answer to a probe from before.
        assert_eq!(sim.ways.heard(now + ms(1), Way::Quic), None);
        assert_eq!(sim.ways.answered(now + ms(1), Way::Quic, ms(2)), None);
        assert_eq!(sim.ways.state(), State::Suspect);
        assert_eq!(sim.ways.answered(now + ms(3), Way::Quic, ms(2)).unwrap().to, State::Up);
    }

    #[test]
    fn one_silent_way_is_given_up_and_the_peer_stays_up() {
        for (outstanding, within) in [(true, DOWN_AFTER + ms(100)), (false, DOWN_AFTER + ms(1_200))] {
            let mut sim = Sim::new();
            sim.outstanding = outstanding;
            sim.run(ms(5_300));
            sim.answers[Way::Quic as usize] = false;
            sim.run(ms(12_000));
            let [(at, Way::Quic)] = sim.given_up[..] else { panic!("{:?}", sim.given_up) };
            assert!(at >= ms(5_300) + DOWN_AFTER && at <= ms(5_300) + within, "{at:?}");
            assert_eq!(sim.changes, [], "the peer is up all the time");
            assert_eq!(sim.ways.of(Way::Quic), State::Down);
        }
    }

    #[test]
    fn a_frozen_peer_is_down_on_both_ways_as_soon_as_on_one() {
        let mut sim = Sim::new();
        sim.outstanding = true;
        sim.run(ms(5_300));
        sim.answers = [false; 2];
        sim.run(ms(8_000));
        let states: Vec<_> = sim.changes.iter().map(|change| change.1).collect();
        assert_eq!((states, sim.given_up.len()), (vec![State::Suspect, State::Down], 0));
        assert!(sim.changes[1].0 <= ms(5_300) + DOWN_AFTER + ms(100), "{:?}", sim.changes);
    }

    #[test]
    fn an_idle_peer_is_asked_once_a_second_on_each_way() {
        let mut sim = Sim::new();
        sim.run(ms(10_500));
        assert!(sim.probes.iter().all(|probes| (10..=12).contains(probes)), "{:?}", sim.probes);
    }

    #[test]
    fn the_last_way_lost_by_a_cut_is_down_at_once() {
        let mut sim = Sim::new();
        sim.lose(Way::Quic, false);
        sim.run(ms(500));
        sim.lose(Way::Stream, true);
        assert_eq!(sim.changes, [(ms(500), State::Down)]);
        // And a tunnel on either way brings it back.
        let now = sim.start + sim.now;
        assert_eq!(sim.ways.tunnel_up(now, Way::Stream, ms(2)).unwrap().to, State::Up);
    }
}
