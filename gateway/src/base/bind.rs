//! Sockets that listen.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU8;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpStream, UnixStream};

use super::given::Given;

/// Connections that wait in the kernel for each listener.
const BACKLOG: i32 = 4096;
/// Datagrams that wait in the kernel for a worker, in bytes.
const UDP_BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// A listener that a restarted process can take over at once; `shared`: one of several on its address.
///
/// # Errors
/// The address is not to be had.
pub fn tcp(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// One listener on `address` for each worker, `given` or bound; the kernel spreads connections over them.
///
/// # Errors
/// As [`tcp`] and [`Given::tcp`].
pub fn tcp_shares(given: &Given, address: SocketAddr, workers: NonZeroU8) -> io::Result<Vec<TcpListener>> {
    if let Some(shares) = given.tcp(address, workers)? {
        return Ok(shares);
    }
    // Alone at first: sharing would hide that another process has the port.
    let alone = tcp(address, false)?;
    if workers == NonZeroU8::MIN {
        return Ok(vec![alone]);
    }
    let address = alone.local_addr()?;
    drop(alone);
    (0..workers.get()).map(|_| tcp(address, true)).collect()
}

/// One UDP socket on `address` for each worker, `given` or bound; the kernel spreads flows over them.
///
/// # Errors
/// The address is not to be had; as [`Given::udp`].
pub fn udp_shares(given: &Given, address: SocketAddr, workers: NonZeroU8) -> io::Result<Vec<UdpSocket>> {
    if let Some(shares) = given.udp(address, workers)? {
        for share in &shares {
            socket2::SockRef::from(share).set_recv_buffer_size(UDP_BUFFER_BYTES)?;
        }
        return Ok(shares);
    }
    let shared = workers > NonZeroU8::MIN;
    let bind = |address: SocketAddr, shared: bool| {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
        socket.set_reuse_port(shared)?;
        // As much as the system allows of it.
        socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        Ok(UdpSocket::from(socket))
    };
    // Alone at first: sharing would hide that another process has the port.
    let alone = bind(address, false)?;
    if !shared {
        return Ok(vec![alone]);
    }
    let address = alone.local_addr()?;
    drop(alone);
    (0..workers.get()).map(|_| bind(address, true)).collect()
}

/// A Unix socket that is bound and does not listen yet, so that its file can be given its mode before anyone connects.
///
/// # Errors
/// The file cannot be made; a path of more than 107 bytes is no address.
pub fn unix(path: &Path) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Lets a Unix socket listen.
///
/// # Errors
/// What the system says.
pub fn listen(socket: socket2::Socket) -> io::Result<UnixListener> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The file of a Unix socket; it goes when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    left: AtomicBool,
}

impl SocketFile {
    /// That at `path`, which this process has made.
    pub fn at(path: PathBuf) -> Self {
        Self { path, left: AtomicBool::new(false) }
    }

    /// That at `path`, of a socket that was given to this process: it stays where it is until it is [ours](Self::own).
    pub fn given(path: PathBuf) -> Self {
        Self { path, left: AtomicBool::new(true) }
    }

    /// Nobody else listens there any more.
    pub fn own(&self) {
        self.left.store(false, Ordering::Relaxed);
    }

    /// It stays where it is: another process listens there.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.left.load(Ordering::Relaxed) {
            // What is left of it is replaced when it is bound again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A connection on a Unix socket in the type of one on TCP: to the system both are sockets of bytes, and all that is done
/// with connections here works on either. What only TCP has (addresses, `TCP_NODELAY`) fails on it, or says nothing.
///
/// # Errors
/// When the runtime cannot take it.
pub fn as_stream(unix: UnixStream) -> io::Result<TcpStream> {
    let socket: OwnedFd = unix.into_std()?.into();
    TcpStream::from_std(socket.into())
}
