//! Addresses that the gateways of a peer tell, of themselves and of each other: the link names some, these are all.

use std::collections::{BTreeMap, BTreeSet};

use proto::control::Gateways;
use proto::limits::HELLO_ADDRESSES_MAX;
use registry::model::HostPort;
use tokio_util::sync::CancellationToken;

use super::{PeerCluster, lock};

/// A gateway and where it may be dialled.
type Place = (String, HostPort);

/// What was told, by gateway; of each its last word.
#[derive(Debug, Default)]
pub(super) struct Learned {
    told: BTreeMap<String, Vec<Place>>,
    /// What counts as long as nobody is there to tell.
    last: BTreeSet<Place>,
}

impl Learned {
    /// The last word of a gateway.
    fn tell(&mut self, teller: &str, gateways: &Gateways) {
        let place = |told: &proto::control::GatewayAddress| {
            let (host, port) = told.address.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let port = port.parse().ok().filter(|&port| port > 0)?;
            let known = !host.is_empty() && !told.gateway.is_empty();
            known.then(|| (told.gateway.clone(), HostPort { host: host.into(), port }))
        };
        self.told.insert(teller.into(), gateways.addresses.iter().filter_map(place).collect());
    }

    /// All that is told by those who are `there`; if nobody is, what was told last.
    fn places(&mut self, there: impl Iterator<Item = String>) -> &BTreeSet<Place> {
        let there: BTreeSet<String> = there.collect();
        if !there.is_empty() {
            self.told.retain(|teller, _| there.contains(teller));
            // Whoever was there alone and has not told yet says nothing against what was known.
            if !self.told.is_empty() {
                self.last = self.told.values().flatten().take(HELLO_ADDRESSES_MAX).cloned().collect();
            }
        }
        &self.last
    }
}

impl PeerCluster {
    /// One of its gateways says where it and the others may be dialled.
    pub(super) fn told_gateways(&self, teller: &str, gateways: &Gateways) {
        lock(&self.learned).tell(teller, gateways);
        self.changed.notify_waiters();
    }

    /// Where its gateways may be dialled that the link does not name. Nowhere, if the link only accepts.
    fn learned(&self) -> BTreeSet<Place> {
        let link = self.link();
        if link.addresses.is_empty() {
            return BTreeSet::new();
        }
        let gateways = self.gateways();
        let there = gateways.iter().filter(|g| g.has_open_tunnel()).map(|g| g.id.clone());
        let mut learned = lock(&self.learned);
        let places = learned.places(there).iter().filter(|(_, address)| !link.addresses.contains(address));
        places.cloned().collect()
    }
}

/// Calls `begin` for every address that gateways of `cluster` tell and its link does not name, and for each that is told
/// later, with the gateway's id and a token that is cancelled when it is told no more. Returns when the link is removed or
/// the process drains.
pub async fn each_learned(cluster: &PeerCluster, mut begin: impl FnMut(String, HostPort, CancellationToken)) {
    let mut begun: BTreeMap<Place, CancellationToken> = BTreeMap::new();
    while !cluster.stop.is_cancelled() {
        // Registered before the look, so that no change is missed between the two.
        let mut changed = std::pin::pin!(cluster.changed.notified());
        changed.as_mut().enable();
        let mut links = cluster.link_changes();
        let learned = cluster.learned();
        begun.retain(|place, stop| {
            let stays = learned.contains(place);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for place in learned {
            if !begun.contains_key(&place) {
                let stop = cluster.stop.child_token();
                begun.insert(place.clone(), stop.clone());
                begin(place.0, place.1, stop);
            }
        }
        tokio::select! {
            () = cluster.stop.cancelled() => {}
            () = changed => {}
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

    fn places(learned: &mut Learned, there: &[&str]) -> Vec<String> {
        let there = there.iter().map(|&id| id.to_owned());
        learned.places(there).iter().map(|(id, address)| format!("{id} {address}")).collect()
    }

    #[test]
    fn what_those_tell_who_are_there_counts_and_else_what_was_told_last() {
        let mut learned = Learned::default();
        learned.tell("gw-1", &word(&[("gw-1", "a:1"), ("gw-2", "[::1]:2")]));
        assert_eq!(places(&mut learned, &["gw-1"]), ["gw-1 a:1", "gw-2 [::1]:2"]);
        learned.tell("gw-2", &word(&[("gw-2", "[::1]:2"), ("gw-3", "c:3")]));
        assert_eq!(places(&mut learned, &["gw-1", "gw-2"]), ["gw-1 a:1", "gw-2 [::1]:2", "gw-3 c:3"]);
        // A tunnel that has just come up, by which nothing was told yet.
        assert_eq!(places(&mut learned, &["gw-4"]).len(), 3);
        assert_eq!(places(&mut learned, &[]).len(), 3);
        learned.tell("gw-4", &word(&[("gw-4", "d:4")]));
        assert_eq!(places(&mut learned, &["gw-4"]), ["gw-4 d:4"]);
    }

    #[test]
    fn what_is_no_address_is_left_out_and_there_are_not_too_many() {
        let mut learned = Learned::default();
        learned.tell(
            "gw-1",
            &word(&[("gw-1", "a"), ("gw-1", "a:0"), ("gw-1", ":1"), ("", "a:1"), ("gw-1", "a:x")]),
        );
        assert_eq!(places(&mut learned, &["gw-1"]), [""; 0]);
        for teller in ["gw-1", "gw-2"] {
            let many: Vec<_> =
                (1..=HELLO_ADDRESSES_MAX).map(|n| (teller.to_owned(), format!("a:{n}"))).collect();
            let many: Vec<_> = many.iter().map(|(id, address)| (&**id, &**address)).collect();
            learned.tell(teller, &word(&many));
        }
        assert_eq!(places(&mut learned, &["gw-1", "gw-2"]).len(), HELLO_ADDRESSES_MAX);
    }
}
