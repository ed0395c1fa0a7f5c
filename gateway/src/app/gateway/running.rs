//! What runs of a gateway: the workers of the data plane, and the tasks of the control plane.

use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::base::lent::lent;
use registry::model::{Gateway, Listen};
use registry::pure::probation::Book;
use registry::store::AnyStore;
use registry::tasks::election::Standing;
use registry::tasks::members;
use registry::tasks::owned::Owned;
use tokio::net::UnixListener;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tunnel::Local;

use super::{Bound, Joined, Made, Options};
use crate::admin::objects::Objects;
use crate::admin::pool::Pool;
use crate::admin::{self, Admin};
use crate::app::reload::{self, Reloader};
use crate::app::takeover::{
    Elder, Handed, Heir, Kept, Succession, keep_leases, own_files, take_office, take_turn, wait_for_turn,
};
use crate::app::tasks::Tasks;
use crate::app::watcher::Watcher;
use crate::app::workers::Workers;
use crate::app::{EndSignals, StartError, cut};
use crate::app::{bind, systemd};
use crate::base::bind::SocketFile;
use crate::control::sync::Knowledge;
use crate::control::{checks, listeners, registrations, shifts, sync};
use crate::peers::MOVE_OVER;
use crate::proxy::dataplane::Control;
use crate::proxy::worker::{RegisterStream, Shared, SyncStream};
use crate::telemetry::limited;

/// What is left to do after the last request (the last catalog is saved, the registry closed) may take so long.
const END_WAIT: Duration = Duration::from_secs(10);
/// The same in a process that was told twice to end.
const END_WAIT_CUT: Duration = Duration::from_secs(5);
/// Connections of callers that idle are closed so long after that: until then a request on one is answered, and told that
/// it was the last.
const IDLE_LEAVES: Duration = Duration::from_secs(5);

/// A gateway that serves.
pub(super) struct Running {
    shared: Arc<Shared>,
    control: Arc<Control>,
    registry: Owned<AnyStore>,
    workers: Workers,
    tasks: Tasks,
    socket_files: Vec<SocketFile>,
    /// Ends the admin port, which answers until the drain is over: that is when operators look.
    drained: CancellationToken,
    /// Ends the admin socket; cancelled with the drain.
    changes: CancellationToken,
    succession: Succession,
}

/// Why a gateway ends.
enum Ends {
    Told,
    /// A worker has, by itself.
    Failed,
    /// Another process has taken over, which hears of the end by what is held here.
    TakenOver(Handed),
}

impl Running {
    /// Starts the data plane, and then everything that looks after it; returns once callers are accepted. `hangup`: its files
    /// are read again; `succeed`: a process is started that takes over. `heir`: it takes over itself.
    ///
    /// # Errors
    /// Something cannot be started, or the process that is taken over from has gone back on it. Threads may be left.
    pub(super) async fn start(
        options: Options,
        joined: Joined,
        bound: Bound,
        made: Made,
        (program, hangup, succeed): (io::Result<PathBuf>, Signal, Signal),
        mut heir: Option<Heir>,
    ) -> Result<Self, StartError> {
        let Bound { http, ports, tcp, tunnel_socket, socket_files, shares_port, .. } = bound;
        let (shared, control) = (made.shared.clone(), made.control.clone());
        shared.listeners.set(&listeners::declared(&shared.view.load(), &joined.gateway.id));
        let unused = bind::leave(&bound.given);
        if heir.is_some() {
            wait_for_turn(&shared, bound.kept.port());
        }
        let workers = Workers::start(&shared, &control, ports, tcp, tunnel_socket, http).await?;
        let carrying = match &mut heir {
            Some(heir) => take_turn(heir, &shared, bound.kept.port(), shares_port).await?,
            None => None,
        };
        let (registry, drained) = (joined.registry.clone(), CancellationToken::new());
        let (gateway, workers_started) = (Arc::new(joined.gateway.clone()), options.workers);
        let (hand, handed) = oneshot::channel();
        let (tell_elder, has_elder) = watch::channel(heir.is_some());
        let means = Means {
            gateway: gateway.clone(),
            admin_socket: bound.admin_socket,
            takeover_socket: bound.takeover_socket,
            kept: bound.kept,
            hangup,
            drained: drained.clone(),
            changes: shared.stop.child_token(),
            has_elder,
            hand,
        };
        let changes = means.changes.clone();
        let mut tasks = spawn(options, joined, made, means)?;
        if let Some(carrying) = carrying {
            tasks.spawn("datagrams of the elder", until(drained.clone(), carrying));
        }
        let taken_over = heir.is_some();
        if let Some(mut heir) = heir {
            let leases = keep_leases(registry.inner().clone(), shared.clone());
            tasks.spawn("leases", until(shared.stop.clone(), leases));
            take_office(&mut heir, &shared).await?;
            own_files(&socket_files, &shared, unused).await;
            let ended = async move {
                heir.elder_ended().await;
                tell_elder.send_replace(false);
            };
            tasks.spawn("elder", until(drained.clone(), ended));
        }
        shared.open.cancel();
        let Listen { tunnel, http, admin, .. } = &gateway.listen;
        info!(
            cluster = %gateway.cluster, gateway = %gateway.id, workers = %workers_started, %tunnel, %http, %admin, taken_over, "Ready."
        );
        systemd::ready();
        let succession = Succession::new(program, succeed, handed);
        Ok(Self { shared, control, registry, workers, tasks, socket_files, drained, changes, succession })
    }

    /// Runs until it is told to end, another process has taken over, or a worker ends by itself; then drains.
    pub(super) async fn until_told(mut self, end: &mut EndSignals) -> Result<(), StartError> {
        let ends = tokio::select! {
            biased;
            // Whoever has taken over has everything: that comes first.
            handed = self.succession.taken_over() => Ends::TakenOver(handed),
            () = end.told() => Ends::Told,
            // By itself: its log says why.
            () = self.workers.one_ended() => Ends::Failed,
        };
        let failed = matches!(ends, Ends::Failed);
        match ends {
            Ends::TakenOver(handed) => {
                self.leave_to_heir(end).await;
                self.drain(end).await;
                drop(handed);
            }
            Ends::Told | Ends::Failed => {
                systemd::stopping();
                self.shared.leave.cancel();
                self.drain(end).await;
            }
        }
        info!("Stopped.");
        if failed { Err(StartError::WorkerEnded) } else { Ok(()) }
    }

    /// Accepts nothing any more, and has peers and sidecars open tunnels to the process that has taken over, before they
    /// hear that this one drains.
    async fn leave_to_heir(&self, end: &mut EndSignals) {
        let shared = &self.shared;
        shared.handed_over.cancel();
        self.changes.cancel();
        self.drained.cancel();
        self.socket_files.iter().for_each(SocketFile::leave);
        shared.listeners.leave_files();
        shared.peers.retire_all();
        tokio::select! {
            () = sleep(MOVE_OVER) => {}
            () = end.told() => cut(shared),
        }
    }

    async fn drain(self, end: &mut EndSignals) {
        let Self { shared, control, registry, mut workers, mut tasks, socket_files, drained, .. } = self;
        info!(in_progress = shared.in_progress.count(), "Draining.");
        shared.stop.cancel();
        shared.listeners.let_go();
        shared.peers.go_away("the gateway drains");
        control.sidecars.go_away("the gateway drains");
        let idle_leave = async {
            sleep(IDLE_LEAVES).await;
            shared.leave.cancel();
            std::future::pending::<()>().await;
        };
        // The drain has its own grace.
        tokio::select! {
            () = workers.all_ended() => {}
            () = idle_leave => {}
            () = end.told() => cut(&shared),
        }
        let wait = if shared.cut.is_cancelled() { END_WAIT_CUT } else { END_WAIT };
        // If the wait is over before that is done they are left: their removal could hang, too.
        let socket_files = ManuallyDrop::new(socket_files);
        let ending = async {
            workers.all_ended().await;
            drained.cancel();
            tasks.ended().await;
            registry.inner().close().await;
            // Removes files.
            let _ = spawn_blocking(move || drop(ManuallyDrop::into_inner(socket_files))).await;
        };
        let over = tokio::select! {
            () = ending => true,
            () = sleep(wait) => {
                error!("Shutdown incomplete after {wait:?}; exiting anyway: does a disk hang?");
                false
            }
            () = end.told() => {
                warn!("Second termination signal: exiting without waiting.");
                false
            }
        };
        let left = tasks.left();
        if !over && !left.is_empty() {
            warn!(tasks = left.join(" "), "Tasks left.");
        }
    }
}

/// What the control plane is started with.
struct Means {
    gateway: Arc<Gateway>,
    admin_socket: Option<StdUnixListener>,
    takeover_socket: Option<StdUnixListener>,
    kept: Kept,
    hangup: Signal,
    drained: CancellationToken,
    changes: CancellationToken,
    has_elder: watch::Receiver<bool>,
    hand: oneshot::Sender<Handed>,
}

/// Starts the tasks of the control plane.
fn spawn(options: Options, joined: Joined, made: Made, means: Means) -> Result<Tasks, StartError> {
    let Joined {
        look, directory, us, boot, registry, standing, resign, started_without, admin, place, ..
    } = joined;
    let gateway = &means.gateway;
    let Made { shared, knowledge, control, incoming, builder, believed, book, applied } = made;
    let (tell_applied, applies) = applied;
    let (mut tasks, stop) = (joined.tasks, shared.stop.clone());
    let (known, members) = watch::channel(Arc::default());
    let port = Admin {
        gateway: gateway.clone(),
        shared: shared.clone(),
        knowledge: knowledge.clone(),
        registry: registry.clone(),
        standing: standing.clone(),
        members: members.clone(),
        started_without,
        boot,
    };
    spawn_admin_port(&mut tasks, port, admin, means.drained);
    let objects = Objects {
        gateway: gateway.clone(),
        shared: shared.clone(),
        knowledge: knowledge.clone(),
        store: registry.clone(),
        pool: Pool::start().map_err(StartError::Thread)?,
    };
    if let Some(listener) = means.admin_socket {
        let registrars = control.registrars.clone();
        spawn_admin_socket(&mut tasks, listener, registrars, objects.clone(), means.changes)?;
    }
    let (catalog, holder) = lent();
    let elder = Elder {
        gateway: gateway.clone(),
        boot,
        workers: options.workers,
        shared: shared.clone(),
        control: control.clone(),
        kept: means.kept,
        lenders: [place, catalog],
        store: registry.inner().clone(),
        has_elder: means.has_elder,
    };
    spawn_elder(&mut tasks, means.takeover_socket, elder, means.hand)?;
    tasks.spawn("objects of peers", admin::asked::serve(objects, incoming.objects));

    spawn_mirror(&mut tasks, &shared, &knowledge, &registry, &standing, incoming.syncs);
    let (told, gateways) = watch::channel(Arc::default());
    tasks.spawn("digests", sync::tell_peers(shared.clone(), gateways));
    tasks.spawn("members", until(stop.clone(), members::follow(registry.clone(), known)));
    tasks.spawn("announce", until(stop.clone(), sync::announce(shared.clone(), us, members, told)));
    tasks.spawn("lookups", sync::answer_sidecars(shared.clone(), incoming.lookups));

    tasks.spawn("listeners", listeners::keep(shared.clone(), gateway.id.clone()));
    tasks.spawn("checks", checks::run(shared.clone()));
    tasks.spawn("link audit", shifts::watch(shared.clone()));
    tasks.spawn("suppressed lines", until(stop.clone(), limited::count()));
    let judge = move |local: &Local, now| control.sidecars.judge(&local.trust, &local.credentials, now);
    tasks.spawn("tunnels over time", reload::judge_tunnels(shared.clone(), judge));

    let registering = (incoming.registrars, book);
    spawn_registrations(&mut tasks, &gateway.listen, &shared, &knowledge, &registry, registering);

    tasks.spawn("publish", sync::publish(knowledge.clone(), shared.clone(), builder));
    tasks.spawn("state", sync::keep(knowledge.clone(), directory, holder, stop.clone()));
    let following = sync::follow_applied(registry.clone(), gateway.clone(), tell_applied, stop.clone());
    tasks.spawn("applied", following);
    tasks.spawn("owner", sync::keep_owned(knowledge.clone(), registry.clone(), stop.clone()));
    let recording = sync::record(knowledge.clone(), shared.clone(), registry, standing);
    tasks.spawn("recorder", async move {
        let _resigns_then = resign;
        recording.await;
    });
    let watched = Watcher::new(options.files.clone(), gateway.identity_dir.clone(), look, means.hangup);
    let reloader = Reloader::new(options.files, gateway.clone(), shared, knowledge, believed);
    tasks.spawn("reload", reloader.run(watched, applies, stop));
    Ok(tasks)
}

/// Starts the tasks that export to peers and import from them.
fn spawn_mirror(
    tasks: &mut Tasks,
    shared: &Arc<Shared>,
    knowledge: &Arc<Knowledge>,
    registry: &Owned<AnyStore>,
    standing: &watch::Receiver<Standing>,
    syncs: mpsc::Receiver<SyncStream>,
) {
    let (peers, stop) = (shared.peers.clone(), shared.stop.clone());
    tasks.spawn("export", sync::export_to_peers(knowledge.clone(), peers.clone(), syncs, stop));
    let importing = sync::import_from_peers(knowledge.clone(), peers, registry.clone(), standing.clone());
    tasks.spawn("import", importing);
}

/// Starts the tasks that look after registered endpoints, of which the `book` is what is known.
fn spawn_registrations(
    tasks: &mut Tasks,
    listen: &Listen,
    shared: &Arc<Shared>,
    knowledge: &Arc<Knowledge>,
    registry: &Owned<AnyStore>,
    (registrars, book): (mpsc::Receiver<RegisterStream>, Book),
) {
    let listeners = [listen.tunnel, listen.http, listen.admin].into();
    let serving = registrations::serve(shared.clone(), registry.clone(), listeners, registrars);
    tasks.spawn("registrations", serving);
    let registers = knowledge.clone();
    let register = move |changes| registers.register_endpoints(changes);
    tasks.spawn("registered", registrations::follow(shared.clone(), registry.clone(), book, register));
}

/// Starts the task that hands over to a process that takes over.
fn spawn_elder(
    tasks: &mut Tasks,
    listener: Option<StdUnixListener>,
    elder: Elder,
    hand: oneshot::Sender<Handed>,
) -> Result<(), StartError> {
    let Some(listener) = listener else { return Ok(()) };
    let listener = UnixListener::from_std(listener).map_err(StartError::Thread)?;
    let stop = elder.shared.stop.clone();
    tasks.spawn("takeover", until(stop, elder.serve(listener, hand)));
    Ok(())
}

/// Starts the task that answers on the admin port, until the process is `drained`.
fn spawn_admin_port(tasks: &mut Tasks, port: Admin, listener: TcpListener, drained: CancellationToken) {
    tasks.spawn("admin port", async move {
        if let Err(failed) = admin::serve(port, listener, drained).await {
            error!(error = %failed, "The admin port failed.");
        }
    });
}

/// Starts the task that answers on the admin socket.
fn spawn_admin_socket(
    tasks: &mut Tasks,
    listener: StdUnixListener,
    registrars: mpsc::Sender<RegisterStream>,
    objects: Objects<Owned<AnyStore>>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let listener = UnixListener::from_std(listener).map_err(StartError::Thread)?;
    let serving = admin::socket::serve(listener, registrars, objects, stop);
    tasks.spawn("admin socket", async move {
        if let Err(failed) = serving.await {
            error!(error = %failed, "The admin socket failed.");
        }
    });
    Ok(())
}

/// Runs `task` until the process drains.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}
