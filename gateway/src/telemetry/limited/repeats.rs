//! Which of the events that others cause are said, and how many were not.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// How long is counted before the count is said.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Lines of one kind of event in one [`WINDOW`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// Of one that causes it.
    pub each: u32,
    /// Of all of them; so many are also told apart.
    pub all: u32,
}

/// All kinds of events, of which there are as many as places in the code that say one.
#[derive(Debug, Default)]
pub(super) struct Repeats(BTreeMap<Box<str>, Kind>);

/// What was not said of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsaid {
    /// The event.
    pub event: String,
    /// How often.
    pub count: u64,
    /// Who caused most of them; empty: several that are not told apart.
    pub most_of: String,
    /// How many that one caused.
    pub most_count: u64,
    /// For how long was counted.
    pub within: Duration,
}

#[derive(Debug)]
struct Kind {
    began: Instant,
    said: u32,
    unsaid: u64,
    by: HashMap<Box<str>, By>,
}

/// One that causes events of a kind.
#[derive(Debug, Default)]
struct By {
    said: u32,
    unsaid: u64,
}

impl Repeats {
    /// Whether the `event` that `by` causes at `now` is said; if not, it is counted. The first are, and those that come
    /// after a whole window in which all were.
    pub(super) fn admit(&mut self, event: &str, most: Most, by: &str, now: Instant) -> bool {
        if !self.0.contains_key(event) {
            self.0.insert(event.into(), Kind { began: now, said: 0, unsaid: 0, by: HashMap::new() });
        }
        let Some(kind) = self.0.get_mut(event) else { return true };
        // Whoever comes when all places are taken shares one with others.
        let crowded = !kind.by.contains_key(by) && kind.by.len() >= most.all as usize;
        let of = kind.by.entry(if crowded { "".into() } else { by.into() }).or_default();
        let says = of.said < most.each && kind.said < most.all;
        if says {
            of.said += 1;
            kind.said += 1;
        } else {
            of.unsaid += 1;
            kind.unsaid += 1;
        }
        says
    }

    /// What was not said in the windows that are over at `now`. Whoever went on causing the event is only counted in the
    /// next window.
    pub(super) fn take_unsaid(&mut self, now: Instant) -> Vec<Unsaid> {
        let mut all = Vec::new();
        self.0.retain(|event, kind| {
            let within = now.saturating_duration_since(kind.began);
            if within < WINDOW {
                return true;
            }
            kind.by.retain(|_, by| by.unsaid > 0);
            if let Some((by, most)) = kind.by.iter().max_by_key(|(_, by)| by.unsaid) {
                all.push(Unsaid {
                    event: event.to_string(),
                    count: kind.unsaid,
                    most_of: by.to_string(),
                    most_count: most.unsaid,
                    within,
                });
            }
            (kind.began, kind.said, kind.unsaid) = (now, 0, 0);
            kind.by.values_mut().for_each(|by| *by = By { said: u32::MAX, unsaid: 0 });
            !kind.by.is_empty()
        });
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: Most = Most { each: 5, all: 20 };

    fn said(repeats: &mut Repeats, by: &str, times: u32, now: Instant) -> usize {
        (0..times).filter(|_| repeats.admit("Refused a tunnel.", MOST, by, now)).count()
    }

    #[test]
    fn a_flood_is_a_few_lines_and_then_a_count() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        assert_eq!(said(&mut repeats, "192.0.2.1", 45_833, begin), 5);
        assert_eq!(repeats.take_unsaid(begin + WINDOW - Duration::from_millis(1)), []);
        let unsaid = Unsaid {
            event: "Refused a tunnel.".into(),
            count: 45_828,
            most_of: "192.0.2.1".into(),
            most_count: 45_828,
            within: WINDOW,
        };
        assert_eq!(repeats.take_unsaid(begin + WINDOW), [unsaid]);
        // It goes on: nothing but counts.
        assert_eq!(said(&mut repeats, "192.0.2.1", 7, begin + WINDOW), 0);
        // Others are still heard.
        assert_eq!(said(&mut repeats, "192.0.2.2", 7, begin + WINDOW), 5);
        assert_eq!(repeats.take_unsaid(begin + WINDOW * 2)[0].count, 7 + 2);
        // It is over: forgotten, and said again when it comes again.
        assert_eq!(repeats.take_unsaid(begin + WINDOW * 3), []);
        assert!(repeats.0.is_empty());
        assert_eq!(said(&mut repeats, "192.0.2.1", 7, begin + WINDOW * 9), 5);
    }

    #[test]
    fn what_happens_now_and_then_is_always_said() {
        let (mut repeats, begin) = (Repeats::default(), Instant::now());
        for round in 0..100 {
            let now = begin + WINDOW * round;
            assert_eq!(repeats.take_unsaid(now), []);
            assert_eq!(said(&mut repeats, "192.0.2.1", 5, now), 5);
        }
    }

    #[test]
    fn kinds_do_not_hide_each_other() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        said(&mut repeats, "east", 1000, now);
        assert!(repeats.admit("Tunnel up.", MOST, "east", now));
    }

    proptest! {
        #[test]
        fn lines_and_memory_are_bounded_and_every_event_is_said_or_counted(
            events in proptest::collection::vec((0u16..500, 0u64..40), 0..2000),
        ) {
            let (mut repeats, begin) = (Repeats::default(), Instant::now());
            let (mut now, mut lines, mut counted) = (begin, 0, 0);
            let mut windows = 1;
            for (by, pause) in &events {
                now += Duration::from_millis(*pause);
                let unsaid = repeats.take_unsaid(now);
                prop_assert!(unsaid.len() <= 1);
                windows += unsaid.len();
                counted += unsaid.iter().map(|unsaid| unsaid.count).sum::<u64>();
                lines += u64::from(repeats.admit("x", MOST, &by.to_string(), now));
                prop_assert!(repeats.0["x"].by.len() <= MOST.all as usize + 1);
            }
            counted += repeats.take_unsaid(now + WINDOW).iter().map(|unsaid| unsaid.count).sum::<u64>();
            prop_assert_eq!(lines + counted, events.len() as u64);
            let spent = (now - begin).as_secs_f64() / WINDOW.as_secs_f64();
            prop_assert!(lines as f64 <= f64::from(MOST.all) * (spent.ceil() + 1.0) + windows as f64);
        }
    }
}
