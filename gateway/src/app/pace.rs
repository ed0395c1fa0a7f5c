//! When the files of a process are read again. Pure: how they look and what time it is come in.
//!
//! They are read once they have been still for a moment: a certificate and its key come one after the other, and a long
//! manifest in pieces. What was refused is read again, at a bounded pace and at the time that it names: a reason may pass
//! without any change that is seen, by the clock, or because a file system answers again.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::files::Look;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The same while they change.
const LOOK_MOVING: Duration = Duration::from_millis(200);
/// Files that have not changed for so long are whole.
pub(super) const STILL: Duration = Duration::from_secs(1);
/// Files that do not come to rest are read all the same: whoever writes without end holds nothing up.
const STILL_WAIT_MAX: Duration = Duration::from_secs(10);
/// What was refused is read again after so long, then after twice as long, ...
const AGAIN: Duration = Duration::from_secs(5);
/// ... and so often at last.
pub(super) const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Why the files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// They look changed.
    Changed,
    /// A SIGHUP asks for it: the operator's word.
    Told,
    /// Something of what was read last was refused, or waits.
    Again,
}

impl Why {
    /// For the audit log.
    pub(super) fn said(self) -> &'static str {
        match self {
            Self::Changed => "the files look changed",
            Self::Told => "SIGHUP",
            Self::Again => "the files were looked at again: what they hold could not be taken before",
        }
    }
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All is taken.
    Taken,
    /// Something was refused, and may be right some time: at this moment of the system's clock, if one is known.
    Refused(Option<SystemTime>),
    /// Something is right, but not before this moment of the system's clock.
    NotBefore(SystemTime),
    /// A change is held for so long.
    Held(Duration),
}

/// When to read.
#[derive(Debug)]
pub(super) struct Pace {
    /// As the files looked before they were read last.
    seen: Look,
    moving: Option<Moving>,
    again: Again,
    /// How long it was waited for before the last reading again.
    pause: Duration,
}

/// Files that change.
#[derive(Debug)]
struct Moving {
    last: Look,
    since: Instant,
    still_since: Instant,
}

/// When to read although nothing has changed: at whichever comes first.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    at: Option<Instant>,
    not_before: Option<SystemTime>,
}

impl Pace {
    /// For files that looked like `seen` before they were read.
    pub(super) fn new(seen: Look) -> Self {
        Self { seen, moving: None, again: Again::default(), pause: AGAIN }
    }

    /// The pause before the next look.
    pub(super) fn pause(&self) -> Duration {
        if self.moving.is_some() { LOOK_MOVING } else { LOOK }
    }

    /// Takes in how the files look at `now`, which the system's clock calls `clock`; says whether and why they are to be
    /// read now.
    pub(super) fn looked(&mut self, look: Look, now: Instant, clock: SystemTime) -> Option<Why> {
        let moving = match self.moving.take() {
            None if look == self.seen => return self.is_due(now, clock).then(|| self.read(look, Why::Again)),
            None => Moving { last: look, since: now, still_since: now },
            Some(moving) if moving.last == look => moving,
            Some(moving) => Moving { last: look, since: moving.since, still_since: now },
        };
        if now >= moving.still_since + STILL || now >= moving.since + STILL_WAIT_MAX {
            return Some(self.read(moving.last, Why::Changed));
        }
        self.moving = Some(moving);
        None
    }

    /// A SIGHUP asks for them to be read as they look now, without waiting.
    pub(super) fn told(&mut self, look: Look) -> Why {
        self.read(look, Why::Told)
    }

    /// What came of reading them for `why`.
    pub(super) fn came(&mut self, why: Why, outcome: Outcome, now: Instant) {
        self.again = match outcome {
            Outcome::Taken => Again::default(),
            Outcome::NotBefore(at) => Again { at: None, not_before: Some(at) },
            Outcome::Held(left) => Again { at: Some(now + left), not_before: None },
            Outcome::Refused(not_before) => {
                self.pause = if why == Why::Again { (self.pause * 2).min(AGAIN_MAX) } else { AGAIN };
                Again { at: Some(now + self.pause), not_before }
            }
        };
    }

    fn is_due(&self, now: Instant, clock: SystemTime) -> bool {
        let Again { at, not_before } = self.again;
        at.is_some_and(|at| now >= at) || not_before.is_some_and(|at| clock >= at)
    }

    fn read(&mut self, look: Look, why: Why) -> Why {
        self.seen = look;
        (self.moving, self.again) = (None, Again::default());
        why
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Looks at a file that is changed at the moments `changes`, for as long as `lasts`; gives when it is read, and why.
    fn reads(pace: &mut Pace, changes: &[Duration], lasts: Duration) -> Vec<(Duration, Why)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("west.yaml");
        let look = |n: usize| {
            std::fs::write(&file, "x".repeat(n)).unwrap();
            Look::at_manifests(std::slice::from_ref(&file))
        };
        let (start, clock) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let looks: Vec<_> = (0..=changes.len()).map(look).collect();
        pace.told(looks[0].clone());
        let (mut at, mut read) = (Duration::ZERO, Vec::new());
        while at < lasts {
            at += pace.pause();
            // As it looks now: files that are the same look the same.
            let changed = changes.iter().filter(|change| **change <= at).count();
            let now = looks[changed].clone();
            if let Some(why) = pace.looked(now, start + at, clock + at) {
                read.push((at, why));
                pace.came(why, Outcome::Taken, start + at);
            }
        }
        read
    }

    fn fresh() -> Pace {
        Pace::new(Look::default())
    }

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    #[test]
    fn files_are_read_once_they_have_been_still() {
        let read = reads(&mut fresh(), &[seconds(1.0), seconds(1.4), seconds(2.2)], seconds(20.0));
        let [(at, Why::Changed)] = read[..] else { panic!("{read:?}") };
        assert!((seconds(2.2) + STILL..seconds(2.2) + STILL + LOOK * 2).contains(&at), "{at:?}");
        // A single change is taken within two seconds.
        let read = reads(&mut fresh(), &[seconds(1.01)], seconds(20.0));
        let [(at, Why::Changed)] = read[..] else { panic!("{read:?}") };
        assert!(at < seconds(3.01), "{at:?}");
    }

    #[test]
    fn whoever_writes_without_end_holds_nothing_up() {
        let changes: Vec<_> = (1..100).map(|n| seconds(0.4) * n).collect();
        let read = reads(&mut fresh(), &changes, seconds(42.0));
        assert!((4..=5).contains(&read.len()), "{read:?}");
        for pair in read.windows(2) {
            assert!(pair[1].0 - pair[0].0 <= STILL_WAIT_MAX + LOOK * 2, "{read:?}");
        }
    }

    #[test]
    fn what_was_refused_is_read_again_at_a_bounded_pace() {
        let mut pace = fresh();
        let (start, clock) = (Instant::now(), SystemTime::UNIX_EPOCH);
        pace.came(Why::Changed, Outcome::Refused(None), start);
        let (mut at, mut read) = (Duration::ZERO, Vec::new());
        while at < seconds(400.0) {
            at += pace.pause();
            if let Some(why) = pace.looked(Look::default(), start + at, clock) {
                assert_eq!(why, Why::Again);
                pace.came(why, Outcome::Refused(None), start + at);
                read.push(at);
            }
        }
        let expected = [5, 15, 35, 75, 135, 195, 255, 315, 375].map(Duration::from_secs);
        assert_eq!(read, expected);
        // Taken at last, it is left alone.
        pace.came(Why::Again, Outcome::Taken, start + at);
        assert_eq!(pace.looked(Look::default(), start + at * 2, clock), None);
    }

    #[test]
    fn what_waits_for_a_moment_is_read_when_the_clock_has_come_to_it() {
        let mut pace = fresh();
        let (now, clock) = (Instant::now(), SystemTime::UNIX_EPOCH);
        pace.came(Why::Changed, Outcome::NotBefore(clock + seconds(100.0)), now);
        // However much time goes by meanwhile, or little: the clock may be put right.
        assert_eq!(pace.looked(Look::default(), now + seconds(1000.0), clock + seconds(99.0)), None);
        assert_eq!(pace.looked(Look::default(), now, clock + seconds(100.0)), Some(Why::Again));
        assert_eq!(pace.looked(Look::default(), now, clock + seconds(200.0)), None, "once");
        // Something else that is refused beside it does not hold it up.
        pace.came(Why::Again, Outcome::Refused(Some(clock + seconds(300.0))), now);
        assert_eq!(pace.looked(Look::default(), now, clock + seconds(300.0)), Some(Why::Again));
    }

    #[test]
    fn what_is_held_is_read_when_its_time_is_over() {
        let mut pace = fresh();
        let (now, clock) = (Instant::now(), SystemTime::UNIX_EPOCH);
        pace.came(Why::Changed, Outcome::Held(seconds(60.0)), now);
        assert_eq!(pace.looked(Look::default(), now + seconds(59.9), clock), None);
        assert_eq!(pace.looked(Look::default(), now + seconds(60.0), clock), Some(Why::Again));
    }
}
