//! The data plane: threads, each with a current-thread runtime that owns its listener, its tunnels and its pools.

use std::fmt::Display;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use registry::model::{ClusterName, HostPort};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Barrier, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use tunnel::endpoint::HANDSHAKES_MAX;
use tunnel::{
    Begun, DirectEndpoint, Driver, Endpoint, EndpointError, Event, Incoming, Peer, Port, Tunnel, TunnelError,
};

use crate::metrics;
use crate::peers::{self, Dialler, Offer, PeerCluster};
use crate::stall::Stalls;
use crate::worker::{Shared, SyncStream, Worker};
use crate::{inbound, listener};

/// Workers that dial a peer, and so the tunnels of a pair of gateways: more would not carry more, and each costs its
/// share of probes and handshakes.
const LANES_MAX: u8 = 2;
/// How long a draining process waits for what it has accepted.
pub const DRAIN_GRACE: Duration = Duration::from_secs(25);
/// How long the last packets may take once everything is closed.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// What the last bytes of an answer may take to a peer, losses included.
const DRAIN_LINGER: Duration = Duration::from_millis(200);
/// How often a draining worker looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often idle connections are looked through.
const POOL_SWEEP: Duration = Duration::from_secs(5);
/// How often stalled readers are looked for.
const STALL_SWEEP: Duration = Duration::from_secs(1);

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// What all workers share.
    pub shared: Arc<Shared>,
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
    let Start { shared, port, tcp, unix, http, drained } = start;
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
        let worker =
            Rc::new(Worker { shared, endpoint, direct, pool: Rc::default(), stalls: Stalls::default() });
        let _ = ready.send(Ok(()));
        let accepting = spawn_local(accept_tunnels(worker.clone(), tcp, unix));
        let listening = spawn_local(listener::serve(worker.clone(), http));
        let sweeping = spawn_local(sweep(worker.clone()));
        spawn_local(follow_local(worker.clone()));
        if worker.endpoint.worker() < LANES_MAX {
            spawn_local(dial_peers(worker.clone()));
        }
        worker.shared.stop.cancelled().await;
        drain(&worker, listening, &drained).await;
        accepting.abort();
        sweeping.abort();
        Ok(())
    })
}

/// Finishes what was accepted, takes nothing new, then closes.
async fn drain(worker: &Rc<Worker>, listening: JoinHandle<()>, drained: &Barrier) {
    let shared = &worker.shared;
    let finished = async {
        // Ends once its connections have, each after the requests that it is in and once their answers are written.
        let _ = listening.await;
        while shared.in_progress.count() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        // What ended just before the drain may still be on its way to a peer; what ended since was waited for.
        tokio::time::sleep(DRAIN_LINGER).await;
        drained.wait().await;
    };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep(DRAIN_GRACE) => {
            warn!(left = shared.in_progress.count(), grace = ?DRAIN_GRACE, "The grace is over; requests are cut.");
        }
        () = shared.cut.cancelled() => {
            warn!(left = shared.in_progress.count(), "Told not to wait any longer; requests are cut.");
        }
    }
    worker.endpoint.close("the gateway has drained");
    worker.direct.close("the gateway has drained");
    // Peers that hear nothing of it notice by their probes.
    let told = async { tokio::join!(worker.endpoint.wait_idle(), worker.direct.wait_idle()) };
    let _ = tokio::time::timeout(CLOSE_WAIT, told).await;
}

/// Makes new tunnels with the certificates and bundles of the moment.
async fn follow_local(worker: Rc<Worker>) {
    let mut changes = worker.shared.local.subscribe();
    // `shared` holds the sender.
    while changes.changed().await.is_ok() {
        let local = changes.borrow_and_update().clone();
        let replaced = worker.endpoint.replace_local(local.clone());
        if let Err(failed) = replaced.and(worker.direct.replace_local(local)) {
            error!(error = %failed, "The new certificate cannot be used for tunnels; the old one stays in use.");
        }
    }
}

/// Dials every address of every link, of those to come too: on QUIC, and once a process on TCP, which shows the end of a
/// peer at once, and is ready where UDP is blocked.
async fn dial_peers(worker: Rc<Worker>) {
    let peers = worker.shared.peers.clone();
    peers.each(|cluster| drop(spawn_local(dial_peer(worker.clone(), cluster)))).await;
}

async fn dial_peer(worker: Rc<Worker>, cluster: Arc<PeerCluster>) {
    let begin = |address: HostPort, stop: CancellationToken| {
        if worker.endpoint.worker() == 0 {
            spawn_local(keep_dialling(worker.clone(), true, cluster.clone(), address.clone(), stop.clone()));
        }
        spawn_local(keep_dialling(worker.clone(), false, cluster.clone(), address, stop));
    };
    peers::each_address(&cluster, begin).await;
}

async fn keep_dialling(
    worker: Rc<Worker>,
    on_tcp: bool,
    cluster: Arc<PeerCluster>,
    address: HostPort,
    stop: CancellationToken,
) {
    let dialler = if on_tcp { Dialler::Tcp(&worker.direct) } else { Dialler::Quic(&worker.endpoint) };
    let peers = worker.shared.peers.clone();
    let own = |tunnel, driver| own_tunnel(&worker, tunnel, driver);
    peers::keep_dialling(dialler, peers, cluster, address, stop, own).await;
}

async fn sweep(worker: Rc<Worker>) {
    let mut rounds = tokio::time::interval(STALL_SWEEP);
    let mut pool_swept = tokio::time::Instant::now();
    loop {
        let now = rounds.tick().await;
        let given_up = worker.stalls.sweep(now);
        if given_up > 0 {
            warn!(given_up, "Cut off readers that take nothing: what waits for them holds up others.");
        }
        if now.duration_since(pool_swept) >= POOL_SWEEP {
            worker.pool.sweep();
            pool_swept = now;
        }
    }
}

/// Accepts tunnels on all carriers for as long as the endpoint lives; [`HANDSHAKES_MAX`] at a time.
async fn accept_tunnels(
    worker: Rc<Worker>,
    tcp: tokio::net::TcpListener,
    unix: Option<tokio::net::UnixListener>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        // Never closed, so there is always a permit sooner or later.
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let peers = worker.shared.peers.clone();
        let admit = move |peer: &Peer| peers.admit(peer);
        let crowded = || handshakes.available_permits() < HANDSHAKES_MAX / 2;
        tokio::select! {
            handshake = worker.endpoint.accept(&crowded, admit.clone()) => {
                let Some(handshake) = handshake else { return };
                spawn_local(take_tunnel(worker.clone(), handshake, permit));
            }
            incoming = accept_direct(&tcp, unix.as_ref()) => match incoming {
                Ok(incoming) => {
                    let handshake = worker.direct.answer(incoming, admit);
                    spawn_local(take_tunnel(worker.clone(), handshake, permit));
                }
                Err(error) => {
                    warn!(%error, "Cannot accept a connection.");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// The next connection on a byte stream.
async fn accept_direct(
    tcp: &tokio::net::TcpListener,
    unix: Option<&tokio::net::UnixListener>,
) -> std::io::Result<Incoming> {
    let on_unix = async {
        match unix {
            Some(unix) => unix.accept().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        accepted = tcp.accept() => accepted.map(|(stream, from)| Incoming::Tcp(stream, from)),
        accepted = on_unix => accepted.map(|(stream, _)| Incoming::Unix(stream)),
    }
}

async fn take_tunnel<A: Display>(
    worker: Rc<Worker>,
    handshake: impl Future<Output = Result<(Tunnel, Driver), (A, TunnelError)>>,
    permit: OwnedSemaphorePermit,
) {
    match handshake.await {
        Ok((tunnel, driver)) => own_tunnel(&worker, tunnel, driver),
        Err((from, error)) => warn!(%from, %error, "Refused a tunnel."),
    }
    drop(permit);
}

/// Takes a tunnel into use and runs it on this worker until its end.
fn own_tunnel(worker: &Rc<Worker>, tunnel: Tunnel, driver: Driver) {
    let peers = &worker.shared.peers;
    let Some((cluster, gateway, offer)) = peers.offer(&tunnel) else { return };
    let (name, id) = (gateway.cluster.clone(), gateway.id.clone());
    match offer {
        Offer::Duplicate => debug!(peer = %name, gateway = %id, "One tunnel is enough; closing this one."),
        Offer::TakenFromNew | Offer::Taken => info!(
            peer = %name, gateway = %id, address = %tunnel.remote_address(), carrier = %tunnel.carrier(),
            dialled_by = if tunnel.dialled() { "us" } else { "peer" }, "Tunnel up."
        ),
    }
    if offer == Offer::TakenFromNew {
        spawn_local(peers::watch(gateway.clone(), worker.shared.clock.epoch(), cluster.stop.clone()));
    }
    let mut replaced = gateway.replaced(peers);
    if offer == Offer::Duplicate {
        replaced.push(tunnel.clone());
    }
    for tunnel in replaced {
        spawn_local(peers::close_replaced(tunnel));
    }
    spawn_local(serve_streams(worker.clone(), cluster.clone(), tunnel.clone()));
    let clock = worker.shared.clock;
    spawn_local(async move {
        let on_event = |event| {
            gateway.on_event(&tunnel, &event, clock.epoch());
            match event {
                Event::GoingAway | Event::Retiring => cluster.changed.notify_waiters(),
                Event::Digest(digest) => cluster.facts.tell(&digest, clock.micros()),
                Event::Answered { .. } => {}
            }
        };
        let reason = driver.run(on_event).await;
        info!(peer = %name, gateway = %id, %reason, "Tunnel ended.");
        cluster.ended(&gateway, &tunnel, &reason);
    });
}

/// Serves every stream that the peer opens on a tunnel.
async fn serve_streams(worker: Rc<Worker>, cluster: Arc<PeerCluster>, tunnel: Tunnel) {
    let peer = Rc::new(tunnel.peer().clone());
    while let Ok(accepted) = tunnel.accept().await {
        let (worker, cluster, peer) = (worker.clone(), cluster.clone(), peer.clone());
        // Ends with its stream; streams are limited per tunnel by the transport.
        spawn_local(async move {
            match accepted.begin().await {
                Ok(Begun::Exchange(exchange)) => inbound::serve(worker, &cluster, &peer, exchange).await,
                Ok(Begun::Sync(reader, writer)) => {
                    let Ok(peer) = ClusterName::new(&peer.hello.cluster) else { return };
                    if worker.shared.syncs.try_send(SyncStream { peer, reader, writer }).is_err() {
                        debug!("Too many sync streams wait; the peer tries again.");
                    }
                }
                Err(error) => debug!(peer = %peer.hello.cluster, %error, "Stream without purpose."),
            }
        });
    }
}
