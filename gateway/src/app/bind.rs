//! Binds what a process listens on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU8;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::StartError;
use crate::base::bind::{self as base, SocketFile};
use crate::base::given::Given;

/// A listener that a restarted process can bind at once, or one that is `given`.
///
/// # Errors
/// When the address is not to be had; `what` names it.
pub(super) fn tcp(given: &Given, what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = given.tcp(address, NonZeroU8::MIN).map(|shares| shares.and_then(|mut shares| shares.pop()));
    let bound = bound.and_then(|bound| bound.map_or_else(|| base::tcp(address, false), Ok));
    bound.map_err(|source| StartError::Bind { what, address, source })
}

/// One listener on `address` for each worker, given or bound; the kernel spreads connections over them.
///
/// # Errors
/// As [`tcp`].
pub(super) fn tcp_shares(
    given: &Given,
    what: &'static str,
    address: SocketAddr,
    workers: NonZeroU8,
) -> Result<Vec<TcpListener>, StartError> {
    base::tcp_shares(given, address, workers).map_err(|source| StartError::Bind { what, address, source })
}

/// The file of the Unix socket for tunnels from this host, in the state directory.
pub(super) const TUNNEL_SOCKET: &str = "tunnel.sock";

/// Lets go of sockets that were given and that nothing is declared to listen on, and says so; gives their files.
pub(super) fn leave(given: &Given) -> Vec<PathBuf> {
    let unused = given.leave().into_iter().filter_map(|(address, file)| {
        warn!(
            %address,
            "A socket was passed to this process, and nothing is declared to listen there; this process closes it."
        );
        file
    });
    unused.collect()
}

/// Listens on the Unix socket `file` in `state_dir`, for our own user alone. The directory belongs to one process at a
/// time: a file that is there is a dead one's, or that of a socket that is `given`. Blocks on the disk.
///
/// # Errors
/// When the file cannot be made, or others could replace it; a path of more than 107 bytes is no address.
pub(super) fn unix(given: &Given, state_dir: &Path, file: &str) -> io::Result<(SocketFile, UnixListener)> {
    let path = state_dir.join(file);
    // Nobody puts anything else in its place then, between two of the steps below or later.
    files::check_private(state_dir).map_err(io::Error::other)?;
    if let Some(listener) = given.unix(&path)? {
        return Ok((SocketFile::given(path), listener));
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = base::unix(&path)?;
    let file = SocketFile::at(path.clone());
    // Before anyone can connect.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok((file, base::listen(socket)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn every_worker_gets_connections() {
        let shares = tcp_shares(&Given::default(), "http", ANY, NonZeroU8::new(2).unwrap()).unwrap();
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
        let (file, _listener) = unix(&Given::default(), dir.path(), TUNNEL_SOCKET).unwrap();
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
        let listening = unix(&Given::default(), &state, TUNNEL_SOCKET).unwrap();
        assert_eq!(std::fs::metadata(&precious).unwrap().permissions().mode(), before);
        drop(listening);
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = unix(&Given::default(), &state, TUNNEL_SOCKET).unwrap_err();
        assert!(refused.to_string().contains("chmod go-w"), "{refused}");
    }

    #[test]
    fn a_port_that_another_has_is_not_shared_with_it() {
        let theirs = tcp_shares(&Given::default(), "http", ANY, NonZeroU8::new(2).unwrap()).unwrap();
        let address = theirs[0].local_addr().unwrap();
        let error = tcp_shares(&Given::default(), "http", address, NonZeroU8::new(2).unwrap()).unwrap_err();
        assert!(error.to_string().contains("spec.listen.http"), "{error}");
    }
}
