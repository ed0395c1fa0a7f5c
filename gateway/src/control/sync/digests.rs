//! Tells peers how the services are that they may call: on change, and each second again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::control::{Digest, Gateways, ServiceDigest};
use proto::limits::DIGEST_SERVICES_MAX;
use registry::model::{ClusterName, ServiceName};
use tokio::sync::watch;
use tunnel::Tunnel;

use super::objections::Objections;
use crate::proxy::worker::Shared;
use crate::view::{LocalService, View};
use policy::balance::Readiness;

/// The least time between two looks, so that changes are told at most twenty times a second.
const LOOK: Duration = Duration::from_millis(50);
/// Everything is told so often, in microseconds: what was lost is made good, and silence means something.
const ALL_MICROS: u64 = 1_000_000;

/// What was told to one gateway of a peer.
#[derive(Debug)]
struct Listener {
    tunnel: Tunnel,
    /// The service where telling everything goes on; `None`: it is through.
    cursor: Option<ServiceName>,
    /// When it begins again.
    all_at: u64,
    /// What it was told of our gateways.
    gateways: Option<Arc<Gateways>>,
}

/// A service that is served here, and how it was at the last look.
struct Told {
    service: Arc<LocalService>,
    /// What is told at once when it changes.
    facts: Option<Facts>,
}

/// What of a service is told at once when it changes.
#[derive(Clone, Copy, Default, PartialEq)]
struct Facts {
    /// The weight of its eligible endpoints.
    ready: u32,
    /// Fewer than half of its endpoints are eligible.
    degraded: bool,
    /// The fingerprint of the ring that it is placed by.
    ring: Option<u64>,
}

/// Tells every gateway of every peer, until the process drains; and where the `gateways` of our cluster may be dialled.
/// Woken by changes, and when a summary is due: where nothing changes nothing is looked at meanwhile.
pub async fn tell_peers(shared: Arc<Shared>, mut gateways: watch::Receiver<Arc<Gateways>>) {
    let mut news = shared.news.follow();
    let mut due = 0u64;
    let mut shown: Option<Arc<View>> = None;
    let mut services: Vec<Told> = Vec::new();
    let mut objections = Objections::default();
    let mut listeners: HashMap<(ClusterName, String), Listener> = HashMap::new();
    loop {
        let wait = Duration::from_micros(due.saturating_sub(shared.clock.micros()));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = news.changed() => {}
            // Gone with the registry's task, when the process ends.
            Ok(()) = gateways.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let ours = gateways.borrow_and_update().clone();
        let now = shared.clock.micros();
        due = now + ALL_MICROS;
        let view = shared.view.load_full();
        if !shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &view)) {
            services = served(&view, services);
            shown = Some(view.clone());
        }
        let changed: Vec<bool> = services.iter_mut().map(|told| told.look(now)).collect();

        let mut heard = HashMap::new();
        for cluster in shared.peers.iter() {
            let granted = |at: &usize| services[*at].service.grant.allows(&cluster.name);
            for gateway in cluster.gateways().iter() {
                let Some(tunnel) = gateway.tunnel(None) else { continue };
                let key = (cluster.name.clone(), gateway.id.clone());
                let known = listeners.remove(&key).filter(|listener| listener.tunnel.is(&tunnel));
                let mut listener =
                    known.unwrap_or(Listener { tunnel, cursor: None, all_at: now, gateways: None });
                let hears = listener.hear_of(&ours);
                if listener.cursor.is_none() && now >= listener.all_at {
                    listener.cursor = services.first().map(|first| first.service.name.clone());
                    listener.all_at = now + ALL_MICROS;
                    let objections = objections.to(&cluster.name, &view);
                    if !objections.is_empty() {
                        // What does not fit is told a second later.
                        listener.tunnel.tell(Digest { services: Vec::new(), objections });
                    }
                }
                let rest = match &listener.cursor {
                    Some(next) => services.partition_point(|told| told.service.name < *next),
                    None => services.len(),
                };
                let is_news = |at: &usize| *at >= rest || changed[*at];
                let news: Vec<usize> = (0..services.len()).filter(is_news).filter(granted).collect();
                let untold = tell(&listener.tunnel, &services, &news);
                listener.cursor = untold.map(|at| services[at].service.name.clone());
                // What could not be told yet goes on with the next look.
                due = due.min(if listener.cursor.is_some() || !hears { now } else { listener.all_at });
                heard.insert(key, listener);
            }
        }
        listeners = heard;
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Listener {
    /// Tells it of our gateways, unless it knows. False: it does not know yet.
    fn hear_of(&mut self, ours: &Arc<Gateways>) -> bool {
        let news = match &self.gateways {
            // Nothing to tell, as always.
            None => !ours.addresses.is_empty(),
            Some(told) => !Arc::ptr_eq(told, ours),
        };
        if news && self.tunnel.tell_gateways((**ours).clone()) {
            self.gateways = Some(ours.clone());
            return true;
        }
        !news
    }
}

/// Tells the services at these places; gives the first that could not be told.
fn tell(tunnel: &Tunnel, services: &[Told], places: &[usize]) -> Option<usize> {
    let digest = |places: &[usize]| Digest {
        services: places.iter().map(|&at| services[at].digest()).collect(),
        objections: Vec::new(),
    };
    places.chunks(DIGEST_SERVICES_MAX).find(|chunk| !tunnel.tell(digest(chunk))).map(|chunk| chunk[0])
}

/// Every service that is served here, by name, with what was known of it before.
fn served(view: &View, before: Vec<Told>) -> Vec<Told> {
    let mut before: HashMap<_, _> =
        before.into_iter().map(|told| (told.service.name.clone(), told.facts)).collect();
    let told = |service: &Arc<LocalService>| Told {
        service: service.clone(),
        facts: before.remove(&service.name).flatten(),
    };
    let mut services: Vec<_> = view.locals().map(told).collect();
    services.sort_unstable_by(|a, b| a.service.name.cmp(&b.service.name));
    services
}

impl Told {
    /// Whether what is told at once has changed since the last look.
    fn look(&mut self, now: u64) -> bool {
        let (mut ready, mut degraded) = (0, true);
        // A service whose one port works is not down.
        for seen in self.service.ports.iter().map(|(_, endpoints)| endpoints.look(now)) {
            ready = ready.max(seen.ready_weight());
            degraded &= seen.readiness != Readiness::Ready;
        }
        let ring = self.service.placement.as_ref().map(|placement| placement.ring().fingerprint());
        let facts = Some(Facts { ready, degraded, ring });
        std::mem::replace(&mut self.facts, facts) != facts
    }

    /// How it was at the last look.
    fn digest(&self) -> ServiceDigest {
        let endpoints = self.service.ports.iter().flat_map(|(_, endpoints)| endpoints.iter());
        let Facts { ready, degraded, ring } = self.facts.unwrap_or_default();
        ServiceDigest {
            namespace: self.service.name.namespace.to_string(),
            name: self.service.name.name.to_string(),
            ready,
            degraded,
            load: endpoints.map(|endpoint| endpoint.in_flight()).fold(0, u32::saturating_add),
            ring,
        }
    }
}
