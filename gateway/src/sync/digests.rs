//! Tells peers how the services are that they may call: on change, and each second again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::control::{Digest, ServiceDigest};
use proto::limits::DIGEST_SERVICES_MAX;
use registry::model::{ClusterName, ServiceName};
use tunnel::Tunnel;

use super::objections::Objections;
use crate::view::{LocalService, View};
use crate::worker::Shared;

/// How often changes are looked for, so that they are told at most twenty times a second.
const LOOK: Duration = Duration::from_millis(50);
/// Everything is told so often, in microseconds: what was lost is made good, and silence means something.
const ALL_MICROS: u64 = 1_000_000;

/// What was told to one gateway of a peer.
#[derive(Debug)]
struct Listener {
    tunnel: Tunnel,
    /// Where telling everything goes on; `None`: it is through.
    cursor: Option<usize>,
    /// When it begins again.
    all_at: u64,
}

/// Tells every gateway of every peer, until the process drains.
pub async fn tell_peers(shared: Arc<Shared>) {
    let mut before = HashMap::new();
    let mut objections = Objections::default();
    let mut listeners: HashMap<(ClusterName, String), Listener> = HashMap::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = shared.clock.micros();
        let view = shared.view.load_full();
        let services = digests(&view, now);
        let changed: Vec<bool> = services
            .iter()
            .map(|(service, digest)| before.get(&service.name) != Some(&(digest.ready, digest.ring)))
            .collect();
        let known = |(service, digest): &(Arc<LocalService>, ServiceDigest)| {
            (service.name.clone(), (digest.ready, digest.ring))
        };
        before = services.iter().map(known).collect::<HashMap<ServiceName, _>>();

        let mut heard = HashMap::new();
        for cluster in shared.peers.iter() {
            let granted = |at: &usize| services[*at].0.grant.allows(&cluster.name);
            for gateway in cluster.gateways().iter() {
                let Some(tunnel) = gateway.tunnel(None) else { continue };
                let key = (cluster.name.clone(), gateway.id.clone());
                let known = listeners.remove(&key).filter(|listener| listener.tunnel.is(&tunnel));
                let mut listener = known.unwrap_or(Listener { tunnel, cursor: None, all_at: now });
                if listener.cursor.is_none() && now >= listener.all_at {
                    (listener.cursor, listener.all_at) = (Some(0), now + ALL_MICROS);
                    let objections = objections.to(&cluster.name, &view);
                    if !objections.is_empty() {
                        // What does not fit is told a second later.
                        listener.tunnel.tell(Digest { services: Vec::new(), objections });
                    }
                }
                let news: Vec<usize> = match listener.cursor {
                    Some(from) => (from..services.len()).filter(granted).collect(),
                    None => (0..services.len()).filter(|&at| changed[at]).filter(granted).collect(),
                };
                let untold = tell(&listener.tunnel, &services, &news);
                match (listener.cursor, untold) {
                    (Some(_), untold) => listener.cursor = untold,
                    // Soon made good with everything else.
                    (None, Some(_)) => listener.all_at = now,
                    (None, None) => {}
                }
                heard.insert(key, listener);
            }
        }
        listeners = heard;
    }
}

/// Tells the services at these places; gives the first that could not be told.
fn tell(tunnel: &Tunnel, services: &[(Arc<LocalService>, ServiceDigest)], places: &[usize]) -> Option<usize> {
    let digest = |places: &[usize]| Digest {
        services: places.iter().map(|&at| services[at].1.clone()).collect(),
        objections: Vec::new(),
    };
    places.chunks(DIGEST_SERVICES_MAX).find(|chunk| !tunnel.tell(digest(chunk))).map(|chunk| chunk[0])
}

/// How every service is that is served here, by name.
fn digests(view: &View, now: u64) -> Vec<(Arc<LocalService>, ServiceDigest)> {
    let digest = |service: &Arc<LocalService>| {
        let endpoints = || service.ports.iter().map(|(_, endpoints)| endpoints);
        let load = endpoints().flat_map(|e| e.iter()).map(|e| e.in_flight()).fold(0, u32::saturating_add);
        let digest = ServiceDigest {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            // A service whose one port works is not down.
            ready: endpoints().map(|e| e.ready_weight(now)).max().unwrap_or(0),
            load,
            ring: service.placement.as_ref().map(|placement| placement.ring().fingerprint()),
        };
        (service.clone(), digest)
    };
    let mut digests: Vec<_> = view.locals().map(digest).collect();
    digests.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
    digests
}
