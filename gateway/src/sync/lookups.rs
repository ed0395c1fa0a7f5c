//! Tells sidecars what the names mean that they use: at once when one is asked for, and whenever it changes.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use hashring::NodeIndex;
use proto::limits::{LOOKUP_ANSWER_BYTES_MAX, LOOKUP_NAMES_MAX};
use proto::lookup::{Answer, Ask, ask};
use proto::message::encode_message;
use registry::lookup::{LocalEndpoints, Meaning, Reach, State, encode};
use registry::model::{Catalog, ClusterName, Endpoint, Member};
use registry::union::{self, Placed};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::debug;
use tunnel::TunnelError;

use crate::limited::limited;
use crate::placement::Availability;
use crate::route;
use crate::view::{Server, Service, View};
use crate::worker::{LookupStream, Shared};

/// How often changes are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// Lookup streams at once: one for each sidecar, and the ones that they replace.
const STREAMS_MAX: usize = 8192;

/// All that names mean at one moment.
#[derive(Debug)]
struct Moment {
    view: Arc<View>,
    catalog: Arc<Catalog>,
}

/// Answers every stream of `lookups` until the process drains.
pub async fn answer_sidecars(shared: Arc<Shared>, mut lookups: mpsc::Receiver<LookupStream>) {
    let Some(first) = Moment::of(shared.view.load_full()) else { return };
    let (moments, moment) = watch::channel(Arc::new(first));
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(stream) = lookups.recv() => {
                if streams.len() < STREAMS_MAX {
                    streams.spawn(answer(shared.clone(), moment.clone(), stream));
                } else {
                    limited!(
                        WARN, KNOWN, stream.sidecar, "Refused a lookup stream: as many as are allowed are open.",
                        sidecar = stream.sidecar, most = STREAMS_MAX
                    );
                }
            }
            Some(_) = streams.join_next() => {}
            () = tokio::time::sleep(LOOK) => {
                let view = shared.view.load_full();
                if !Arc::ptr_eq(&view, &moments.borrow().view)
                    && let Some(now) = Moment::of(view)
                {
                    moments.send_replace(Arc::new(now));
                }
            }
        }
    }
}

async fn answer(shared: Arc<Shared>, moments: watch::Receiver<Arc<Moment>>, stream: LookupStream) {
    let sidecar = stream.sidecar.clone();
    if let Err(error) = follow(&shared, moments, stream).await {
        debug!(sidecar, %error, "A lookup stream ended.");
    }
}

/// Answers one stream until its end.
async fn follow(
    shared: &Shared,
    mut moments: watch::Receiver<Arc<Moment>>,
    stream: LookupStream,
) -> Result<(), TunnelError> {
    let LookupStream { mut reader, mut writer, .. } = stream;
    let domain = &shared.domain;
    // What was said last of each name, and the pulse that it had.
    let mut used: BTreeMap<String, (u64, Option<Answer>)> = BTreeMap::new();
    let mut looks = tokio::time::interval(LOOK);
    let mut changed = false;
    loop {
        tokio::select! {
            asked = reader.next::<Ask>() => match asked? {
                None => return Ok(()),
                Some(Ask { kind: Some(ask::Kind::Use(name)) }) => {
                    if used.len() >= LOOKUP_NAMES_MAX && !used.contains_key(&name) {
                        return Err(TunnelError::Protocol(format!("more than {LOOKUP_NAMES_MAX} names")));
                    }
                    let moment = moments.borrow_and_update().clone();
                    // What changed for the others is seen at the next look.
                    changed = true;
                    let now = shared.clock.micros();
                    let answer = moment.answer(&name, domain, now);
                    writer.send(&answer).await?;
                    used.insert(name.clone(), (moment.pulse(&name, domain, now), Some(answer)));
                }
                Some(Ask { kind: Some(ask::Kind::Leave(name)) }) => {
                    used.remove(&name);
                }
                // A newer sidecar says more.
                Some(Ask { kind: None }) => {}
            },
            _ = looks.tick() => {
                changed |= moments.has_changed().unwrap_or(false);
                let moment = moments.borrow_and_update().clone();
                let now = shared.clock.micros();
                for (name, (last_pulse, told)) in &mut used {
                    let pulse = moment.pulse(name, domain, now);
                    if pulse == *last_pulse && !changed {
                        continue;
                    }
                    *last_pulse = pulse;
                    let answer = moment.answer(name, domain, now);
                    if told.as_ref() != Some(&answer) {
                        writer.send(&answer).await?;
                        *told = Some(answer);
                    }
                }
                changed = false;
            }
        }
    }
}

impl Moment {
    /// `None`: no view was built yet.
    fn of(view: Arc<View>) -> Option<Self> {
        Some(Self { catalog: view.catalog.clone()?, view })
    }

    /// The service of a name, and the cluster that it pins.
    fn find(&self, name: &str, domain: &str) -> Option<(&Arc<Service>, Option<ClusterName>)> {
        let authority = format!("{name}.{domain}");
        let target = route::parse(&authority, domain).ok()?;
        let service = self.view.service(&target)?;
        let cluster = target.cluster().map(ClusterName::new).transpose().ok()?;
        Some((service, cluster))
    }

    /// A name with all that places its requests.
    fn placed(&self, service: &Service, cluster: Option<&ClusterName>) -> Option<Placed> {
        let mut meaning = union::meaning(&self.catalog, &service.name);
        match cluster {
            None => meaning.union,
            Some(cluster) => meaning.pinned.remove(cluster),
        }
    }

    /// What a name means at `now`.
    fn answer(&self, name: &str, domain: &str, now: u64) -> Answer {
        let meaning = || {
            let (service, cluster) = self.find(name, domain)?;
            let placed = self.placed(service, cluster.as_ref())?;
            Some(encode(&self.meaning(service, placed, now)))
        };
        let mut answer = Answer { name: name.to_owned(), meaning: meaning() };
        if encode_message(&answer).len() > LOOKUP_ANSWER_BYTES_MAX
            && let Some(meaning) = &mut answer.meaning
        {
            // Then it sends its requests here.
            meaning.endpoints = None;
        }
        answer
    }

    fn meaning(&self, service: &Service, placed: Placed, now: u64) -> Meaning {
        let port = service.ports.first().map_or(0, |port| port.number);
        let state = |(node, member): (NodeIndex, &Member)| {
            if matches!(service.server(node), Server::Local(_)) {
                // It judges these endpoints by itself.
                return (member.cluster.clone(), State { reach: Reach::Up, ready: None });
            }
            let reach = match service.availability(node, port, now) {
                Availability::Up => Reach::Up,
                Availability::Suspect => Reach::Suspect,
                Availability::Down | Availability::Unreachable => Reach::Down,
            };
            (member.cluster.clone(), State { reach, ready: service.capacity(node, port, now) })
        };
        let states = service.placement.nodes().map(state);
        let states = states.filter(|(cluster, _)| placed.servers.contains_key(cluster)).collect();
        let serves_here = placed.servers.contains_key(&self.catalog.cluster);
        let local = if serves_here { self.local(&placed) } else { None };
        Meaning { region: self.catalog.region.clone(), placed, states, local }
    }

    /// The endpoints of a service that is served here.
    fn local(&self, placed: &Placed) -> Option<LocalEndpoints> {
        let declared = self.catalog.declared.services.get(&placed.name)?;
        let local = self.view.local(&placed.name.namespace, &placed.name.name)?;
        let failing = |endpoint: &Endpoint| {
            let on = |(_, endpoints): &(_, crate::balance::Endpoints)| {
                endpoints.iter().find(|e| e.id() == &*endpoint.id).is_some_and(|e| e.fails_checks())
            };
            local.ports.iter().map(on).collect()
        };
        let endpoints = declared.endpoints.iter().map(|e| (e.clone(), failing(e))).collect();
        Some(LocalEndpoints { checked: declared.health_check.is_some(), endpoints })
    }

    /// A number that changes with whatever of a name changes between two views.
    fn pulse(&self, name: &str, domain: &str, now: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        let Some((service, _)) = self.find(name, domain) else { return 0 };
        let port = service.ports.first().map_or(0, |port| port.number);
        for (node, _) in service.placement.nodes() {
            // What sidecars judge by themselves is no news to them.
            if !matches!(service.server(node), Server::Local(_)) {
                service.availability(node, port, now).as_str().hash(&mut hasher);
                service.capacity(node, port, now).hash(&mut hasher);
            }
        }
        if let Some(local) = self.view.local(&service.name.namespace, &service.name.name) {
            for (_, endpoints) in &local.ports {
                endpoints.iter().for_each(|endpoint| endpoint.fails_checks().hash(&mut hasher));
            }
        }
        hasher.finish()
    }
}
