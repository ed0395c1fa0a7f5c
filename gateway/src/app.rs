//! One gateway process: reads its files, makes everything, starts it, takes what changes in its files, and drains it on
//! SIGTERM.

mod believe;
mod bind;
mod change;
mod files;
mod load;
mod members;
mod open;
mod pace;
mod reload;
mod report;
pub mod sidecar;
mod watcher;
mod workers;

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use identity::Trust;
use registry::model::{Gateway, Listen};
use registry::pure::sources::Sources;
use registry::tasks::election::{self, Standing};
use registry::tasks::owned::Owned;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tunnel::{HelloInfo, Local};

use self::believe::{believe, linked};
use self::bind::SocketFile;
use self::members::Known;
use self::open::{Opened, on_disk, open};
use self::reload::Reloader;
use self::watcher::Watcher;
use self::workers::Workers;
use crate::admin::objects::Objects;
use crate::admin::pool::Pool;
use crate::admin::{self, Admin, StartedWithout};
use crate::base::budget::{ByteBudget, HELD_BYTES_MAX};
use crate::base::clock::Clock;
use crate::base::descriptors;
use crate::control::checks;
use crate::control::registrations;
use crate::control::shifts;
use crate::control::sync::{self, Knowledge};
use crate::peers::Peers;
use crate::peers::sidecars::Sidecars;
use crate::proxy::dataplane::{Control, Handshakes};
use crate::proxy::listener;
use crate::proxy::worker::{Room, Shared};
use crate::telemetry::limited;
use crate::telemetry::metrics::{InProgress, Metrics};
use crate::view::{View, ViewBuilder};

pub use self::load::LoadError;

/// Sync streams that wait for the control plane.
const SYNCS_QUEUE: usize = 64;
/// Lookup streams that wait for it: all sidecars of a gateway that was restarted may come together.
const LOOKUPS_QUEUE: usize = 1024;
/// Registrars that wait for it: as many.
const REGISTRARS_QUEUE: usize = 1024;

/// Questions of linked clusters about objects that wait for it.
const OBJECTS_QUEUE: usize = 64;

/// What is left to do after the last request (the last catalog is saved, the registry closed) may take so long.
const END_WAIT: Duration = Duration::from_secs(10);
/// The same in a process that was told twice to end.
const END_WAIT_CUT: Duration = Duration::from_secs(5);

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Manifest files and folders.
    pub files: Vec<PathBuf>,
    /// Threads of the data plane.
    pub workers: NonZeroU8,
}

/// Why a gateway did not start, or ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The files cannot be used; nothing was touched.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] registry::tasks::state::StateError),
    /// The registry that is declared cannot be used.
    #[error("the registry cannot be used")]
    Registry(#[from] registry::store::OpenError),
    /// Another process of this cluster has our id.
    #[error(
        "another gateway of this cluster is called `{id}` ({other}); stop that one, or give this one a \
         `metadata.name` of its own"
    )]
    IdTaken {
        /// Ours.
        id: String,
        /// What it says of itself.
        other: String,
    },
    /// The registry does not say which cluster this is, or that it is another one.
    #[error("the registry does not serve this cluster")]
    Uid(#[from] registry::tasks::cluster::UidError),
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(StartError::Thread)?;
    let ended = runtime.block_on(start(options));
    // A thread that hangs on a disk is left behind.
    runtime.shutdown_background();
    ended
}

async fn start(options: Options) -> Result<(), StartError> {
    let mut signals = Signals::listen().map_err(StartError::Thread)?;
    let files = options.files.clone();
    let what = "the manifests, the identity and the state directory";
    let Some(opened) = on_disk(&mut signals.end, what, move || open(&files)).await? else { return Ok(()) };
    let Opened {
        gateway,
        files,
        look,
        credentials,
        mut directory,
        kept,
        saved_unix_ms,
        home,
        secrets,
        store,
    } = opened?;
    let boot = fastrand::u64(..);
    let us = members::us(&gateway, home, boot);
    let admin_listener = bind::tcp("admin", gateway.listen.admin)?;
    let settled = members::settle(&store, &gateway, kept, &admin_listener, &mut signals.end).await?;
    let Some(Known { mut saved, unsaved, answered }) = settled else { return Ok(()) };
    if unsaved {
        let save = move || directory.save(&saved).map(|()| (directory, saved));
        let Some(done) = on_disk(&mut signals.end, "the state directory", save).await? else { return Ok(()) };
        (directory, saved) = done?;
    }
    let registry = Owned::new(store, gateway.cluster.clone(), saved.uid);
    let mut tasks = JoinSet::new();
    let (stands, standing) = watch::channel(Standing::unknown());
    let silent_since = standing.borrow().unknown_since().filter(|_| !answered);
    let started_without = silent_since.map(|since| StartedWithout { since, saved_unix_ms });
    // Resigned only once everything is written: whoever is elected then finds it.
    let resign = CancellationToken::new();
    tasks.spawn(election::stand(registry.clone(), us.clone(), stands, resign.clone().cancelled_owned()));
    if answered && !members::wait_for_id(&us, standing.clone(), signals.end.told()).await? {
        resign.cancel();
        while tasks.join_next().await.is_some() {}
        return Ok(());
    }
    let http = bind::tcp_shares("http", gateway.listen.http, options.workers)?;
    let ports = tunnel::Port::bind(gateway.listen.tunnel, options.workers, &secrets, boot)?;
    let tcp = bind::tcp_shares("tunnel", gateway.listen.tunnel, options.workers)?;
    let state = gateway.state_dir.clone();
    let listen =
        move || [bind::TUNNEL_SOCKET, admin::socket::FILE].map(|file| SocketFile::listen(&state, file));
    let listening = on_disk(&mut signals.end, "the state directory", listen).await?;
    let Some([tunnel_socket, admin_socket]) = listening else { return Ok(()) };
    let mut socket_files = Vec::new();
    let mut unix = |socket: io::Result<(SocketFile, UnixListener)>, lacking: &str| match socket {
        Ok((file, listener)) => {
            socket_files.push(file);
            Some(listener)
        }
        Err(error) => {
            warn!(%error, "{lacking}");
            None
        }
    };
    let tunnel_socket =
        unix(tunnel_socket, "No Unix socket for tunnels in the state directory; sidecars must use TCP.");
    let admin_socket =
        unix(admin_socket, "No admin socket in the state directory; nothing can be changed through it.");

    let clock = Clock::start();
    let stop = CancellationToken::new();
    let applied = sync::first_applied(&registry, &gateway, &saved.applied).await;
    let (tell_applied, applies) = watch::channel(applied.clone());
    let (links, of) = (linked(&gateway, &files, &applied), gateway.clone());
    let read = move || believe(&of, &links, &Trust::default());
    let Some(believed) = on_disk(&mut signals.end, "the trust bundles", read).await? else { return Ok(()) };
    believed.say_warnings(&gateway);
    let mut book = registrations::remembered(&saved.registered);
    registrations::first(&registry, &mut book, clock.unix_ms()).await;
    let registered = book.take_changes().into_iter().collect();
    let sources = Sources { files, applied, registered };
    let (cluster, region) = (gateway.cluster.clone(), &gateway.region);
    let untrusted = believed.conditions(&gateway);
    let knowledge = Arc::new(Knowledge::new(cluster, region, sources, untrusted, saved, clock));
    let trust = believed.trust.clone();
    let links = knowledge.catalog().declared.links;
    let peers = Arc::new(Peers::new(&gateway.cluster, &gateway.id, &links, stop.clone()));
    let local = Local { hello: hello(&gateway, &knowledge, boot), credentials, trust };
    let (syncs, incoming_syncs) = mpsc::channel(SYNCS_QUEUE);
    let (lookups, incoming_lookups) = mpsc::channel(LOOKUPS_QUEUE);
    let (registrars, incoming_registrars) = mpsc::channel(REGISTRARS_QUEUE);
    let sidecars = Sidecars::new(gateway.cluster.clone(), stop.clone());
    let (asks, incoming_asks) = mpsc::channel(OBJECTS_QUEUE);
    let handshakes = Handshakes::default();
    let control = Arc::new(Control { syncs, lookups, registrars, objects: asks, sidecars, handshakes });
    let metrics = Metrics::new(options.workers);
    let shared = Arc::new(Shared {
        domain: gateway.domain.clone(),
        name: format!("{}.gateway", gateway.cluster),
        via: HeaderValue::try_from(format!("1.1 {}.gateway", gateway.cluster))
            .unwrap_or_else(|_| HeaderValue::from_static("1.1 gateway")),
        view: ArcSwap::from_pointee(View::default()),
        news: peers.news().clone(),
        peers,
        attempts: metrics.attempts(),
        metrics,
        budget: ByteBudget::new(HELD_BYTES_MAX),
        clock,
        callers: Room::new(listener::connections_max(descriptors::limit())),
        in_progress: Arc::new(InProgress::default()),
        local: watch::Sender::new(local),
        stop,
        cut: CancellationToken::new(),
    });
    let gateway = Arc::new(gateway);
    let mut builder = ViewBuilder::new(gateway.cluster.clone(), gateway.region.clone());
    shared.view.store(Arc::new(sync::build(&mut builder, &knowledge, &shared, &View::default())));

    let mut workers = Workers::start(&shared, &control, ports, tcp, tunnel_socket, http).await?;
    // The admin port answers until the drain is over: that is when operators look.
    let drained = CancellationToken::new();
    let (known, members) = watch::channel(Arc::default());
    let admin = Admin {
        gateway: gateway.clone(),
        shared: shared.clone(),
        knowledge: knowledge.clone(),
        registry: registry.clone(),
        standing: standing.clone(),
        members: members.clone(),
        started_without,
        boot,
    };
    let admin_ends = drained.clone();
    tasks.spawn(async move {
        if let Err(failed) = admin::serve(admin, admin_listener, admin_ends).await {
            error!(error = %failed, "The admin port failed.");
        }
    });
    let exported = (shared.peers.clone(), shared.stop.clone());
    tasks.spawn(sync::export_to_peers(knowledge.clone(), exported.0, incoming_syncs, exported.1));
    let imported = (registry.clone(), standing.clone());
    tasks.spawn(sync::import_from_peers(knowledge.clone(), shared.peers.clone(), imported.0, imported.1));
    tasks.spawn(until(shared.stop.clone(), limited::count()));
    tasks.spawn(checks::run(shared.clone()));
    tasks.spawn(shifts::watch(shared.clone()));
    let (told, gateways) = watch::channel(Arc::default());
    tasks.spawn(sync::tell_peers(shared.clone(), gateways));
    tasks.spawn(until(shared.stop.clone(), registry::tasks::members::follow(registry.clone(), known)));
    tasks.spawn(until(shared.stop.clone(), sync::announce(shared.clone(), us, members.clone(), told)));
    tasks.spawn(sync::publish(knowledge.clone(), shared.clone(), builder));
    tasks.spawn(sync::keep(knowledge.clone(), directory, shared.stop.clone()));
    let following =
        sync::follow_applied(registry.clone(), gateway.clone(), tell_applied, shared.stop.clone());
    tasks.spawn(following);
    let record = sync::record(knowledge.clone(), shared.clone(), registry.clone(), standing);
    let recorded = resign.drop_guard();
    tasks.spawn(async move {
        let _recorded = recorded;
        record.await;
    });
    tasks.spawn(sync::keep_owned(knowledge.clone(), registry.clone(), shared.stop.clone()));
    tasks.spawn(sync::answer_sidecars(shared.clone(), incoming_lookups));
    let Listen { tunnel, http, admin, .. } = &gateway.listen;
    let listeners = [*tunnel, *http, *admin].into();
    tasks.spawn(registrations::serve(shared.clone(), registry.clone(), listeners, incoming_registrars));
    let registers = knowledge.clone();
    let register = move |changes| registers.register_endpoints(changes);
    tasks.spawn(registrations::follow(shared.clone(), registry.clone(), book, register));
    let objects = Objects {
        gateway: gateway.clone(),
        shared: shared.clone(),
        knowledge: knowledge.clone(),
        store: registry.clone(),
        pool: Pool::start().map_err(StartError::Thread)?,
    };
    tasks.spawn(admin::remote::serve(objects.clone(), incoming_asks));
    if let Some(listener) = admin_socket {
        let listener = tokio::net::UnixListener::from_std(listener).map_err(StartError::Thread)?;
        let serving =
            admin::socket::serve(listener, control.registrars.clone(), objects, shared.stop.clone());
        tasks.spawn(async move {
            if let Err(failed) = serving.await {
                error!(error = %failed, "The admin socket failed.");
            }
        });
    }
    let judged = control.clone();
    let judge = move |local: &Local, now| judged.sidecars.judge(&local.trust, &local.credentials, now);
    tasks.spawn(reload::judge_tunnels(shared.clone(), judge));
    let watched = Watcher::new(options.files.clone(), gateway.identity_dir.clone(), look, signals.hangup);
    let reloader = Reloader::new(options.files, gateway.clone(), shared.clone(), knowledge, believed);
    tasks.spawn(reloader.run(watched, applies, shared.stop.clone()));
    let listen = &gateway.listen;
    info!(
        cluster = %gateway.cluster, gateway = %gateway.id, workers = %options.workers, tunnel = %listen.tunnel, http = %listen.http,
        admin = %listen.admin, "Ready."
    );

    let told = tokio::select! {
        () = signals.end.told() => true,
        // By itself: its log says why.
        () = workers.one_ended() => false,
    };
    info!(in_progress = shared.in_progress.count(), "Draining.");
    shared.stop.cancel();
    shared.peers.go_away("the gateway drains");
    control.sidecars.go_away("the gateway drains");
    // The drain has its own grace.
    tokio::select! {
        () = workers.all_ended() => {}
        () = signals.end.told() => shared.cut.cancel(),
    }
    let wait = if shared.cut.is_cancelled() { END_WAIT_CUT } else { END_WAIT };
    // If the wait is over before that is done they are left: their removal could hang, too.
    let socket_files = ManuallyDrop::new(socket_files);
    let ending = async {
        workers.all_ended().await;
        drained.cancel();
        while tasks.join_next().await.is_some() {}
        registry.inner().close().await;
        // Removes files.
        let _ = spawn_blocking(move || drop(ManuallyDrop::into_inner(socket_files))).await;
    };
    tokio::select! {
        () = ending => {}
        () = sleep(wait) => error!("Not all is over after {wait:?}, and left so: does a disk hang?"),
        () = signals.end.told() => warn!("Told not to wait any longer for what is not over."),
    }
    info!("Stopped.");
    if told { Ok(()) } else { Err(StartError::WorkerEnded) }
}

/// Runs `task` until the process drains.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

/// The signals that mean something to a gateway; for the others the system's defaults stay.
struct Signals {
    end: EndSignals,
    /// Read everything again.
    hangup: Signal,
}

/// SIGTERM and SIGINT: drain; once more: do not wait.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on no signal ends the process by itself.
    fn listen() -> io::Result<Self> {
        let end = EndSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        Ok(Self { end, hangup: signal(SignalKind::hangup())? })
    }
}

impl EndSignals {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What we say of ourselves in HELLO.
fn hello(gateway: &Gateway, knowledge: &Knowledge, boot: u64) -> HelloInfo {
    HelloInfo {
        cluster: gateway.cluster.to_string(),
        region: gateway.region.clone(),
        cluster_uid: knowledge.uid(),
        gateway: gateway.id.clone(),
        worker: 0,
        boot,
        addresses: gateway.advertise.iter().map(ToString::to_string).collect(),
    }
}
