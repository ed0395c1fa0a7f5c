//! The calls of a schedule: real flows whose payload is a number.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hashring::NodeIndex;
use registry::base::time::Tick;
use registry::model::Timeout;
use tokio::time::{Instant, sleep, sleep_until};

use super::world::{Link, Manner};
use super::{Shared, is_charged};
use crate::base::clock::Activity;
use crate::proxy::flow::{Attempt, Candidates, Flow, Payload, Terms, Watched};
use crate::telemetry::metrics::AttemptKind;
use crate::telemetry::record::AttemptId;
use policy::health::State;
use policy::placement::{Availability, Placement};
use policy::retry::Failure;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) id: u64,
    pub(super) at: Duration,
    pub(super) from: usize,
    pub(super) key: Option<u64>,
    pub(super) replayable: bool,
    pub(super) deadline: Duration,
    /// How long an endpoint works on it.
    pub(super) work: Duration,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) plan: Plan,
    pub(super) took: Duration,
    pub(super) failed: Option<Failure>,
    pub(super) attempts: usize,
    /// How often it reached an endpoint.
    pub(super) delivered: u32,
    /// A cluster that would have served it all the time.
    pub(super) served_by: Option<String>,
}

/// The clusters as one of them sees them.
struct Seen {
    world: Shared,
    from: usize,
    made: Rc<Cell<usize>>,
    last: Rc<Cell<Option<Failure>>>,
}

/// Where an attempt goes: at home, or through a tunnel.
enum Target {
    Home,
    Tunnel(Rc<Link>),
}

struct Number {
    world: Shared,
    plan: Plan,
    /// How the last attempt failed, if it did.
    last: Rc<Cell<Option<Failure>>>,
}

/// An answer.
#[derive(Debug)]
struct Status(u16);

pub(super) async fn call(world: &Shared, plan: Plan) -> Ended {
    let cluster = &world.clusters[plan.from];
    let started = Instant::now();
    let (made, last) = (Rc::new(Cell::new(0)), Rc::<Cell<_>>::default());
    world.asked[plan.from].update(|asked| asked + 1);
    let timeout = Timeout { total: Some(plan.deadline), ..Timeout::default() };
    let flow = Flow {
        candidates: Seen { world: world.clone(), from: plan.from, made: made.clone(), last: last.clone() },
        payload: Number { world: world.clone(), plan: plan.clone(), last },
        terms: Terms {
            retry: &world.retry,
            timeout: &timeout,
            retries: &cluster.retries,
            hedges: &cluster.hedges,
        },
        hash: plan.key,
        replayable: plan.replayable,
        started,
        deadline: Some(started + plan.deadline),
        activity: Activity::new(started),
        clock: world.clock,
        expired: &Cell::new(false),
    };
    let failed = match flow.run().await {
        Ok((Status(200), _)) => None,
        Ok((Status(status), _)) => Some(Failure::Status(status)),
        Err(not_served) => Some(not_served.failure),
    };
    if let Some(failure) = failed {
        world.note(format!("flow {} of {} fails: {failure:?}", plan.id, cluster.name));
    }
    let attempts = made.get();
    Ended { plan, took: started.elapsed(), failed, attempts, delivered: 0, served_by: None }
}

impl Candidates for Seen {
    type Target = Target;
    type Watched = Rc<Link>;

    fn placement(&self) -> &Placement {
        &self.world.clusters[self.from].placement
    }

    fn availability(&self, node: NodeIndex, _: Tick) -> Availability {
        self.world.availability(self.from, node.get())
    }

    fn capacity(&self, _: NodeIndex, _: Tick) -> Option<u32> {
        None
    }

    fn is_remote(&self, node: NodeIndex) -> bool {
        node.get() != self.from
    }

    fn target(&self, node: NodeIndex) -> Result<Target, Failure> {
        if node.get() == self.from {
            return Ok(Target::Home);
        }
        let link = self.world.link(self.from, node.get());
        if link.open.get() { Ok(Target::Tunnel(link.clone())) } else { Err(Failure::NotSent) }
    }

    fn watched(&self, target: &Target) -> Option<Rc<Link>> {
        match target {
            Target::Home => None,
            Target::Tunnel(link) => Some(link.clone()),
        }
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.world.rng.borrow_mut())
    }

    fn attempt_began(&self, node: NodeIndex, kind: AttemptKind) -> AttemptId {
        self.made.set(self.made.get() + 1);
        match (kind, self.last.get()) {
            (AttemptKind::Hedge, _) => self.world.hedged[self.from].update(|hedged| hedged + 1),
            (AttemptKind::Retry, Some(failure)) if is_charged(failure) => {
                self.world.charged[self.from].update(|charged| charged + 1);
            }
            _ => {}
        }
        if kind != AttemptKind::First {
            let cluster = &self.world.clusters[node.get()].name;
            self.world.note(format!("{} at {cluster}", kind.as_str()));
        }
        AttemptId::default()
    }

    fn attempt_ended(&self, _: AttemptId, _: Option<Failure>) {}
}

impl Watched for Rc<Link> {
    async fn suspect(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.state() == State::Suspect {
                return;
            }
            changed.await;
        }
    }
}

/// An exchange that is under way on a link.
struct Outstanding<'a>(&'a Link);

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Payload for Number {
    type Target = Target;
    type Reply = Status;

    fn failure_in(&self, reply: &Status) -> Option<Failure> {
        (reply.0 == 503).then_some(Failure::Status(503))
    }

    async fn send(&self, target: Target, attempt: Attempt) -> Result<Status, Failure> {
        let sent = self.way(target, attempt).await;
        self.last.set(match &sent {
            Ok(status) => self.failure_in(status),
            Err(failure) => Some(*failure),
        });
        sent
    }
}

impl Number {
    async fn way(&self, target: Target, attempt: Attempt) -> Result<Status, Failure> {
        let link = match target {
            Target::Home => return self.at(self.plan.from, attempt).await,
            Target::Tunnel(link) => link,
        };
        let tunnel = link.tunnel.get();
        if !link.open.get() {
            return Err(Failure::NotSent);
        }
        link.enter();
        let _outstanding = Outstanding(&link);
        let mut exchange = std::pin::pin!(self.across(&link, attempt));
        loop {
            let mut changed = std::pin::pin!(link.changed.notified());
            changed.as_mut().enable();
            if link.tunnel.get() != tunnel {
                return Err(Failure::PeerLost);
            }
            tokio::select! {
                biased;
                done = &mut exchange => return done,
                () = changed => {}
            }
        }
    }

    /// There and back.
    async fn across(&self, link: &Link, attempt: Attempt) -> Result<Status, Failure> {
        self.pass(link).await;
        let done = self.at(link.to, attempt).await;
        self.pass(link).await;
        done
    }

    /// One way, once nothing is in the way.
    async fn pass(&self, link: &Link) {
        sleep(link.delay).await;
        // What happens to be sent into a silence is sent again by the transport once it is over.
        while self.world.awake(link) > Instant::now() {
            sleep_until(self.world.awake(link)).await;
        }
    }

    /// What a cluster makes of it.
    async fn at(&self, to: usize, attempt: Attempt) -> Result<Status, Failure> {
        let cluster = &self.world.clusters[to];
        let boot = cluster.boot.get();
        let lives = || cluster.alive.get() && cluster.boot.get() == boot;
        if !lives() {
            // Nobody says so; the tunnel's end does.
            std::future::pending::<()>().await;
        }
        let chance = self.world.rng.borrow_mut().bool();
        match cluster.manner {
            Manner::Refuses if chance => return Err(Failure::Refused),
            Manner::Sheds if chance => return Err(Failure::Overloaded),
            Manner::Disagrees if !attempt.insist => return Err(Failure::Misplaced),
            _ => {}
        }
        self.world.deliver(self.plan.id);
        sleep(self.plan.work).await;
        while cluster.frozen_until.get() > Instant::now() {
            sleep_until(cluster.frozen_until.get()).await;
        }
        if !lives() {
            std::future::pending::<()>().await;
        }
        match cluster.manner {
            Manner::Fails if chance => Ok(Status(503)),
            Manner::Cuts if chance => Err(Failure::Reset),
            _ => Ok(Status(200)),
        }
    }
}
