//! Addresses that the gateways of a peer tell, of themselves and of each other: the link names some, these are all.
//!
//! What is told is taken at a pace: a list each few seconds, the last one, and few places a second that are new.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proto::control::Gateways;
use proto::limits::{
    HELLO_ADDRESSES_MAX, PEER_GATEWAYS_MAX, TOLD_EVERY, TOLD_PLACE_EVERY, TOLD_PLACES_BURST,
};
use registry::base::rate::{Bucket, Rate};
use registry::model::HostPort;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pace::now;
use super::{Over, PeerCluster, lock};

/// A gateway and where it may be dialled.
type Place = (String, HostPort);

/// What was told, by gateway; of each its last word.
#[derive(Debug)]
pub(super) struct Learned {
    told: BTreeMap<String, Vec<Place>>,
    /// Whether what was told, or who is there to tell, has changed since it was taken.
    news: bool,
    taken: Bucket,
    /// What counts as long as nobody is there to tell.
    last: BTreeSet<Place>,
    /// Of those, the ones whose turn has come.
    open: BTreeSet<Place>,
    new_places: Bucket,
}

/// What may be dialled at the moment.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    places: BTreeSet<Place>,
    /// When it will be more or other places, if nothing happens.
    again: Option<Duration>,
    /// Whether places wait for their turn.
    crowded: bool,
}

impl Default for Learned {
    fn default() -> Self {
        Self {
            told: BTreeMap::new(),
            news: false,
            taken: Bucket::new(Rate::every(1, TOLD_EVERY)),
            last: BTreeSet::new(),
            open: BTreeSet::new(),
            new_places: Bucket::new(Rate::every(TOLD_PLACES_BURST, TOLD_PLACE_EVERY)),
        }
    }
}

impl Learned {
    /// The last word of a gateway; true: the first news since the last look that took some.
    fn tell(&mut self, teller: &str, gateways: &Gateways) -> bool {
        let place = |told: &proto::control::GatewayAddress| {
            let (host, port) = told.address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().ok().filter(|&port| port > 0)?;
            let usable = is_plain(host) && is_plain(&told.gateway);
            usable.then(|| (told.gateway.clone(), HostPort { host: host.into(), port }))
        };
        let places: Vec<_> = gateways.addresses.iter().filter_map(place).collect();
        if self.told.len() >= PEER_GATEWAYS_MAX && !self.told.contains_key(teller) {
            return false;
        }
        let changed = self.told.insert(teller.into(), places.clone()).is_none_or(|before| before != places);
        changed && !std::mem::replace(&mut self.news, true)
    }

    /// All that is told by those who are `there`, but for what the link names; if nobody is, what was told last.
    fn look(&mut self, there: &BTreeSet<String>, named: &[HostPort], now: Instant) -> Look {
        if !there.is_empty() {
            let tellers = self.told.len();
            self.told.retain(|teller, _| there.contains(teller));
            self.news |= self.told.len() < tellers;
            // Whoever was there alone and has not told yet says nothing against what was known.
            self.news &= !self.told.is_empty();
            if self.news && self.taken.take(1, now).is_ok() {
                self.last = self.told.values().flatten().take(HELLO_ADDRESSES_MAX).cloned().collect();
                self.news = false;
            }
        }
        let wanted = || self.last.iter().filter(|(_, address)| !named.contains(address));
        let mut open: BTreeSet<_> = wanted().filter(|place| self.open.contains(place)).cloned().collect();
        let new = wanted().filter(|place| !self.open.contains(place));
        open.extend(new.take_while(|_| self.new_places.take(1, now).is_ok()).cloned());
        let crowded = open.len() < wanted().count();
        self.open.clone_from(&open);
        let waits = [
            (self.news && !there.is_empty()).then(|| self.taken.wait(1, now)),
            crowded.then(|| self.new_places.wait(1, now)),
        ];
        Look { places: open, again: waits.into_iter().flatten().min(), crowded }
    }
}

impl PeerCluster {
    /// One of its gateways says where it and the others may be dialled.
    pub(super) fn told_gateways(&self, teller: &str, gateways: &Gateways) {
        if lock(&self.learned).tell(teller, gateways) {
            self.told.notify_waiters();
        }
    }

    /// Where its gateways may be dialled that the link does not name. Nowhere, if the link only accepts.
    fn learned(&self, now: Instant) -> Look {
        let link = self.link();
        if link.addresses.is_empty() {
            return Look { places: BTreeSet::new(), again: None, crowded: false };
        }
        let gateways = self.gateways();
        let there = gateways.iter().filter(|g| g.has_open_tunnel()).map(|g| g.id.clone()).collect();
        let look = lock(&self.learned).look(&there, &link.addresses, now);
        if look.crowded {
            self.over.note(&self.name, Over::Places, now);
        }
        look
    }
}

/// Whether a told id or host can be one, and so can stand in a log as it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_'))
}

/// Calls `begin` for every address that gateways of `cluster` tell and its link does not name, and for each that is told
/// later, with the gateway's id and a token that is cancelled when it is told no more. Returns when the link is removed or
/// the process drains.
pub async fn each_learned(cluster: &PeerCluster, mut begin: impl FnMut(String, HostPort, CancellationToken)) {
    let mut begun: BTreeMap<Place, CancellationToken> = BTreeMap::new();
    while !cluster.stop.is_cancelled() {
        // Registered before the look, so that no change is missed between the two.
        let mut changed = std::pin::pin!(cluster.changed.notified());
        let mut told = std::pin::pin!(cluster.told.notified());
        changed.as_mut().enable();
        told.as_mut().enable();
        let mut links = cluster.link_changes();
        let Look { places, again, .. } = cluster.learned(now());
        begun.retain(|place, stop| {
            let stays = places.contains(place);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for place in places {
            if !begun.contains_key(&place) {
                let stop = cluster.stop.child_token();
                begun.insert(place.clone(), stop.clone());
                begin(place.0, place.1, stop);
            }
        }
        tokio::select! {
            () = cluster.stop.cancelled() => {}
            () = changed => {}
            () = told => {}
            () = sleep(again.unwrap_or_default()), if again.is_some() => {}
            // `cluster` holds the sender.
            _ = links.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::control::GatewayAddress;

    use super::*;

    fn word(addresses: &[(&str, &str)]) -> Gateways {
        let address = |&(gateway, address): &(&str, &str)| GatewayAddress {
            gateway: gateway.into(),
            address: address.into(),
        };
        Gateways { addresses: addresses.iter().map(address).collect() }
    }

    fn look(learned: &mut Learned, there: &[&str], now: Instant) -> Look {
        learned.look(&there.iter().map(|&id| id.to_owned()).collect(), &[], now)
    }

    /// After everything had its turn.
    fn places(learned: &mut Learned, there: &[&str], now: &mut Instant) -> Vec<String> {
        loop {
            *now += TOLD_EVERY;
            let Look { places, again, .. } = look(learned, there, *now);
            if again.is_none() {
                return places.iter().map(|(id, address)| format!("{id} {address}")).collect();
            }
        }
    }

    #[test]
    fn what_those_tell_who_are_there_counts_and_else_what_was_told_last() {
        let (mut learned, mut now) = (Learned::default(), Instant::now());
        learned.tell("gw-1", &word(&[("gw-1", "a:1"), ("gw-2", "[::1]:2")]));
        assert_eq!(places(&mut learned, &["gw-1"], &mut now), ["gw-1 a:1", "gw-2 [::1]:2"]);
        learned.tell("gw-2", &word(&[("gw-2", "[::1]:2"), ("gw-3", "c:3")]));
        let all = ["gw-1 a:1", "gw-2 [::1]:2", "gw-3 c:3"];
        assert_eq!(places(&mut learned, &["gw-1", "gw-2"], &mut now), all);
        // A tunnel that has just come up, by which nothing was told yet.
        assert_eq!(places(&mut learned, &["gw-4"], &mut now).len(), 3);
        assert_eq!(places(&mut learned, &[], &mut now).len(), 3);
        learned.tell("gw-4", &word(&[("gw-4", "d:4")]));
        assert_eq!(places(&mut learned, &["gw-4"], &mut now), ["gw-4 d:4"]);
    }

    #[test]
    fn what_is_no_address_is_left_out_and_there_are_not_too_many() {
        let (mut learned, mut now) = (Learned::default(), Instant::now());
        learned.tell(
            "gw-1",
            &word(&[
                ("gw-1", "a"),
                ("gw-1", "a:0"),
                ("gw-1", ":1"),
                ("", "a:1"),
                ("gw-1", "a:x"),
                ("gw-1", "a b:1"),
                ("gw\n1", "a:1"),
            ]),
        );
        assert_eq!(places(&mut learned, &["gw-1"], &mut now), [""; 0]);
        for teller in ["gw-1", "gw-2"] {
            let many: Vec<_> =
                (1..=HELLO_ADDRESSES_MAX).map(|n| (teller.to_owned(), format!("a:{n}"))).collect();
            let many: Vec<_> = many.iter().map(|(id, address)| (&**id, &**address)).collect();
            learned.tell(teller, &word(&many));
        }
        assert_eq!(places(&mut learned, &["gw-1", "gw-2"], &mut now).len(), HELLO_ADDRESSES_MAX);
    }

    #[test]
    fn a_list_is_taken_at_once_and_then_the_last_of_each_few_seconds() {
        let (mut learned, start) = (Learned::default(), Instant::now());
        assert!(learned.tell("gw-1", &word(&[("gw-1", "a:1")])));
        assert_eq!(look(&mut learned, &["gw-1"], start).places.len(), 1);
        assert!(!learned.tell("gw-1", &word(&[("gw-1", "a:1")])), "the same again is no news");
        assert!(learned.tell("gw-1", &word(&[("gw-1", "a:2")])));
        for n in 3..1_000 {
            assert!(!learned.tell("gw-1", &word(&[("gw-1", &format!("a:{n}"))])), "nobody is woken for each");
        }
        let early = look(&mut learned, &["gw-1"], start + TOLD_EVERY / 2);
        assert_eq!((early.again, early.places.first().map(|p| p.1.port)), (Some(TOLD_EVERY / 2), Some(1)));
        let late = look(&mut learned, &["gw-1"], start + TOLD_EVERY);
        assert_eq!((late.again, late.places.first().map(|p| p.1.port)), (None, Some(999)));
    }

    #[test]
    fn whoever_tells_other_places_all_the_time_has_few_of_them_dialled() {
        let (mut learned, start) = (Learned::default(), Instant::now());
        let (mut seen, mut crowded) = (BTreeSet::new(), false);
        let seconds = 120;
        for tenth in 0..seconds * 10 {
            let now = start + Duration::from_millis(tenth * 100);
            let names: Vec<_> = (0..64).map(|n| format!("a{tenth}-{n}:1")).collect();
            let many: Vec<_> = names.iter().map(|name| ("gw-1", &**name)).collect();
            learned.tell("gw-1", &word(&many));
            let look = look(&mut learned, &["gw-1"], now);
            crowded |= look.crowded;
            seen.extend(look.places);
        }
        let most = u128::from(TOLD_PLACES_BURST) + u128::from(seconds) * 1_000 / TOLD_PLACE_EVERY.as_millis();
        assert!(seen.len() as u128 <= most, "{} of at most {most}", seen.len());
        assert!(crowded);
        for teller in 0..1_000 {
            learned.tell(&format!("gw-{teller}"), &word(&[("gw-1", "a:1")]));
        }
        assert!(learned.told.len() <= PEER_GATEWAYS_MAX);
    }
}
