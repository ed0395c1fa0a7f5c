//! A gateway process, in phases that are types: what it reads ([`Opened`]), who it is among the gateways of its cluster
//! ([`Joined`]), where it listens ([`Bound`]), what it knows ([`Made`]), and what runs until it is drained ([`Running`]).
//! Each takes what the one before has made; a process that is told to end meanwhile goes no further.

mod running;

use std::net::TcpListener;
use std::num::NonZeroU8;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use identity::{Credentials, Trust};
use registry::base::lent::{Holder, Lender, lent};
use registry::model::Gateway;
use registry::pure::probation::Book;
use registry::pure::sources::{AppliedObjects, Files, Sources};
use registry::store::AnyStore;
use registry::tasks::election::{self, Candidate, Standing};
use registry::tasks::owned::Owned;
use registry::tasks::state::{Saved, StateDir};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;
use tunnel::{HelloInfo, Local, Secrets};

use self::running::Running;
use super::believe::{Believed, believe, linked};
use super::bind;
use super::files::Look;
use super::members::{self, Known};
use super::open::{Opened, on_disk, open, read};
use super::takeover::{self, Heir, Kept};
use super::tasks::Tasks;
use super::{EndSignals, Signals, StartError};
use crate::admin::{self, StartedWithout};
use crate::base::bind::SocketFile;
use crate::base::clock::Clock;
use crate::base::given::Given;
use crate::control::registrations;
use crate::control::sync::{self, Knowledge};
use crate::peers::Peers;
use crate::peers::sidecars::Sidecars;
use crate::proxy::dataplane::{Control, Handshakes};
use crate::proxy::worker::{LookupStream, ObjectsStream, RegisterStream, Shared, SyncStream};
use crate::view::{View, ViewBuilder};

/// Sync streams that wait for the control plane.
const SYNCS_QUEUE: usize = 64;
/// Lookup streams that wait for it: all sidecars of a gateway that was restarted may come together.
const LOOKUPS_QUEUE: usize = 1024;
/// Registrars that wait for it: as many.
const REGISTRARS_QUEUE: usize = 1024;
/// Questions of linked clusters about objects that wait for it.
const OBJECTS_QUEUE: usize = 64;

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Manifest files and folders.
    pub files: Vec<PathBuf>,
    /// Threads of the data plane. A process that takes over has as many as the one before it.
    pub workers: NonZeroU8,
    /// Take over from the gateway that works with the same state directory.
    pub take_over: bool,
}

/// A gateway that is known to its registry, unless that does not answer.
struct Joined {
    gateway: Gateway,
    files: Arc<Files>,
    look: Look,
    credentials: Arc<Credentials>,
    secrets: Secrets,
    directory: StateDir,
    saved: Saved,
    /// The random number of this start.
    boot: u64,
    /// That of the process that it takes over from; 0: none.
    elder: u64,
    us: Candidate,
    registry: Owned<AnyStore>,
    standing: watch::Receiver<Standing>,
    /// Dropped once everything is written, and not before: whoever is elected then finds it.
    resign: DropGuard,
    /// Lends its place among the gateways.
    place: Lender,
    started_without: Option<StartedWithout>,
    admin: TcpListener,
    tasks: Tasks,
}

/// Where it listens.
struct Bound {
    http: Vec<TcpListener>,
    ports: Vec<tunnel::Port>,
    tcp: Vec<TcpListener>,
    tunnel_socket: Option<UnixListener>,
    admin_socket: Option<UnixListener>,
    takeover_socket: Option<UnixListener>,
    socket_files: Vec<SocketFile>,
    /// What listeners may still take of what others have bound.
    given: Arc<Given>,
    /// For a process that takes over.
    kept: Kept,
    /// Whether the process that is taken over from has the port of the tunnels, too.
    shares_port: bool,
}

/// What it knows and shares; nothing of it runs yet.
struct Made {
    shared: Arc<Shared>,
    knowledge: Arc<Knowledge>,
    control: Arc<Control>,
    incoming: Incoming,
    builder: ViewBuilder,
    believed: Believed,
    book: Book,
    applied: (watch::Sender<AppliedObjects>, watch::Receiver<AppliedObjects>),
}

/// What the data plane hands to the control plane.
struct Incoming {
    syncs: mpsc::Receiver<SyncStream>,
    lookups: mpsc::Receiver<LookupStream>,
    registrars: mpsc::Receiver<RegisterStream>,
    objects: mpsc::Receiver<ObjectsStream>,
}

/// Runs a gateway on the calling thread until SIGTERM or SIGINT has drained it.
///
/// # Errors
/// [`StartError`]: nothing is left running.
pub fn run(options: Options) -> Result<(), StartError> {
    let given = Arc::new(Given::by_systemd());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(StartError::Thread)?;
    let ended = runtime.block_on(start(options, given));
    // A thread that hangs on a disk is left behind.
    runtime.shutdown_background();
    ended
}

async fn start(mut options: Options, given: Arc<Given>) -> Result<(), StartError> {
    let Signals { mut end, hangup } = Signals::listen().map_err(StartError::Thread)?;
    let succeed = signal(SignalKind::user_defined2()).map_err(StartError::Thread)?;
    let program = takeover::program();
    let files = options.files.clone();
    let reading = move || read(&files);
    let Some(read) = on_disk(&mut end, "the manifests and the identity", reading).await? else {
        return Ok(());
    };
    let read = read?;
    let heir = tokio::select! {
        () = end.told() => return Ok(()),
        heir = take_over(&mut options, &read.gateway, &given) => heir?,
    };
    let opening = move || open(read);
    let Some(opened) = on_disk(&mut end, "the state directory", opening).await? else { return Ok(()) };
    let elder = heir.as_ref().map_or(0, |heir| heir.boot);
    let Some(joined) = Joined::join(opened?, elder, &given, &mut end).await? else { return Ok(()) };
    let Some(bound) = Bound::bind(&joined, options.workers, &given, &mut end).await? else { return Ok(()) };
    let made = Made::make(joined, options.workers, given, &mut end).await?;
    let Some((joined, made)) = made else { return Ok(()) };
    let running = Running::start(options, joined, bound, made, (program, hangup, succeed), heir);
    let running = tokio::select! {
        () = end.told() => return Ok(()),
        running = running => running?,
    };
    running.until_told(&mut end).await
}

/// The conversation with the process that is taken over from, if there is to be one, once this one may have what only one
/// can have.
async fn take_over(
    options: &mut Options,
    gateway: &Gateway,
    given: &Given,
) -> Result<Option<Heir>, StartError> {
    if !options.take_over {
        return Ok(None);
    }
    let Some(mut heir) = Heir::ask(gateway, given).await? else { return Ok(None) };
    if heir.workers != options.workers {
        let (workers, asked) = (heir.workers, options.workers);
        warn!(%workers, %asked, "As many workers as the running gateway has: its sockets are one for each.");
        options.workers = heir.workers;
    }
    heir.borrow().await?;
    Ok(Some(heir))
}

impl Joined {
    /// Learns from the registry which cluster this is, and takes its place among its gateways. None: told to end.
    async fn join(
        opened: Opened,
        elder: u64,
        given: &Given,
        end: &mut EndSignals,
    ) -> Result<Option<Self>, StartError> {
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
        } = opened;
        let boot = fastrand::u64(..);
        let us = members::us(&gateway, home, boot);
        let admin = bind::tcp(given, "admin", gateway.listen.admin)?;
        let settled = members::settle(&store, &gateway, kept, &admin, end).await?;
        let Some(Known { mut saved, unsaved, answered }) = settled else { return Ok(None) };
        if unsaved {
            let save = move || directory.save(&saved).map(|()| (directory, saved));
            let Some(done) = on_disk(end, "the state directory", save).await? else { return Ok(None) };
            (directory, saved) = done?;
        }
        let registry = Owned::new(store, gateway.cluster.clone(), saved.uid);
        let mut tasks = Tasks::default();
        let (stands, standing) = watch::channel(Standing::unknown());
        let silent_since = standing.borrow().unknown_since().filter(|_| !answered);
        let started_without = silent_since.map(|since| StartedWithout { since, saved_unix_ms });
        let resign = CancellationToken::new();
        let (place, holder) = lent();
        tasks.spawn("election", stand(registry.clone(), us.clone(), stands, holder, resign.clone()));
        let resign = resign.drop_guard();
        if answered && !members::wait_for_id(&us, standing.clone(), end.told()).await? {
            drop(resign);
            tasks.ended().await;
            return Ok(None);
        }
        Ok(Some(Self {
            gateway,
            files,
            look,
            credentials,
            secrets,
            directory,
            saved,
            boot,
            elder,
            us,
            registry,
            standing,
            resign,
            place,
            started_without,
            admin,
            tasks,
        }))
    }

    /// What it says of itself in HELLO.
    fn hello(&self) -> HelloInfo {
        HelloInfo {
            cluster: self.gateway.cluster.to_string(),
            region: self.gateway.region.clone(),
            cluster_uid: self.saved.uid,
            gateway: self.gateway.id.clone(),
            worker: 0,
            boot: self.boot,
            takes_over_from: self.elder,
            addresses: self.gateway.advertise.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Bound {
    /// Binds what `joined` declares, with a share for each of the `workers`. Without its Unix sockets a gateway does without
    /// them. None: told to end.
    async fn bind(
        joined: &Joined,
        workers: NonZeroU8,
        given: &Arc<Given>,
        end: &mut EndSignals,
    ) -> Result<Option<Self>, StartError> {
        let Joined { gateway, secrets, boot, admin, .. } = joined;
        let http = bind::tcp_shares(given, "http", gateway.listen.http, workers)?;
        let address = gateway.listen.tunnel;
        let sockets = given.udp(address, workers).map_err(|source| StartError::Bind {
            what: "tunnel",
            address,
            source,
        })?;
        let shares_port = sockets.is_some();
        let ports = match sockets {
            Some(sockets) => tunnel::Port::on(sockets, workers, secrets, *boot)?,
            None => tunnel::Port::bind(address, workers, secrets, *boot)?,
        };
        let tcp = bind::tcp_shares(given, "tunnel", address, workers)?;
        let (state, of) = (gateway.state_dir.clone(), given.clone());
        let files = [bind::TUNNEL_SOCKET, admin::socket::FILE, takeover::FILE];
        let listen = move || files.map(|file| bind::unix(&of, &state, file));
        let listening = on_disk(end, "the state directory", listen).await?;
        let Some([tunnel_socket, admin_socket, takeover_socket]) = listening else { return Ok(None) };
        let mut socket_files = Vec::new();
        let mut unix = |socket: std::io::Result<(SocketFile, UnixListener)>, lacking: &str| match socket {
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
        let takeover_socket =
            unix(takeover_socket, "No socket in the state directory for a process that takes over.");
        let sockets = http.iter().chain(&tcp).chain([admin]);
        let unix = [&tunnel_socket, &admin_socket, &takeover_socket].into_iter().flatten();
        let kept = tunnel::Spare::of(&ports).and_then(|port| Kept::of(sockets, unix, port));
        let kept = kept.map_err(StartError::Thread)?;
        Ok(Some(Self {
            http,
            ports,
            tcp,
            tunnel_socket,
            admin_socket,
            takeover_socket,
            socket_files,
            given: given.clone(),
            kept,
            shares_port,
        }))
    }
}

impl Made {
    /// What is declared, applied and registered as of now, and what the planes share. None: told to end.
    async fn make(
        joined: Joined,
        workers: NonZeroU8,
        given: Arc<Given>,
        end: &mut EndSignals,
    ) -> Result<Option<(Joined, Self)>, StartError> {
        let Joined { gateway, files, registry, saved, .. } = &joined;
        let clock = Clock::start();
        let applied = sync::first_applied(registry, gateway, &saved.applied).await;
        let (links, of) = (linked(gateway, files, &applied), gateway.clone());
        let read = move || believe(&of, &links, &Trust::default());
        let Some(believed) = on_disk(end, "the trust bundles", read).await? else { return Ok(None) };
        believed.say_warnings(gateway);
        let mut book = registrations::remembered(&saved.registered);
        registrations::first(registry, &mut book, clock.unix_ms()).await;
        let registered = book.take_changes().into_iter().collect();
        let sources = Sources { files: files.clone(), applied: applied.clone(), registered };
        let (cluster, untrusted) = (gateway.cluster.clone(), believed.conditions(gateway));
        let knowledge = Knowledge::new(cluster, &gateway.region, sources, untrusted, saved.clone(), clock);
        let knowledge = Arc::new(knowledge);
        let shared = Arc::new(shared(&joined, (workers, given), &knowledge, &believed, clock));
        let (control, incoming) = control(gateway, &shared.stop);
        let mut builder = ViewBuilder::new(gateway.cluster.clone(), gateway.region.clone());
        shared.view.store(Arc::new(sync::build(&mut builder, &knowledge, &shared, &View::default())));
        let applied = watch::channel(applied);
        let made = Self { shared, knowledge, control, incoming, builder, believed, book, applied };
        Ok(Some((joined, made)))
    }
}

/// Stands for `us` until it is to resign; not while another process of this host has its place.
async fn stand(
    registry: Owned<AnyStore>,
    us: Candidate,
    stands: watch::Sender<Standing>,
    mut holder: Holder,
    resign: CancellationToken,
) {
    loop {
        let mut is_lent = false;
        let ends = async {
            tokio::select! {
                () = resign.cancelled() => {}
                () = holder.asked() => is_lent = true,
            }
        };
        election::stand(registry.clone(), us.clone(), &stands, ends).await;
        if !is_lent {
            return;
        }
        tokio::select! {
            () = resign.cancelled() => return,
            () = holder.let_go() => {}
        }
    }
}

/// What all workers share.
fn shared(
    joined: &Joined,
    workers: (NonZeroU8, Arc<Given>),
    knowledge: &Knowledge,
    believed: &Believed,
    clock: Clock,
) -> Shared {
    let gateway = &joined.gateway;
    let stop = CancellationToken::new();
    let links = knowledge.catalog().declared.links;
    let peers = Arc::new(Peers::new(&gateway.cluster, &gateway.id, &links, stop.clone()));
    let local = Local {
        hello: joined.hello(),
        credentials: joined.credentials.clone(),
        trust: believed.trust.clone(),
    };
    let name = format!("{}.gateway", gateway.cluster);
    let shared = Shared::new(name, &gateway.domain, (peers, stop), local, workers, clock);
    Shared { http: gateway.http.clone(), ..shared }
}

/// How the data plane reaches the control plane, until `stop`, and its far end.
fn control(gateway: &Gateway, stop: &CancellationToken) -> (Arc<Control>, Incoming) {
    let (syncs, incoming_syncs) = mpsc::channel(SYNCS_QUEUE);
    let (lookups, incoming_lookups) = mpsc::channel(LOOKUPS_QUEUE);
    let (registrars, incoming_registrars) = mpsc::channel(REGISTRARS_QUEUE);
    let (objects, incoming_objects) = mpsc::channel(OBJECTS_QUEUE);
    let sidecars = Sidecars::new(gateway.cluster.clone(), stop.clone());
    let handshakes = Handshakes::default();
    let control = Control { syncs, lookups, registrars, objects, sidecars, handshakes };
    let incoming = Incoming {
        syncs: incoming_syncs,
        lookups: incoming_lookups,
        registrars: incoming_registrars,
        objects: incoming_objects,
    };
    (Arc::new(control), incoming)
}
