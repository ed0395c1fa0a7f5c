//! Tells peers how the services are that they may call: everything once and each minute, in between what changes; and each
//! second that it is so.

mod telling;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::control::{Digest, Gateways, ServiceDigest};
use proto::limits::DIGEST_SERVICES_MAX;
use registry::base::time::Tick;
use registry::model::{ClusterName, ServiceName};
use tokio::sync::watch;
use tunnel::Tunnel;

use self::telling::{Ours, Telling};
use super::objections::Objections;
use crate::peers::{PeerCluster, PeerGateway};
use crate::proxy::worker::Shared;
use crate::view::{LocalService, View};
use policy::balance::Readiness;

/// The least time between two looks, so that changes are told at most twenty times a second.
const LOOK: Duration = Duration::from_millis(50);
/// So often, in microseconds, whoever was told something hears that it still holds.
const SECOND: u64 = 1_000_000;

/// What was told to one gateway of a peer.
#[derive(Debug)]
struct Listener {
    tunnel: Tunnel,
    telling: Telling,
    /// It was told of some service: it waits for a word each second.
    has_words: bool,
    /// What it was told of our gateways.
    gateways: Option<Arc<Gateways>>,
}

/// The services that are served here.
#[derive(Default)]
struct Services {
    /// By name.
    told: Vec<Told>,
    /// Their names.
    names: Vec<ServiceName>,
}

/// A service that is served here, and how it was at the last look.
struct Told {
    service: Arc<LocalService>,
    /// `None`: it was not looked at yet.
    facts: Option<Facts>,
}

/// What is told of a service.
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
    services: &'a Services,
    /// Where those are of which there is something to tell.
    changed: &'a [usize],
}

/// Tells every gateway of every peer, until the process drains; and where the `gateways` of our cluster may be dialled.
/// Woken by changes, and each second: where nothing changes nothing is looked at meanwhile.
pub async fn tell_peers(shared: Arc<Shared>, mut gateways: watch::Receiver<Arc<Gateways>>) {
    let mut news = shared.news.follow();
    let (mut due, mut tick_at) = (Tick::ZERO, Tick::ZERO);
    let mut shown: Option<Arc<View>> = None;
    let mut services = Services::default();
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
            services = services.in_view(&view);
            shown = Some(view.clone());
        }
        let changed = services.look(now);
        let look = Look { now, ticks, ours: &ours, services: &services, changed: &changed };
        let mut heard = HashMap::new();
        for cluster in shared.peers.iter() {
            ask_again(&cluster);
            for gateway in cluster.gateways().iter() {
                let Some(tunnel) = gateway.control_tunnel() else { continue };
                let key = (cluster.name.clone(), gateway.id.clone());
                let mut listener = match listeners.remove(&key) {
                    Some(listener) => listener.on(tunnel),
                    None => Listener::new(tunnel),
                };
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
        let tunnels: Vec<Tunnel> = gateways.iter().filter_map(|gateway| gateway.control_tunnel()).collect();
        // Whoever is not up yet says everything when it is; each is asked, also behind one that cannot be.
        if tunnels.iter().filter(|tunnel| !tunnel.ask_again()).count() > 0 {
            cluster.facts.still_lacking();
        }
    }
}

impl Listener {
    fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, telling: Telling::default(), has_words: false, gateways: None }
    }

    /// The same gateway, but told over `tunnel`: where that is another, what the last one was told may be lost.
    fn on(mut self, tunnel: Tunnel) -> Self {
        if !self.tunnel.is(&tunnel) {
            (self.tunnel, self.gateways) = (tunnel, None);
            self.telling.forget();
        }
        self
    }

    /// Tells it what there is to tell; `still` is what it hears each second whatever that is. Gives when to look again,
    /// if nothing happens before.
    fn tell(&mut self, look: &Look<'_>, cluster: &PeerCluster, gateway: &PeerGateway, still: Digest) -> Tick {
        let Look { now, services, .. } = *look;
        let hears = self.hear_of(look.ours);
        if gateway.take_asks_again() {
            self.telling.ask();
        }
        let ours = Ours { names: &services.names, changed: look.changed };
        let granted = |at: usize| services.told[at].service.grant.allows(&cluster.name);
        let news = self.telling.next(now, ours, granted);
        self.has_words |= !news.is_empty();
        if look.ticks && (self.has_words && news.is_empty() || !still.objections.is_empty()) {
            // What does not fit is told a second later.
            self.tunnel.tell(still);
        }
        let untold = services.tell(&self.tunnel, &news);
        self.telling.told(untold);
        // What could not be told yet goes on with the next look.
        if hears { self.telling.due(now) } else { now }
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

impl Services {
    /// Those that `view` serves, with what is known of them.
    fn in_view(self, view: &View) -> Self {
        let mut before: HashMap<_, _> =
            self.told.into_iter().map(|told| (told.service.name.clone(), told)).collect();
        let told = |service: &Arc<LocalService>| {
            // One that was declared anew may be granted to others.
            let known = before.remove(&service.name).filter(|told| Arc::ptr_eq(&told.service, service));
            known.unwrap_or_else(|| Told { service: service.clone(), facts: None })
        };
        let mut told: Vec<_> = view.locals().map(told).collect();
        told.sort_unstable_by(|a, b| a.service.name.cmp(&b.service.name));
        let names = told.iter().map(|told| told.service.name.clone()).collect();
        Self { told, names }
    }

    /// Looks at each; gives where those are that have changed since the last look.
    fn look(&mut self, now: Tick) -> Vec<usize> {
        self.told.iter_mut().enumerate().filter_map(|(at, told)| told.look(now).then_some(at)).collect()
    }

    /// Tells those at these places; gives the first that could not be told.
    fn tell(&self, tunnel: &Tunnel, places: &[usize]) -> Option<&ServiceName> {
        let digest = |places: &[usize]| Digest {
            services: places.iter().map(|&at| self.told[at].digest()).collect(),
            objections: Vec::new(),
        };
        let refused = places.chunks(DIGEST_SERVICES_MAX).find(|chunk| !tunnel.tell(digest(chunk)));
        refused.map(|chunk| &self.names[chunk[0]])
    }
}

impl Told {
    /// Looks at it; true: it has changed since the last look.
    fn look(&mut self, now: Tick) -> bool {
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
        let Facts { ready, degraded, ring } = self.facts.unwrap_or_default();
        let ServiceName { namespace, name } = &self.service.name;
        ServiceDigest { namespace: namespace.to_string(), name: name.to_string(), ready, degraded, ring }
    }
}
