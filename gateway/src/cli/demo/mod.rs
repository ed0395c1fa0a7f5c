//! `ringway demo`: three linked clusters on this machine, one of them killed, and every answer checked.
//!
//! The clusters are real: separate processes of this binary, with their own certificates and manifests. The demo only
//! starts and kills them, sends requests to one gateway, and reads what the gateways say of themselves.

pub(super) mod backend;
mod board;
mod cluster;
mod judge;
mod layout;
mod load;
mod plan;
mod table;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use super::output::Format;
use super::{Failure, block_on};
use board::Board;
use cluster::{Log, Processes};
use layout::Layout;
use plan::{Cluster, KEYS, Placement, Service};
use table::{Screen, Summary};

/// How often a condition is looked at while waiting for it.
const GLANCE: Duration = Duration::from_millis(5);

/// How often the table is drawn and the processes are looked after.
const ROUND: Duration = Duration::from_millis(200);

/// How long anything may take to come up or to be noticed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Link three clusters on this machine, kill one, and check every answer.
///
/// Starts three gateways and twelve small HTTP servers on free loopback ports, sends some 290 requests a second to
/// the gateway of `west`, stops the endpoints of `web` there, kills a whole peer cluster and brings it back. Needs no
/// root, no network and nothing installed; ends within a minute.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway demo
  ringway demo --keep                                leaves its folder, to look at
  ringway demo -o json

The result says how many requests failed, and how many keyed answers came from another cluster than the ring says;
the command worked only if both are 0. With -o json:
  {\"requests\":..,\"failed\":..,\"clusters\":3,\"detect_ms\":..,\"reroute_ms\":..,\"keys_checked\":..,\"keys_misplaced\":..}
  detect_ms    from SIGKILL until the slower of the two survivors declared the cluster down
  reroute_ms   from SIGKILL until a survivor first answered for one of its keys
Progress goes to standard output, with -o json to standard error.")]
pub(super) struct Args {
    /// Leave the folder with manifests, certificates and logs; after a failure it is always left.
    #[arg(long)]
    keep: bool,
}

/// Why the demo did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// The folder or a file in it cannot be written.
    #[error("cannot write the demo's folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too few free ports.
    #[error("21 free ports on 127.0.0.1 are needed and not to be found")]
    Ports,
    /// The certificates could not be made.
    #[error("no certificates could be made")]
    Pki(#[from] identity::pki::PkiError),
    /// The clusters make no ring.
    #[error("the demo's clusters make no ring")]
    Ring(#[from] hashring::RingError),
    /// A process could not be started.
    #[error("cannot start {name}")]
    Spawn {
        /// Which one.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended by itself.
    #[error("{name} ended by itself ({status}); {log}")]
    Exited {
        /// Which one.
        name: String,
        /// How.
        status: ExitStatus,
        /// Its last words.
        log: Log,
    },
    /// Something did not happen in time.
    #[error("waited {} s in vain until {what}{}", PATIENCE.as_secs(), logs.iter().map(|l| format!("\n{l}")).collect::<String>())]
    NotInTime {
        /// What was waited for.
        what: String,
        /// The gateways' last words.
        logs: Vec<Log>,
    },
    /// A signal that ends the demo cannot be listened for.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// An endpoint of the demo cannot serve.
    #[error("cannot serve on {listen}")]
    Backend {
        /// Its address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl DemoError {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Folder { .. } => Some("name a folder that can be written in TMPDIR".into()),
            Self::Exited { .. } | Self::NotInTime { .. } => {
                Some("the folder named above holds all logs, manifests and certificates".into())
            }
            _ => None,
        }
    }
}

/// Runs the demo: worked only if nothing was lost and nothing misplaced.
///
/// # Errors
/// When it does not run to its end.
pub(super) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    let board = Board::new(Placement::of_contract().map_err(DemoError::from)?, Instant::now());
    let layout = Rc::new(Layout::create(SystemTime::now(), &mut fastrand::Rng::new())?);
    let mut stage = Stage::new(layout.clone(), board, Screen::new(format));
    stage.screen.note(&format!("files in {}", layout.folder.display()));

    let played = block_on(LocalSet::new().run_until(async {
        let played = tokio::select! {
            played = stage.play() => played,
            end = interrupted() => end,
        };
        for processes in &mut stage.clusters {
            processes.kill().await;
        }
        played
    }))?;

    let board = stage.board.borrow();
    let worked = played.is_ok() && Summary::of(&board).is_clean();
    if args.keep || !(worked || matches!(played, Err(DemoError::Interrupted))) {
        stage.screen.note(&format!("left in {}: manifests, certificates, logs", layout.folder.display()));
    } else {
        layout.remove();
    }
    played?;
    Summary::of(&board).print(&board, format);
    Ok(if worked { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends when the demo shall end early.
async fn interrupted() -> Result<(), DemoError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DemoError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DemoError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Err(DemoError::Interrupted)
}

/// The running demo.
struct Stage {
    layout: Rc<Layout>,
    board: Rc<RefCell<Board>>,
    clusters: [Processes; Cluster::ALL.len()],
    screen: Screen,
    looked_after: Instant,
}

impl Stage {
    fn new(layout: Rc<Layout>, board: Board, screen: Screen) -> Self {
        let clusters = Cluster::ALL.map(|cluster| Processes::new(layout.clone(), cluster));
        Self { layout, board: Rc::new(RefCell::new(board)), clusters, screen, looked_after: Instant::now() }
    }

    /// The whole play, scene by scene.
    async fn play(&mut self) -> Result<(), DemoError> {
        let mut tasks = JoinSet::new();
        self.scene("three gateways and twelve endpoints start, and the gateways link");
        for cluster in Cluster::ALL {
            self.start(cluster).await?;
            tasks.spawn_local(load::watch(cluster, self.layout.clone(), self.board.clone()));
        }
        self.until("all gateways see each other and both services", Board::all_linked).await?;

        let stop = CancellationToken::new();
        let mut callers = JoinSet::new();
        for caller in 0..load::CALLERS {
            callers.spawn_local(load::call(caller, self.layout.clone(), self.board.clone(), stop.clone()));
        }
        self.scene("all linked: west answers for web itself, each cart key is answered by its owner");
        self.pause(Duration::from_secs(4)).await?;

        self.scene("the endpoints of web in west are killed: the peers answer for web");
        self.clusters[Cluster::West.index()].kill_endpoints(Service::Web).await;
        self.pause(Duration::from_secs(3)).await?;

        self.scene("the endpoints of web in west are back");
        self.clusters[Cluster::West.index()].start_endpoints(Service::Web)?;
        self.pause(Duration::from_secs(3)).await?;

        let victim = self.board.borrow().placement.victim();
        let (name, owned) = (victim.name(), self.board.borrow().placement.owned(victim));
        self.scene(&format!(
            "{name}, owner of {owned} of {KEYS} keys, is killed: the next in order answer for them"
        ));
        self.board.borrow_mut().killing(victim);
        self.clusters[victim.index()].kill().await;
        let noticed =
            |board: &Board| board.outage.as_ref().is_some_and(|outage| outage.detect_ms().is_some());
        self.until(&format!("both survivors show {name} down"), noticed).await?;
        self.until(&format!("keys of {name} are answered"), |board| board.verdict().reroute.is_some())
            .await?;
        self.pause(Duration::from_secs(4)).await?;

        self.scene(&format!("{name} is started again on the same ports: its keys come home"));
        self.restart(victim).await?;
        let back = |board: &Board| board.outage.as_ref().is_some_and(|outage| outage.shown_up.is_some());
        self.until(&format!("west shows {name} up"), back).await?;
        self.pause(Duration::from_secs(4)).await?;

        stop.cancel();
        while callers.join_next().await.is_some() {}
        self.screen.summarize_phase(&self.board.borrow());
        Ok(())
    }

    /// Starts a cluster: its endpoints, then its gateway.
    async fn start(&mut self, cluster: Cluster) -> Result<(), DemoError> {
        self.start_all_endpoints(cluster).await?;
        self.clusters[cluster.index()].start_gateway()
    }

    /// Starts the killed cluster again and notes the moment.
    async fn restart(&mut self, cluster: Cluster) -> Result<(), DemoError> {
        self.start_all_endpoints(cluster).await?;
        self.board.borrow_mut().starting();
        self.clusters[cluster.index()].start_gateway()
    }

    async fn start_all_endpoints(&mut self, cluster: Cluster) -> Result<(), DemoError> {
        let processes = &mut self.clusters[cluster.index()];
        for service in Service::ALL {
            processes.start_endpoints(service)?;
        }
        if tokio::time::timeout(PATIENCE, processes.endpoints_accept()).await.is_err() {
            processes.check()?;
            let what = format!("the endpoints of {} accept connections", cluster.name());
            return Err(DemoError::NotInTime { what, logs: Vec::new() });
        }
        Ok(())
    }

    /// Says what happens next.
    fn scene(&mut self, text: &str) {
        let board = self.board.borrow();
        if !board.exchanges.is_empty() {
            self.screen.summarize_phase(&board);
        }
        self.screen.note(&format!("{:6.1} s {text}", board.now().as_secs_f64()));
    }

    /// Lets time go by.
    async fn pause(&mut self, duration: Duration) -> Result<(), DemoError> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            tokio::time::sleep(GLANCE).await;
            self.look_after()?;
        }
        Ok(())
    }

    /// Waits for what the board shall show.
    async fn until(&mut self, what: &str, shown: impl Fn(&Board) -> bool) -> Result<(), DemoError> {
        let end = Instant::now() + PATIENCE;
        while !shown(&self.board.borrow()) {
            if Instant::now() > end {
                let logs = self.clusters.iter().map(Processes::gateway_log).collect();
                return Err(DemoError::NotInTime { what: what.into(), logs });
            }
            tokio::time::sleep(GLANCE).await;
            self.look_after()?;
        }
        Ok(())
    }

    /// Draws the table, and ends the demo if a process has ended by itself.
    fn look_after(&mut self) -> Result<(), DemoError> {
        if self.looked_after.elapsed() < ROUND {
            return Ok(());
        }
        self.looked_after = Instant::now();
        self.screen.draw(&self.board.borrow());
        self.clusters.iter_mut().try_for_each(Processes::check)
    }
}
