//! What runs of a gateway: the workers of the data plane, and the tasks of the control plane.

use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use registry::model::{Gateway, Listen};
use registry::store::AnyStore;
use registry::tasks::members;
use registry::tasks::owned::Owned;
use tokio::net::UnixListener;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tunnel::Local;

use super::{Bound, Joined, Made, Options};
use crate::admin::objects::Objects;
use crate::admin::pool::Pool;
use crate::admin::{self, Admin};
use crate::app::bind::SocketFile;
use crate::app::reload::{self, Reloader};
use crate::app::tasks::Tasks;
use crate::app::watcher::Watcher;
use crate::app::workers::Workers;
use crate::app::{EndSignals, StartError};
use crate::control::{checks, registrations, shifts, sync};
use crate::proxy::dataplane::Control;
use crate::proxy::worker::{RegisterStream, Shared};
use crate::telemetry::limited;

/// What is left to do after the last request (the last catalog is saved, the registry closed) may take so long.
const END_WAIT: Duration = Duration::from_secs(10);
/// The same in a process that was told twice to end.
const END_WAIT_CUT: Duration = Duration::from_secs(5);

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
}

impl Running {
    /// Starts the data plane, and then everything that looks after it. `hangup`: whose files are read again.
    pub(super) async fn start(
        options: Options,
        joined: Joined,
        bound: Bound,
        made: Made,
        hangup: Signal,
    ) -> Result<Self, StartError> {
        let Bound { http, ports, tcp, tunnel_socket, admin_socket, socket_files } = bound;
        let (shared, control) = (made.shared.clone(), made.control.clone());
        let workers = Workers::start(&shared, &control, ports, tcp, tunnel_socket, http).await?;
        let (registry, drained) = (joined.registry.clone(), CancellationToken::new());
        let (gateway, workers_started) = (Arc::new(joined.gateway.clone()), options.workers);
        let tasks = spawn(options, joined, made, &gateway, (admin_socket, hangup, drained.clone()))?;
        let Listen { tunnel, http, admin, .. } = &gateway.listen;
        info!(
            cluster = %gateway.cluster, gateway = %gateway.id, workers = %workers_started, %tunnel, %http, %admin, "Ready."
        );
        Ok(Self { shared, control, registry, workers, tasks, socket_files, drained })
    }

    /// Runs until it is told to end, or a worker ends by itself; then drains.
    pub(super) async fn until_told(mut self, end: &mut EndSignals) -> Result<(), StartError> {
        let told = tokio::select! {
            () = end.told() => true,
            // By itself: its log says why.
            () = self.workers.one_ended() => false,
        };
        self.drain(end).await;
        info!("Stopped.");
        if told { Ok(()) } else { Err(StartError::WorkerEnded) }
    }

    async fn drain(self, end: &mut EndSignals) {
        let Self { shared, control, registry, mut workers, mut tasks, socket_files, drained } = self;
        info!(in_progress = shared.in_progress.count(), "Draining.");
        shared.stop.cancel();
        shared.peers.go_away("the gateway drains");
        control.sidecars.go_away("the gateway drains");
        // The drain has its own grace.
        tokio::select! {
            () = workers.all_ended() => {}
            () = end.told() => shared.cut.cancel(),
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

/// Starts the tasks of the control plane.
fn spawn(
    options: Options,
    joined: Joined,
    made: Made,
    gateway: &Arc<Gateway>,
    (admin_socket, hangup, drained): (Option<std::os::unix::net::UnixListener>, Signal, CancellationToken),
) -> Result<Tasks, StartError> {
    let Joined { look, directory, us, boot, registry, standing, resign, started_without, admin, .. } = joined;
    let Made { shared, knowledge, control, incoming, builder, believed, book, applied } = made;
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
    spawn_admin_port(&mut tasks, port, admin, drained);
    let objects = Objects {
        gateway: gateway.clone(),
        shared: shared.clone(),
        knowledge: knowledge.clone(),
        store: registry.clone(),
        pool: Pool::start().map_err(StartError::Thread)?,
    };
    if let Some(listener) = admin_socket {
        let registrars = control.registrars.clone();
        spawn_admin_socket(&mut tasks, listener, registrars, objects.clone())?;
    }
    tasks.spawn("objects of peers", admin::asked::serve(objects, incoming.objects));

    let peers = shared.peers.clone();
    let exporting = sync::export_to_peers(knowledge.clone(), peers.clone(), incoming.syncs, stop.clone());
    tasks.spawn("export", exporting);
    let importing = sync::import_from_peers(knowledge.clone(), peers, registry.clone(), standing.clone());
    tasks.spawn("import", importing);
    let (told, gateways) = watch::channel(Arc::default());
    tasks.spawn("digests", sync::tell_peers(shared.clone(), gateways));
    tasks.spawn("members", until(stop.clone(), members::follow(registry.clone(), known)));
    tasks.spawn("announce", until(stop.clone(), sync::announce(shared.clone(), us, members, told)));
    tasks.spawn("lookups", sync::answer_sidecars(shared.clone(), incoming.lookups));

    tasks.spawn("checks", checks::run(shared.clone()));
    tasks.spawn("link audit", shifts::watch(shared.clone()));
    tasks.spawn("suppressed lines", until(stop.clone(), limited::count()));
    let judged = control.clone();
    let judge = move |local: &Local, now| judged.sidecars.judge(&local.trust, &local.credentials, now);
    tasks.spawn("tunnels over time", reload::judge_tunnels(shared.clone(), judge));

    let Listen { tunnel, http, admin, .. } = &gateway.listen;
    let listeners = [*tunnel, *http, *admin].into();
    let serving = registrations::serve(shared.clone(), registry.clone(), listeners, incoming.registrars);
    tasks.spawn("registrations", serving);
    let registers = knowledge.clone();
    let register = move |changes| registers.register_endpoints(changes);
    tasks.spawn("registered", registrations::follow(shared.clone(), registry.clone(), book, register));

    tasks.spawn("publish", sync::publish(knowledge.clone(), shared.clone(), builder));
    tasks.spawn("state", sync::keep(knowledge.clone(), directory, stop.clone()));
    let (tell_applied, applies) = applied;
    let following = sync::follow_applied(registry.clone(), gateway.clone(), tell_applied, stop.clone());
    tasks.spawn("applied", following);
    tasks.spawn("owner", sync::keep_owned(knowledge.clone(), registry.clone(), stop.clone()));
    let recording = sync::record(knowledge.clone(), shared.clone(), registry, standing);
    tasks.spawn("recorder", async move {
        let _resigns_then = resign;
        recording.await;
    });
    let watched = Watcher::new(options.files.clone(), gateway.identity_dir.clone(), look, hangup);
    let reloader = Reloader::new(options.files, gateway.clone(), shared, knowledge, believed);
    tasks.spawn("reload", reloader.run(watched, applies, stop));
    Ok(tasks)
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
    listener: std::os::unix::net::UnixListener,
    registrars: mpsc::Sender<RegisterStream>,
    objects: Objects<Owned<AnyStore>>,
) -> Result<(), StartError> {
    let listener = UnixListener::from_std(listener).map_err(StartError::Thread)?;
    let stop = objects.shared.stop.clone();
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
