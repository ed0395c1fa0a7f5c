//! The registrars that talk to this gateway: each has a lease in the registry for as long as it says that it lives.
//!
//! A conversation that breaks takes nothing off: the registrar has until its lease lapses to come back, here or at another
//! gateway of the cluster. What it is told of its endpoints is what this gateway's own view shows.

mod follow;
mod keeper;
mod place;
mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::register::{Say, Told, say};
use registry::model::ServiceName;
use registry::pure::registration::place::BadPlace;
use registry::pure::registration::{self, BadRegistration, Begin, Misfit};
use registry::store::Store;
use registry::tasks::registrar::Registrar;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::keeper::{Done, Wanted, keep};
use self::place::{Places, RESOLVED_AT_ONCE};
use self::session::Session;
use crate::base::line::Cut;
use crate::proxy::worker::{RegisterStream, Shared, Who};
use crate::telemetry::limited::limited;
use crate::telemetry::metrics::{InProgress, InProgressGuard};
use crate::view::View;

pub use follow::{first, follow, read, remembered};

/// Registrars at once: each workload of a host or of a thousand sidecars has one, and one that it replaces.
const REGISTRARS_MAX: usize = 8192;
/// Those of one workload, however many sidecars it has, or of one user of this host: most of the room is left to others.
const REGISTRARS_OF_ONE_MAX: u64 = REGISTRARS_MAX as u64 / 4;
/// How long each counts at least: whoever comes and goes leaves a lease behind each time.
const SESSION_LEAST: Duration = Duration::from_secs(1);
/// How long the first message may take.
const BEGIN_WAIT: Duration = Duration::from_secs(5);
/// How long a message may take to be taken: a registrar that takes nothing is not there.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// How often requests at endpoints that drain are counted.
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
    /// It is where it may not be.
    #[error(transparent)]
    Place(#[from] BadPlace),
    /// The service is none of its business.
    #[error("{who} may not register endpoints of {service}: a workload serves in its own namespace")]
    Denied {
        /// Who asked.
        who: Who,
        /// For what.
        service: ServiceName,
    },
}

/// Talks to every registrar of `incoming` until the process drains.
/// `listeners`: where this process listens, which is no endpoint.
pub async fn serve<S: Store>(
    shared: Arc<Shared>,
    store: S,
    listeners: Arc<[SocketAddr]>,
    mut incoming: mpsc::Receiver<RegisterStream>,
) {
    let revision = |view: &View| view.catalog.as_ref().map_or(0, |catalog| catalog.revision);
    let mut news = shared.news.follow();
    let views = watch::Sender::new(shared.view.load_full());
    let mut sessions = JoinSet::new();
    let mut rooms = Rooms::default();
    let resolving = Arc::new(Semaphore::new(RESOLVED_AT_ONCE));
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(stream) = incoming.recv() => {
                let who = stream.who.clone();
                let room = rooms.enter(&who).filter(|_| sessions.len() < REGISTRARS_MAX);
                let Some(room) = room else {
                    limited!(WARN, KNOWN, who, "Refused a registrar: as many as are allowed talk to this gateway.", %who);
                    rooms.forget(&who);
                    continue;
                };
                // The user of the gateway itself may as well declare whatever address.
                let listeners = if let Who::Host(_) = who { Arc::default() } else { listeners.clone() };
                let places = Places { from: stream.from, listeners, resolving: resolving.clone() };
                let views = views.subscribe();
                let talk = converse(shared.stop.clone(), store.clone(), views, places, stream);
                sessions.spawn(async move {
                    let least = Instant::now() + SESSION_LEAST;
                    let stream_room = talk.await;
                    sleep_until(least).await;
                    drop((room, stream_room));
                    who
                });
            }
            Some(ended) = sessions.join_next() => if let Ok(who) = ended {
                rooms.forget(&who);
            },
            () = news.changed() => {
                let now = shared.view.load_full();
                views.send_if_modified(|last| {
                    let news = revision(last) != revision(&now);
                    *last = now;
                    news
                });
            }
        }
    }
}

/// How many conversations each has, so that nobody takes the room of all.
#[derive(Debug, Default)]
struct Rooms(HashMap<Who, Arc<InProgress>>);

impl Rooms {
    /// Counts one more until the guard is dropped; none: `who` has as many as one may have.
    fn enter(&mut self, who: &Who) -> Option<InProgressGuard> {
        self.0.entry(who.clone()).or_default().enter(REGISTRARS_OF_ONE_MAX)
    }

    /// Forgets `who` if that was the last.
    fn forget(&mut self, who: &Who) {
        if self.0.get(who).is_some_and(|of_it| of_it.count() == 0) {
            self.0.remove(who);
        }
    }
}

/// Talks to one registrar to the end; gives back the room that its stream has.
async fn converse<S: Store>(
    stop: CancellationToken,
    store: S,
    views: watch::Receiver<Arc<View>>,
    places: Places,
    stream: RegisterStream,
) -> Option<InProgressGuard> {
    let RegisterStream { who, mut line, room, .. } = stream;
    // Whoever says nothing has nothing to register.
    let Ok(Ok(first)) = timeout(BEGIN_WAIT, line.next()).await else { return room };
    let view = views.borrow().clone();
    let begin = match admit(&first, &who, &places, &view).await {
        Ok(begin) => begin,
        Err(refusal) => {
            limited!(INFO, KNOWN, who, "Refused a registrar.", %who, %refusal);
            let refused = refused(&refusal);
            // It may be gone already. It hangs up when it has heard: to end the stream before would take the word back.
            let _ = timeout(SEND_WAIT, async {
                line.send(refused).await?;
                while line.next().await.is_ok() {}
                Ok::<_, Cut>(())
            })
            .await;
            return room;
        }
    };
    let (wanted, asked) = watch::channel(Wanted { drains: begin.draining, leaves: false });
    let (tell, done) = watch::channel(Done::default());
    let session = Session::new(line, &begin, views, places, wanted, done);
    let registrar = Registrar::new(store, begin, who.to_string());
    let ended = tokio::select! {
        ended = session.run(stop) => ended,
        never = keep(registrar, &who, asked, tell) => match never {},
    };
    match ended {
        Ok(()) => debug!(%who, "A registrar has left."),
        Err(end) => {
            limited!(
                INFO, KNOWN, who, "Registrar lost; its endpoints stay until the lease expires.", %who, %end
            );
        }
    }
    room
}

/// The word that refuses a registrar.
fn refused(refusal: &dyn std::error::Error) -> Told {
    Told { endpoints: Vec::new(), refused: refusal.to_string() }
}

/// What the first message of `who` registers, if it may.
async fn admit(first: &Say, who: &Who, places: &Places, view: &View) -> Result<Begin, Refusal> {
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
    for (service, endpoint) in &begin.endpoints {
        places.check(service, endpoint, view).await?;
    }
    Ok(begin)
}
