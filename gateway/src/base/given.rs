//! Sockets that this process has not bound itself: systemd has, or the process that it takes over from. Each is known by
//! its address.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use listenfd::ListenFd;
use socket2::{Domain, SockRef, Socket, Type};

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Given {
    sockets: Mutex<Vec<Passed>>,
}

/// One of them.
#[derive(Debug)]
struct Passed {
    socket: Socket,
    /// Of a Unix socket its file, however whoever has bound it spells its path.
    file: Option<PathBuf>,
}

impl Given {
    /// Those that systemd passes to this process (`LISTEN_FDS`, sd_listen_fds(3)). Call it before there are threads: it takes
    /// what says so out of the environment.
    pub fn by_systemd() -> Self {
        let mut passed = ListenFd::from_env();
        let sockets = (0..passed.len()).filter_map(|n| {
            let tcp = passed.take_tcp_listener(n).ok().flatten().map(Socket::from);
            let udp = || passed.take_udp_socket(n).ok().flatten().map(Socket::from);
            tcp.or_else(udp).or_else(|| passed.take_unix_listener(n).ok().flatten().map(Socket::from))
        });
        let sockets = sockets.map(|socket| Passed { file: file_of(socket.as_fd()), socket });
        Self { sockets: Mutex::new(sockets.collect()) }
    }

    /// Adds one; of a Unix socket its [file](file_of).
    pub fn add(&self, socket: OwnedFd, file: Option<PathBuf>) {
        self.lock().push(Passed { socket: socket.into(), file });
    }

    /// A TCP listener on `address` for each of the `workers`; none: nobody has given one.
    ///
    /// # Errors
    /// There are more of them than workers, so that some would not be served.
    pub fn tcp(&self, address: SocketAddr, workers: NonZeroU8) -> io::Result<Option<Vec<TcpListener>>> {
        self.shares(|passed| is_at(&passed.socket, Type::STREAM, address), workers)
    }

    /// A UDP socket on `address` for each of the `workers`; none: nobody has given one.
    ///
    /// # Errors
    /// As [`Self::tcp`].
    pub fn udp(&self, address: SocketAddr, workers: NonZeroU8) -> io::Result<Option<Vec<UdpSocket>>> {
        self.shares(|passed| is_at(&passed.socket, Type::DGRAM, address), workers)
    }

    /// The Unix socket that listens at `path`; none: nobody has given it.
    ///
    /// # Errors
    /// What the system says.
    pub fn unix(&self, path: &Path) -> io::Result<Option<UnixListener>> {
        let wanted = resolved(path);
        let is_there = |passed: &Passed| passed.file.as_ref() == Some(&wanted);
        Ok(self.shares(is_there, NonZeroU8::MIN)?.and_then(|mut shares| shares.pop()))
    }

    /// Lets go of what nobody has taken; gives what that is, and its file if it has one.
    pub fn leave(&self) -> Vec<(String, Option<PathBuf>)> {
        let left = std::mem::take(&mut *self.lock());
        let mut left: Vec<_> = left.into_iter().map(|left| (shown(&left.socket), left.file)).collect();
        // Of one address there may be one for each worker.
        left.dedup();
        left
    }

    fn shares<S: From<Socket>>(
        &self,
        is_one: impl Fn(&Passed) -> bool,
        workers: NonZeroU8,
    ) -> io::Result<Option<Vec<S>>> {
        let taken: Vec<Socket> =
            self.lock().extract_if(.., |passed| is_one(passed)).map(|passed| passed.socket).collect();
        let Some(first) = taken.first() else { return Ok(None) };
        let workers = usize::from(workers.get());
        if taken.len() > workers {
            let text = format!("{} sockets on {} are given to {workers} workers", taken.len(), shown(first));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // Where there are fewer, several workers take what comes to one.
        let again: io::Result<Vec<_>> =
            (taken.len()..workers).map(|n| taken[n % taken.len()].try_clone()).collect();
        let shares: Vec<_> = taken.into_iter().chain(again?).collect();
        for share in &shares {
            share.set_nonblocking(true)?;
        }
        Ok(Some(shares.into_iter().map(S::from).collect()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Passed>> {
        // Whoever panicked left a list that is whole.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file of a Unix socket that is bound; none: it is another socket. Blocks on the disk.
pub fn file_of(socket: BorrowedFd<'_>) -> Option<PathBuf> {
    Some(resolved(SockRef::from(&socket).local_addr().ok()?.as_pathname()?))
}

/// A path as everybody writes it, from whatever folder and by whatever links its own is reached.
fn resolved(path: &Path) -> PathBuf {
    let folder =
        path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let folder = folder.and_then(|folder| folder.canonicalize().ok());
    match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn is_at(socket: &Socket, kind: Type, address: SocketAddr) -> bool {
    let at = socket.local_addr().ok().and_then(|at| at.as_socket());
    at == Some(address) && socket.r#type().is_ok_and(|found| found == kind)
}

fn shown(socket: &Socket) -> String {
    let Ok(address) = socket.local_addr() else { return "an unknown address".into() };
    match (address.as_socket(), address.as_pathname()) {
        (Some(ip), _) if socket.r#type().is_ok_and(|kind| kind == Type::DGRAM) => format!("{ip} (UDP)"),
        (Some(ip), _) => format!("{ip} (TCP)"),
        (None, Some(path)) => path.display().to_string(),
        (None, None) if address.domain() == Domain::UNIX => "a Unix socket without a name".into(),
        (None, None) => "an unknown address".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use super::*;
    use crate::base::bind;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn workers(count: u8) -> NonZeroU8 {
        NonZeroU8::new(count).unwrap()
    }

    #[test]
    fn a_socket_is_found_by_what_it_is_and_where_and_taken_once() {
        let given = Given::default();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let tcp = bind::tcp(ANY, false).unwrap();
        let address = tcp.local_addr().unwrap();
        given.add(tcp.into(), None);
        let unix = UnixListener::bind(&path).unwrap();
        let file = file_of(unix.as_fd());
        given.add(unix.into(), file);
        assert!(given.udp(address, workers(2)).unwrap().is_none());
        assert!(given.tcp(ANY, workers(2)).unwrap().is_none());
        let shares = given.tcp(address, workers(2)).unwrap().unwrap();
        assert_eq!(shares.len(), 2, "both take from one");
        assert!(shares.iter().all(|share| share.local_addr().unwrap() == address));
        assert!(given.tcp(address, workers(2)).unwrap().is_none());
        assert!(given.unix(&dir.path().join("b.sock")).unwrap().is_none());
        // However it is spelled.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(given.unix(&link.join("./a.sock")).unwrap().is_some());
        assert_eq!(given.leave(), []);
    }

    #[test]
    fn what_nobody_takes_is_named_and_what_nobody_would_serve_is_refused() {
        let given = Given::default();
        let shares = bind::udp_shares(&Given::default(), ANY, workers(2)).unwrap();
        let address = shares[0].local_addr().unwrap();
        let again = shares[0].try_clone().unwrap();
        shares.into_iter().for_each(|share| given.add(share.into(), None));
        let refused = given.udp(address, workers(1)).unwrap_err();
        assert_eq!(refused.to_string(), format!("2 sockets on {address} (UDP) are given to 1 workers"));
        given.add(again.try_clone().unwrap().into(), None);
        given.add(again.into(), None);
        assert_eq!(given.leave(), [(format!("{address} (UDP)"), None)]);
    }
}
