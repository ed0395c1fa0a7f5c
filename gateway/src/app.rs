//! One gateway process: reads its manifests, makes everything, starts it, and drains it on SIGTERM.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use http::HeaderValue;
use identity::{Credentials, Trust};
use registry::manifest::{self, Manifests, Problems};
use registry::model::{Condition, Gateway};
use registry::state::StateDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tunnel::{HelloInfo, Local};

use crate::admin::{self, Admin};
use crate::budget::{ByteBudget, HELD_BYTES_MAX};
use crate::clock::Clock;
use crate::dataplane;
use crate::metrics::{Direction, InProgress, Metrics};
use crate::peers::Peers;
use crate::sync::{self, Knowledge};
use crate::view::{View, ViewBuilder};
use crate::worker::Shared;

/// Sync streams that wait for the control plane.
const SYNCS_QUEUE: usize = 64;

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Manifest files and folders.
    pub files: Vec<PathBuf>,
}

/// Why a gateway did not start, or ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The manifests cannot be used; nothing was touched.
    #[error("the manifests cannot be used")]
    Manifests(#[source] Problems),
    /// Our certificate or key cannot be used.
    #[error("the identity cannot be used; `ringway pki issue` makes one")]
    Identity(#[from] identity::IdentityError),
    /// The certificate is another process's.
    #[error(
        "the certificate is for {found}, this Gateway is `{id}` of cluster `{cluster}` in trust domain \
         `{trust_domain}`; issue one with `ringway pki issue --cluster {cluster} --gateway {id}`"
    )]
    WrongIdentity {
        /// What the certificate says.
        found: String,
        /// `metadata.name`.
        id: String,
        /// `spec.cluster`.
        cluster: String,
        /// `spec.trustDomain`.
        trust_domain: String,
    },
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] registry::state::StateError),
    /// A TCP address cannot be bound.
    #[error("cannot bind {what} on {address}; is another process listening there? (`spec.listen.{what}`)")]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The tunnel's UDP address cannot be bound, or its TLS not be set up.
    #[error("cannot open the tunnel endpoint (`spec.listen.tunnel`)")]
    Tunnel(#[from] tunnel::EndpointError),
    /// A thread or runtime could not be made.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A worker ended without being told to.
    #[error("a worker thread ended; its log says why")]
    WorkerEnded,
}

/// Runs a gateway on the calling thread until SIGTERM or SIGINT has drained it.
///
/// # Errors
/// [`StartError`]: nothing is left running.
pub fn run(options: Options) -> Result<(), StartError> {
    let manifests = manifest::load(&options.files).map_err(StartError::Manifests)?;
    let gateway = manifests.require_gateway().map_err(StartError::Manifests)?.clone();
    for warning in &manifests.warnings {
        warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(StartError::Thread)?;
    runtime.block_on(start(gateway, manifests))
}

async fn start(gateway: Gateway, manifests: Manifests) -> Result<(), StartError> {
    let credentials = credentials(&gateway)?;
    let (trust, mut conditions) = trust(&gateway, &manifests);
    conditions.extend(manifests.conditions);
    let mut directory = StateDir::open(&gateway.state_dir)?;
    let loaded = directory.load(&mut fastrand::Rng::new())?;
    if loaded.skipped > 0 {
        warn!(
            skipped = loaded.skipped,
            "Records of the last catalog are of another version; their peers send them again."
        );
    }
    let http = bind("http", gateway.listen.http)?;
    let admin_listener = bind("admin", gateway.listen.admin)?;

    let started_unix_ms = sync::unix_ms();
    let boot = fastrand::u64(..);
    let declared = manifests.declared;
    let peers = Arc::new(Peers::new(&gateway.cluster, &gateway.id, declared.links.values()));
    let knowledge =
        Knowledge::new(gateway.cluster.clone(), &gateway.region, declared, loaded.saved, started_unix_ms);
    let knowledge = Arc::new(knowledge);
    let local = local(&gateway, &knowledge, boot, credentials, trust);
    let (syncs, incoming_syncs) = mpsc::channel(SYNCS_QUEUE);
    let metrics = Metrics::new();
    let shared = Arc::new(Shared {
        name: format!("{}.gateway", gateway.cluster),
        via: HeaderValue::try_from(format!("1.1 {}.gateway", gateway.cluster))
            .unwrap_or_else(|_| HeaderValue::from_static("1.1 gateway")),
        view: ArcSwap::from_pointee(View::default()),
        peers,
        attempts: metrics.attempts(),
        nameless: metrics.requests(Direction::Outbound, "", ""),
        metrics,
        budget: ByteBudget::new(HELD_BYTES_MAX),
        clock: Clock::start(),
        in_progress: Arc::new(InProgress::default()),
        syncs,
        stop: CancellationToken::new(),
        gateway,
    });
    let mut builder =
        ViewBuilder::new(shared.gateway.cluster.clone(), shared.gateway.region.clone(), conditions);
    shared.view.store(Arc::new(sync::build(&mut builder, &knowledge, &shared, &View::default())));

    let worker = start_worker(&shared, local, http).await?;
    let mut tasks = JoinSet::new();
    // The admin port answers until the drain is over: that is when operators look.
    let drained = CancellationToken::new();
    let admin = Admin { shared: shared.clone(), knowledge: knowledge.clone(), boot, started_unix_ms };
    let admin_ends = drained.clone();
    let admin_listener = tokio::net::TcpListener::from_std(admin_listener).map_err(StartError::Thread)?;
    tasks.spawn(async move {
        if let Err(failed) = admin::serve(admin, admin_listener, admin_ends).await {
            error!(error = %failed, "The admin port failed.");
        }
    });
    tasks.spawn(sync::export_to_peers(knowledge.clone(), incoming_syncs, shared.stop.clone()));
    for peer in shared.peers.iter() {
        tasks.spawn(sync::import_from(knowledge.clone(), peer.clone(), shared.stop.clone()));
    }
    tasks.spawn(sync::publish(knowledge, shared.clone(), builder, directory));
    let listen = &shared.gateway.listen;
    info!(
        cluster = %shared.gateway.cluster, gateway = %shared.gateway.id, tunnel = %listen.tunnel, http = %listen.http,
        admin = %listen.admin, "Ready."
    );

    let worker_ended = until_told_to_stop(worker).await;
    shared.stop.cancel();
    if let Some(worker) = worker_ended {
        // The drain has its own grace; this only waits for the thread.
        let _ = worker.await;
    }
    drained.cancel();
    while tasks.join_next().await.is_some() {}
    info!("Stopped.");
    Ok(())
}

/// Waits for a signal; gives the worker back, which is still running. `None`: it has ended by itself.
async fn until_told_to_stop(mut worker: oneshot::Receiver<()>) -> Option<oneshot::Receiver<()>> {
    let signals =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        error!("Cannot listen for signals; this process can only be killed.");
        let _ = worker.await;
        return None;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => return Some(worker),
            _ = interrupt.recv() => return Some(worker),
            // Its default would end the process in the middle of requests.
            _ = hangup.recv() => warn!("SIGHUP changes nothing yet: restart this gateway to read its files again."),
            _ = &mut worker => return None,
        }
    }
}

/// Starts the data plane's thread; the receiver hears of its end.
async fn start_worker(
    shared: &Arc<Shared>,
    local: Local,
    http: TcpListener,
) -> Result<oneshot::Receiver<()>, StartError> {
    let (ready, is_ready) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel::<()>();
    let shared = shared.clone();
    let run = move || {
        let _ended = ended;
        if let Err(failed) = dataplane::run(shared, local, http, ready) {
            error!(error = %failed, "The worker failed.");
        }
    };
    thread::Builder::new().name("worker-0".into()).spawn(run).map_err(StartError::Thread)?;
    is_ready.await.map_err(|_| StartError::WorkerEnded)??;
    Ok(has_ended)
}

fn credentials(gateway: &Gateway) -> Result<Credentials, StartError> {
    let credentials = Credentials::load(&gateway.identity_dir)?;
    let found = credentials.identity();
    let ours = found.cluster == gateway.cluster.as_str()
        && found.trust_domain == gateway.trust_domain
        && found.gateway() == Some(gateway.id.as_str());
    if ours {
        return Ok(credentials);
    }
    Err(StartError::WrongIdentity {
        found: found.to_string(),
        id: gateway.id.clone(),
        cluster: gateway.cluster.to_string(),
        trust_domain: gateway.trust_domain.clone(),
    })
}

/// A link without a usable bundle stays down and says so; the others work.
fn trust(gateway: &Gateway, manifests: &Manifests) -> (Trust, Vec<Condition>) {
    let links = manifests.declared.links.values();
    let (trust, problems) =
        Trust::load(&gateway.identity_dir, links.map(|l| (l.cluster.as_str(), l.trust_domain.as_str())));
    let condition = |(cluster, problem): (String, identity::TrustError)| {
        error!(peer = %cluster, error = %problem, "The link stays down: its trust bundle cannot be used.");
        Condition {
            object: format!("Link {cluster}"),
            kind: "ResolvedRefs",
            status: false,
            reason: "BundleNotUsable",
            message: problem.to_string(),
        }
    };
    let conditions = problems.into_iter().map(condition).collect();
    (trust, conditions)
}

fn local(
    gateway: &Gateway,
    knowledge: &Knowledge,
    boot: u64,
    credentials: Credentials,
    trust: Trust,
) -> Local {
    Local {
        hello: HelloInfo {
            cluster: gateway.cluster.to_string(),
            region: gateway.region.clone(),
            cluster_uid: knowledge.uid(),
            gateway: gateway.id.clone(),
            worker: 0,
            boot,
            addresses: gateway.advertise.iter().map(ToString::to_string).collect(),
        },
        credentials: Arc::new(credentials),
        trust: Arc::new(trust),
    }
}

/// Binds a listener that a restarted process can take over at once.
fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = || -> io::Result<TcpListener> {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    bound().map_err(|source| StartError::Bind { what, address, source })
}
