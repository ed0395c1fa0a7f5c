//! Binds what a process listens on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU8;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::StartError;

/// Connections that wait in the kernel for each listener.
const BACKLOG: i32 = 4096;

/// A listener that a restarted process can take over at once.
///
/// # Errors
/// When the address is not to be had; `what` names it.
pub(super) fn tcp(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    listener(address, false).map_err(|source| StartError::Bind { what, address, source })
}

/// One listener on `address` for each worker; the kernel spreads connections over them.
///
/// # Errors
/// As [`tcp`].
pub(super) fn tcp_shares(
    what: &'static str,
    address: SocketAddr,
    workers: NonZeroU8,
) -> Result<Vec<TcpListener>, StartError> {
    // Alone at first: sharing would hide that another process has the port.
    let alone = tcp(what, address)?;
    if workers == NonZeroU8::MIN {
        return Ok(vec![alone]);
    }
    let bound = || {
        let address = alone.local_addr()?;
        drop(alone);
        (0..workers.get()).map(|_| listener(address, true)).collect::<io::Result<Vec<_>>>()
    };
    bound().map_err(|source| StartError::Bind { what, address, source })
}

/// The file of the Unix socket for tunnels from this host, in the state directory.
pub(super) const TUNNEL_SOCKET: &str = "tunnel.sock";

/// The file of a Unix socket, for our own user alone; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
}

impl SocketFile {
    /// Listens in `state_dir`, which belongs to one process at a time: a file that is there is a dead one's. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When the file cannot be made, or others could replace it; a path of more than 107 bytes is no address.
    pub(super) fn listen(state_dir: &Path, file: &str) -> io::Result<(Self, UnixListener)> {
        let path = state_dir.join(file);
        // Nobody puts anything else in its place then, between two of the steps below or later.
        files::check_private(state_dir).map_err(io::Error::other)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(&path)?)?;
        let file = Self { path };
        // Before anyone can connect.
        std::fs::set_permissions(&file.path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok((file, socket.into()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What is left of it is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listener(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn every_worker_gets_connections() {
        let shares = tcp_shares("http", ANY, NonZeroU8::new(2).unwrap()).unwrap();
        let address = shares[0].local_addr().unwrap();
        let callers: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let taken = shares.iter().map(|l| std::iter::from_fn(|| l.accept().ok()).count());
        let taken: Vec<usize> = taken.collect();
        assert_eq!(taken.iter().sum::<usize>(), callers.len());
        assert!(taken.iter().all(|n| *n > 8), "{taken:?}");
    }

    #[test]
    fn the_socket_is_ours_alone_replaces_a_stale_file_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TUNNEL_SOCKET);
        std::fs::write(&path, "stale").unwrap();
        let (file, _listener) = SocketFile::listen(dir.path(), TUNNEL_SOCKET).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_replaces_a_planted_link_and_stands_nowhere_where_others_can_write() {
        let dir = tempfile::tempdir().unwrap();
        let (state, precious) = (dir.path().join("state"), dir.path().join("precious"));
        std::fs::create_dir(&state).unwrap();
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, state.join(TUNNEL_SOCKET)).unwrap();
        let before = std::fs::metadata(&precious).unwrap().permissions().mode();
        let listening = SocketFile::listen(&state, TUNNEL_SOCKET).unwrap();
        assert_eq!(std::fs::metadata(&precious).unwrap().permissions().mode(), before);
        drop(listening);
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = SocketFile::listen(&state, TUNNEL_SOCKET).unwrap_err();
        assert!(refused.to_string().contains("chmod go-w"), "{refused}");
    }

    #[test]
    fn a_port_that_another_has_is_not_shared_with_it() {
        let theirs = tcp_shares("http", ANY, NonZeroU8::new(2).unwrap()).unwrap();
        let address = theirs[0].local_addr().unwrap();
        let error = tcp_shares("http", address, NonZeroU8::new(2).unwrap()).unwrap_err();
        assert!(error.to_string().contains("spec.listen.http"), "{error}");
    }
}
