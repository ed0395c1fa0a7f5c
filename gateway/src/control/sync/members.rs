//! What peers are told of the gateways of our cluster.

use std::sync::Arc;

use proto::control::{GatewayAddress, Gateways};
use proto::limits::{HELLO_ADDRESSES_MAX, NAME_BYTES_MAX};
use registry::tasks::election::Candidate;
use registry::tasks::members::Members;
use tokio::sync::watch;

use crate::proxy::worker::Shared;

/// Keeps what HELLO says, and what peers with a tunnel are told, at the members of the cluster, for as long as it is
/// polled.
pub async fn announce(
    shared: Arc<Shared>,
    us: Candidate,
    mut members: watch::Receiver<Arc<Members>>,
    told: watch::Sender<Arc<Gateways>>,
) {
    loop {
        let gateways = gateways(&us, &members.borrow_and_update());
        if gateways != **told.borrow() {
            let addresses: Vec<_> = gateways.addresses.iter().map(|place| place.address.clone()).collect();
            shared.local.send_if_modified(|local| {
                let news = local.hello.addresses != addresses;
                local.hello.addresses = addresses;
                news
            });
            told.send_replace(Arc::new(gateways));
        }
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// Ours first: as many as fit are told.
fn gateways(us: &Candidate, members: &Members) -> Gateways {
    let others = members.iter().filter(|(id, _)| **id != us.id);
    let all = std::iter::once((&us.id, &us.member)).chain(others);
    let addresses = all.flat_map(|(id, member)| {
        member
            .addresses
            .iter()
            .map(|address| GatewayAddress { gateway: id.clone(), address: address.clone() })
    });
    let fits = |place: &GatewayAddress| {
        place.gateway.len() <= NAME_BYTES_MAX && place.address.len() <= NAME_BYTES_MAX
    };
    Gateways { addresses: addresses.filter(fits).take(HELLO_ADDRESSES_MAX).collect() }
}

#[cfg(test)]
mod tests {
    use proto::store::Member;

    use super::*;

    fn member(addresses: &[String]) -> Member {
        Member { addresses: addresses.to_vec(), ..Member::default() }
    }

    #[test]
    fn ours_come_first_and_no_more_are_told_than_fit() {
        let us = Candidate { id: "gw-2".into(), member: member(&["b:1".into()]) };
        let many: Vec<_> = (1..=HELLO_ADDRESSES_MAX).map(|n| format!("a:{n}")).collect();
        let stale = member(&["old:1".into()]);
        let members = Members::from([("gw-1".into(), member(&many)), ("gw-2".into(), stale)]);
        let told = gateways(&us, &members).addresses;
        assert_eq!(told.len(), HELLO_ADDRESSES_MAX);
        assert_eq!((&*told[0].gateway, &*told[0].address), ("gw-2", "b:1"));
        assert!(told[1..].iter().all(|place| place.gateway == "gw-1"));
        assert_eq!(gateways(&us, &Members::default()).addresses.len(), 1);
    }
}
