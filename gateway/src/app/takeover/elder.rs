//! The process that is taken over.

use std::io;
use std::net::TcpListener;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use registry::base::lent::Lender;
use registry::model::Gateway;
use registry::store::{AnyStore, StoreError};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::signal::unix;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};
use tunnel::Spare;

use super::wire::{Line, Word};
use super::{TakeOverError, VERSION};
use crate::base::accept::{ACCEPT_PAUSE, is_own_user};
use crate::base::given::file_of;
use crate::proxy::dataplane::Control;
use crate::proxy::worker::Shared;
use crate::telemetry::audit;
use crate::telemetry::limited::limited;

/// An heir says its next word within that.
const WORD_WAIT: Duration = Duration::from_secs(10);
/// What is lent is free within that, unless a disk hangs.
const LEND_WAIT: Duration = Duration::from_secs(25);
/// It has opened what it was lent, and read it, within that.
const START_WAIT: Duration = Duration::from_secs(60);
/// Its tunnels are up and its endpoints checked within that, or it goes without.
const READY_WAIT: Duration = Duration::from_secs(25);
/// How often the registry's file is tried again that an heir still has.
const TAKE_AGAIN: Duration = Duration::from_millis(100);
/// Attempts of that between two lines of the log.
const SAY_AGAIN: u32 = 50;

/// The sockets of its own ports, those of its tunnels apart, which it hands over; dropped as it drains.
#[derive(Debug)]
pub(in crate::app) struct Kept {
    sockets: Vec<OwnedFd>,
    port: Arc<Spare>,
}

impl Kept {
    /// Those of TCP, of Unix sockets, and of the tunnels' `port`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(in crate::app) fn of<'a>(
        tcp: impl Iterator<Item = &'a TcpListener>,
        unix: impl Iterator<Item = &'a StdUnixListener>,
        port: Spare,
    ) -> io::Result<Self> {
        let tcp = tcp.map(|socket| socket.as_fd().try_clone_to_owned());
        let unix = unix.map(|socket| socket.as_fd().try_clone_to_owned());
        let sockets = tcp.chain(unix).collect::<io::Result<_>>()?;
        Ok(Self { sockets, port: Arc::new(port) })
    }

    /// The port of the tunnels.
    pub(in crate::app) fn port(&self) -> &Spare {
        &self.port
    }
}

/// What it hands over.
#[derive(Debug)]
pub(in crate::app) struct Elder {
    pub(in crate::app) gateway: Arc<Gateway>,
    pub(in crate::app) boot: u64,
    pub(in crate::app) workers: NonZeroU8,
    pub(in crate::app) shared: Arc<Shared>,
    pub(in crate::app) control: Arc<Control>,
    pub(in crate::app) kept: Kept,
    /// The office of this gateway, and its state directory.
    pub(in crate::app) lenders: [Lender; 2],
    pub(in crate::app) store: AnyStore,
    /// Whether a process still drains that this one has taken over from.
    pub(in crate::app) has_elder: watch::Receiver<bool>,
}

/// Another process has taken over; kept until this one ends, which that hears by it.
#[derive(Debug)]
pub(in crate::app) struct Handed {
    _heir: Line,
}

impl Elder {
    /// Serves `listener` until a process has taken over.
    pub(in crate::app) async fn serve(mut self, listener: UnixListener, handed: oneshot::Sender<Handed>) {
        loop {
            let heir = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "Cannot accept a process that is to take over.");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Err(user) = is_own_user(&heir) {
                limited!(
                    WARN,
                    STRANGERS,
                    user,
                    "Refused a process that is to take over: it is another user's.",
                    user
                );
                continue;
            }
            match self.converse(Line::new(heir)).await {
                Ok(line) => {
                    // Dropped only if this process ends anyway.
                    let _ = handed.send(Handed { _heir: line });
                    return;
                }
                Err(failed) => {
                    let cause = std::error::Error::source(&failed).map(ToString::to_string);
                    error!(error = %failed, cause, "Not taken over; this process goes on.");
                }
            }
        }
    }

    /// Hands over; gives the line, which is to stay open.
    async fn converse(&mut self, mut line: Line) -> Result<Line, TakeOverError> {
        self.agree(&mut line).await?;
        self.offer(&mut line).await.inspect_err(|failed| fence(&line, failed))?;
        if let Err(failed) = self.hand_over(&mut line).await {
            fence(&line, &failed);
            // It hears that nothing comes of it, and lets go of what it was lent.
            drop(line);
            self.take_back().await;
            return Err(failed);
        }
        Ok(line)
    }

    /// Judges who asks.
    async fn agree(&self, line: &mut Line) -> Result<(), TakeOverError> {
        let (Word::Ask { version, cluster, gateway }, None) = line.hear(WORD_WAIT).await? else {
            return Err(TakeOverError::Unexpected);
        };
        let ours = &self.gateway;
        let why = if version != VERSION {
            Some(format!("it speaks version {VERSION} of the handover, not {version}; restart it instead"))
        } else if (cluster.as_str(), gateway.as_str()) != (ours.cluster.as_str(), ours.id.as_str()) {
            Some(format!("it is gateway `{}` of cluster `{}`", ours.id, ours.cluster))
        } else {
            None
        };
        if let Some(why) = why {
            line.say(&Word::Refused { why: why.clone() }).await?;
            return Err(TakeOverError::Refused(why));
        }
        let mut has_elder = self.has_elder.clone();
        if *has_elder.borrow() {
            line.say(&Word::Wait).await?;
            // It ends with its grace; whoever waits for it may be gone by then.
            tokio::select! {
                _ = has_elder.wait_for(|has| !has) => {}
                () = line.ended() => return Err(TakeOverError::Left),
            }
        }
        Ok(())
    }

    /// Hands out all sockets; returns once the heir wants to be lent the rest.
    async fn offer(&self, line: &mut Line) -> Result<(), TakeOverError> {
        line.say(&Word::Offer { boot: self.boot, workers: self.workers, process: process::id() }).await?;
        let listeners = self.shared.listeners.sockets()?;
        let udp = self.kept.port.sockets().iter().map(AsFd::as_fd);
        for socket in self.kept.sockets.iter().chain(&listeners).map(AsFd::as_fd).chain(udp) {
            line.say_with(&Word::Socket { file: file_of(socket) }, socket).await?;
        }
        line.say(&Word::All).await?;
        match line.hear(WORD_WAIT).await? {
            (Word::Lend, None) => Ok(()),
            _ => Err(TakeOverError::Unexpected),
        }
    }

    /// From when something is lent to when it is the heir's.
    async fn hand_over(&mut self, line: &mut Line) -> Result<(), TakeOverError> {
        self.shared.accepts_changes.send_replace(false);
        let lending = async {
            for lender in &mut self.lenders {
                lender.lend().await;
            }
            self.store.lend().await.map_err(io::Error::other)
        };
        timeout(LEND_WAIT, lending).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        line.say(&Word::Lent).await?;
        let (Word::Switch { reads }, None) = line.hear(START_WAIT).await? else {
            return Err(TakeOverError::Unexpected);
        };
        // Whatever ends this before it is theirs.
        let reading = Reading(self.kept.port.clone());
        if reads {
            let (ours, theirs) = UnixStream::pair()?;
            self.kept.port.let_go();
            let port = self.kept.port.clone();
            // Ends with the heir, or this process.
            tokio::spawn(async move {
                if let Err(error) = port.receive(ours).await {
                    error!(%error, "The process that took over carries no datagrams to this one any more.");
                }
            });
            line.say_with(&Word::Switched, theirs.as_fd()).await?;
        } else {
            line.say(&Word::Switched).await?;
        }
        let (Word::Up, None) = line.hear(READY_WAIT).await? else { return Err(TakeOverError::Unexpected) };
        // Who dials reaches the heir from now on.
        self.shared.accepts_tunnels.send_replace(false);
        self.shared.peers.dial(false);
        self.shared.peers.retire_dialled();
        self.control.sidecars.retire();
        line.say(&Word::Moved).await?;
        match line.hear(READY_WAIT).await? {
            (Word::Ready, None) => line.say(&Word::Yours).await?,
            _ => return Err(TakeOverError::Unexpected),
        }
        std::mem::forget(reading);
        let what = format_args!("gateway {} of {}", self.gateway.id, self.gateway.cluster);
        audit::change("handed over", what, "another process takes over", "callers and peers from now on");
        Ok(())
    }

    /// Nobody has taken over: all is as before.
    async fn take_back(&mut self) {
        self.shared.accepts_tunnels.send_replace(true);
        self.shared.peers.dial(true);
        self.lenders.iter().for_each(Lender::take_back);
        for tried in 1_u32.. {
            match self.store.take_back().await {
                Ok(()) | Err(StoreError::Closed) => break,
                // Whoever had it may still be ending.
                Err(error) if tried.is_multiple_of(SAY_AGAIN) => {
                    error!(%error, "The registry's file cannot be taken back; retrying.");
                }
                Err(_) => {}
            }
            sleep(TAKE_AGAIN).await;
        }
        self.shared.accepts_changes.send_replace(true);
    }
}

/// One that has been handed sockets and has said nothing for too long may still read them, and hold what it was lent: it
/// ends.
fn fence(line: &Line, failed: &TakeOverError) {
    let TakeOverError::Silent(_) = failed else { return };
    let Some(process) = line.process() else {
        return warn!(
            "The process that was to take over says nothing, and cannot be killed from here; end it."
        );
    };
    warn!(process, "The process that was to take over says nothing; killing it.");
    // It may have ended by now.
    let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
}

/// The port of the tunnels, which is read again when this is dropped.
struct Reading(Arc<Spare>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// How a running process comes to be taken over.
#[derive(Debug)]
pub(in crate::app) struct Succession {
    /// What this process was started as.
    program: io::Result<PathBuf>,
    /// Start another one that takes over.
    told: unix::Signal,
    /// None: nobody listens for one.
    handed: Option<oneshot::Receiver<Handed>>,
    heir: Option<Child>,
}

/// What this process was started as. Call it before the program's file is replaced.
///
/// # Errors
/// What the system says.
pub(in crate::app) fn program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

impl Succession {
    /// Of this process, which was started as `program`, and starts an heir whenever it is `told` to.
    pub(in crate::app) fn new(
        program: io::Result<PathBuf>,
        told: unix::Signal,
        handed: oneshot::Receiver<Handed>,
    ) -> Self {
        Self { program, told, handed: Some(handed), heir: None }
    }

    /// Waits until another process has taken over. Cancel safe.
    pub(in crate::app) async fn taken_over(&mut self) -> Handed {
        loop {
            tokio::select! {
                handed = handed(&mut self.handed) => return handed,
                Some(()) = self.told.recv() => self.start_heir(),
                ended = wait(&mut self.heir) => {
                    warn!(%ended, "The process that was to take over has ended; its log says why.");
                    self.heir = None;
                }
            }
        }
    }

    fn start_heir(&mut self) {
        if self.heir.is_some() {
            warn!("A process is taking over already.");
            return;
        }
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => {
                return error!(%error, "This program's file is not known; start the next with --take-over.");
            }
        };
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument == "--take-over") {
            arguments.push("--take-over".into());
        }
        // It outlives this process.
        match Command::new(program).args(arguments).spawn() {
            Ok(heir) => {
                info!(process = heir.id(), "Started a process that is to take over.");
                self.heir = Some(heir);
            }
            Err(error) => {
                error!(program = %program.display(), %error, "Cannot start a process that takes over.")
            }
        }
    }
}

/// Waits until another process has taken over, if anybody listens for one.
async fn handed(handed: &mut Option<oneshot::Receiver<Handed>>) -> Handed {
    if let Some(waiting) = handed {
        match waiting.await {
            Ok(handed) => return handed,
            Err(_) => *handed = None,
        }
    }
    std::future::pending().await
}

/// How a child ends, if there is one.
async fn wait(child: &mut Option<Child>) -> String {
    match child {
        None => std::future::pending().await,
        Some(child) => match child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        },
    }
}
