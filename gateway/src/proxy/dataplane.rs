//! The data plane: threads, each with a current-thread runtime that owns its listener, its tunnels and its pools.

mod accept;
mod streams;

use std::future::Future;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proto::code::CloseCode;
use registry::base::time::Tick;
use registry::model::HostPort;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use tunnel::{DirectEndpoint, Driver, Endpoint, EndpointError, Peer, Port, Tunnel};

use crate::peers::sidecars::Sidecars;
use crate::peers::{self, Dialler, Pace, PeerCluster};
use crate::proxy::listener::Front;
use crate::proxy::worker::{LookupStream, ObjectsStream, RegisterStream, Shared, SyncStream, Worker};
use crate::proxy::{listener, listeners};
use crate::telemetry::limited::limited;
use crate::telemetry::metrics::{self};
use policy::placement::Availability;

pub use accept::Handshakes;

/// Workers that dial a peer, and so the tunnels of a pair of gateways: more would not carry more, and each costs its
/// share of probes and handshakes.
const LANES_MAX: u8 = 2;
/// Many gateways dial one that is gone: none of them often.
const DIAL_PACE: Pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
/// How long a draining process waits for what it has accepted.
pub const DRAIN_GRACE: Duration = Duration::from_secs(25);
/// How long what is cut at the end of the grace may take to say so.
const CUT_WAIT: Duration = Duration::from_millis(500);
/// How long the last packets may take once everything is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// What the last bytes of an answer may take to a peer, losses included.
const DRAIN_LINGER: Duration = Duration::from_millis(200);
/// How often a draining worker looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// A link that is not up so long after the start of the process is down, in microseconds.
const SETTLED_MICROS: u64 = 2_000_000;
/// How often idle connections are looked through.
const POOL_SWEEP: Duration = Duration::from_secs(5);
/// How often stalled readers are looked for.
const STALL_SWEEP: Duration = Duration::from_secs(1);

/// Where the data plane hands over what is the control plane's. Full: the stream is refused, and whoever opened it tries
/// again.
#[derive(Debug)]
pub struct Control {
    /// Sync streams that peers opened.
    pub syncs: mpsc::Sender<SyncStream>,
    /// Lookup streams that sidecars opened.
    pub lookups: mpsc::Sender<LookupStream>,
    /// Streams of sidecars that register endpoints.
    pub registrars: mpsc::Sender<RegisterStream>,
    /// Streams on which gateways of peers ask about objects.
    pub objects: mpsc::Sender<ObjectsStream>,
    /// The sidecars.
    pub sidecars: Sidecars,
    /// Tunnels that are not up yet.
    pub handshakes: Handshakes,
}

/// A worker with its share of the tunnels.
#[derive(Debug)]
struct Plane {
    worker: Rc<Worker>,
    /// Where it accepts tunnels on QUIC and dials them.
    endpoint: Endpoint,
    /// The same on TCP and on Unix sockets.
    direct: DirectEndpoint,
    control: Arc<Control>,
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Where they hand over.
    pub control: Arc<Control>,
    /// Its share of the tunnels' port.
    pub port: Port,
    /// Its listener for tunnels on TCP.
    pub tcp: TcpListener,
    /// The listener for tunnels on the Unix socket; one worker has it.
    pub unix: Option<UnixListener>,
    /// Its listener for callers.
    pub http: TcpListener,
    /// Where the workers wait for each other: none closes its tunnels while another may still use them.
    pub drained: Arc<Barrier>,
}

/// Runs a worker on the calling thread until the process has drained. `ready` is told once it can serve.
///
/// # Errors
/// When the thread can have no runtime or the listener is not readable.
pub fn run(start: Start, ready: oneshot::Sender<Result<(), EndpointError>>) -> std::io::Result<()> {
    let Start { shared, control, port, tcp, unix, http, drained } = start;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    metrics::count_as(port.worker());
    runtime.block_on(async move {
        let local = shared.local.borrow().clone();
        let direct = DirectEndpoint::new(local.clone(), port.worker());
        let (endpoint, direct) = match (Endpoint::on(port, local), direct) {
            (Ok(endpoint), Ok(direct)) => (endpoint, direct),
            (Err(error), _) | (_, Err(error)) => {
                // The receiver is gone only if the process is ending anyway.
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        let http = tokio::net::TcpListener::from_std(http)?;
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        let unix = unix.map(tokio::net::UnixListener::from_std).transpose()?;
        let number = endpoint.worker();
        let worker = Rc::new(Worker::new(shared, number));
        let plane = Rc::new(Plane { worker: worker.clone(), endpoint, direct, control });
        let _ = ready.send(Ok(()));
        let mut accepting = JoinSet::new();
        accepting.spawn_local(accept::on_quic(plane.clone()));
        accepting.spawn_local(accept::on_tcp(plane.clone(), tcp));
        unix.map(|unix| accepting.spawn_local(accept::on_unix(plane.clone(), unix)));
        let listening = spawn_local(listen(worker.clone(), http));
        let sweeping = spawn_local(sweep(worker.clone()));
        spawn_local(follow_local(plane.clone()));
        if number < LANES_MAX {
            spawn_local(dial_peers(plane.clone()));
        }
        worker.shared.stop.cancelled().await;
        drain(&plane, listening, &drained).await;
        accepting.abort_all();
        sweeping.abort();
        Ok(())
    })
}

/// Serves callers on the port for HTTP and on every listener until the process drains and what was accepted has ended.
pub async fn listen(front: impl Front, http: tokio::net::TcpListener) {
    let shared = front.worker().shared.clone();
    tokio::select! {
        () = shared.open.cancelled() => {}
        () = shared.stop.cancelled() => {}
    }
    let never = CancellationToken::new();
    let http = listener::serve(front.clone(), listener::Socket::Tcp(http), None, never);
    tokio::join!(http, listeners::run(front));
}

/// Finishes what was accepted, takes nothing new, then closes.
async fn drain(plane: &Plane, listening: JoinHandle<()>, drained: &Barrier) {
    let finished = async {
        // What ended just before the drain may still be on its way to a peer; what ended since was waited for.
        tokio::time::sleep(DRAIN_LINGER).await;
        drained.wait().await;
    };
    finish(&plane.worker.shared, listening, finished).await;
    plane.endpoint.close("the gateway has drained");
    plane.direct.close("the gateway has drained");
    // Peers that hear nothing of it notice by their probes.
    let told = async { tokio::join!(plane.endpoint.wait_idle(), plane.direct.wait_idle()) };
    let _ = tokio::time::timeout(CLOSE_WAIT, told).await;
}

/// Waits for what a draining process has accepted, as long as its grace lasts; then for `and_then`.
pub async fn finish(shared: &Shared, listening: JoinHandle<()>, and_then: impl Future<Output = ()>) {
    let done = async || {
        while shared.in_progress.count() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    let finished = async {
        // Ends once its connections have, each after the requests that it is in and once their answers are written.
        let _ = listening.await;
        done().await;
        and_then.await;
    };
    let left = || shared.in_progress.count();
    tokio::select! {
        () = finished => return,
        () = tokio::time::sleep(DRAIN_GRACE) => {
            warn!(left = left(), grace = ?DRAIN_GRACE, "Drain grace period over; aborting in-flight requests.");
        }
        () = shared.cut.cancelled() => {
            // Another worker's grace was over first, or a second signal came, which says so itself.
        }
    }
    // Connections whose protocol has a word for it say it.
    shared.cut.cancel();
    let _ = tokio::time::timeout(CUT_WAIT, done()).await;
}

/// Makes new tunnels with the certificates and bundles of the moment.
async fn follow_local(plane: Rc<Plane>) {
    let mut changes = plane.worker.shared.local.subscribe();
    // `shared` holds the sender.
    while changes.changed().await.is_ok() {
        let local = changes.borrow_and_update().clone();
        let replaced = plane.endpoint.replace_local(local.clone());
        if let Err(failed) = replaced.and(plane.direct.replace_local(local)) {
            error!(error = %failed, "New certificate unusable for tunnels; keeping the previous one.");
        }
    }
}

/// Dials every address of every link, of those to come too: on QUIC, and once a process on TCP, which shows the end of a
/// peer at once, and is ready where UDP is blocked.
async fn dial_peers(plane: Rc<Plane>) {
    let peers = plane.worker.shared.peers.clone();
    peers.dials().await;
    peers.each(|cluster| drop(spawn_local(dial_peer(plane.clone(), cluster)))).await;
}

async fn dial_peer(plane: Rc<Plane>, cluster: Arc<PeerCluster>) {
    let begin = |address: HostPort, stop: CancellationToken| {
        if plane.endpoint.worker() == 0 {
            let (cluster, address, stop) = (cluster.clone(), address.clone(), stop.clone());
            spawn_local(keep_dialling(plane.clone(), true, cluster, address, None, stop));
        }
        spawn_local(keep_dialling(plane.clone(), false, cluster.clone(), address, None, stop));
    };
    let begin_learned = |gateway: String, address: HostPort, stop: CancellationToken| {
        if plane.endpoint.worker() == 0 {
            let (cluster, address, stop) = (cluster.clone(), address.clone(), stop.clone());
            spawn_local(keep_dialling(plane.clone(), true, cluster, address, Some(gateway.clone()), stop));
        }
        spawn_local(keep_dialling(plane.clone(), false, cluster.clone(), address, Some(gateway), stop));
    };
    tokio::join!(peers::each_address(&cluster, begin), peers::each_learned(&cluster, begin_learned));
}

async fn keep_dialling(
    plane: Rc<Plane>,
    on_tcp: bool,
    cluster: Arc<PeerCluster>,
    address: HostPort,
    of: Option<String>,
    stop: CancellationToken,
) {
    let dialler =
        if on_tcp { Dialler::Tcp(&plane.direct, address) } else { Dialler::Quic(&plane.endpoint, address) };
    let peers = plane.worker.shared.peers.clone();
    let own = |tunnel, driver| own_tunnel(&plane, tunnel, driver);
    peers::keep_dialling(dialler, of.as_deref(), DIAL_PACE, peers, cluster, stop, own).await;
}

/// Looks after idle connections and stalled readers for as long as it is polled.
pub async fn sweep(worker: Rc<Worker>) {
    let mut rounds = tokio::time::interval(STALL_SWEEP);
    let mut pool_swept = tokio::time::Instant::now();
    loop {
        let now = rounds.tick().await;
        worker.timers.sweep(now);
        let given_up = worker.stalls.sweep(now);
        if given_up > 0 {
            limited!(
                WARN,
                KNOWN,
                "",
                "Cut off readers that take nothing: what waits for them holds up others.",
                given_up
            );
        }
        if now.duration_since(pool_swept) >= POOL_SWEEP {
            worker.pool.sweep();
            pool_swept = now;
        }
    }
}

/// Takes a tunnel into use and runs it on this worker until its end.
fn own_tunnel(plane: &Rc<Plane>, tunnel: Tunnel, driver: Driver) {
    if Sidecars::is_one(tunnel.peer()) {
        return own_sidecar(plane, tunnel, driver);
    }
    let shared = &plane.worker.shared;
    if let Some((cluster, driving)) = peers::own(&shared.peers, shared.clock, &tunnel, driver) {
        spawn_local(streams::of_peer(plane.clone(), cluster, tunnel));
        spawn_local(driving);
    }
}

/// Takes a sidecar's tunnel into use and runs it on this worker until its end.
fn own_sidecar(plane: &Rc<Plane>, tunnel: Tunnel, driver: Driver) {
    let (sidecar, workload) = (tunnel.peer().hello.gateway.clone(), tunnel.peer().identity.to_string());
    let by = format!("{workload} {sidecar}");
    limited!(INFO, KNOWN, by, "Sidecar up.", sidecar, workload, carrier = %tunnel.carrier());
    plane.control.sidecars.begun(&tunnel);
    spawn_local(streams::of_sidecar(plane.clone(), tunnel.clone()));
    let plane = plane.clone();
    spawn_local(async move {
        // Sidecar tunnels are not probed.
        let reason = driver.run(|_| {}).await;
        limited!(INFO, KNOWN, by, "Sidecar gone.", sidecar, workload, %reason);
        plane.control.sidecars.ended(&tunnel);
    });
}

impl Plane {
    /// The last word on whoever showed a certificate of a cluster that is believed.
    fn admit(&self, peer: &Peer) -> Result<(), (CloseCode, String)> {
        if Sidecars::is_one(peer) {
            if !self.is_settled() {
                return Err((
                    CloseCode::Shutdown,
                    "it has just started, and its links are not up yet".into(),
                ));
            }
            return self.control.sidecars.admit(peer);
        }
        self.worker.shared.peers.admit(peer)
    }

    /// Whether this process can know which peers are there. Before that its sidecars are better off elsewhere, or
    /// waiting, than told that nothing is to be had.
    fn is_settled(&self) -> bool {
        let shared = &self.worker.shared;
        shared.clock.now() >= Tick::at(SETTLED_MICROS)
            || shared.peers.iter().all(|peer| peer.availability() == Availability::Up)
    }
}
