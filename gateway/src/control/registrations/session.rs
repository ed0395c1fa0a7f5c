//! One conversation with a registrar. Every word is answered at once: what it asks of the registry is done beside, so that
//! a registry that is slow is not taken for a gateway that has fallen silent.

use std::sync::Arc;
use std::time::Duration;

use proto::limits::LOOKUP_ENDPOINTS_MAX;
use proto::register::{Phase, Say, Standing, Told, say};
use registry::model::{Endpoint, Service, ServiceName};
use registry::pure::registration::place::BadPlace;
use registry::pure::registration::{self, Begin};
use registry::store::StoreError;
use registry::tasks::registrar::Claim;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::keeper::{Done, Wanted};
use super::place::Places;
use super::{LOOK, SEND_WAIT, refused};
use crate::base::line::{Cut, Line};
use crate::view::View;

/// How long the next of the last words of a registrar that is gone may take: they are here already, or lost.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);
/// The next word is listened to no sooner after the last: each may write to the registry. The busiest registrar has one
/// to say each second.
const WORD_PAUSE: Duration = Duration::from_millis(200);

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
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

/// A conversation that has begun.
pub(super) struct Session {
    line: Line<Say, Told>,
    endpoints: Vec<(ServiceName, Endpoint)>,
    ttl: Duration,
    views: watch::Receiver<Arc<View>>,
    /// The service of each endpoint, as the view last had it.
    services: Vec<Option<Arc<Service>>>,
    places: Places,
    wanted: watch::Sender<Wanted>,
    done: watch::Receiver<Done>,
    /// What the registrar was told last.
    told: Option<Told>,
}

impl Session {
    /// Of a registrar that has said `begin` over `line`. What it wants goes to `wanted`, what came of it is in `done`.
    pub(super) fn new(
        line: Line<Say, Told>,
        begin: &Begin,
        views: watch::Receiver<Arc<View>>,
        places: Places,
        wanted: watch::Sender<Wanted>,
        done: watch::Receiver<Done>,
    ) -> Self {
        let (endpoints, ttl) = (begin.endpoints.clone(), begin.ttl);
        let mut session =
            Self { line, endpoints, ttl, views, services: Vec::new(), places, wanted, done, told: None };
        session.services_changed();
        session
    }

    /// Talks until the registrar has left.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), End> {
        let mut looks = interval(LOOK);
        // Nobody looks before it drains: a whole life of ticks must not be made up for then.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        // Every word is answered, whether there is news or not: so the registrar knows that it was heard.
        let (mut due, mut news) = (true, false);
        loop {
            if (due || news)
                && let Err(end) = self.tell(due).await
            {
                return self.last_words(end).await;
            }
            let draining = self.wanted.borrow().drains;
            (due, news) = tokio::select! {
                // A word that is here was said in time, however late it is looked at.
                biased;
                () = stop.cancelled() => return Err(End::Cut(Cut::HungUp)),
                said = next_word(&mut self.line, heard + WORD_PAUSE) => {
                    heard = Instant::now();
                    match said?.kind {
                        Some(say::Kind::Beat(_)) => self.want(|_| {}),
                        Some(say::Kind::Drain(_)) => self.want(|wanted| wanted.drains = true),
                        Some(say::Kind::Leave(_)) => {
                            self.leave().await;
                            return self.say_gone().await;
                        }
                        Some(say::Kind::Begin(_)) => return Err(End::BeganTwice),
                        // A newer registrar says more.
                        None => {}
                    }
                    (true, false)
                }
                () = sleep_until(heard + self.ttl) => return Err(End::Silent),
                // Whoever started this has both senders for as long as it runs.
                _ = self.done.changed() => (false, true),
                _ = self.views.changed() => {
                    let changed = self.services_changed();
                    if changed && let Err(forbidden) = self.are_allowed() {
                        return self.send_away(&forbidden).await;
                    }
                    (false, changed)
                }
                _ = looks.tick(), if draining => (false, true),
            };
        }
    }

    /// Hears what a registrar has said that is not there to be answered any more: it may have left before it went.
    async fn last_words(&mut self, end: End) -> Result<(), End> {
        while let Ok(Ok(said)) = timeout(LAST_WORDS_WAIT, self.line.next()).await {
            if matches!(said.kind, Some(say::Kind::Leave(_))) {
                self.leave().await;
                return Ok(());
            }
        }
        Err(end)
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
    }

    async fn leave(&mut self) {
        self.want(|wanted| wanted.leaves = true);
        // It fails only without a sender: then nothing can be done any more.
        let _ = self.done.wait_for(|done| done.left).await;
    }

    /// Whether its endpoints may still be where they are.
    fn are_allowed(&self) -> Result<(), BadPlace> {
        let view = self.views.borrow();
        self.endpoints
            .iter()
            .try_for_each(|(service, endpoint)| self.places.allow(service, endpoint, &[], &view))
    }

    /// Takes its endpoints off, and tells it why.
    async fn send_away(&mut self, why: &BadPlace) -> Result<(), End> {
        self.leave().await;
        self.send(refused(why)).await?;
        // It hangs up when it has heard: to end the stream before would take the word back.
        let _ = timeout(SEND_WAIT, async { while self.line.next().await.is_ok() {} }).await;
        Ok(())
    }

    /// Looks at the view of this moment; whether one of its services is another one there than before.
    pub(super) fn services_changed(&mut self) -> bool {
        let view = self.views.borrow_and_update();
        let declared = view.catalog.as_ref().map(|catalog| &catalog.declared);
        let of = |(service, _): &(ServiceName, Endpoint)| declared?.services.get(service).cloned();
        let now: Vec<_> = self.endpoints.iter().map(of).collect();
        let pointers = |services: &[Option<Arc<Service>>]| -> Vec<_> {
            services.iter().map(|service| service.as_ref().map(Arc::as_ptr)).collect()
        };
        let changed = pointers(&now) != pointers(&self.services);
        self.services = now;
        changed
    }

    /// Tells the registrar how its endpoints are, if that is news or `due`.
    async fn tell(&mut self, due: bool) -> Result<(), End> {
        let now = self.standings();
        if due || self.told.as_ref() != Some(&now) {
            self.told = Some(now.clone());
            self.send(now).await?;
        }
        Ok(())
    }

    async fn say_gone(&mut self) -> Result<(), End> {
        let told = {
            let done = self.done.borrow();
            let of = |claim| last_standing(claim, done.trouble.as_ref());
            Told { endpoints: done.claims.iter().map(of).collect(), refused: String::new() }
        };
        self.send(told).await
    }

    async fn send(&mut self, told: Told) -> Result<(), End> {
        timeout(SEND_WAIT, self.line.send(told)).await.map_err(|_| End::Deaf)??;
        Ok(())
    }

    /// How its endpoints are in the view of this moment.
    fn standings(&self) -> Told {
        let (view, done) = (self.views.borrow(), self.done.borrow());
        let draining = self.wanted.borrow().drains;
        let endpoints = self.endpoints.iter().enumerate().map(|(place, (name, endpoint))| {
            let service = self.services.get(place).and_then(Option::as_deref);
            let claim = done.claims.get(place).unwrap_or(&Claim::Open);
            let seen = seen(service, name, endpoint);
            let (phase, why) = standing(claim, seen, draining, done.trouble.as_ref());
            let in_flight = if draining { in_flight(&view, name, &endpoint.id) } else { 0 };
            Standing { phase: phase.into(), why, in_flight }
        });
        Told { endpoints: endpoints.collect(), refused: String::new() }
    }
}

/// The next word, listened to from `from` on. Cancel safe.
async fn next_word(line: &mut Line<Say, Told>, from: Instant) -> Result<Say, Cut> {
    sleep_until(from).await;
    line.next().await
}

fn trouble_of(error: Option<&StoreError>) -> String {
    error.map_or_else(String::new, |error| format!("the registry does not answer ({error})"))
}

/// How an endpoint is whose record is as `claim` says, and which the view has as `seen`.
fn standing(
    claim: &Claim,
    seen: Result<u32, String>,
    draining: bool,
    trouble: Option<&StoreError>,
) -> (Phase, String) {
    match (claim, seen) {
        // Whatever became of the record: where the view has a weight it gives requests, and so do others.
        (_, Ok(weight)) if draining && weight > 0 => (Phase::Registered, trouble_of(trouble)),
        _ if draining => (Phase::Draining, trouble_of(trouble)),
        (Claim::Taken(by), _) => (Phase::Waiting, format!("the id is taken by {by}; asked for again")),
        // Not written yet, or others change it: asked for again.
        (Claim::Open | Claim::Gone, _) => (Phase::Waiting, trouble_of(trouble)),
        (Claim::Held(_), Ok(_)) => (Phase::Registered, trouble_of(trouble)),
        (Claim::Held(_), Err(why)) => (Phase::Waiting, why),
    }
}

/// How an endpoint is whose registrar has left.
fn last_standing(claim: &Claim, trouble: Option<&StoreError>) -> Standing {
    let (phase, why) = match claim {
        Claim::Gone => (Phase::Gone, String::new()),
        Claim::Taken(by) => (Phase::Waiting, format!("the id is taken by {by}")),
        Claim::Open | Claim::Held(_) if trouble.is_some() => (Phase::Draining, trouble_of(trouble)),
        Claim::Open | Claim::Held(_) => (Phase::Gone, String::new()),
    };
    Standing { phase: phase.into(), why, in_flight: 0 }
}

/// The weight at which a service, as the view has it, has an endpoint; or why it has not, empty: not yet.
fn seen(service: Option<&Service>, name: &ServiceName, endpoint: &Endpoint) -> Result<u32, String> {
    let Some(service) = service else {
        return Err(format!("no MeshService {name} is declared"));
    };
    registration::fits(endpoint, name, &service.ports).map_err(|misfit| misfit.to_string())?;
    match service.endpoints.iter().find(|known| known.id == endpoint.id) {
        None if service.endpoints.len() >= LOOKUP_ENDPOINTS_MAX => {
            Err(format!("the service has {LOOKUP_ENDPOINTS_MAX} endpoints, as many as it may"))
        }
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
