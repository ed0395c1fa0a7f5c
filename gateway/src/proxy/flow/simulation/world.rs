//! The clusters, the links between them, and what goes wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use registry::model::{ClusterName, Contract, Member, Mode, Retry, RetryOn};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::caller::{Ended, Plan};
use super::{LASTS, Shared, Spent, since};
use crate::base::clock::Clock;
use policy::health::{State, Way, Ways};
use policy::placement::{Availability, Placement, Rings};
use policy::retry::Budget;

/// How long until a tunnel that is lost is dialled again.
const REDIAL: Duration = Duration::from_millis(200);

/// What a cluster does with requests while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Serves them.
    Serves,
    /// Refuses some, unprocessed.
    Refuses,
    /// Is full at times.
    Sheds,
    /// Disagrees about the placement until it is insisted.
    Disagrees,
    /// Answers 503 to some.
    Fails,
    /// Cuts some after they were delivered.
    Cuts,
}

pub(super) struct Cluster {
    pub(super) name: ClusterName,
    pub(super) manner: Manner,
    /// Whether its process runs.
    pub(super) alive: Cell<bool>,
    /// Counts its starts: what was begun in an earlier one is lost.
    pub(super) boot: Cell<u64>,
    /// Until when it neither answers nor closes anything.
    pub(super) frozen_until: Cell<Instant>,
    /// When something last was wrong with it.
    pub(super) wrong_at: Cell<Option<Instant>>,
    /// The contract as it sees it.
    pub(super) placement: Placement,
    pub(super) retries: Budget,
    pub(super) hedges: Budget,
}

/// The way from one cluster to another, as the first sees it.
pub(super) struct Link {
    pub(super) to: usize,
    ways: RefCell<Ways>,
    /// Counts tunnels: an exchange is lost with the one it is on.
    pub(super) tunnel: Cell<u64>,
    pub(super) open: Cell<bool>,
    pub(super) outstanding: Cell<usize>,
    /// Told of every change.
    pub(super) changed: Rc<Notify>,
    busy: Notify,
    /// One way.
    pub(super) delay: Duration,
    loss: f64,
    /// Until when nothing passes.
    pub(super) silent_until: Cell<Instant>,
    pub(super) wrong_at: Cell<Option<Instant>>,
}

pub(super) struct World {
    pub(super) clusters: Vec<Cluster>,
    /// By the cluster that looks, then by the one looked at.
    links: Vec<Vec<Rc<Link>>>,
    pub(super) clock: Clock,
    pub(super) start: Instant,
    pub(super) rng: RefCell<fastrand::Rng>,
    pub(super) retry: Retry,
    stop: CancellationToken,
    events: RefCell<Vec<String>>,
    /// How often each flow reached an endpoint.
    pub(super) delivered: RefCell<BTreeMap<u64, u32>>,
    /// One cluster asks a lot, all at once.
    busy: bool,
    /// By the cluster that asks: flows, hedges, and retries that are charged.
    pub(super) asked: Vec<Cell<u64>>,
    pub(super) hedged: Vec<Cell<u64>>,
    pub(super) charged: Vec<Cell<u64>>,
}

/// A link from each of so many clusters to each.
fn links(count: usize, now: Instant, rng: &mut fastrand::Rng) -> Vec<Vec<Rc<Link>>> {
    let mut link = |to| {
        Rc::new(Link {
            to,
            ways: RefCell::new(Ways::none()),
            tunnel: Cell::new(0),
            open: Cell::new(false),
            outstanding: Cell::new(0),
            changed: Rc::default(),
            busy: Notify::new(),
            delay: Duration::from_micros(rng.u64(200..60_000)),
            loss: if rng.u8(0..4) == 0 { 0.05 } else { 0.0 },
            silent_until: Cell::new(now),
            wrong_at: Cell::new(None),
        })
    };
    (0..count).map(|_| (0..count).map(&mut link).collect()).collect()
}

impl World {
    pub(super) fn new(seed: u64) -> Shared {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(3..=6);
        let names: Vec<ClusterName> = ["amber", "birch", "cedar", "delta", "ember", "flint"][..count]
            .iter()
            .map(|name| ClusterName::new(name).expect("a name"))
            .collect();
        let members = names.iter().enumerate().map(|(at, name)| {
            let region = if at % 2 == 0 { "eu" } else { "us" };
            Member { cluster: name.clone(), region: region.into(), weight: 100 }
        });
        let mode = if rng.bool() { Mode::Sharded } else { Mode::LocalFirst };
        let contract =
            Contract { generation: 1, mode, members: Some(members.collect()), ..Contract::default() };
        let now = Instant::now();
        // At least one serves whatever comes.
        let reliable = rng.usize(0..count);
        let clusters = names.iter().enumerate().map(|(at, name)| {
            let manner = match rng.u8(0..10) {
                _ if at == reliable => Manner::Serves,
                0 => Manner::Refuses,
                1 => Manner::Sheds,
                2 => Manner::Disagrees,
                3 => Manner::Fails,
                4 => Manner::Cuts,
                _ => Manner::Serves,
            };
            let region = if at % 2 == 0 { "eu" } else { "us" };
            Cluster {
                name: name.clone(),
                manner,
                alive: Cell::new(true),
                boot: Cell::new(0),
                frozen_until: Cell::new(now),
                wrong_at: Cell::new(None),
                placement: Placement::new(&contract, &[], name, region, &mut Rings::default())
                    .expect("a ring of six"),
                retries: Budget::new(),
                hedges: Budget::new(),
            }
        });
        let clusters: Vec<Cluster> = clusters.collect();
        let links = links(count, now, &mut rng);
        let attempts = u8::try_from(count).unwrap_or(3);
        let on = RetryOn { statuses: vec![503], ..Retry::default().on };
        Rc::new(Self {
            clusters,
            links,
            clock: Clock::start(),
            start: now,
            retry: Retry { attempts, on, min_per_second: 1, ..Retry::default() },
            busy: rng.u8(..8) == 0,
            stop: CancellationToken::new(),
            events: RefCell::default(),
            delivered: RefCell::default(),
            asked: vec![Cell::new(0); count],
            hedged: vec![Cell::new(0); count],
            charged: vec![Cell::new(0); count],
            rng: RefCell::new(rng),
        })
    }

    /// The calls of this schedule.
    pub(super) fn plans(&self) -> Vec<Plan> {
        let mut rng = self.rng.borrow_mut();
        let count = if self.busy { rng.usize(300..600) } else { rng.usize(10..40) };
        (0..count as u64)
            .map(|id| Plan {
                id,
                at: Duration::from_micros(rng.u64(300_000..LASTS.as_micros() as u64)),
                from: if self.busy { 0 } else { rng.usize(0..self.clusters.len()) },
                key: rng.bool().then(|| rng.u64(..)),
                replayable: rng.u8(0..4) != 0,
                deadline: Duration::from_millis(rng.u64(1_500..6_000)),
                work: Duration::from_micros(rng.u64(100..300_000)),
            })
            .collect()
    }

    /// Opens the links, and lets things go wrong.
    pub(super) fn begin(self: &Rc<Self>) {
        for from in 0..self.clusters.len() {
            for link in self.links[from].iter().filter(|link| link.to != from) {
                spawn_local(keep(self.clone(), from, link.clone()));
            }
        }
        let mut rng = self.rng.borrow_mut();
        for _ in 0..rng.usize(0..5) {
            let at = Duration::from_micros(rng.u64(300_000..LASTS.as_micros() as u64));
            let lasts = Duration::from_millis(rng.u64(20..2_000));
            let (one, other) = (rng.usize(0..self.clusters.len()), rng.usize(0..self.clusters.len()));
            let kind = rng.u8(0..4);
            let world = self.clone();
            spawn_local(async move {
                sleep(at).await;
                match kind {
                    0 => world.kill(one, lasts).await,
                    1 => world.freeze(one, lasts),
                    2 => world.part(one, other, lasts),
                    _ => world.cut(one, other),
                }
            });
        }
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    pub(super) fn note(&self, what: String) {
        self.events.borrow_mut().push(format!("{} {what}", since(self.start)));
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.events.borrow().clone()
    }

    pub(super) fn spent(&self) -> Vec<Spent> {
        let now = self.clock.now();
        let of = |(at, cluster): (usize, &Cluster)| Spent {
            flows: self.asked[at].get(),
            hedges: self.hedged[at].get(),
            charged: self.charged[at].get(),
            budget: cluster.retries.spent(now),
        };
        self.clusters.iter().enumerate().map(of).collect()
    }

    pub(super) fn link(&self, from: usize, to: usize) -> &Rc<Link> {
        &self.links[from][to]
    }

    /// Its process dies, which its system tells the others, and starts again after `lasts`.
    async fn kill(&self, at: usize, lasts: Duration) {
        let cluster = &self.clusters[at];
        if !cluster.alive.replace(false) {
            return;
        }
        self.note(format!("{} is killed for {} ms", cluster.name, lasts.as_millis()));
        cluster.boot.set(cluster.boot.get() + 1);
        cluster.wrong_at.set(Some(Instant::now() + lasts + REDIAL * 2));
        for (from, links) in self.links.iter().enumerate() {
            for link in links.iter().filter(|link| link.to == at || from == at) {
                link.lose("the peer is killed", true);
            }
        }
        sleep(lasts).await;
        self.note(format!("{} is back", cluster.name));
        cluster.alive.set(true);
    }

    /// It answers nothing for `lasts`, and nothing tells the others.
    fn freeze(&self, at: usize, lasts: Duration) {
        let cluster = &self.clusters[at];
        self.note(format!("{} freezes for {} ms", cluster.name, lasts.as_millis()));
        cluster.frozen_until.set(Instant::now() + lasts);
        cluster.wrong_at.set(Some(Instant::now() + lasts + REDIAL * 2));
    }

    /// Nothing passes between two for `lasts`.
    fn part(&self, one: usize, other: usize, lasts: Duration) {
        self.note(format!("{one} and {other} are apart for {} ms", lasts.as_millis()));
        for link in [self.link(one, other), self.link(other, one)] {
            link.silent_until.set(Instant::now() + lasts);
            link.wrong_at.set(Some(Instant::now() + lasts + REDIAL * 2));
        }
    }

    /// A tunnel breaks.
    fn cut(&self, one: usize, other: usize) {
        self.note(format!("the tunnel from {one} to {other} breaks"));
        let link = self.link(one, other);
        link.wrong_at.set(Some(Instant::now() + REDIAL * 2));
        link.lose("it broke", false);
    }

    /// How `to` looks from `from`.
    pub(super) fn availability(&self, from: usize, to: usize) -> Availability {
        if from == to {
            return Availability::Up;
        }
        match self.link(from, to).state() {
            State::Up => Availability::Up,
            State::Suspect => Availability::Suspect,
            State::Down => Availability::Down,
        }
    }

    /// When something that comes from `link` at its peer can be answered; `None`: never, for it dies.
    pub(super) fn awake(&self, link: &Link) -> Instant {
        self.clusters[link.to].frozen_until.get().max(link.silent_until.get())
    }

    /// Adds to a flow's end what only the world knows: how often it was delivered, and whether a cluster would have served
    /// it from its beginning to its end.
    pub(super) fn settle(&self, flow: Ended) -> Ended {
        let delivered = self.delivered.borrow().get(&flow.plan.id).copied().unwrap_or(0);
        let began = self.start + flow.plan.at;
        let well = |wrong: &Cell<Option<Instant>>| wrong.get().is_none_or(|until| until < began);
        let served_by = (0..self.clusters.len()).find(|&to| {
            let cluster = &self.clusters[to];
            let link = self.link(flow.plan.from, to);
            let reached = flow.plan.from == to || (well(&link.wrong_at) && link.loss == 0.0);
            // Whoever asks must be well, too; and the work must fit the deadline after all that may go before it.
            let asks = well(&self.clusters[flow.plan.from].wrong_at);
            let margin = Duration::from_millis(1_000) * self.clusters.len() as u32;
            let fits = flow.plan.work * 2 + link.delay * 4 + margin < flow.plan.deadline;
            cluster.manner == Manner::Serves && well(&cluster.wrong_at) && reached && asks && fits
        });
        let served_by = served_by.map(|at| self.clusters[at].name.to_string());
        Ended { delivered, served_by, ..flow }
    }

    /// What one gateway places, another places alike.
    pub(super) fn check_placements(&self) {
        let mut rng = self.rng.borrow_mut();
        for _ in 0..20 {
            let hash = rng.u64(..);
            let down = rng.usize(0..self.clusters.len());
            let mut owners = self.clusters.iter().map(|cluster| cluster.placement.owner(hash));
            let first = owners.next().flatten();
            assert!(owners.all(|owner| owner == first), "owners of {hash:x} differ");
            if self.clusters[0].placement.mode() == Mode::Sharded {
                let availability = |node: hashring::NodeIndex| {
                    if node.get() == down { Availability::Down } else { Availability::Up }
                };
                let mut next = self.clusters.iter().map(|cluster| {
                    let next = cluster.placement.next(Some(hash), &[], availability, |_| None, &mut rng);
                    next.map(|node| cluster.placement.cluster(node).clone())
                });
                let first = next.next().flatten();
                assert!(next.all(|next| next == first), "successors of {hash:x} differ");
            }
        }
    }
}

impl Link {
    pub(super) fn state(&self) -> State {
        self.ways.borrow().state()
    }

    /// An exchange begins on it.
    pub(super) fn enter(&self) {
        self.outstanding.set(self.outstanding.get() + 1);
        self.busy.notify_one();
    }

    pub(super) fn leave(&self) {
        self.outstanding.set(self.outstanding.get() - 1);
    }

    /// Its tunnel is gone, and what was on it.
    fn lose(&self, why: &str, cut: bool) {
        if !self.open.replace(false) {
            return;
        }
        self.tunnel.set(self.tunnel.get() + 1);
        // Its result is seen by whoever looks at the state.
        let _ = self.ways.borrow_mut().lost(Instant::now().into_std(), Way::Quic, why, cut);
        self.changed.notify_waiters();
    }
}

/// Keeps a link: dials, probes, and gives up a peer that is silent, as the gateway's own task does.
async fn keep(world: Shared, from: usize, link: Rc<Link>) {
    loop {
        let us = &world.clusters[from];
        if !link.open.get() {
            // A dial takes a round trip, and both sides to be there.
            let lives = us.alive.get() && world.clusters[link.to].alive.get();
            let now = Instant::now();
            if lives && world.awake(&link) <= now {
                let rtt = link.delay * 2;
                tokio::select! {
                    () = world.stop.cancelled() => return,
                    () = sleep(rtt) => {}
                }
                if us.alive.get() && world.clusters[link.to].alive.get() {
                    link.open.set(true);
                    let _ = link.ways.borrow_mut().tunnel_up(Instant::now().into_std(), Way::Quic, rtt);
                    link.changed.notify_waiters();
                }
            } else {
                tokio::select! {
                    () = world.stop.cancelled() => return,
                    () = sleep(REDIAL) => {}
                }
            }
            continue;
        }
        let due = link.ways.borrow().due(Instant::now().into_std());
        let due = due.map_or_else(|| Instant::now() + REDIAL, Instant::from_std);
        tokio::select! {
            biased;
            () = world.stop.cancelled() => return,
            () = sleep_until(due) => {}
            () = link.changed.notified() => continue,
            () = link.busy.notified() => {}
        }
        let now = Instant::now();
        // A frozen process does not probe; its lateness is taken off by the detector.
        if us.frozen_until.get() > now {
            sleep_until(us.frozen_until.get()).await;
            continue;
        }
        let ticks = link.ways.borrow_mut().tick(now.into_std(), link.outstanding.get() > 0);
        if ticks.probe[Way::Quic as usize] {
            link.ways.borrow_mut().probe_sent(now.into_std(), Way::Quic);
            probe(&world, &link);
        }
        if let Some(change) = ticks.transition {
            world.note(format!("{} finds {} {}", us.name, world.clusters[link.to].name, change.to.as_str()));
            if change.to == State::Down {
                link.lose("silent", false);
            }
            link.changed.notify_waiters();
        }
    }
}

/// Sends a probe; its answer comes back after a round trip, unless something is in the way.
fn probe(world: &Shared, link: &Rc<Link>) {
    let lost = world.rng.borrow_mut().f64() < link.loss;
    let boot = world.clusters[link.to].boot.get();
    let (world, link) = (world.clone(), link.clone());
    spawn_local(async move {
        let (sent, tunnel) = (Instant::now(), link.tunnel.get());
        sleep(link.delay).await;
        let silent = link.silent_until.get() > Instant::now();
        let awake = world.clusters[link.to].frozen_until.get();
        sleep_until(awake).await;
        if lost
            || silent
            || !world.clusters[link.to].alive.get()
            || world.clusters[link.to].boot.get() != boot
        {
            return;
        }
        sleep(link.delay).await;
        if link.tunnel.get() == tunnel && link.open.get() && link.silent_until.get() <= Instant::now() {
            let now = Instant::now();
            let change = link.ways.borrow_mut().answered(now.into_std(), Way::Quic, now.duration_since(sent));
            if change.is_some() {
                link.changed.notify_waiters();
            }
        }
    });
}

impl World {
    /// A flow reaches an endpoint.
    pub(super) fn deliver(&self, flow: u64) {
        *self.delivered.borrow_mut().entry(flow).or_default() += 1;
    }
}
