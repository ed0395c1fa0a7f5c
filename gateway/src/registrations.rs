//! The registrars that talk to this gateway: each has a lease in the registry for as long as it says that it lives.
//!
//! A conversation that breaks takes nothing off: the registrar has until its lease lapses to come back, here or at another
//! gateway of the cluster. What it is told of its endpoints is what this gateway's own view shows.

mod follow;

use std::sync::Arc;
use std::time::Duration;

use proto::register::{Phase, Say, Standing, Told, say};
use registry::model::{Endpoint, ServiceName};
use registry::registrar::{Claim, Registrar};
use registry::registration::{self, BadRegistration, Begin, Misfit};
use registry::store::{Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::audit;
use crate::line::Cut;
use crate::view::View;
use crate::worker::{RegisterStream, Shared, Who};

pub use follow::{change, first, follow, remembered};

/// Registrars at once: each workload of a host or of a thousand sidecars has one, and one that it replaces.
const REGISTRARS_MAX: usize = 8192;
/// How long the first message may take.
const BEGIN_WAIT: Duration = Duration::from_secs(5);
/// How long a message may take to be taken: a registrar that takes nothing is not there.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// How long the next of the last words of a registrar that is gone may take: they are here already, or lost.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);
/// How often a record that is another's, or could not be written, is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often another view is looked for, and requests at endpoints that drain are counted.
const LOOK: Duration = Duration::from_millis(50);

/// Why a registrar is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// It began with something else.
    #[error("a registrar begins by saying what it registers")]
    NoBeginning,
    /// What it says is wrong.
    #[error(transparent)]
    Wrong(#[from] BadRegistration),
    /// It does not fit the service.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The service is none of its business.
    #[error("{who} may not register endpoints of {service}: a workload serves in its own namespace")]
    Denied {
        /// Who asked.
        who: Who,
        /// For what.
        service: ServiceName,
    },
}

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// The other side went.
    #[error(transparent)]
    Cut(#[from] Cut),
    /// It does not take what it is told.
    #[error("it takes nothing")]
    Deaf,
    /// It has not said for a whole time to live that it is there.
    #[error("it has fallen silent")]
    Silent,
    /// It says what makes no sense.
    #[error("it began twice")]
    BeganTwice,
}

/// Talks to every registrar of `incoming` until the process drains.
pub async fn serve<S: Store>(shared: Arc<Shared>, store: S, mut incoming: mpsc::Receiver<RegisterStream>) {
    let revision = |view: &View| view.catalog.as_ref().map_or(0, |catalog| catalog.revision);
    let revisions = watch::Sender::new(revision(&shared.view.load()));
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(stream) = incoming.recv() => {
                if sessions.len() < REGISTRARS_MAX {
                    sessions.spawn(converse(shared.clone(), store.clone(), revisions.subscribe(), stream));
                } else {
                    warn!(who = %stream.who, "Refused a registrar: {REGISTRARS_MAX} talk to this gateway.");
                }
            }
            Some(_) = sessions.join_next() => {}
            () = tokio::time::sleep(LOOK) => {
                let now = revision(&shared.view.load());
                revisions.send_if_modified(|last| std::mem::replace(last, now) != now);
            }
        }
    }
}

async fn converse<S: Store>(
    shared: Arc<Shared>,
    store: S,
    revisions: watch::Receiver<u64>,
    mut stream: RegisterStream,
) {
    let who = stream.who.clone();
    // Whoever says nothing has nothing to register.
    let Ok(Ok(first)) = timeout(BEGIN_WAIT, stream.line.next()).await else { return };
    let begin = match admit(&first, &who, &shared.view.load()) {
        Ok(begin) => begin,
        Err(refusal) => {
            info!(%who, %refusal, "Refused a registrar.");
            let refused = Told { endpoints: Vec::new(), refused: refusal.to_string() };
            // It may be gone already. It hangs up when it has heard: to end the stream before would take the word back.
            let _ = timeout(SEND_WAIT, async {
                stream.line.send(refused).await?;
                while stream.line.next().await.is_ok() {}
                Ok::<_, Cut>(())
            })
            .await;
            return;
        }
    };
    let registrar = Registrar::new(store, begin, who.to_string());
    let mut session = Session { shared, registrar, stream, trouble: None, told: None };
    match session.run(revisions).await {
        Ok(()) => debug!(%who, "A registrar has left."),
        Err(end) => info!(%who, %end, "A registrar is gone; its endpoints stay until its lease lapses."),
    }
}

/// What the first message of `who` registers, if it may.
fn admit(first: &Say, who: &Who, view: &View) -> Result<Begin, Refusal> {
    let Some(say::Kind::Begin(begin)) = &first.kind else { return Err(Refusal::NoBeginning) };
    let begin = Begin::decode(begin)?;
    for (service, endpoint) in &begin.endpoints {
        if !who.may_serve(service) {
            return Err(Refusal::Denied { who: who.clone(), service: service.clone() });
        }
        if let Some(local) = view.local(&service.namespace, &service.name) {
            let ports: Vec<_> = local.ports.iter().map(|(port, _)| port.clone()).collect();
            registration::fits(endpoint, service, &ports)?;
        }
    }
    Ok(begin)
}

struct Session<S> {
    shared: Arc<Shared>,
    registrar: Registrar<S>,
    stream: RegisterStream,
    /// Why the store did not do what it should, the last time.
    trouble: Option<StoreError>,
    /// What the registrar was told last.
    told: Option<Told>,
}

impl<S: Store> Session<S> {
    async fn run(&mut self, mut revisions: watch::Receiver<u64>) -> Result<(), End> {
        self.trouble = self.registrar.keep().await.err();
        self.say_how_it_went("endpoint registered");
        let (mut looks, mut retries) = (interval(LOOK), interval(RETRY));
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        // Every word is answered, whether there is news or not: so the registrar knows that it was heard.
        let mut due = true;
        loop {
            if let Err(end) = self.tell(due).await {
                return self.last_words(end).await;
            }
            let (draining, unsettled) = (self.registrar.is_draining(), self.registrar.is_unsettled());
            due = tokio::select! {
                () = self.shared.stop.clone().cancelled_owned() => return Err(End::Cut(Cut::HungUp)),
                () = sleep_until(heard + self.registrar.ttl()) => return Err(End::Silent),
                said = self.stream.line.next() => match heard_at(&mut heard, said?) {
                    Some(say::Kind::Beat(_)) => {
                        let troubled = self.trouble.is_some();
                        self.trouble = self.registrar.keep().await.err();
                        if troubled != self.trouble.is_some() {
                            self.say_how_it_went("endpoint registered");
                        }
                        true
                    }
                    Some(say::Kind::Drain(_)) => {
                        self.trouble = self.registrar.drain().await.err();
                        self.say_how_it_went("endpoint drains");
                        true
                    }
                    Some(say::Kind::Leave(_)) => {
                        self.leave().await;
                        return self.say_gone().await;
                    }
                    Some(say::Kind::Begin(_)) => return Err(End::BeganTwice),
                    // A newer registrar says more.
                    None => false,
                },
                // `serve` has the sender as long as this runs.
                _ = revisions.changed() => false,
                _ = looks.tick(), if draining => false,
                _ = retries.tick(), if unsettled => {
                    self.trouble = self.registrar.settle().await.err();
                    if !self.registrar.is_unsettled() {
                        self.say_how_it_went("endpoint registered");
                    }
                    false
                }
            };
        }
    }

    /// Hears what a registrar has said that is not there to be answered any more: it may have left before it went.
    async fn last_words(&mut self, end: End) -> Result<(), End> {
        while let Ok(Ok(said)) = timeout(LAST_WORDS_WAIT, self.stream.line.next()).await {
            if matches!(said.kind, Some(say::Kind::Leave(_))) {
                self.leave().await;
                return Ok(());
            }
        }
        Err(end)
    }

    async fn leave(&mut self) {
        self.trouble = self.registrar.leave().await.err();
        self.say_how_it_went("endpoint taken off");
    }

    /// One line for each endpoint, or one for what keeps the store from it.
    fn say_how_it_went(&self, what: &str) {
        let who = &self.stream.who;
        if let Some(error) = &self.trouble {
            let error: &dyn std::error::Error = error;
            return warn!(%who, error, "The registry does not take a registration; tried again.");
        }
        for (service, endpoint, claim) in self.registrar.claims() {
            match claim {
                Claim::Taken(by) => {
                    info!(%who, %service, endpoint = endpoint.id, %by, "The id is another registrar's; asked for again.");
                }
                Claim::Held(_) | Claim::Open => {
                    audit::change(what, format!("{service} {}", endpoint.id), who, "requests to the service");
                }
            }
        }
    }

    /// Tells the registrar how its endpoints are, if that is news or `due`.
    async fn tell(&mut self, due: bool) -> Result<(), End> {
        let now = self.standings();
        if due || self.told.as_ref() != Some(&now) {
            self.told = Some(now.clone());
            timeout(SEND_WAIT, self.stream.line.send(now)).await.map_err(|_| End::Deaf)??;
        }
        Ok(())
    }

    async fn say_gone(&mut self) -> Result<(), End> {
        let phase = if self.trouble.is_some() { Phase::Draining } else { Phase::Gone };
        let standing = |_| Standing { phase: phase.into(), why: self.why(), in_flight: 0 };
        let told =
            Told { endpoints: self.registrar.claims().map(standing).collect(), refused: String::new() };
        timeout(SEND_WAIT, self.stream.line.send(told)).await.map_err(|_| End::Deaf)??;
        Ok(())
    }

    /// How its endpoints are in the view of this moment.
    fn standings(&self) -> Told {
        let view = self.shared.view.load();
        let draining = self.registrar.is_draining();
        let standing = |(service, endpoint, claim): (&ServiceName, &Endpoint, &Claim)| {
            let (phase, why) = match claim {
                Claim::Taken(by) => (Phase::Waiting, format!("the id is taken by {by}; asked for again")),
                Claim::Open if self.trouble.is_some() => (Phase::Waiting, self.why()),
                Claim::Open => (Phase::Waiting, "others change its record; asked for again".into()),
                Claim::Held(_) => match seen(&view, service, endpoint) {
                    // The view has yet to follow.
                    Ok(weight) if draining && weight > 0 => (Phase::Registered, self.why()),
                    _ if draining => (Phase::Draining, self.why()),
                    Ok(_) => (Phase::Registered, self.why()),
                    Err(why) => (Phase::Waiting, why),
                },
            };
            let in_flight = if draining { in_flight(&view, service, &endpoint.id) } else { 0 };
            Standing { phase: phase.into(), why, in_flight }
        };
        Told { endpoints: self.registrar.claims().map(standing).collect(), refused: String::new() }
    }

    fn why(&self) -> String {
        let trouble = |error: &StoreError| format!("the registry does not answer ({error})");
        self.trouble.as_ref().map_or_else(String::new, trouble)
    }
}

/// What was said, now.
fn heard_at(heard: &mut Instant, said: Say) -> Option<say::Kind> {
    *heard = Instant::now();
    said.kind
}

/// The weight at which the view has an endpoint; or why it has not, empty: not yet.
fn seen(view: &View, service: &ServiceName, endpoint: &Endpoint) -> Result<u32, String> {
    let declared = view.catalog.as_ref().map(|catalog| &catalog.declared);
    let Some(declared) = declared.and_then(|declared| declared.services.get(service)) else {
        return Err(format!("no MeshService {service} is declared"));
    };
    registration::fits(endpoint, service, &declared.ports).map_err(|misfit| misfit.to_string())?;
    match declared.endpoints.iter().find(|known| known.id == endpoint.id) {
        None => Err(String::new()),
        Some(known) if (&known.host, &known.ports) == (&endpoint.host, &endpoint.ports) => Ok(known.weight),
        Some(known) => Err(format!(
            "the MeshService declares an endpoint `{}` at {}, which counts: give this one another id",
            known.id, known.host
        )),
    }
}

/// Requests under way at an endpoint through this gateway.
fn in_flight(view: &View, service: &ServiceName, id: &str) -> u64 {
    let local = view.local(&service.namespace, &service.name);
    let ports = local.iter().flat_map(|local| &local.ports);
    let endpoints = ports.filter_map(|(_, endpoints)| endpoints.iter().find(|endpoint| endpoint.id() == id));
    endpoints.map(|endpoint| u64::from(endpoint.in_flight())).sum()
}
