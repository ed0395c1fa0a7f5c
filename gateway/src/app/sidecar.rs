//! One sidecar process: reads its files, makes everything, and drains on SIGTERM. One thread does all of it.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use identity::{Credentials, Role, Trust};
use registry::manifest;
use registry::model::{ClusterName, Condition, Link, Listener, Sidecar, Subject};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tunnel::{DirectEndpoint, HelloInfo, Local};

use super::files::Look;
use super::load::{Certificate, Refused, certificate};
use super::open::on_disk;
use super::pace::{Outcome, Why};
use super::reload::judge_tunnels;
use super::report::Report;
use super::tasks::Tasks;
use super::watcher::{Told, Watcher};
use super::{EndSignals, LoadError, Signals, StartError, bind, cut, systemd};
use crate::base::clock::Clock;
use crate::base::given::Given;
use crate::peers::Peers;
use crate::proxy::dataplane;
use crate::proxy::worker::{Shared, Worker};
use crate::sidecar::registrar::Ending;
use crate::sidecar::{self, Names, Proxy, admin};
use crate::telemetry::audit;
use crate::telemetry::limited;
use crate::telemetry::metrics;
use crate::view::ViewBuilder;

/// How long the last bytes may take once everything is over.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// How long the endpoints that it registered may drain.
const REGISTERED_GRACE: Duration = Duration::from_secs(10);

/// What a sidecar reads from its files.
struct Loaded {
    sidecar: Sidecar,
    listeners: Vec<Arc<Listener>>,
    certificate: Certificate,
    trust: Arc<Trust>,
    /// How the files looked before they were read.
    look: Look,
}

/// Runs a sidecar on the calling thread until SIGTERM or SIGINT has drained it.
///
/// # Errors
/// [`StartError`]: nothing is left running.
pub fn run(files: Vec<PathBuf>) -> Result<(), StartError> {
    let given = Arc::new(Given::by_systemd());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(StartError::Thread)?;
    metrics::count_as(0);
    let ended = runtime.block_on(start(files, given));
    // A thread that hangs on a disk is left behind.
    runtime.shutdown_background();
    ended
}

async fn start(files: Vec<PathBuf>, given: Arc<Given>) -> Result<(), StartError> {
    let Signals { mut end, hangup } = Signals::listen().map_err(StartError::Thread)?;
    let manifests = files.clone();
    let loaded = on_disk(&mut end, "the manifests and the identity", move || load(&manifests)).await?;
    let Some(loaded) = loaded else { return Ok(()) };
    let Loaded { sidecar, listeners, certificate, trust, look } = loaded?;
    let credentials = certificate.valid()?;
    let local = Local { hello: hello(&sidecar), credentials, trust };
    let proxy_listener = bind::tcp(&given, "proxy", sidecar.proxy)?;
    let proxy_listener = tokio::net::TcpListener::from_std(proxy_listener).map_err(StartError::Thread)?;
    let admin_listener = bind::tcp(&given, "admin", sidecar.admin)?;
    let endpoint = Rc::new(DirectEndpoint::new(local.clone(), 0)?);

    let stop = CancellationToken::new();
    let links = own_cluster(&sidecar);
    let peers = Arc::new(Peers::new(&sidecar.cluster, &sidecar.id, &links, stop.clone()));
    let cluster = peers.get(&sidecar.cluster);
    let cluster = cluster.expect("`own_cluster` is the one link of a sidecar");
    let sidecar = Arc::new(sidecar);
    let name = format!("{}.{}.sidecar", sidecar.id, sidecar.cluster);
    let clock = Clock::start();
    let shared =
        Shared::new(name, &sidecar.domain, (peers, stop), local, (NonZeroU8::MIN, given.clone()), clock);
    let shared = Arc::new(Shared { http: sidecar.http.clone(), ..shared });
    let worker = Rc::new(Worker::new(shared.clone(), 0));

    shared.listeners.set(&listeners);
    // What is left of their files is whoever's who has bound them.
    let _ = bind::leave(&given);
    sidecar::hold(&sidecar, &shared, &cluster, &endpoint);
    let names = Rc::<Names>::default();
    let builder = ViewBuilder::new(sidecar.cluster.clone(), String::new());
    let mut tasks = Tasks::default();
    tasks.spawn_local("names", sidecar::follow(names.clone(), shared.clone(), cluster.clone(), builder));
    let proxy = Proxy { worker: worker.clone(), names, passthrough: sidecar.passthrough };
    let listening = spawn_local(dataplane::listen(Rc::new(proxy), proxy_listener));
    tasks.spawn_local("idle connections", dataplane::sweep(worker));
    tasks.spawn_local("suppressed lines", limited::count());
    // The admin port answers until the drain is over: that is when operators look.
    let drained = CancellationToken::new();
    let (show, conditions) = watch::channel(Vec::new());
    let admin = admin::Admin { sidecar: sidecar.clone(), shared: shared.clone(), conditions };
    let admin_ends = drained.clone();
    let administering = spawn_local(async move {
        if let Err(failed) = admin::serve(admin, admin_listener, admin_ends).await {
            error!(error = %failed, "The admin port failed.");
        }
    });
    let watched = Watcher::new(files.clone(), sidecar.identity_dir.clone(), look, hangup);
    tasks.spawn_local("reload", reload(watched, files, sidecar.clone(), shared.clone(), show));
    let ending = Ending { grace: REGISTERED_GRACE, ..Ending::default() };
    let registered = !sidecar.register.is_empty();
    let registering = sidecar::register(sidecar.clone(), cluster.clone(), ending.clone());
    let registering = registered.then(|| spawn_local(registering));
    tasks.spawn_local("identity", follow_local(shared.clone(), endpoint.clone()));
    let judging = judge_tunnels(shared.clone(), move |_, _| cluster.changed.notify_waiters());
    tasks.spawn_local("tunnels over time", judging);
    shared.open.cancel();
    systemd::ready();
    info!(
        cluster = %sidecar.cluster, sidecar = %sidecar.id, proxy = %sidecar.proxy, admin = %sidecar.admin, "Ready."
    );

    end.told().await;
    systemd::stopping();
    drain(&mut end, &shared, registering, &ending, listening).await;
    endpoint.close("the sidecar has drained");
    // A gateway that hears nothing of it sees the end of the connection.
    let _ = tokio::time::timeout(CLOSE_WAIT, endpoint.wait_idle()).await;
    drained.cancel();
    let _ = administering.await;
    info!("Stopped.");
    Ok(())
}

/// Deregisters, lets what is in flight end, and takes nothing new; told again to `end`, it waits no longer.
async fn drain(
    end: &mut EndSignals,
    shared: &Arc<Shared>,
    registering: Option<JoinHandle<()>>,
    ending: &Ending,
    listening: JoinHandle<()>,
) {
    info!(in_progress = shared.in_progress.count(), "Draining.");
    if let Some(mut registering) = registering {
        // Through the gateways that it will soon leave.
        ending.drain.cancel();
        tokio::select! {
            _ = &mut registering => {}
            () = end.told() => {
                ending.now.cancel();
                let _ = registering.await;
                cut(shared);
            }
        }
    }
    shared.stop.cancel();
    shared.leave.cancel();
    let mut finishing = pin!(dataplane::finish(shared, listening, std::future::ready(())));
    tokio::select! {
        () = &mut finishing => {}
        () = end.told() => {
            cut(shared);
            // What is cut says so.
            finishing.await;
        }
    }
}

/// The own cluster as if it were linked: its gateways are watched like those of a peer.
fn own_cluster(sidecar: &Sidecar) -> BTreeMap<ClusterName, Link> {
    let link = Link {
        cluster: sidecar.cluster.clone(),
        addresses: Vec::new(),
        trust_domain: sidecar.trust_domain.clone(),
        import: Vec::new(),
        expire_after: registry::model::EXPIRE_AFTER,
        congestion: registry::model::Congestion::default(),
        max_rate: None,
        allow_apply: Vec::new(),
    };
    [(sidecar.cluster.clone(), link)].into()
}

/// What a sidecar says of itself in HELLO: who it is stands in its certificate.
fn hello(sidecar: &Sidecar) -> HelloInfo {
    HelloInfo {
        cluster: sidecar.cluster.to_string(),
        region: String::new(),
        cluster_uid: [0; 16],
        gateway: sidecar.id.clone(),
        worker: 0,
        boot: fastrand::u64(..),
        takes_over_from: 0,
        addresses: Vec::new(),
    }
}

/// Reads the manifest from `files`, and certificate and bundle from where it says. Blocks on the disk.
fn load(files: &[PathBuf]) -> Result<Loaded, LoadError> {
    let look = Look::at_manifests(files);
    let manifests = manifest::load(files).map_err(LoadError::Manifests)?;
    let sidecar = manifests.require_sidecar().map_err(LoadError::Manifests)?.clone();
    let look = look.and_identity(&sidecar.identity_dir);
    let listeners = manifests.declared.listeners.values().cloned().collect();
    for warning in &manifests.warnings {
        warn!("{}", warning.in_one_line());
    }
    let certificate = certificate(&sidecar.identity_dir, |found| ours(&sidecar, found))?;
    let trust = trust(&sidecar.identity_dir, &sidecar)?;
    Ok(Loaded { sidecar, listeners, certificate, trust: Arc::new(trust), look })
}

/// Whether a certificate is that of a workload of the cluster of `sidecar`.
fn ours(sidecar: &Sidecar, credentials: &Credentials) -> Result<(), LoadError> {
    let found = credentials.identity();
    let ours = found.cluster == sidecar.cluster.as_str()
        && found.trust_domain == sidecar.trust_domain
        && matches!(found.role, Role::Workload { .. });
    if ours {
        return Ok(());
    }
    Err(LoadError::NoWorkload {
        found: found.to_string(),
        cluster: sidecar.cluster.to_string(),
        trust_domain: sidecar.trust_domain.clone(),
    })
}

/// Whom it believes: the gateways of its own cluster.
fn trust(dir: &Path, sidecar: &Sidecar) -> Result<Trust, LoadError> {
    let own = (sidecar.cluster.as_str(), sidecar.trust_domain.as_str());
    let (trust, problems) = Trust::load(dir, [own]);
    match problems.into_iter().next() {
        None => Ok(trust),
        Some((_, problem)) => Err(LoadError::OwnBundle(problem)),
    }
}

/// Takes a changed certificate or bundle, and changed listeners; everything else needs a restart. What cannot be used is refused whole, and
/// shown.
async fn reload(
    mut files: Watcher<Result<Loaded, LoadError>>,
    manifests: Vec<PathBuf>,
    sidecar: Arc<Sidecar>,
    shared: Arc<Shared>,
    show: watch::Sender<Vec<Condition>>,
) {
    let mut report = Report::new(Subject::Sidecar(sidecar.id.as_str().into()));
    let reader = || {
        let manifests = manifests.clone();
        move || load(&manifests)
    };
    loop {
        match files.next(reader).await {
            Told::Slow => report.slow(),
            Told::Answers => report.answers(),
            Told::Read(why, read) => {
                report.answers();
                let loaded = read.map_err(Refused::from).and_then(|loaded| Ok(loaded?));
                let fits = loaded.and_then(|loaded| match loaded.sidecar == *sidecar {
                    true => Ok(loaded),
                    false => Err(Refused::Restart("the Sidecar".into())),
                });
                files.came(
                    why,
                    match fits {
                        Ok(loaded) => take(loaded, &shared, &mut report, why),
                        Err(refused) => {
                            report.refused(&refused);
                            Outcome::Refused(None)
                        }
                    },
                );
            }
        }
        let mut conditions = report.conditions();
        conditions.extend(shared.listeners.conditions().iter().cloned());
        show.send_replace(conditions);
    }
}

/// Takes what was read for `why`; of a certificate whose time has not come, all but that.
fn take(loaded: Loaded, shared: &Shared, report: &mut Report, why: Why) -> Outcome {
    let old = shared.local.borrow().clone();
    let (credentials, outcome) = match loaded.certificate {
        Certificate::Valid(credentials) => {
            report.taken(None);
            (credentials, Outcome::Taken)
        }
        Certificate::NotBefore { at, why } => {
            report.taken(Some(&why));
            (old.credentials.clone(), Outcome::NotBefore(at))
        }
    };
    shared.listeners.set(&loaded.listeners);
    let certificate = old.credentials.chain() != credentials.chain();
    let bundle = loaded.trust.changed_since(&old.trust).next().is_some();
    if certificate || bundle {
        let what = match (certificate, bundle) {
            (true, true) => "certificate and bundle",
            (true, false) => "certificate",
            (false, _) => "bundle",
        };
        audit::change("taken from the files", what, why.said(), "tunnels from now on");
        shared.local.send_modify(|local| (local.credentials, local.trust) = (credentials, loaded.trust));
    } else if why == Why::Told {
        info!("Configuration reloaded: nothing changed.");
    }
    outcome
}

/// Makes new tunnels with the certificate and bundle of the moment.
async fn follow_local(shared: Arc<Shared>, endpoint: Rc<DirectEndpoint>) {
    let mut changes = shared.local.subscribe();
    // `shared` holds the sender.
    while changes.changed().await.is_ok() {
        let local = changes.borrow_and_update().clone();
        if let Err(failed) = endpoint.replace_local(local) {
            error!(error = %failed, "New certificate unusable; keeping the previous one.");
        }
    }
}
