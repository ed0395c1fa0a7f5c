//! Servers and clients on plain TCP, which see an end as an end and a reset as a reset.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;

use crate::wait::SOON;

/// A running server; its threads end with the process.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

/// How a connection ended for whoever reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With these bytes before its end.
    Clean(Vec<u8>),
    /// It was reset.
    Reset,
}

impl Server {
    /// Starts on a free port of 127.0.0.1; each connection is served by `serve` in a thread of its own.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (accepted, serve) = (Arc::new(AtomicUsize::new(0)), Arc::new(serve));
        let count = accepted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address, accepted }
    }

    /// Sends `hello`, then back whatever comes, until the caller ends.
    pub fn echo(hello: &'static [u8]) -> Self {
        Self::start(move |mut stream| {
            let mut copy = stream.try_clone().expect("a second handle");
            if stream.write_all(hello).is_ok() && std::io::copy(&mut copy, &mut stream).is_ok() {
                // The caller may have gone.
                let _ = stream.shutdown(Shutdown::Write);
            }
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// A connection to `address` whose reads do not wait for ever.
///
/// # Panics
/// When nobody listens there.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(SOON)).expect("a socket that is open");
    stream
}

/// Reads exactly so many bytes.
///
/// # Panics
/// When there are fewer.
pub fn read(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    stream.read_exact(&mut read).expect("so many bytes");
    read
}

/// Reads to the end of a connection.
///
/// # Panics
/// When it neither ends nor is reset.
pub fn end_of(stream: &mut TcpStream) -> End {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => End::Clean(bytes),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("neither an end nor a reset: {error}"),
    }
}

/// Resets a connection.
///
/// # Panics
/// When it is not open.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket that is open");
}
