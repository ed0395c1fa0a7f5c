//! Tells peers how the services are that they may call: everything once, then what changes; and each second that it is so.

use registry::base::time::Tick;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::control::{Digest, Gateways, ServiceDigest};
use proto::limits::DIGEST_SERVICES_MAX;
use registry::model::{ClusterName, ServiceName};
use tokio::sync::watch;
use tunnel::Tunnel;

use super::objections::Objections;
use crate::peers::{PeerCluster, PeerGateway};
use crate::proxy::worker::Shared;
use crate::view::{LocalService, View};
use policy::balance::Readiness;

/// The least time between two looks, so that changes are told at most twenty times a second.
const LOOK: Duration = Duration::from_millis(50);
/// So often, in microseconds, every peer hears that what it was told still holds, and what of the load has changed; and no
/// more often it is told everything.
const SECOND: u64 = 1_000_000;

/// What was told to one gateway of a peer.
#[derive(Debug)]
struct Listener {
    tunnel: Tunnel,
    /// The service where telling everything goes on; `None`: it is through.
    cursor: Option<ServiceName>,
    /// When it last began.
    told_all_at: Tick,
    /// It is to begin again.
    again: bool,
    /// It was told of some service: it waits for a word each second.
    has_words: bool,
    /// What it was told of our gateways.
    gateways: Option<Arc<Gateways>>,
}

/// A service that is served here, and how it was at the last look.
struct Told {
    service: Arc<LocalService>,
    /// What is told at once when it changes.
    facts: Option<Facts>,
    /// Requests that its endpoints held when that was last told.
    load: u32,
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

/// One look at everything that is told.
struct Look<'a> {
    now: Tick,
    /// A second is over.
    ticks: bool,
    ours: &'a Arc<Gateways>,
    services: &'a [Told],
    /// Where those are of which there is something to tell.
    changed: &'a [usize],
}

/// Tells every gateway of every peer, until the process drains; and where the `gateways` of our cluster may be dialled.
/// Woken by changes, and each second: where nothing changes nothing is looked at meanwhile.
pub async fn tell_peers(shared: Arc<Shared>, mut gateways: watch::Receiver<Arc<Gateways>>) {
    let mut news = shared.news.follow();
    let (mut due, mut tick_at) = (Tick::ZERO, Tick::ZERO);
    let mut shown: Option<Arc<View>> = None;
    let mut services: Vec<Told> = Vec::new();
    let mut objections = Objections::default();
    let mut listeners: HashMap<(ClusterName, String), Listener> = HashMap::new();
    loop {
        let wait = Duration::from_micros(due.since(shared.clock.now()));
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = news.changed() => {}
            // Gone with the registry's task, when the process ends.
            Ok(()) = gateways.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let ours = gateways.borrow_and_update().clone();
        let now = shared.clock.now();
        let ticks = now >= tick_at;
        if ticks {
            tick_at = now.after(SECOND);
        }
        due = tick_at;
        let view = shared.view.load_full();
        if !shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, &view)) {
            services = served(&view, services);
            shown = Some(view.clone());
        }
        let looked =
            services.iter_mut().enumerate().filter_map(|(at, told)| told.look(now, ticks).then_some(at));
        let changed: Vec<usize> = looked.collect();
        let look = Look { now, ticks, ours: &ours, services: &services, changed: &changed };
        let mut heard = HashMap::new();
        for cluster in shared.peers.iter() {
            ask_again(&cluster);
            for gateway in cluster.gateways().iter() {
                let Some(tunnel) = gateway.tunnel(None) else { continue };
                let key = (cluster.name.clone(), gateway.id.clone());
                let known = listeners.remove(&key).filter(|listener| listener.tunnel.is(&tunnel));
                let mut listener = known.unwrap_or_else(|| Listener::new(tunnel));
                let objections = if ticks { objections.to(&cluster.name, &view) } else { Vec::new() };
                let digest = Digest { services: Vec::new(), objections };
                let wait_until = listener.tell(&look, &cluster, gateway, digest);
                due = due.min(wait_until);
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

/// Asks a peer for what it told before anybody here wanted it.
fn ask_again(cluster: &PeerCluster) {
    if cluster.facts.take_lacking() {
        let gateways = cluster.gateways();
        let tunnels: Vec<Tunnel> = gateways.iter().filter_map(|gateway| gateway.tunnel(None)).collect();
        // Whoever is not up yet says everything when it is.
        if !tunnels.iter().all(Tunnel::ask_again) {
            cluster.facts.still_lacking();
        }
    }
}

impl Listener {
    fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, cursor: None, told_all_at: Tick::ZERO, again: true, has_words: false, gateways: None }
    }

    /// Tells it what there is to tell; `still` is what it hears each second whatever that is. Gives when to look again,
    /// if nothing happens before.
    fn tell(&mut self, look: &Look<'_>, cluster: &PeerCluster, gateway: &PeerGateway, still: Digest) -> Tick {
        let Look { now, services, .. } = *look;
        let hears = self.hear_of(look.ours);
        self.again |= gateway.take_asks_again();
        if self.again && (now >= self.told_all_at.after(SECOND) || self.told_all_at == Tick::ZERO) {
            self.cursor = services.first().map(|first| first.service.name.clone());
            (self.told_all_at, self.again) = (now.max(Tick::at(1)), false);
        }
        let granted = |at: &usize| services[*at].service.grant.allows(&cluster.name);
        let rest = match &self.cursor {
            Some(next) => services.partition_point(|told| told.service.name < *next),
            None => services.len(),
        };
        let changed = look.changed.iter().copied().take_while(|at| *at < rest);
        let news: Vec<usize> = changed.chain(rest..services.len()).filter(granted).collect();
        self.has_words |= !news.is_empty();
        if look.ticks && (self.has_words && news.is_empty() || !still.objections.is_empty()) {
            // What does not fit is told a second later.
            self.tunnel.tell(still);
        }
        let untold = tell(&self.tunnel, services, &news);
        self.cursor = untold.map(|at| services[at].service.name.clone());
        // What could not be told yet goes on with the next look.
        match (self.cursor.is_some() || !hears, self.again) {
            (true, _) => now,
            (false, true) => self.told_all_at.after(SECOND),
            (false, false) => Tick::MAX,
        }
    }

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
        before.into_iter().map(|told| (told.service.name.clone(), told)).collect();
    let told = |service: &Arc<LocalService>| {
        // One that was declared anew may be granted to others.
        let known = before.remove(&service.name).filter(|told| Arc::ptr_eq(&told.service, service));
        known.unwrap_or_else(|| Told { service: service.clone(), facts: None, load: 0 })
    };
    let mut services: Vec<_> = view.locals().map(told).collect();
    services.sort_unstable_by(|a, b| a.service.name.cmp(&b.service.name));
    services
}

impl Told {
    /// Whether there is something to tell: what is told at once has changed since the last look, or, with `load`, the
    /// requests that its endpoints hold.
    fn look(&mut self, now: Tick, load: bool) -> bool {
        let (mut ready, mut degraded) = (0, true);
        // A service whose one port works is not down.
        for seen in self.service.ports.iter().map(|(_, endpoints)| endpoints.look(now)) {
            ready = ready.max(seen.ready_weight());
            degraded &= seen.readiness != Readiness::Ready;
        }
        let ring = self.service.placement.as_ref().map(|placement| placement.ring().fingerprint());
        let facts = Some(Facts { ready, degraded, ring });
        let other_load = load && self.load != self.held();
        if other_load {
            self.load = self.held();
        }
        std::mem::replace(&mut self.facts, facts) != facts || other_load
    }

    /// Requests that its endpoints hold.
    fn held(&self) -> u32 {
        let endpoints = self.service.ports.iter().flat_map(|(_, endpoints)| endpoints.iter());
        endpoints.map(|endpoint| endpoint.in_flight()).fold(0, u32::saturating_add)
    }

    /// How it was at the last look.
    fn digest(&self) -> ServiceDigest {
        let Facts { ready, degraded, ring } = self.facts.unwrap_or_default();
        ServiceDigest {
            namespace: self.service.name.namespace.to_string(),
            name: self.service.name.name.to_string(),
            ready,
            degraded,
            load: self.load,
            ring,
        }
    }
}
