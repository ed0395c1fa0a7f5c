#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proto::limits::GATEWAY_KEPT;
use registry::testing;

use super::*;

fn link(cluster: &str, ports: &[u16]) -> Link {
    Link { addresses: ports.iter().copied().map(testing::loopback).collect(), ..testing::link(cluster) }
}

fn links(links: &[Link]) -> BTreeMap<ClusterName, Link> {
    links.iter().map(|link| (link.cluster.clone(), link.clone())).collect()
}

fn peers(of: &[Link]) -> Arc<Peers> {
    let cluster = ClusterName::new("west").unwrap();
    Arc::new(Peers::new(&cluster, "gw-1", &links(of), CancellationToken::new()))
}

fn get(peers: &Peers, cluster: &str) -> Option<Arc<PeerCluster>> {
    peers.get(&ClusterName::new(cluster).unwrap())
}

#[test]
fn what_stays_is_kept_and_what_goes_is_stopped() {
    let peers = peers(&[link("east", &[1]), link("north", &[2])]);
    let (east, north) = (get(&peers, "east").unwrap(), get(&peers, "north").unwrap());
    peers.relink(&links(&[link("east", &[3]), link("south", &[4])]));
    assert!(Arc::ptr_eq(&east, &get(&peers, "east").unwrap()));
    assert_eq!(*east.link(), link("east", &[3]));
    assert!(!east.stop.is_cancelled());
    assert!(north.stop.is_cancelled());
    assert!(get(&peers, "north").is_none());
    assert!(get(&peers, "south").is_some());

    // One that returns begins anew.
    peers.relink(&links(&[link("north", &[2])]));
    assert!(!get(&peers, "north").unwrap().stop.is_cancelled());
    assert!(!Arc::ptr_eq(&north, &get(&peers, "north").unwrap()));
}

#[test]
fn a_gateway_that_is_gone_for_good_is_forgotten_while_others_are_there() {
    let east = get(&peers(&[link("east", &[1])]), "east").unwrap();
    let gateway =
        |id: &str| Arc::new(PeerGateway::new(east.name.clone(), id.into(), east.news.clone(), &east.stop));
    let (one, other) = (gateway("gw-1"), gateway("gw-2"));
    east.gateways.store(Arc::new(vec![one.clone(), other.clone()]));
    let kept = u64::try_from(GATEWAY_KEPT.as_millis()).unwrap();
    let over = one.since_unix_ms().max(other.since_unix_ms()) + kept;
    east.forget_gone(true, one.since_unix_ms() + kept - 1);
    assert!(!east.gateways().is_empty(), "it may be back at any moment");
    east.forget_gone(false, over);
    assert!(!east.gateways().is_empty(), "nobody else is there to be shown");
    east.forget_gone(true, over);
    assert!(east.gateways().is_empty());
    assert!(one.stop.is_cancelled() && other.stop.is_cancelled(), "nobody watches it any more");
    assert!(!east.stop.is_cancelled());
}

#[test]
fn a_link_that_did_not_change_tells_nobody() {
    let peers = peers(&[link("east", &[1])]);
    let changes = get(&peers, "east").unwrap().link_changes();
    peers.relink(&links(&[link("east", &[1])]));
    assert!(!changes.has_changed().unwrap());
    peers.relink(&links(&[link("east", &[2])]));
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn every_cluster_is_begun_once_for_each_time_it_is_linked() {
    let peers = peers(&[link("east", &[1])]);
    let (begun, mut seen) = tokio::sync::mpsc::channel(8);
    let each = tokio::spawn({
        let peers = peers.clone();
        async move { peers.each(|cluster| begun.try_send(cluster.name.to_string()).unwrap()).await }
    });
    assert_eq!(seen.recv().await.unwrap(), "east");
    for (now, expected) in
        [(&["east", "north"][..], "north"), (&["south"], "south"), (&["south", "east"], "east")]
    {
        let now: Vec<_> = now.iter().map(|cluster| link(cluster, &[1])).collect();
        peers.relink(&links(&now));
        assert_eq!(seen.recv().await.unwrap(), expected);
    }
    peers.stop.cancel();
    each.await.unwrap();
    assert!(seen.recv().await.is_none());
}

#[tokio::test]
async fn addresses_begin_when_they_come_and_stop_when_they_go() {
    let peers = peers(&[link("east", &[1, 2])]);
    let east = get(&peers, "east").unwrap();
    let (begun, mut seen) = tokio::sync::mpsc::channel(8);
    let each = tokio::spawn({
        let east = east.clone();
        async move { each_address(&east, |address, stop| begun.try_send((address.port, stop)).unwrap()).await }
    });
    let (one, two) = (seen.recv().await.unwrap(), seen.recv().await.unwrap());
    assert_eq!((one.0, two.0), (1, 2));
    peers.relink(&links(&[link("east", &[2, 3])]));
    let three = seen.recv().await.unwrap();
    assert_eq!(three.0, 3);
    assert!(one.1.is_cancelled() && !two.1.is_cancelled());
    peers.relink(&links(&[]));
    each.await.unwrap();
    assert!(two.1.is_cancelled() && three.1.is_cancelled());
}
