//! What the answers of a load say about an outage. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The first letter of the name of east's backend, and of north's.
pub(super) const EAST: char = 'e';
pub(super) const NORTH: char = 'n';

/// One request and what became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answer {
    /// When it was to be sent: nanoseconds of the monotonic clock.
    pub(super) sent: u64,
    /// Milliseconds until its answer was whole.
    pub(super) took_ms: f64,
    status: u16,
    /// The first letter of the backend's name.
    pub(super) from: char,
    key: u64,
}

impl Answer {
    /// Whether it was answered as it should be.
    pub(super) fn good(&self) -> bool {
        self.status == 200
    }

    fn ended(&self) -> u64 {
        self.sent + (self.took_ms * 1e6) as u64
    }
}

/// Reads what the load tool wrote down.
pub(super) fn read(text: &str) -> Result<Vec<Answer>, String> {
    let line = |line: &str| -> Option<Answer> {
        let mut words = line.split(' ');
        Some(Answer {
            sent: words.next()?.parse().ok()?,
            took_ms: words.next()?.parse::<f64>().ok()? / 1e3,
            status: words.next()?.parse().ok()?,
            from: words.next()?.chars().next()?,
            key: words.next()?.parse().ok()?,
        })
    };
    text.lines().map(|text| line(text).ok_or_else(|| format!("no request: `{text}`"))).collect()
}

/// What callers saw of an outage.
#[derive(Debug, PartialEq)]
pub(super) struct Outage {
    /// Requests without a good answer.
    pub(super) failed: usize,
    /// From the event to the first good answer of north, milliseconds; its whole length, if there was none.
    pub(super) first_elsewhere_ms: f64,
    /// The slowest good answer.
    pub(super) slowest_ms: f64,
}

/// What became of the requests that were under way at `struck` or sent until `healed`.
pub(super) fn outage(answers: &[Answer], struck: u64, healed: u64) -> Outage {
    // One that failed before counts as well: it has no other place.
    let counts = |a: &&Answer| a.sent < healed && (a.ended() > struck || !a.good());
    let of: Vec<_> = answers.iter().filter(counts).collect();
    let good = || of.iter().filter(|a| a.good());
    let elsewhere = good().filter(|a| a.from == NORTH && a.ended() > struck).map(|a| a.ended() - struck);
    Outage {
        failed: of.len() - good().count(),
        first_elsewhere_ms: elsewhere.min().unwrap_or(healed - struck) as f64 / 1e6,
        slowest_ms: good().map(|a| a.took_ms).fold(0.0, f64::max),
    }
}

/// What callers saw of east's return.
#[derive(Debug, PartialEq)]
pub(super) struct Return {
    /// Requests without a good answer.
    pub(super) failed: usize,
    /// Keys that east answered again ...
    pub(super) keys: usize,
    /// ... and north after that.
    pub(super) moved_twice: usize,
}

/// What became of the requests that were sent after `healed`.
pub(super) fn returning(answers: &[Answer], healed: u64) -> Return {
    let mut of: Vec<_> = answers.iter().filter(|a| a.sent >= healed).collect();
    of.sort_by_key(|a| a.sent);
    let mut by_key: BTreeMap<u64, Vec<char>> = BTreeMap::new();
    of.iter().filter(|a| a.good()).for_each(|a| by_key.entry(a.key).or_default().push(a.from));
    let again = |servers: &Vec<char>| {
        let back = servers.iter().position(|from| *from == EAST);
        back.is_some_and(|at| servers[at..].contains(&NORTH))
    };
    let moved: BTreeSet<_> =
        by_key.iter().filter(|(_, servers)| again(servers)).map(|(key, _)| key).collect();
    Return {
        failed: of.iter().filter(|a| !a.good()).count(),
        keys: by_key.values().filter(|servers| servers.contains(&EAST)).count(),
        moved_twice: moved.len(),
    }
}

/// The share of good answers, in per cent, that came from north, those of hedges that won included.
pub(super) fn elsewhere_pct(answers: &[Answer]) -> f64 {
    let good = answers.iter().filter(|a| a.good());
    let north = good.clone().filter(|a| a.from == NORTH).count();
    north as f64 / good.count().max(1) as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn answer(sent_ms: u64, took_ms: f64, from: char, key: u64) -> Answer {
        Answer { sent: sent_ms * MS, took_ms, status: 200, from, key }
    }

    #[test]
    fn what_the_tool_wrote_is_read() {
        let read = read("5000000 51500 200 e 7\n6000000 3000000 1 - 0\n").expect("two requests");
        assert_eq!(read[0], answer(5, 51.5, 'e', 7));
        assert!(!read[1].good());
        assert!(super::read("5000000 51500\n").is_err());
    }

    #[test]
    fn an_outage_is_judged_by_what_was_under_way_and_sent_until_its_end() {
        let mut answers = vec![
            answer(500, 100.0, 'e', 0),     // over before
            answer(960, 200.0, 'n', 0),     // under way: hedged
            answer(1_010, 250.0, 'n', 0),   // ends at 1,260
            answer(5_000, 4_000.0, 'n', 0), // after the end
        ];
        let seen = outage(&answers, 1_000 * MS, 4_000 * MS);
        assert_eq!(seen, Outage { failed: 0, first_elsewhere_ms: 160.0, slowest_ms: 250.0 });
        answers.push(Answer { status: 1, ..answer(1_100, 3_000.0, '-', 0) });
        assert_eq!(outage(&answers, 1_000 * MS, 4_000 * MS).failed, 1);
        let none = outage(&answers[..1], 1_000 * MS, 4_000 * MS);
        assert_eq!(none.first_elsewhere_ms, 3_000.0);
        // Sent long before, and still without an answer when it struck.
        answers.push(answer(500, 1_500.0, 'n', 0));
        assert_eq!(outage(&answers, 1_000 * MS, 4_000 * MS).slowest_ms, 1_500.0);
    }

    #[test]
    fn a_key_moves_twice_if_north_answers_it_after_east_did() {
        let answers = [
            answer(1, 1.0, 'e', 3), // before the return
            answer(11, 1.0, 'n', 1),
            answer(12, 1.0, 'e', 1),
            answer(13, 1.0, 'n', 2),
            answer(14, 1.0, 'e', 2),
            answer(15, 1.0, 'n', 2),
            answer(16, 1.0, 'n', 3),
            Answer { status: 503, ..answer(17, 1.0, '-', 1) },
        ];
        assert_eq!(returning(&answers, 10 * MS), Return { failed: 1, keys: 2, moved_twice: 1 });
    }

    #[test]
    fn answers_from_elsewhere_are_counted_whatever_explains_them() {
        let mut answers = vec![answer(1, 1.0, 'e', 0); 97];
        answers.extend([answer(2, 1.0, 'n', 0); 3]);
        assert_eq!([elsewhere_pct(&answers), elsewhere_pct(&[])], [3.0, 0.0]);
    }
}
