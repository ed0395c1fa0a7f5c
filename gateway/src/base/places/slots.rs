//! Which connection gets one of a bounded number of places, and which one gives its place up for it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Where a connection comes from, as far as one caller can be told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: one host may use any of the rest (RFC 4291, section 2.5.4).
    V6(u64),
    /// A process of this host.
    Host,
}

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all.
    pub all: usize,
    /// Of one source.
    pub each: usize,
    /// Whoever has a place for less than this need not give it up once it was heard.
    pub grace: Duration,
}

/// One who has a place; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What becomes of one who wants a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It has one; whoever is named loses its own for that.
    Taken(Ticket, Option<Ticket>),
    /// Its source has as many as one may have, and none of them gives its place up.
    SourceFull,
    /// All are taken, and none gives its place up before this time, if none becomes free.
    Full(Instant),
}

/// The places.
#[derive(Debug)]
pub(super) struct Slots {
    limits: Limits,
    held: BTreeMap<Ticket, Held>,
    of: HashMap<Source, usize>,
    next: u64,
}

#[derive(Debug)]
struct Held {
    source: Source,
    since: Instant,
    heard: bool,
}

impl Slots {
    /// All free.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, held: BTreeMap::new(), of: HashMap::new(), next: 0 }
    }

    /// Gives `source` a place at `now`, if there is one. Where there is none, the oldest of which nothing was heard gives
    /// its place up, else the oldest that has had its grace: of the same source if that has its share, else of all.
    pub(super) fn enter(&mut self, source: Source, now: Instant) -> Entry {
        let crowded = self.taken_of(source) >= self.limits.each;
        if !crowded && self.held.len() < self.limits.all {
            return Entry::Taken(self.take(source, now), None);
        }
        let rivals = || self.held.iter().filter(|(_, held)| !crowded || held.source == source);
        let oldest = rivals().find(|(_, held)| !held.heard).or_else(|| rivals().next());
        match oldest.map(|(ticket, held)| (*ticket, held.heard.then(|| held.since + self.limits.grace))) {
            Some((_, Some(until))) if now < until && crowded => Entry::SourceFull,
            Some((_, Some(until))) if now < until => Entry::Full(until),
            Some((gives_way, _)) => {
                self.leave(gives_way);
                Entry::Taken(self.take(source, now), Some(gives_way))
            }
            // Only where there are no places at all.
            None => Entry::SourceFull,
        }
    }

    /// Whether it was heard: what comes next is up to us, not to it.
    pub(super) fn set_heard(&mut self, ticket: Ticket, heard: bool) {
        if let Some(held) = self.held.get_mut(&ticket) {
            held.heard = heard;
        }
    }

    /// Its place is free; false: it had none any more.
    pub(super) fn leave(&mut self, ticket: Ticket) -> bool {
        let Some(held) = self.held.remove(&ticket) else { return false };
        if let Some(count) = self.of.get_mut(&held.source) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&held.source);
            }
        }
        true
    }

    /// How many have a place.
    pub(super) fn taken(&self) -> usize {
        self.held.len()
    }

    /// How many of them are of `source`.
    pub(super) fn taken_of(&self, source: Source) -> usize {
        self.of.get(&source).copied().unwrap_or_default()
    }

    fn take(&mut self, source: Source, now: Instant) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.held.insert(ticket, Held { source, since: now, heard: false });
        *self.of.entry(source).or_default() += 1;
        ticket
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(prefix) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*prefix) << 64)),
            Self::Host => f.write_str("this host"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const GRACE: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits { all: 4, each: 2, grace: GRACE };

    fn source(n: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, n))
    }

    fn enter(slots: &mut Slots, n: u8, now: Instant) -> (Ticket, Option<Ticket>) {
        match slots.enter(source(n), now) {
            Entry::Taken(ticket, gives_way) => (ticket, gives_way),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_says_nothing_keeps_nobody_out() {
        let (mut slots, now) = (Slots::new(LIMITS), Instant::now());
        let first: Vec<_> = [1, 2, 3, 4].iter().map(|n| enter(&mut slots, *n, now).0).collect();
        slots.set_heard(first[0], true);
        // The oldest silent one, however new.
        let (fifth, gives_way) = enter(&mut slots, 5, now);
        assert_eq!(gives_way, Some(first[1]));
        slots.set_heard(fifth, true);
        // A source that has its share pays with its own.
        let (_, gives_way) = enter(&mut slots, 3, now);
        assert_eq!(gives_way, Some(first[2]));
        assert_eq!((slots.taken(), slots.taken_of(source(3)), slots.taken_of(source(2))), (4, 1, 0));
    }

    #[test]
    fn who_was_heard_has_its_grace_and_no_more() {
        let (mut slots, now) = (Slots::new(LIMITS), Instant::now());
        for n in [1, 1, 2, 2] {
            let (ticket, _) = enter(&mut slots, n, now);
            slots.set_heard(ticket, true);
        }
        assert_eq!(slots.enter(source(1), now + GRACE - Duration::from_millis(1)), Entry::SourceFull);
        assert_eq!(slots.enter(source(3), now + GRACE - Duration::from_millis(1)), Entry::Full(now + GRACE));
        assert_eq!(enter(&mut slots, 3, now + GRACE).1, Some(Ticket(0)));
        assert!(!slots.leave(Ticket(0)), "it has lost it already");
        assert!(slots.leave(Ticket(1)));
        assert_eq!(enter(&mut slots, 1, now).1, None);
    }

    #[test]
    fn a_host_is_one_source_whatever_addresses_it_uses() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_eq!(of("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }

    proptest! {
        #[test]
        fn no_limit_is_ever_passed_and_nobody_is_lost(
            steps in proptest::collection::vec((0u8..5, 0u8..6, 0u64..400), 0..400),
        ) {
            let (mut slots, mut now) = (Slots::new(LIMITS), Instant::now());
            let mut there: Vec<Ticket> = Vec::new();
            for (what, n, pause) in steps {
                now += Duration::from_millis(pause);
                match (what, there.get(usize::from(n)).copied()) {
                    (0, Some(ticket)) => slots.set_heard(ticket, true),
                    (1, Some(ticket)) => {
                        prop_assert!(slots.leave(ticket));
                        there.retain(|known| *known != ticket);
                    }
                    _ => match slots.enter(source(n), now) {
                        Entry::Taken(ticket, gives_way) => {
                            there.retain(|known| Some(*known) != gives_way);
                            there.push(ticket);
                        }
                        Entry::SourceFull => prop_assert_eq!(slots.taken_of(source(n)), LIMITS.each),
                        Entry::Full(until) => prop_assert!(slots.taken() == LIMITS.all && until > now),
                    },
                }
                prop_assert!(slots.taken() <= LIMITS.all && slots.taken() == there.len());
                for n in 0..6 {
                    prop_assert!(slots.taken_of(source(n)) <= LIMITS.each);
                }
            }
        }
    }
}
