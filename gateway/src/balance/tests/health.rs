//! The life of endpoints: checks, ejection, probes, warming up.

use super::*;

const CHECKED: Rule = Rule { algorithm: Algorithm::RoundRobin, ring: None, checked: true };

fn check(set: &Endpoints, index: usize, passed: bool, now: u64) -> Option<Change> {
    set.get(index).checked(passed, 2, 3, now)
}

fn standings(set: &Endpoints, now: u64) -> Vec<Standing> {
    set.iter().map(|endpoint| endpoint.standing(now)).collect()
}

/// Five failures in a row, which is what ejects.
fn fail_five(set: &Endpoints, index: usize, now: u64) -> Option<Change> {
    (0..5).filter_map(|_| set.failed(&start(set, index, now), now)).last()
}

#[test]
fn what_is_checked_waits_for_rise_and_leaves_at_fall() {
    let set = Endpoints::new(CHECKED, [spec("a", 100)], None, 0);
    let endpoint = set.get(0);
    assert_eq!((endpoint.standing(0), endpoint.word(0)), (Standing::Out, "checking"));
    assert!(endpoint.is_waiting());
    assert_eq!(check(&set, 0, true, 1), None);
    assert_eq!(check(&set, 0, false, 2), None, "in a row");
    assert!(!endpoint.is_waiting());
    assert_eq!(check(&set, 0, true, 3), None);
    assert_eq!(check(&set, 0, true, 4), Some(Change { ready: true, cause: Cause::ChecksPassed(2) }));
    assert_eq!(endpoint.standing(4), Standing::Ready);
    for (at, passed) in [(5, false), (6, false), (7, true), (8, false), (9, false)] {
        assert_eq!(check(&set, 0, passed, at), None);
    }
    assert_eq!(check(&set, 0, false, 10), Some(Change { ready: false, cause: Cause::ChecksFailed(3) }));
    assert_eq!((endpoint.standing(10), endpoint.word(10)), (Standing::Out, "check-failed"));
    assert_eq!(set.pick(10, &mut rng(), None, &[]), None, "nothing is sent to what fails its checks");
    assert_eq!(check(&set, 0, false, 11), None, "said once");
}

#[test]
fn without_checks_an_endpoint_is_ready_at_once_and_says_no_word_of_them() {
    let set = set(Algorithm::RoundRobin, &[100]);
    assert_eq!((set.get(0).standing(0), set.get(0).word(0)), (Standing::Ready, "ready"));
    assert!(!set.get(0).is_waiting());
}

#[test]
fn checks_that_are_declared_later_take_nothing_away_until_they_fail() {
    let before = set(Algorithm::RoundRobin, &[100]);
    let checked = Endpoints::new(CHECKED, [spec("a", 100)], Some(&before), 9);
    assert_eq!(standings(&checked, 9), [Standing::Ready]);
    let change = (10..13).filter_map(|at| check(&checked, 0, false, at)).last();
    assert_eq!(change, Some(Change { ready: false, cause: Cause::ChecksFailed(3) }));
    // Declared no longer, they have no say.
    let rule = rule(Algorithm::RoundRobin);
    let unchecked = Endpoints::new(rule, [spec("a", 100)], Some(&checked), 14);
    assert_eq!(standings(&unchecked, 14), [Standing::Ready]);
}

#[test]
fn what_checks_said_outlives_a_rebuild() {
    let before = Endpoints::new(CHECKED, [spec("a", 100), spec("b", 100)], None, 0);
    let _ = (check(&before, 0, true, 1), check(&before, 0, true, 2));
    let after = Endpoints::new(CHECKED, [spec("b", 100), spec("a", 50)], Some(&before), 3);
    assert_eq!(standings(&after, 3), [Standing::Out, Standing::Ready]);
}

#[test]
fn five_failures_in_a_row_eject_for_five_seconds() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    for _ in 0..4 {
        fail(&set, 0, 0);
    }
    let _ = start(&set, 0, 0).answered(0);
    for _ in 0..4 {
        assert_eq!(set.failed(&start(&set, 0, 0), 0), None, "in a row");
    }
    let change = set.failed(&start(&set, 0, 0), 0);
    assert_eq!(change, Some(Change { ready: false, cause: Cause::RequestsFailed(5) }));
    assert_eq!(set.get(0).word(0), "ejected");
    assert_eq!(counts(&set, 10, 5 * SECOND - 1), [0, 10]);
    assert_eq!(standings(&set, 5 * SECOND), [Standing::Ready, Standing::Ready], "for a probe");
}

#[test]
fn an_error_of_the_endpoints_own_ejects_nobody() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    for _ in 0..50 {
        start(&set, 0, 0).erred(0);
    }
    assert_eq!(standings(&set, 0), [Standing::Ready; 2]);
}

#[test]
fn one_request_probes_before_all_others_come_back() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, 0);
    let now = 5 * SECOND;
    let probe = start(&set, 0, now);
    assert_eq!(set.get(0).word(now), "probing");
    assert_eq!(counts(&set, 10, now), [0, 10], "one at a time");
    // Its success opens the door.
    assert_eq!(probe.answered(now), Some(Change { ready: true, cause: Cause::ProbeAnswered }));
    assert_eq!(set.get(0).word(now), "warming");
}

#[test]
fn a_probe_that_fails_doubles_the_wait_up_to_a_minute() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, 0);
    let mut now = 0;
    for wait in [5, 10, 20, 40, 60, 60] {
        assert_eq!(set.get(0).standing(now + wait * SECOND - 1), Standing::LastChoice, "{wait}");
        now += wait * SECOND;
        assert_eq!(set.get(0).standing(now), Standing::Ready, "{wait}");
        assert_eq!(set.failed(&start(&set, 0, now), now), None, "no news");
    }
    // It works again, and for long: the next time is the first.
    now += 60 * SECOND;
    let _ = start(&set, 0, now).answered(now);
    now += 61 * SECOND;
    let _ = fail_five(&set, 0, now);
    assert_eq!(set.get(0).standing(now + 5 * SECOND), Standing::Ready);
}

#[test]
fn a_relapse_is_no_first_time() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, 0);
    let _ = start(&set, 0, 5 * SECOND).answered(5 * SECOND);
    let _ = fail_five(&set, 0, 6 * SECOND);
    assert_eq!(set.get(0).standing(16 * SECOND - 1), Standing::LastChoice);
    assert_eq!(set.get(0).standing(16 * SECOND), Standing::Ready);
}

#[test]
fn a_probe_whose_caller_left_makes_room_for_another() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let _ = fail_five(&set, 0, 0);
    drop(start(&set, 0, 5 * SECOND));
    assert_eq!(set.get(0).standing(15 * SECOND - 1), Standing::LastChoice);
    assert_eq!(set.get(0).standing(15 * SECOND), Standing::Ready);
}

#[test]
fn what_was_sent_before_the_ejection_says_nothing_after_it() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let (late, later) = (start(&set, 0, 0), start(&set, 0, 0));
    let _ = fail_five(&set, 0, 0);
    assert_eq!(late.answered(1), None);
    assert_eq!(set.get(0).standing(1), Standing::LastChoice, "a success of before opens nothing");
    let probe = start(&set, 0, 5 * SECOND);
    assert_eq!(set.failed(&later, 6 * SECOND), None);
    assert_eq!(set.get(0).word(6 * SECOND), "probing", "a failure of before is no answer to the probe");
    assert!(probe.answered(7 * SECOND).is_some());
}

#[test]
fn at_most_half_are_ejected_and_never_the_only_one() {
    for (endpoints, ejected) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let set = set(Algorithm::P2cEwma, &vec![100; endpoints]);
        let changes = (0..endpoints).filter_map(|index| fail_five(&set, index, 0)).count();
        assert_eq!(changes, ejected, "of {endpoints}");
        let out = standings(&set, 0).iter().filter(|&&s| s == Standing::LastChoice).count();
        assert_eq!(out, ejected, "of {endpoints}");
    }
}

#[test]
fn the_ejected_are_a_last_choice_and_the_refusing_are_none() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let set = set(algorithm, &[100, 100]);
        let _ = fail_five(&set, 0, 0);
        assert_eq!(set.standing(0), Standing::Ready);
        refuse(&set, 1, 0);
        assert_eq!(set.standing(0), Standing::LastChoice);
        assert_eq!(set.pick(0, &mut rng(), None, &[]), Some(0));
        refuse(&set, 0, 0);
        assert_eq!((set.standing(0), set.pick(0, &mut rng(), None, &[])), (Standing::Out, None));
    }
}

#[test]
fn a_refusing_endpoint_is_asked_once_a_second_by_one_request() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let first = start(&set, 0, 0).refused(0);
    assert_eq!(first, Some(Change { ready: false, cause: Cause::ConnectRefused }));
    for second in 1..20 {
        let now = second * SECOND;
        assert_eq!(set.get(0).standing(now), Standing::Ready, "{second}");
        let probe = start(&set, 0, now);
        assert_eq!(counts(&set, 10, now), [0, 10], "one at a time");
        assert_eq!(probe.refused(now), None, "no news");
    }
    let change = set.get(0).connected(20 * SECOND);
    assert_eq!(change, Some(Change { ready: true, cause: Cause::Connected }));
    assert_eq!(set.get(0).connected(20 * SECOND), None);
}

#[test]
fn an_endpoint_that_swallows_connects_is_asked_ever_more_rarely() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    // Each connect costs its request a second. Of ten at once the first decides.
    let requests: Vec<InFlight> = (0..10).map(|_| start(&set, 0, 0)).collect();
    for request in &requests {
        let _ = request.refused(SECOND);
    }
    let mut now = SECOND;
    for wait in [5, 10, 20] {
        assert_eq!(set.get(0).standing(now + wait * SECOND - 1), Standing::Out, "{wait}");
        let probe = start(&set, 0, now + wait * SECOND);
        now += (wait + 1) * SECOND;
        let _ = probe.refused(now);
    }
}

#[test]
fn a_check_that_passes_ends_a_refusal_and_no_ejection() {
    let set = Endpoints::new(CHECKED, [spec("a", 100), spec("b", 100)], None, 0);
    for index in 0..2 {
        let _ = (check(&set, index, true, 0), check(&set, index, true, 0));
    }
    refuse(&set, 0, 0);
    let _ = fail_five(&set, 1, 0);
    assert_eq!(check(&set, 0, true, 1), Some(Change { ready: true, cause: Cause::Connected }));
    assert_eq!(check(&set, 1, true, 1), None, "its health page works, what is asked of it does not");
    assert_eq!(standings(&set, 1), [Standing::Ready, Standing::LastChoice]);
}

#[test]
fn an_endpoint_that_opens_gets_a_share_that_grows_to_the_whole_in_ten_seconds() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let set = set(algorithm, &[100, 100]);
        refuse(&set, 0, 0);
        let _ = set.get(0).connected(SECOND);
        // Equal measures, so that only the share decides.
        let part = |now: u64| {
            for index in 0..2 {
                let _ = start(&set, index, now).answered(now + 1_000);
            }
            counts(&set, 2_000, now)[0]
        };
        let parts = [0, 2, 5, 8, 10].map(|age| part(SECOND + age * SECOND));
        assert!(parts.is_sorted(), "{parts:?}");
        assert!(parts[0] < 300, "{parts:?}");
        assert!(parts[4] > 900, "{parts:?}");
    }
}

#[test]
fn nobody_warms_up_alone() {
    let set = set(Algorithm::RoundRobin, &[100]);
    refuse(&set, 0, 0);
    let _ = set.get(0).connected(SECOND);
    assert_eq!(counts(&set, 100, SECOND), [100]);
    // Of a set that is new as a whole nobody starts slowly; who comes later does.
    let grown =
        Endpoints::new(rule(Algorithm::RoundRobin), [spec("a", 100), spec("x", 100)], Some(&set), SECOND);
    assert_eq!(grown.get(1).word(SECOND), "warming");
    assert_eq!(super::set(Algorithm::RoundRobin, &[100]).get(0).word(SECOND), "ready");
}

proptest! {
    /// Whatever happens, in whatever order: what may not be picked is not, nothing that waits waits for ever, and what
    /// changes says so.
    #[test]
    fn the_door_is_open_exactly_while_both_locks_are(
        checked: bool,
        events in prop::collection::vec((0u8..8, 0u64..20), 1..200),
    ) {
        let rule = Rule { checked, ..rule(Algorithm::RoundRobin) };
        let set = Endpoints::new(rule, [spec("a", 100), spec("b", 100)], None, 0);
        let (mut now, mut running, mut told) = (1, Vec::new(), !checked);
        for (event, seconds) in events {
            let endpoint = set.get(0);
            let change = match event {
                0 | 1 => { now += seconds * SECOND / 2; None }
                2 => { running.extend(endpoint.begin(now)); None }
                3 => running.pop().and_then(|request: InFlight| request.answered(now)),
                4 => running.pop().and_then(|request| set.failed(&request, now)),
                5 => running.pop().and_then(|request| request.refused(now)),
                6 | 7 if checked => endpoint.checked(event == 6, 2, 2, now),
                _ => endpoint.connected(now),
            };
            if let Some(change) = change {
                prop_assert_ne!(change.ready, told, "{}: said twice", change.cause);
                told = change.ready;
            }
            let word = endpoint.word(now);
            prop_assert_eq!(told, matches!(word, "ready" | "warming"), "{}", word);
            prop_assert!(!told || endpoint.standing(now) == Standing::Ready);
            // Requests alone take nothing out for longer than the longest wait.
            let later = endpoint.standing(now + 61 * SECOND);
            prop_assert!(later == Standing::Ready || matches!(word, "checking" | "check-failed"));
        }
    }
}
