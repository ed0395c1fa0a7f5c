//! What a thread of the data plane works with: what all threads share, and what is its own.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU8;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http1::Timers;
use identity::{Identity, Role};
use policy::balance::Endpoints;
use proto::objects::{Answer, Ask};
use proto::register::{Say, Told};
use registry::model::{ClusterName, DURATION_MAX, HttpRules, Port, ServiceName};
use registry::pure::registration::place::CameFrom;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tunnel::{Local, MessageReader, MessageWriter};

use crate::base::budget::{ByteBudget, HELD_BYTES_MAX};
use crate::base::clock::Clock;
use crate::base::descriptors;
use crate::base::given::Given;
use crate::base::line::Line;
use crate::base::news::News;
use crate::base::stall::Stalls;
use crate::http::join::Ends;
use crate::peers::Peers;
use crate::peers::sidecars::Workload;
use crate::proxy::connection::carry::Carry;
use crate::proxy::listener;
use crate::proxy::listeners::Listeners;
use crate::telemetry::metrics::{
    AttemptCounters, ConnectionGuard, Direction, Drops, InProgress, InProgressGuard, Metrics, RequestCounters,
};
use crate::telemetry::record::Record;
use crate::upstream::{Pool, Served, Watch, Way};
use crate::view::{LocalService, View};

/// Requests that a process works on at once, in both directions; more are shed.
pub const REQUESTS_MAX: u64 = 32 * 1024;
/// Those of one linked cluster: however many streams it opens, half of the process is left to others. Ten thousand open
/// WebSockets are not unusual.
pub const PEER_REQUESTS_MAX: u64 = REQUESTS_MAX / 2;
/// Those of all sidecars: peers, and callers without one, have the rest.
pub const SIDECAR_REQUESTS_MAX: u64 = REQUESTS_MAX / 2;

/// What all threads of the process share. Read by requests without a lock.
#[derive(Debug)]
pub struct Shared {
    /// The mesh's DNS domain.
    pub domain: String,
    /// `<cluster>.gateway` or `<cluster>.sidecar`, as callers see it.
    pub name: String,
    /// What it appends to `Via`.
    pub via: HeaderValue,
    /// The moment that requests look at.
    pub view: ArcSwap<View>,
    /// Told when another view is there, and of every change of how a peer is or an endpoint fails its checks.
    pub news: News,
    /// The linked clusters.
    pub peers: Arc<Peers>,
    /// Metrics.
    pub metrics: Metrics,
    /// Handles that every request uses.
    pub attempts: AttemptCounters,
    /// Datagrams that are dropped.
    pub drops: Drops,
    /// Flows of datagrams of callers.
    pub flows: Arc<InProgress>,
    /// Bytes held for requests and answers.
    pub budget: Arc<ByteBudget>,
    /// Time since the start.
    pub clock: Clock,
    /// What holds for requests at its own port.
    pub http: Arc<HttpRules>,
    /// Where it listens beside its own ports.
    pub listeners: Listeners,
    /// Room for the connections of callers.
    pub callers: Room,
    /// Requests under way.
    pub in_progress: Arc<InProgress>,
    /// Who we are to peers, and whom we believe: what new tunnels are made with.
    pub local: watch::Sender<Local>,
    /// Whether tunnels are accepted on TCP and on Unix sockets, and not by another process that has the same.
    pub accepts_tunnels: watch::Sender<bool>,
    /// Whether callers are accepted who change what the registry keeps; while another process has it they wait.
    pub accepts_changes: watch::Sender<bool>,
    /// Cancelled when another process has begun to take what comes on our sockets.
    pub handed_over: CancellationToken,
    /// Cancelled when callers are accepted: at the start, or once all is ready that an elder has.
    pub open: CancellationToken,
    /// Cancelled when the process drains.
    pub stop: CancellationToken,
    /// Cancelled when callers' connections end that idle: with `stop`, or a while behind it.
    pub leave: CancellationToken,
    /// Cancelled when the drain shall not wait any longer for what was accepted.
    pub cut: CancellationToken,
}

impl Shared {
    /// That of a process that callers see as `name`, with so many threads of the data plane, which sockets are
    /// given to; nothing is placed yet. It drains when `stop`, of which its `peers` know, is cancelled.
    pub fn new(
        name: String,
        domain: &str,
        (peers, stop): (Arc<Peers>, CancellationToken),
        local: Local,
        (workers, given): (NonZeroU8, Arc<Given>),
        clock: Clock,
    ) -> Self {
        let metrics = Metrics::new(workers);
        Self {
            domain: domain.into(),
            // A name is made of labels, which any field may hold.
            via: HeaderValue::try_from(format!("1.1 {name}"))
                .unwrap_or_else(|_| HeaderValue::from_static("1.1 ringway")),
            name,
            view: ArcSwap::from_pointee(View::default()),
            news: peers.news().clone(),
            peers,
            attempts: metrics.attempts(),
            drops: metrics.drops(),
            flows: Arc::default(),
            metrics,
            budget: ByteBudget::new(HELD_BYTES_MAX),
            clock,
            http: Arc::default(),
            listeners: Listeners::new(workers, given),
            callers: Room::new(listener::connections_max(descriptors::limit())),
            in_progress: Arc::default(),
            local: watch::Sender::new(local),
            accepts_tunnels: watch::Sender::new(true),
            accepts_changes: watch::Sender::new(true),
            handed_over: CancellationToken::new(),
            open: CancellationToken::new(),
            stop,
            leave: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// When what is carried ends because the process does.
    pub fn ends(&self) -> Ends {
        Ends { leave: self.leave.clone(), cut: self.cut.clone() }
    }
}

/// Room for connections, of all threads of a process.
#[derive(Debug)]
pub struct Room {
    /// What is left of it.
    pub left: Arc<Semaphore>,
    /// Told when a thread that has no idle connection of its own needs room.
    pub wanted: Notify,
}

impl Room {
    /// For so many.
    pub fn new(connections: usize) -> Self {
        Self { left: Arc::new(Semaphore::new(connections)), wanted: Notify::new() }
    }
}

/// A peer that wants to mirror our exports.
#[derive(Debug)]
pub struct SyncStream {
    /// Who.
    pub peer: ClusterName,
    /// Its half.
    pub reader: MessageReader,
    /// Ours.
    pub writer: MessageWriter,
}

/// A sidecar that asks what names mean.
#[derive(Debug)]
pub struct LookupStream {
    /// Its name.
    pub sidecar: String,
    /// Its workload.
    pub workload: Arc<Workload>,
    /// Its half.
    pub reader: MessageReader,
    /// Ours.
    pub writer: MessageWriter,
    /// Its part of what one tunnel and one workload may have.
    pub room: [InProgressGuard; 2],
}

/// A process that registers endpoints.
#[derive(Debug)]
pub struct RegisterStream {
    /// Who.
    pub who: Who,
    /// Where it is.
    pub from: CameFrom,
    /// What it says, and is told.
    pub line: Line<Say, Told>,
    /// Its part of what one tunnel may have, if it came over one.
    pub room: Option<InProgressGuard>,
}

/// A linked cluster that asks for a change of what is declared here, or to see it.
#[derive(Debug)]
pub struct ObjectsStream {
    /// Which, by the certificate of its gateway.
    pub peer: ClusterName,
    /// Its question, and our answer.
    pub line: Line<Ask, Answer>,
}

/// Who registers endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A process of this host, by the number of its user: it may register for every service.
    Host(u32),
    /// A workload, by its SPIFFE ID: it may register in its own namespace.
    Workload {
        /// The namespace.
        namespace: String,
        /// The whole ID.
        id: String,
    },
}

impl Who {
    /// The workload that a certificate names, if it names one.
    pub fn workload(identity: &Identity) -> Option<Self> {
        let Role::Workload { namespace, .. } = &identity.role else { return None };
        Some(Self::Workload { namespace: namespace.to_string(), id: identity.to_string() })
    }

    /// Whether it may register endpoints of `service`.
    pub fn may_serve(&self, service: &ServiceName) -> bool {
        match self {
            Self::Host(_) => true,
            Self::Workload { namespace, .. } => *namespace == *service.namespace,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(user) => write!(f, "user {user} of this host"),
            Self::Workload { id, .. } => f.write_str(id),
        }
    }
}

/// What serves the requests of other clusters: what is served here, and the way to its endpoints. Leads to no peer and no
/// tunnel, so that a request crosses between clusters once.
#[derive(Debug)]
pub struct Serving {
    shared: Arc<Shared>,
    pool: Rc<Pool>,
    watch: Rc<Watch>,
    /// Requests of which it is not known yet what they ask, or of a peer that no link knows any more.
    pub nameless: RequestCounters,
}

impl Serving {
    /// A service that is served here.
    pub fn local(&self, namespace: &str, name: &str) -> Option<Arc<LocalService>> {
        self.shared.view.load().local(namespace, name).cloned()
    }

    /// The counters of what a linked cluster asks of no service that is known.
    pub fn unnamed(&self, peer: &ClusterName) -> RequestCounters {
        self.shared.view.load().unnamed(peer).unwrap_or(&self.nameless).clone()
    }

    /// A peer was served although it disagrees about the placement.
    pub fn mismatch(&self, service: &ServiceName, peer: &str) {
        self.shared.metrics.mismatch(service, peer);
    }

    /// The way to the endpoints of a port, for a key's hash; `expired` is set once the caller's time is over.
    pub fn way<'a>(
        &'a self,
        port: &'a (Port, Endpoints),
        key: Option<u64>,
        expired: &'a Cell<bool>,
    ) -> Way<'a> {
        Way { pool: &self.pool, port, watch: &self.watch, key, expired }
    }

    /// Requests under way.
    pub fn in_progress(&self) -> &Arc<InProgress> {
        &self.shared.in_progress
    }

    /// Bytes held for requests and answers.
    pub fn budget(&self) -> &Arc<ByteBudget> {
        &self.shared.budget
    }

    /// This intermediary's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What a peer opened and an endpoint has taken. Silence is for the gateway that asks to judge, by the policy that it
    /// has: it ends its stream.
    pub fn carry(&self, served: Served, record: Record, counted: Option<ConnectionGuard>) -> Carry {
        let ends = self.shared.ends();
        let drops = self.shared.drops.clone();
        let (idle, idle_answered) = (DURATION_MAX, None);
        Carry { served, protocol: None, idle, idle_answered, record, counted, ends, drops, guard: None }
    }

    /// Cancelled when the process drains.
    pub fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }
}

/// One thread of the data plane.
#[derive(Debug)]
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    /// What serves the requests of other clusters.
    pub serving: Serving,
    /// Connections to endpoints.
    pub pool: Rc<Pool>,
    /// Requests of callers that named no service. Its own, for each worker counts on one of every request.
    pub nameless: RequestCounters,
    /// Readers that may stall.
    pub stalls: Stalls,
    /// The clock of idle connections.
    pub timers: Rc<Timers>,
    /// Which of them, from 0.
    pub number: u8,
}

impl Worker {
    /// The way to the endpoints of a port, for a key's hash; `expired` is set once the caller's time is over.
    pub fn way<'a>(
        &'a self,
        port: &'a (Port, Endpoints),
        key: Option<u64>,
        expired: &'a Cell<bool>,
    ) -> Way<'a> {
        self.serving.way(port, key, expired)
    }

    /// The thread of this number.
    pub fn new(shared: Arc<Shared>, number: u8) -> Self {
        let pool = Rc::<Pool>::default();
        let watch = Watch::new(shared.clock, shared.news.clone());
        let nameless = |direction| shared.metrics.requests(direction, &"".into(), None);
        let (nameless, of_peers) = (nameless(Direction::Outbound), nameless(Direction::Inbound));
        let serving = Serving { shared: shared.clone(), pool: pool.clone(), watch, nameless: of_peers };
        Self { shared, serving, pool, nameless, stalls: Stalls::default(), timers: Rc::default(), number }
    }
}
