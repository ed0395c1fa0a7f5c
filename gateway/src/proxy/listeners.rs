//! The listeners that are declared: they come and go while the process runs, and what they have accepted goes on.
//!
//! [`Listeners::set`] binds and lets go; it belongs to the control plane. Each worker runs [`run`], which takes its share of
//! every socket that is there.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use registry::model::{Condition, ListenAddress, ListenProtocol, Listener, ObjectName, Reason};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::base::bind::{self, SocketFile};
use crate::base::given::Given;
use crate::proxy::datagrams;
use crate::proxy::listener::{self, Front, Socket};
use crate::telemetry::audit;

/// Sockets that are bound for one process; a listener that is too many is told so.
const LISTENERS_MAX: usize = 1_024;

/// Those of one process.
#[derive(Debug)]
pub struct Listeners {
    workers: NonZeroU8,
    open: watch::Sender<BTreeMap<ObjectName, Arc<Open>>>,
    /// Sockets that need not be bound.
    given: Arc<Given>,
    conditions: ArcSwap<Vec<Condition>>,
}

/// One that is bound.
#[derive(Debug)]
pub struct Open {
    /// What it is declared to be, as of now.
    pub declared: ArcSwap<Listener>,
    /// A socket for each worker, until that takes it.
    shares: Mutex<Vec<Option<Share>>>,
    /// The same sockets for the process that takes over; none left once this one drains.
    kept: Mutex<Vec<Share>>,
    /// The file of a Unix socket, which goes with it.
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Share {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
    Udp(std::net::UdpSocket),
}

impl Share {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
        })
    }
}

impl From<Share> for OwnedFd {
    fn from(share: Share) -> Self {
        match share {
            Share::Tcp(socket) => socket.into(),
            Share::Unix(socket) => socket.into(),
            Share::Udp(socket) => socket.into(),
        }
    }
}

impl Listeners {
    /// None yet, of a process with so many workers, which sockets are `given` to.
    pub fn new(workers: NonZeroU8, given: Arc<Given>) -> Self {
        Self { workers, open: watch::Sender::default(), given, conditions: ArcSwap::default() }
    }

    /// From now on these are listened to. One whose address stays keeps its socket. What cannot be bound is said in the log
    /// and as a condition, and tried again with the next call. Blocks on the file system for Unix sockets.
    pub fn set(&self, wanted: &[Arc<Listener>]) {
        let before = self.open.borrow().clone();
        let mut open = BTreeMap::new();
        let mut missing = Vec::new();
        for listener in wanted {
            let name = listener.object();
            match before.get(&name).filter(|known| known.fits(listener)) {
                Some(known) => {
                    known.declared.store(listener.clone());
                    open.insert(name, known.clone());
                }
                None => missing.push(listener),
            }
        }
        // Before others are bound: one may take the address of another.
        self.open.send_replace(open.clone());
        let mut gone = Vec::new();
        for (name, left) in before.into_iter().filter(|(name, _)| !open.contains_key(name)) {
            // What it has accepted goes on, and nobody is to wait for more.
            left.kept().clear();
            gone.push(name);
        }
        let mut conditions = Vec::new();
        for listener in missing {
            let name = listener.object();
            let bound = match open.len() < LISTENERS_MAX {
                true => Open::bind(listener, self.workers, &self.given),
                false => {
                    Err(io::Error::other(format!("{LISTENERS_MAX} listeners are open, and no more may be")))
                }
            };
            match bound {
                Ok(bound) => drop(open.insert(name, Arc::new(bound))),
                Err(error) => {
                    let message = format!("spec.address: cannot listen on {}: {error}", listener.address);
                    conditions.push(Condition::new(name, Reason::NotBound, message));
                }
            }
        }
        for name in gone.iter().filter(|name| !open.contains_key(name)) {
            audit::change("closed", name, "it is no longer declared", "connections from now on");
        }
        let known = self.conditions.load();
        for condition in conditions.iter().filter(|condition| !known.contains(condition)) {
            error!(object = %condition.object, error = condition.message, "Listener not open.");
        }
        self.open.send_replace(open);
        self.conditions.store(Arc::new(conditions));
    }

    /// The sockets of all, for the process that takes over.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let open = self.open.borrow().clone();
        let mut sockets = Vec::new();
        for open in open.values() {
            for share in open.kept().iter() {
                sockets.push(share.try_clone()?.into());
            }
        }
        Ok(sockets)
    }

    /// Keeps none of the sockets beyond what the workers have: whoever connects to a process that drains is refused.
    pub fn let_go(&self) {
        self.open.borrow().values().for_each(|open| open.kept().clear());
    }

    /// Leaves the files of Unix sockets to the process that has taken over.
    pub fn leave_files(&self) {
        self.open.borrow().values().filter_map(|open| open.file.as_ref()).for_each(SocketFile::leave);
    }

    /// Takes those of sockets that were given: this process has taken over.
    pub fn own_files(&self) {
        self.open.borrow().values().filter_map(|open| open.file.as_ref()).for_each(SocketFile::own);
    }

    /// Whether something is to be tried again.
    pub fn lacks_some(&self) -> bool {
        !self.conditions.load().is_empty()
    }

    /// What is not open, and why.
    pub fn conditions(&self) -> Arc<Vec<Condition>> {
        self.conditions.load_full()
    }
}

impl Open {
    /// Whether its socket is what `listener` needs.
    fn fits(&self, listener: &Listener) -> bool {
        let declared = self.declared.load();
        let udp = |listener: &Listener| listener.protocol == ListenProtocol::Udp;
        declared.address == listener.address && udp(&declared) == udp(listener)
    }

    fn bind(listener: &Arc<Listener>, workers: NonZeroU8, given: &Given) -> io::Result<Self> {
        let (shares, file): (Vec<Share>, _) = match &listener.address {
            ListenAddress::Ip(address) if listener.protocol == ListenProtocol::Udp => {
                let shares = bind::udp_shares(given, *address, workers)?;
                (shares.into_iter().map(Share::Udp).collect(), None)
            }
            ListenAddress::Ip(address) => {
                let shares = bind::tcp_shares(given, *address, workers)?;
                (shares.into_iter().map(Share::Tcp).collect(), None)
            }
            ListenAddress::Unix(path) => {
                let there = given.unix(path)?.map(|socket| (SocketFile::given(path.clone()), socket));
                let (file, socket) = there.map_or_else(|| unix(path), Ok)?;
                let shares: io::Result<Vec<_>> =
                    (0..workers.get()).map(|_| Ok(Share::Unix(socket.try_clone()?))).collect();
                (shares?, Some(file))
            }
        };
        // Of a Unix socket there is one.
        let kept = if file.is_some() { 1 } else { shares.len() };
        let kept = shares.iter().take(kept).map(Share::try_clone).collect::<io::Result<_>>()?;
        Ok(Self {
            declared: ArcSwap::new(listener.clone()),
            shares: Mutex::new(shares.into_iter().map(Some).collect()),
            kept: Mutex::new(kept),
            file,
        })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Share>> {
        // Whoever panicked left a list that is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of a worker; none: it has it already.
    fn take(&self, worker: u8) -> Option<Share> {
        // Whoever panicked left a list that is whole.
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.get_mut(usize::from(worker))?.take()
    }
}

/// Binds a Unix socket for our own user and group: a socket that is there and that nobody answers on is a dead process's.
fn unix(path: &Path) -> io::Result<(SocketFile, std::os::unix::net::UnixListener)> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket has this name",
            ));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = bind::unix(path)?;
    let file = SocketFile::at(path.to_owned());
    // Before anyone can connect.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok((file, bind::listen(socket)?))
}

/// Serves this worker's share of every listener until the process drains and what was accepted has ended.
pub async fn run(front: impl Front) {
    let worker = front.worker().clone();
    let stop = worker.shared.stop.clone();
    let mut changes = worker.shared.listeners.open.subscribe();
    let mut running: BTreeMap<ObjectName, (Arc<Open>, CancellationToken)> = BTreeMap::new();
    let mut serving = JoinSet::new();
    while !stop.is_cancelled() {
        let open = changes.borrow_and_update().clone();
        running.retain(|name, (known, closed)| {
            let stays = open.get(name).is_some_and(|open| Arc::ptr_eq(open, known));
            if !stays {
                closed.cancel();
            }
            stays
        });
        for (name, open) in open {
            let Some(share) = open.take(worker.number) else { continue };
            let closed = CancellationToken::new();
            let (front, leads, token) = (front.clone(), open.clone(), closed.clone());
            let started = match share {
                Share::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(|socket| {
                    let serve = listener::serve(front, Socket::Tcp(socket), Some(leads), token);
                    serving.spawn_local(serve);
                }),
                Share::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(|socket| {
                    let serve = listener::serve(front, Socket::Unix(socket), Some(leads), token);
                    serving.spawn_local(serve);
                }),
                // Not waited for: a flow has no end, and whoever sends to the next process finds it there.
                Share::Udp(socket) => datagrams::Listening::new(socket).map(|socket| {
                    tokio::task::spawn_local(datagrams::serve(front, socket, leads, token));
                }),
            };
            match started {
                Ok(()) => drop(running.insert(name, (open, closed))),
                Err(error) => error!(object = %name, %error, "Listener not served by a worker."),
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            // `shared` holds the sender.
            _ = changes.changed() => {}
            Some(_) = serving.join_next() => {}
        }
    }
    while serving.join_next().await.is_some() {}
}
