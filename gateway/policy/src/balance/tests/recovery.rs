//! How endpoints that are out come back, and how slowly.

use super::health::{CHECKED, all, check, fail_five};
use super::*;

#[test]
fn what_was_sent_before_the_ejection_says_nothing_after_it() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let (late, later) = (start(&set, 0, Tick::ZERO), start(&set, 0, Tick::ZERO));
    let _ = fail_five(&set, 0, Tick::ZERO);
    assert_eq!(late.answered(Tick::at(1)), None);
    assert_eq!(
        set.get(0).eligibility(Tick::at(1)),
        Eligibility::Ejected,
        "a success of before opens nothing"
    );
    let probe = start(&set, 0, Tick::at(5 * SECOND));
    assert_eq!(later.failed(Tick::at(6 * SECOND)), None);
    assert_eq!(
        set.get(0).word(Tick::at(6 * SECOND)),
        "probing",
        "a failure of before is no answer to the probe"
    );
    assert!(probe.answered(Tick::at(7 * SECOND)).is_some());
}

#[test]
fn however_many_fail_none_is_passed_over_for_good() {
    for endpoints in 1..5 {
        let set = set(Algorithm::P2cEwma, &vec![100; endpoints]);
        let changes = (0..endpoints).filter_map(|index| fail_five(&set, index, Tick::ZERO)).count();
        assert_eq!(changes, endpoints);
        let mut tried = Vec::new();
        while let Some(index) = set.pick(Tick::ZERO, &mut rng(), None, &tried) {
            tried.push(index);
        }
        assert_eq!(tried.len(), endpoints);
    }
}

#[test]
fn what_is_unreachable_is_found_again_by_a_connect_and_not_by_time() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let first = start(&set, 0, Tick::ZERO).refused(Tick::ZERO);
    assert_eq!(first, Some(Change { ready: false, cause: Cause::ConnectRefused }));
    assert_eq!(set.get(0).word(Tick::ZERO), "unreachable");
    assert!(set.get(0).claim_probe(Tick::ZERO) && !set.get(0).claim_probe(Tick::ZERO), "one looks after it");
    for second in 1..20 {
        let now = second * SECOND;
        assert_eq!(set.get(0).probe(Tick::at(now)), Some((Probe::Connect, 0)));
        assert_eq!(start(&set, 0, Tick::at(now)).unanswered(Tick::at(now)), None, "no news");
    }
    let change = set.get(0).connected(Tick::at(20 * SECOND));
    assert_eq!(change, Some(Change { ready: true, cause: Cause::Connected }));
    assert_eq!(set.get(0).connected(Tick::at(20 * SECOND)), None);
    assert_eq!(set.get(0).probe(Tick::at(20 * SECOND)), None);
    set.get(0).unprobed();
    assert!(!set.get(0).claim_probe(Tick::at(20 * SECOND)));
}

#[test]
fn a_check_that_passes_ends_a_refusal_and_no_ejection() {
    let set = Endpoints::new(CHECKED, [spec("a", 100), spec("b", 100)], None, Tick::ZERO);
    for index in 0..2 {
        let _ = (check(&set, index, true, Tick::ZERO), check(&set, index, true, Tick::ZERO));
    }
    refuse(&set, 0, Tick::ZERO);
    let _ = fail_five(&set, 1, Tick::ZERO);
    assert_eq!(check(&set, 0, true, Tick::at(1)), Some(Change { ready: true, cause: Cause::Connected }));
    assert_eq!(
        check(&set, 1, true, Tick::at(1)),
        None,
        "its health page works, what is asked of it does not"
    );
    assert_eq!(all(&set, Tick::at(1)), [Eligibility::Eligible, Eligibility::Ejected]);
}

#[test]
fn an_endpoint_that_opens_gets_a_share_that_grows_to_the_whole_in_ten_seconds() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let set = set(algorithm, &[100, 100]);
        refuse(&set, 0, Tick::ZERO);
        let _ = set.get(0).connected(Tick::at(SECOND));
        // Equal measures, so that only the share decides.
        let part = |now: Tick| {
            for index in 0..2 {
                let _ = start(&set, index, now).answered(now.after(1_000));
            }
            counts(&set, 2_000, now)[0]
        };
        let parts = [0, 2, 5, 8, 10].map(|age| part(Tick::at(SECOND + age * SECOND)));
        assert!(parts.is_sorted(), "{parts:?}");
        assert!(parts[0] < 300, "{parts:?}");
        assert!(parts[4] > 900, "{parts:?}");
    }
}

#[test]
fn nobody_warms_up_alone() {
    let set = set(Algorithm::RoundRobin, &[100]);
    refuse(&set, 0, Tick::ZERO);
    let _ = set.get(0).connected(Tick::at(SECOND));
    assert_eq!(counts(&set, 100, Tick::at(SECOND)), [100]);
    // Of a set that is new as a whole nobody starts slowly; who comes later does.
    let grown = Endpoints::new(
        rule(Algorithm::RoundRobin),
        [spec("a", 100), spec("x", 100)],
        Some(&set),
        Tick::at(SECOND),
    );
    assert_eq!(grown.get(1).word(Tick::at(SECOND)), "warming");
    assert_eq!(super::set(Algorithm::RoundRobin, &[100]).get(0).word(Tick::at(SECOND)), "ready");
}

proptest! {
    /// Whatever happens, in whatever order: what may not be picked is not, what is out is looked after or comes back by
    /// itself, and what changes says so.
    #[test]
    fn an_endpoint_is_eligible_exactly_while_checks_and_outlier_detection_allow_it(
        checked: bool,
        events in prop::collection::vec((0u8..13, 0u64..20), 1..200),
    ) {
        let rule = Rule { checked, ..rule(Algorithm::RoundRobin) };
        let set = Endpoints::new(rule, [spec("a", 100), spec("b", 100)], None, Tick::ZERO);
        let (mut now, mut running, mut told) = (1, Vec::new(), !checked);
        for (event, seconds) in events {
            let endpoint = set.get(0);
            let change = match event {
                0 | 1 => { now += seconds * SECOND / 2; None }
                2 => match endpoint.begin(Tick::at(now)) {
                    Begun::Here(request) => { running.push(request); None }
                    Begun::Elsewhere(change) => change,
                },
                3 => running.pop().and_then(|request: InFlight| request.answered(Tick::at(now))),
                4 => running.pop().and_then(|request| request.failed(Tick::at(now))),
                5 => running.pop().and_then(|request| request.refused(Tick::at(now))),
                6 | 7 if checked => endpoint.checked(event == 6, 2, 2, Tick::at(now)),
                8 => running.pop().and_then(|request| request.timed_out(Tick::at(now))),
                9 => running.pop().and_then(|request| request.given_up(Tick::at(now))),
                10 => { endpoint.lives(Tick::at(now)); None }
                11 => running.pop().and_then(|request| request.unanswered(Tick::at(now))),
                12 => { if let Some(request) = running.pop() { request.unblamed() } None }
                _ => endpoint.connected(Tick::at(now)),
            };
            if let Some(change) = change {
                prop_assert_ne!(change.ready, told, "{}: said twice", change.cause);
                told = change.ready;
            }
            let word = endpoint.word(Tick::at(now));
            prop_assert_eq!(told, matches!(word, "ready" | "warming"), "{}", word);
            prop_assert!(!told || endpoint.eligibility(Tick::at(now)) == Eligibility::Eligible);
            // Requests alone take nothing out for good: it comes back by itself, or somebody is to look after it.
            let later = now + 61 * SECOND;
            prop_assert!(
                endpoint.eligibility(Tick::at(later)) == Eligibility::Eligible
                    || endpoint.probe(Tick::at(now)).is_some()
                    || matches!(word, "checking" | "check-failed")
            );
        }
    }
}
