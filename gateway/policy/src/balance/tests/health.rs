//! The life of endpoints: checks, ejection, probes, warming up.

use registry::base::time::Tick;

use super::*;

pub(super) const CHECKED: Rule =
    Rule { algorithm: Algorithm::RoundRobin, ring: None, checked: true, fail_open: false };

pub(super) fn check(set: &Endpoints, index: usize, passed: bool, now: Tick) -> Option<Change> {
    set.get(index).checked(passed, 2, 3, now)
}

pub(super) fn all(set: &Endpoints, now: Tick) -> Vec<Eligibility> {
    set.iter().map(|endpoint| endpoint.eligibility(now)).collect()
}

/// Five failures in a row, which is what ejects.
pub(super) fn fail_five(set: &Endpoints, index: usize, now: Tick) -> Option<Change> {
    (0..5).filter_map(|_| start(set, index, now).failed(now)).last()
}

#[test]
fn what_is_checked_waits_for_rise_and_leaves_at_fall() {
    let set = Endpoints::new(CHECKED, [spec("a", 100)], None, Tick::ZERO);
    let endpoint = set.get(0);
    assert_eq!(
        (endpoint.eligibility(Tick::ZERO), endpoint.word(Tick::ZERO)),
        (Eligibility::Unhealthy, "checking")
    );
    assert!(endpoint.is_waiting());
    assert_eq!(check(&set, 0, true, Tick::at(1)), None);
    assert_eq!(check(&set, 0, false, Tick::at(2)), None, "in a row");
    assert!(!endpoint.is_waiting());
    assert_eq!(check(&set, 0, true, Tick::at(3)), None);
    assert_eq!(
        check(&set, 0, true, Tick::at(4)),
        Some(Change { ready: true, cause: Cause::ChecksPassed(2) })
    );
    assert_eq!(endpoint.eligibility(Tick::at(4)), Eligibility::Eligible);
    for (at, passed) in [(5, false), (6, false), (7, true), (8, false), (9, false)] {
        assert_eq!(check(&set, 0, passed, Tick::at(at)), None);
    }
    assert_eq!(
        check(&set, 0, false, Tick::at(10)),
        Some(Change { ready: false, cause: Cause::ChecksFailed(3) })
    );
    assert_eq!(
        (endpoint.eligibility(Tick::at(10)), endpoint.word(Tick::at(10))),
        (Eligibility::Unhealthy, "check-failed")
    );
    assert_eq!(
        set.pick(Tick::at(10), &mut rng(), None, &[]),
        None,
        "nothing is sent to what fails its checks"
    );
    assert_eq!(check(&set, 0, false, Tick::at(11)), None, "said once");
}

#[test]
fn without_checks_an_endpoint_is_ready_at_once_and_says_no_word_of_them() {
    let set = set(Algorithm::RoundRobin, &[100]);
    assert_eq!(
        (set.get(0).eligibility(Tick::ZERO), set.get(0).word(Tick::ZERO)),
        (Eligibility::Eligible, "ready")
    );
    assert!(!set.get(0).is_waiting());
}

#[test]
fn checks_that_are_declared_later_take_nothing_away_until_they_fail() {
    let before = set(Algorithm::RoundRobin, &[100]);
    let checked = Endpoints::new(CHECKED, [spec("a", 100)], Some(&before), Tick::at(9));
    assert_eq!(all(&checked, Tick::at(9)), [Eligibility::Eligible]);
    let change = (10..13).filter_map(|at| check(&checked, 0, false, Tick::at(at))).last();
    assert_eq!(change, Some(Change { ready: false, cause: Cause::ChecksFailed(3) }));
    // Declared no longer, they have no say.
    let rule = rule(Algorithm::RoundRobin);
    let unchecked = Endpoints::new(rule, [spec("a", 100)], Some(&checked), Tick::at(14));
    assert_eq!(all(&unchecked, Tick::at(14)), [Eligibility::Eligible]);
}

#[test]
fn what_checks_said_outlives_a_rebuild() {
    let before = Endpoints::new(CHECKED, [spec("a", 100), spec("b", 100)], None, Tick::ZERO);
    let _ = (check(&before, 0, true, Tick::at(1)), check(&before, 0, true, Tick::at(2)));
    let after = Endpoints::new(CHECKED, [spec("b", 100), spec("a", 50)], Some(&before), Tick::at(3));
    assert_eq!(all(&after, Tick::at(3)), [Eligibility::Unhealthy, Eligibility::Eligible]);
}

#[test]
fn five_failures_in_a_row_eject_for_five_seconds() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    for _ in 0..4 {
        fail(&set, 0, Tick::ZERO);
    }
    let answered = start(&set, 0, Tick::ZERO);
    let _ = answered.answered(Tick::ZERO);
    answered.completed();
    for _ in 0..4 {
        assert_eq!(start(&set, 0, Tick::ZERO).failed(Tick::ZERO), None, "in a row");
    }
    let change = start(&set, 0, Tick::ZERO).failed(Tick::ZERO);
    assert_eq!(change, Some(Change { ready: false, cause: Cause::RequestsFailed(5) }));
    assert_eq!(set.get(0).word(Tick::ZERO), "ejected");
    assert_eq!(counts(&set, 10, Tick::at(5 * SECOND - 1)), [0, 10]);
    assert_eq!(
        all(&set, Tick::at(5 * SECOND)),
        [Eligibility::Eligible, Eligibility::Eligible],
        "for a probe"
    );
}

#[test]
fn an_error_of_the_endpoints_own_ejects_nobody() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    for _ in 0..50 {
        start(&set, 0, Tick::ZERO).erred(Tick::ZERO);
    }
    assert_eq!(all(&set, Tick::ZERO), [Eligibility::Eligible; 2]);
}

#[test]
fn one_request_probes_before_all_others_come_back() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, Tick::ZERO);
    let now = 5 * SECOND;
    let probe = start(&set, 0, Tick::at(now));
    assert_eq!(set.get(0).word(Tick::at(now)), "probing");
    assert_eq!(counts(&set, 10, Tick::at(now)), [0, 10], "one at a time");
    // Its success opens the door.
    assert_eq!(probe.answered(Tick::at(now)), Some(Change { ready: true, cause: Cause::ProbeAnswered }));
    assert_eq!(set.get(0).word(Tick::at(now)), "warming");
}

#[test]
fn a_probe_that_fails_doubles_the_wait_up_to_a_minute() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, Tick::ZERO);
    let mut now = 0;
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(set.get(0).eligibility(Tick::at(now + wait * SECOND - 1)), Eligibility::Ejected, "{wait}");
        now += wait * SECOND;
        assert_eq!(set.get(0).eligibility(Tick::at(now)), Eligibility::Eligible, "{wait}");
        assert_eq!(start(&set, 0, Tick::at(now)).failed(Tick::at(now)), None, "no news");
    }
    // It works again, and for long: the next time is the first.
    now += 60 * SECOND;
    let _ = start(&set, 0, Tick::at(now)).answered(Tick::at(now));
    now += 61 * SECOND;
    let _ = fail_five(&set, 0, Tick::at(now));
    assert_eq!(set.get(0).eligibility(Tick::at(now + 5 * SECOND)), Eligibility::Eligible);
}

#[test]
fn a_relapse_is_no_first_time() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, Tick::ZERO);
    let _ = start(&set, 0, Tick::at(5 * SECOND)).answered(Tick::at(5 * SECOND));
    let _ = fail_five(&set, 0, Tick::at(6 * SECOND));
    assert_eq!(set.get(0).eligibility(Tick::at(16 * SECOND - 1)), Eligibility::Ejected);
    assert_eq!(set.get(0).eligibility(Tick::at(16 * SECOND)), Eligibility::Eligible);
}

#[test]
fn a_probe_whose_caller_left_makes_room_for_another() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, Tick::ZERO);
    let probe = start(&set, 0, Tick::at(5 * SECOND));
    assert_eq!(set.get(0).eligibility(Tick::at(6 * SECOND)), Eligibility::Ejected, "one at a time");
    assert_eq!(probe.given_up(Tick::at(5 * SECOND + 1_000)), None);
    assert_eq!(set.get(0).eligibility(Tick::at(6 * SECOND)), Eligibility::Eligible);
    // One that tells nothing at all makes room after a while.
    let _lost = start(&set, 0, Tick::at(6 * SECOND));
    assert_eq!(set.get(0).eligibility(Tick::at(16 * SECOND - 1)), Eligibility::Ejected);
    assert_eq!(set.get(0).eligibility(Tick::at(16 * SECOND)), Eligibility::Eligible);
}

#[test]
fn timeouts_take_an_endpoint_out_until_it_gives_a_sign_of_life() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let changes: Vec<Change> =
        (0..5).filter_map(|_| start(&set, 0, Tick::ZERO).timed_out(Tick::at(SECOND))).collect();
    assert_eq!(changes, [Change { ready: false, cause: Cause::RequestsTimedOut(5) }]);
    assert_eq!(set.get(0).word(Tick::at(SECOND)), "silent");
    assert_eq!(counts(&set, 10, Tick::at(1_000 * SECOND)), [0, 10], "time alone brings nobody back");
    assert_eq!(set.get(0).probe(Tick::at(SECOND)), Some((Probe::Answer, 0)));
    set.get(0).lives(Tick::at(2 * SECOND));
    let probe = start(&set, 0, Tick::at(2 * SECOND));
    assert_eq!(set.get(0).word(Tick::at(2 * SECOND)), "probing");
    // It lives, and does not work: the next sign of life counts only after a while.
    assert_eq!(probe.timed_out(Tick::at(3 * SECOND)), None, "no news");
    set.get(0).lives(Tick::at(3 * SECOND));
    assert_eq!(set.get(0).eligibility(Tick::at(3 * SECOND)), Eligibility::Ejected);
    assert_eq!(set.get(0).probe(Tick::at(3 * SECOND)), Some((Probe::Answer, 5 * SECOND)));
    set.get(0).lives(Tick::at(8 * SECOND));
    let change = start(&set, 0, Tick::at(8 * SECOND)).answered(Tick::at(8 * SECOND));
    assert_eq!(change, Some(Change { ready: true, cause: Cause::ProbeAnswered }));
}

#[test]
fn a_timeout_counts_as_at_least_its_own_latency() {
    let set = set(Algorithm::P2cEwma, &[100, 100]);
    let _ = start(&set, 0, Tick::ZERO).timed_out(Tick::at(3 * SECOND));
    assert!(set.get(0).latency_micros(Tick::at(3 * SECOND)).is_some_and(|latency| latency >= 3_000_000.0));
    let _ = start(&set, 1, Tick::ZERO).given_up(Tick::at(2 * SECOND));
    assert!(set.get(1).latency_micros(Tick::at(2 * SECOND)).is_some_and(|latency| latency >= 2_000_000.0));
}

#[test]
fn what_never_ends_weighs() {
    let set = set(Algorithm::P2cEwma, &[100, 100]);
    for index in 0..2 {
        let _ = start(&set, index, Tick::ZERO).answered(Tick::at(1_000));
    }
    let _hangs = start(&set, 0, Tick::at(1_000));
    assert_eq!(
        counts(&set, 100, Tick::at(1_001_000)),
        [0, 100],
        "a second of silence is a second of latency"
    );
}

#[test]
fn five_that_wait_while_nothing_is_answered_are_the_last() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = start(&set, 0, Tick::ZERO).answered(Tick::at(10_000));
    let waiting: Vec<InFlight> = (0..5).map(|_| start(&set, 0, Tick::at(10_000))).collect();
    assert!(begin(set.get(0), Tick::at(SECOND)).is_some(), "a second is not over");
    let Begun::Elsewhere(change) = set.get(0).begin(Tick::at(1_010_000)) else {
        panic!("the sixth goes elsewhere")
    };
    assert_eq!(change, Some(Change { ready: false, cause: Cause::NothingAnswered(5) }));
    // One that is answered after all is a sign of life.
    let _ = waiting[0].answered(Tick::at(2 * SECOND));
    assert_eq!(set.get(0).eligibility(Tick::at(2 * SECOND)), Eligibility::Eligible, "for a probe");
    // Where answers usually take long, so does patience.
    let slow = super::set(Algorithm::RoundRobin, &[100]);
    let _ = start(&slow, 0, Tick::ZERO).answered(Tick::at(SECOND));
    let _waiting: Vec<InFlight> = (0..5).map(|_| start(&slow, 0, Tick::at(SECOND))).collect();
    assert!(begin(slow.get(0), Tick::at(5 * SECOND)).is_some());
}

#[test]
fn impatient_callers_take_nobody_out_and_patient_ones_do() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = start(&set, 0, Tick::ZERO).answered(Tick::at(100_000));
    for _ in 0..50 {
        assert_eq!(start(&set, 0, Tick::at(SECOND)).given_up(Tick::at(SECOND + 200_000)), None);
    }
    assert_eq!(set.get(0).eligibility(Tick::at(SECOND)), Eligibility::Eligible);
    let later = 200 * SECOND;
    let given_up = |_| start(&set, 0, Tick::at(later)).given_up(Tick::at(later + 10 * SECOND));
    assert_eq!((0..5).filter_map(given_up).count(), 1);
}

#[test]
fn an_answer_that_breaks_off_is_a_failure_and_its_head_makes_good_nothing() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    for _ in 0..4 {
        let request = start(&set, 0, Tick::ZERO);
        let _ = request.answered(Tick::at(1));
        assert_eq!(request.failed(Tick::at(2)), None);
    }
    let request = start(&set, 0, Tick::ZERO);
    let _ = request.answered(Tick::at(1));
    assert!(request.failed(Tick::at(2)).is_some());
}

#[test]
fn what_is_none_of_its_doing_is_not_held_against_an_endpoint() {
    let set = set(Algorithm::RoundRobin, &[100]);
    for _ in 0..50 {
        start(&set, 0, Tick::ZERO).unblamed();
    }
    assert_eq!(set.get(0).eligibility(Tick::ZERO), Eligibility::Eligible);
    assert_eq!(set.get(0).latency_micros(Tick::ZERO), None);
}

#[test]
fn of_those_that_are_out_the_one_that_was_asked_longest_ago_comes_first() {
    let set = set(Algorithm::P2cEwma, &[100, 100, 100]);
    for (index, at) in [(1, 10), (2, 20), (0, 30)] {
        refuse(&set, index, Tick::at(at));
    }
    let mut order = Vec::new();
    for now in 40..46 {
        let (index, request) = set.take(Tick::at(now), &mut rng(), None, &[], |_, _| {}).unwrap();
        order.push(index);
        request.unblamed();
    }
    assert_eq!(order, [1, 2, 0, 1, 2, 0]);
}

#[test]
fn no_more_wait_for_a_connection_than_may_while_none_is_accepted() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let now = SECOND;
    let mut waiting: Vec<Connecting> = (0..1_000).map(|_| set.get(0).connecting(Tick::at(now))).collect();
    assert!(!set.is_crowded(Tick::at(now + 100_000), &[]), "a burst is none of its doing");
    let now = now + 100_001;
    waiting.push(set.get(0).connecting(Tick::at(now)));
    assert_eq!(counts(&set, 10, Tick::at(now)), [0, 10]);
    assert!(set.is_crowded(Tick::at(now), &[1]) && !set.is_crowded(Tick::at(now), &[0]));
    assert_eq!(set.pick(Tick::at(now), &mut rng(), None, &[1]), None);
    // One in a while finds out ...
    assert_eq!(set.pick(Tick::at(now + 10_000), &mut rng(), None, &[1]), Some(0));
    waiting.push(set.get(0).connecting(Tick::at(now + 10_000)));
    assert_eq!(set.pick(Tick::at(now + 10_001), &mut rng(), None, &[1]), None);
    // ... that it accepts, and then more may.
    let _ = set.get(0).connected(Tick::at(now + 11_000));
    waiting.push(set.get(0).connecting(Tick::at(now + 11_000)));
    assert_eq!(set.pick(Tick::at(now + 12_000), &mut rng(), None, &[1]), Some(0));
    drop(waiting);
    assert!(!set.is_crowded(Tick::at(now), &[]));
}

#[test]
fn checks_empty_a_service_unless_it_fails_open() {
    for fail_open in [false, true] {
        let rule = Rule { fail_open, ..CHECKED };
        let set = Endpoints::new(rule, [spec("a", 100), spec("b", 300)], None, Tick::ZERO);
        assert_eq!(set.pick(Tick::ZERO, &mut rng(), None, &[]).is_some(), fail_open);
        let readiness = if fail_open { Readiness::Degraded } else { Readiness::None };
        assert_eq!(
            (set.readiness(Tick::ZERO), set.ready_weight(Tick::ZERO)),
            (readiness, if fail_open { 400 } else { 0 })
        );
        let _ = (check(&set, 0, true, Tick::at(1)), check(&set, 0, true, Tick::at(1)));
        assert_eq!(counts(&set, 10, Tick::at(1)), [10, 0], "one that passes is asked alone");
        assert_eq!(
            set.readiness(Tick::at(1)),
            Readiness::Ready,
            "of those whose checks pass all are eligible"
        );
    }
}

#[test]
fn a_summary_of_many_is_as_good_as_a_look_at_all() {
    let set = Endpoints::new(
        rule(Algorithm::RoundRobin),
        (0..100).map(|n| spec(&format!("{}{n}", 'a'), 100)),
        None,
        Tick::ZERO,
    );
    assert_eq!((set.readiness(Tick::ZERO), set.ready_weight(Tick::ZERO)), (Readiness::Ready, 10_000));
    (0..60).for_each(|index| refuse(&set, index, Tick::ZERO));
    assert_eq!(
        (set.readiness(Tick::at(SECOND)), set.ready_weight(Tick::at(SECOND))),
        (Readiness::Degraded, 4_000)
    );
    (60..100).for_each(|index| refuse(&set, index, Tick::at(SECOND)));
    assert_eq!(
        (set.readiness(Tick::at(2 * SECOND)), set.ready_weight(Tick::at(2 * SECOND))),
        (Readiness::Degraded, 1)
    );
}
