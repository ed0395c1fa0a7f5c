//! Says what was lost and what stood in the wrong place. Pure: every moment is a parameter.
//!
//! A keyed answer is misplaced when it came from another cluster than the first one up in the key's near order. Which
//! clusters are up is the driver's word, because gateways learn of a death later than the one who caused it: a cluster
//! is up until its SIGKILL and from the moment west's status shows it up again. Between the SIGKILL and the moment west
//! shows it down, and between its start and 100 ms after west shows it up, both orders are right.

use std::time::Duration;

use super::plan::{Cluster, Placement, Service};

/// Time since the demo began, by the monotonic clock.
pub(super) type Moment = Duration;

/// How long after west shows a peer up its keys may still be answered elsewhere: what was placed just before.
const SETTLE: Duration = Duration::from_millis(100);

/// Misplaced answers that a verdict points out.
const MISPLACED_SHOWN: usize = 5;

/// One request and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// The service that was asked.
    pub(super) service: Service,
    /// The number of the key, for keyed requests.
    pub(super) key: Option<usize>,
    /// Just before the first byte was sent.
    pub(super) sent: Moment,
    /// When the whole answer was there, or the failure was plain.
    pub(super) answered: Moment,
    /// The cluster whose endpoint answered 200; none: failed.
    pub(super) served: Option<Cluster>,
}

/// The death and return of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    /// The cluster.
    pub(super) cluster: Cluster,
    /// Just before its gateway was sent SIGKILL.
    pub(super) killed: Moment,
    /// The same moment by the wall clock, Unix milliseconds.
    pub(super) killed_unix_ms: u64,
    /// When west's status first showed it down.
    pub(super) shown_down: Option<Moment>,
    /// Just before its gateway was started again.
    pub(super) started: Option<Moment>,
    /// When west's status first showed it up again.
    pub(super) shown_up: Option<Moment>,
    /// `since_unix_ms` of *down* in each survivor's status, by [`Cluster::index`].
    pub(super) down_since_unix_ms: [Option<u64>; Cluster::ALL.len()],
}

/// What a cluster was while a request was on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    /// Dying or returning: both orders are right.
    Either,
}

/// What came out of the exchanges so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Requests that ended.
    pub(super) requests: u64,
    /// Requests without a 200.
    pub(super) failed: u64,
    /// Keyed answers whose cluster was checked.
    pub(super) keys_checked: u64,
    /// Keyed answers from a cluster that was not their place.
    pub(super) keys_misplaced: u64,
    /// The first of these, by their place among the exchanges.
    pub(super) misplaced: Vec<usize>,
    /// From the SIGKILL to the first 200 that a survivor gave for a key of the dead cluster.
    pub(super) reroute: Option<Duration>,
}

impl Outage {
    /// The outage that begins now.
    pub(super) fn begin(cluster: Cluster, killed: Moment, killed_unix_ms: u64) -> Self {
        Self {
            cluster,
            killed,
            killed_unix_ms,
            shown_down: None,
            started: None,
            shown_up: None,
            down_since_unix_ms: [None; Cluster::ALL.len()],
        }
    }

    /// The larger of the survivors' delays from the SIGKILL to *down*, milliseconds; none until both noticed.
    pub(super) fn detect_ms(&self) -> Option<u64> {
        let delay =
            |c: Cluster| self.down_since_unix_ms[c.index()].map(|ms| ms.saturating_sub(self.killed_unix_ms));
        self.cluster.peers().map(delay).try_fold(0, |larger, ms| Some(larger.max(ms?)))
    }

    fn state_during(&self, exchange: &Exchange) -> State {
        let overlaps = |from: Moment, to: Option<Moment>| {
            exchange.answered >= from && to.is_none_or(|to| exchange.sent <= to)
        };
        let dying = overlaps(self.killed, self.shown_down);
        let returning = self.started.is_some_and(|from| overlaps(from, self.shown_up.map(|up| up + SETTLE)));
        if dying || returning {
            State::Either
        } else if exchange.sent > self.killed
            && self.started.is_none_or(|started| exchange.answered < started)
        {
            State::Down
        } else {
            State::Up
        }
    }
}

/// Judges all exchanges by the placement of their keys and the one outage of the demo.
pub(super) fn judge(exchanges: &[Exchange], placement: &Placement, outage: Option<&Outage>) -> Verdict {
    let mut verdict = Verdict { requests: exchanges.len() as u64, ..Verdict::default() };
    for (place, exchange) in exchanges.iter().enumerate() {
        let Some(served) = exchange.served else {
            verdict.failed += 1;
            continue;
        };
        let Some(key) = exchange.key else { continue };
        let state = |cluster| match outage {
            Some(outage) if outage.cluster == cluster => outage.state_during(exchange),
            _ => State::Up,
        };
        verdict.keys_checked += 1;
        if !may_serve(placement.near(key), state, served) {
            verdict.keys_misplaced += 1;
            if verdict.misplaced.len() < MISPLACED_SHOWN {
                verdict.misplaced.push(place);
            }
        }

        if let Some(outage) = outage.filter(|o| placement.owns(o.cluster, key) && served != o.cluster)
            && let Some(after) = exchange.answered.checked_sub(outage.killed)
        {
            verdict.reroute = Some(verdict.reroute.map_or(after, |first| first.min(after)));
        }
    }
    verdict
}

/// Whether `served` is the first cluster up in `near`, under some reading of the clusters that may be either.
fn may_serve(near: &[Cluster], state: impl Fn(Cluster) -> State, served: Cluster) -> bool {
    for &cluster in near {
        match state(cluster) {
            State::Up => return cluster == served,
            State::Either if cluster == served => return true,
            State::Either | State::Down => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use Cluster::{East, North, West};

    /// Key 0 belongs to east, then north, then west; key 1 to west, then east, then north.
    fn placement() -> Placement {
        Placement::from_orders(vec![vec![East, North, West], vec![West, East, North]])
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn keyed(key: usize, sent: u64, answered: u64, served: Cluster) -> Exchange {
        Exchange {
            service: Service::Cart,
            key: Some(key),
            sent: ms(sent),
            answered: ms(answered),
            served: Some(served),
        }
    }

    /// East: killed at 1000, shown down at 1500, started at 3000, shown up at 3400.
    fn outage() -> Outage {
        Outage {
            shown_down: Some(ms(1500)),
            started: Some(ms(3000)),
            shown_up: Some(ms(3400)),
            ..Outage::begin(East, ms(1000), 70_000)
        }
    }

    fn misplaced(exchange: Exchange) -> bool {
        judge(&[exchange], &placement(), Some(&outage())).keys_misplaced == 1
    }

    #[test]
    fn while_all_are_up_only_the_owner_is_right() {
        assert!(!misplaced(keyed(0, 10, 20, East)));
        assert!(misplaced(keyed(0, 10, 20, North)));
        assert!(misplaced(keyed(0, 10, 20, West)));
        assert!(!misplaced(keyed(1, 10, 20, West)));
        assert!(misplaced(keyed(1, 10, 20, East)));
    }

    #[test]
    fn while_one_is_down_only_the_next_is_right() {
        assert!(!misplaced(keyed(0, 1501, 2999, North)));
        assert!(misplaced(keyed(0, 1501, 2999, West)));
        assert!(misplaced(keyed(0, 1501, 2999, East)));
        assert!(!misplaced(keyed(1, 1501, 2999, West)));
    }

    #[test]
    fn the_window_of_the_death_allows_owner_and_next_but_no_third() {
        for (sent, answered) in [(990, 1000), (1100, 1200), (1500, 1600), (990, 1600)] {
            assert!(!misplaced(keyed(0, sent, answered, East)), "{sent}");
            assert!(!misplaced(keyed(0, sent, answered, North)), "{sent}");
            assert!(misplaced(keyed(0, sent, answered, West)), "{sent}");
        }
        assert!(misplaced(keyed(0, 990, 999, North)), "answered before the SIGKILL");
        assert!(misplaced(keyed(0, 1501, 1600, East)), "sent after west showed it down");
    }

    #[test]
    fn the_window_of_the_return_ends_100_ms_after_up_is_shown() {
        for (sent, answered) in [(2900, 3000), (3100, 3200), (3500, 3510), (2900, 3600)] {
            assert!(!misplaced(keyed(0, sent, answered, East)), "{sent}");
            assert!(!misplaced(keyed(0, sent, answered, North)), "{sent}");
            assert!(misplaced(keyed(0, sent, answered, West)), "{sent}");
        }
        assert!(misplaced(keyed(0, 3501, 3510, North)), "up again");
        assert!(!misplaced(keyed(0, 3501, 3510, East)));
    }

    #[test]
    fn a_window_that_has_not_ended_stays_open() {
        let open = Outage::begin(East, ms(1000), 70_000);
        for served in [East, North] {
            assert_eq!(judge(&[keyed(0, 9000, 9001, served)], &placement(), Some(&open)).keys_misplaced, 0);
        }
        let never_back = Outage { shown_down: Some(ms(1500)), ..open };
        assert_eq!(judge(&[keyed(0, 9000, 9001, East)], &placement(), Some(&never_back)).keys_misplaced, 1);
    }

    #[test]
    fn failures_count_as_failed_and_are_not_checked() {
        let lost = Exchange { served: None, ..keyed(0, 10, 20, West) };
        let unkeyed = Exchange { service: Service::Web, key: None, ..keyed(0, 10, 20, North) };
        let verdict = judge(&[lost, unkeyed], &placement(), None);
        assert_eq!(verdict, Verdict { requests: 2, failed: 1, ..Verdict::default() });
    }

    #[test]
    fn reroute_is_the_first_answer_of_a_survivor_for_a_key_of_the_dead() {
        let exchanges = [
            keyed(0, 990, 1001, East),  // the dead cluster's own last word
            keyed(1, 1001, 1002, West), // no key of the dead
            keyed(0, 1001, 1130, North),
            keyed(0, 1050, 1120, North),
        ];
        assert_eq!(judge(&exchanges, &placement(), Some(&outage())).reroute, Some(ms(120)));
        assert_eq!(judge(&exchanges, &placement(), None).reroute, None);
    }

    #[test]
    fn detection_is_the_slower_survivor() {
        let mut outage = outage();
        outage.down_since_unix_ms[West.index()] = Some(70_510);
        assert_eq!(outage.detect_ms(), None, "north has not noticed");
        outage.down_since_unix_ms[North.index()] = Some(70_540);
        assert_eq!(outage.detect_ms(), Some(540));
    }
}
