//! What one gateway of a peer is told next: everything once and each minute, and in between what changes. Pure.

use registry::base::time::Tick;
use registry::model::ServiceName;

/// The least time, in microseconds, between two times that everything is told, however often it is asked for.
const ASKED_MICROS: u64 = 1_000_000;
/// So often, in microseconds, everything is told unasked: what was lost, or came late on an earlier tunnel, is healed by
/// then. The listener forgets what it has not heard for longer than twice that.
const ALL_MICROS: u64 = 60_000_000;

/// Our services as they are told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    /// Their names, ascending.
    pub(super) names: &'a [ServiceName],
    /// Where those are that have changed since the last look, ascending.
    pub(super) changed: &'a [usize],
}

/// How far the telling is.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// The service where telling everything goes on; `None`: it is through.
    cursor: Option<ServiceName>,
    /// When it last began; `None`: never.
    began_at: Option<Tick>,
    /// It is asked for everything.
    asked: bool,
}

impl Telling {
    /// It knows nothing, or no more all of it: everything is to be told, from its start.
    pub(super) fn forget(&mut self) {
        self.cursor = None;
        self.asked = true;
    }

    /// It asks for everything: what is being told is told to its end first.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// Where those are that are to be told now, ascending, of those that it is `granted`.
    pub(super) fn next(&mut self, now: Tick, ours: Ours<'_>, granted: impl Fn(usize) -> bool) -> Vec<usize> {
        let names = ours.names;
        if self.cursor.is_none() && now >= self.begins_at() {
            self.cursor = names.first().cloned();
            (self.began_at, self.asked) = (Some(now), false);
        }
        let rest = match &self.cursor {
            Some(next) => names.partition_point(|name| name < next),
            None => names.len(),
        };
        let changed = ours.changed.iter().copied().take_while(|at| *at < rest);
        changed.chain(rest..names.len()).filter(|at| granted(*at)).collect()
    }

    /// All that was next is told, or all before `untold`.
    pub(super) fn told(&mut self, untold: Option<&ServiceName>) {
        self.cursor = untold.cloned();
    }

    /// When there is something to tell again, unless something changes before.
    pub(super) fn due(&self, now: Tick) -> Tick {
        if self.cursor.is_some() { now } else { self.begins_at() }
    }

    /// When everything is told again.
    fn begins_at(&self) -> Tick {
        let pause = if self.asked { ASKED_MICROS } else { ALL_MICROS };
        self.began_at.map_or(Tick::ZERO, |at| at.after(pause))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Services `s0`, `s1`, ..., up to ten.
    fn names(count: usize) -> Vec<ServiceName> {
        (0..count).map(|n| ServiceName::new("shop", &format!("s{n}")).unwrap()).collect()
    }

    fn all(_: usize) -> bool {
        true
    }

    const NONE: [usize; 0] = [];

    #[test]
    fn everything_is_told_once_and_then_what_changes() {
        let names = names(4);
        let ours = |changed| Ours { names: &names, changed };
        let mut telling = Telling::default();
        assert_eq!(telling.next(Tick::ZERO, ours(&[1]), all), [0, 1, 2, 3]);
        telling.told(None);
        assert_eq!(telling.next(Tick::at(1), ours(&[]), all), NONE);
        assert_eq!(telling.next(Tick::at(2), ours(&[1, 3]), all), [1, 3]);
        assert_eq!(telling.next(Tick::at(3), ours(&[1, 3]), |at| at == 3), [3], "only what it is granted");
    }

    #[test]
    fn what_could_not_be_told_goes_on_where_it_stopped() {
        let names = names(5);
        let ours = |changed| Ours { names: &names, changed };
        let mut telling = Telling::default();
        assert_eq!(telling.next(Tick::ZERO, ours(&[]), all), [0, 1, 2, 3, 4]);
        telling.told(Some(&names[2]));
        assert_eq!(telling.due(Tick::at(7)), Tick::at(7));
        // Asked for meanwhile it does not begin anew, which would leave the last ones untold for ever.
        telling.ask();
        assert_eq!(telling.next(Tick::at(2 * ASKED_MICROS), ours(&[0, 3]), all), [0, 2, 3, 4]);
        telling.told(Some(&names[0]));
        assert_eq!(telling.next(Tick::at(2 * ASKED_MICROS), ours(&[]), all), [0, 1, 2, 3, 4]);
        telling.told(None);
        assert_eq!(telling.next(Tick::at(2 * ASKED_MICROS), ours(&[]), all), [0, 1, 2, 3, 4], "as asked");
    }

    #[test]
    fn the_service_where_it_stopped_may_go() {
        let names = names(5);
        let mut telling = Telling::default();
        let _ = telling.next(Tick::ZERO, Ours { names: &names, changed: &[] }, all);
        telling.told(Some(&names[2]));
        let left = [names[0].clone(), names[3].clone()];
        assert_eq!(telling.next(Tick::at(1), Ours { names: &left, changed: &[] }, all), [1]);
        telling.told(Some(&names[3]));
        assert_eq!(telling.next(Tick::at(2), Ours { names: &left[..1], changed: &[] }, all), NONE);
    }

    #[test]
    fn who_asks_for_ever_is_told_everything_once_a_second() {
        let names = names(1);
        let ours = Ours { names: &names, changed: &[] };
        let mut telling = Telling::default();
        let mut times = 0;
        for millis in 0..10_000 {
            telling.ask();
            times += telling.next(Tick::at(millis * 1_000), ours, all).len();
            telling.told(None);
        }
        assert_eq!(times, 10);
        // So is one whose tunnel changes all the time.
        telling.forget();
        assert_eq!(telling.next(Tick::at(9_999_000), ours, all), NONE);
        assert_eq!(telling.due(Tick::at(9_999_000)), Tick::at(9_000_000 + ASKED_MICROS));
    }

    #[test]
    fn everything_is_told_anew_each_minute() {
        let names = names(1);
        let ours = Ours { names: &names, changed: &[] };
        let mut telling = Telling::default();
        assert_eq!(telling.next(Tick::at(5), ours, all), [0]);
        telling.told(None);
        assert_eq!(telling.due(Tick::at(6)), Tick::at(5 + ALL_MICROS));
        assert_eq!(telling.next(Tick::at(4 + ALL_MICROS), ours, all), NONE);
        assert_eq!(telling.next(Tick::at(5 + ALL_MICROS), ours, all), [0]);
    }
}
