//! A TCP link beside a [`Relay`](crate::relay): passes connections on, and cuts them as a middlebox does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::relay::Relay;
use crate::wait::{SOON, wait_until};

/// The relay; dropping it ends it and its connections.
#[derive(Debug)]
pub struct StreamRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    stop: AtomicBool,
    /// Whether nothing is passed on any more.
    silent: AtomicBool,
    /// Both sides of every connection that passes.
    open: Mutex<Vec<TcpStream>>,
    passed: AtomicUsize,
}

impl StreamRelay {
    /// A relay on `address`, in front of `target`.
    ///
    /// # Errors
    /// When the address is not to be had.
    pub fn start(address: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let shared = Arc::new(Shared {
            target,
            stop: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            open: Mutex::default(),
            passed: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = Some(std::thread::spawn(move || accept(&accepting, &listener)));
        Ok(Self { address, shared, acceptor })
    }

    /// Two relays on one port, of UDP and of TCP, in front of `target`.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn beside_udp(target: SocketAddr) -> (Relay, Self) {
        let pair = || {
            let udp = Relay::start(target, 1);
            let tcp = Self::start(udp.address(), target).ok()?;
            Some((udp, tcp))
        };
        wait_until("a port that is free for both", SOON, pair)
    }

    /// How many connections were passed on so far.
    pub fn passed(&self) -> usize {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// Nothing arrives any more, in either direction, and no end does; connections are made, and lead nowhere.
    pub fn silence(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    /// Cuts every connection, without a word of either side's TLS; new ones pass.
    pub fn cut(&self) {
        for stream in guard(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for StreamRelay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the acceptor.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.cut();
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while let Ok((client, _)) = listener.accept() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if shared.is_silent() {
            guard(&shared.open).push(client);
            continue;
        }
        let Ok(server) = TcpStream::connect_timeout(&shared.target, SOON) else { continue };
        let pair = [(&client, &server), (&server, &client)];
        for (from, to) in pair.map(|(a, b)| (a.try_clone(), b.try_clone())) {
            let (Ok(from), Ok(to)) = (from, to) else { continue };
            // Ends with the connection, which ends with the relay.
            let shared = Arc::clone(shared);
            std::thread::spawn(move || copy(&shared, from, to));
        }
        guard(&shared.open).extend([client, server]);
        shared.passed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

/// Copies until either side ends, and passes the end on.
fn copy(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if !shared.is_silent() && to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    if !shared.is_silent() {
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn carries_both_ways_until_it_is_cut() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = SocketAddr::from(([127, 0, 0, 1], crate::port::free_port()));
        let relay = StreamRelay::start(front, server.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(front).unwrap();
        let (mut served, _) = server.accept().unwrap();
        let mut buffer = [0; 4];
        client.write_all(b"ping").unwrap();
        served.read_exact(&mut buffer).unwrap();
        served.write_all(b"pong").unwrap();
        client.read_exact(&mut buffer).unwrap();
        assert_eq!((&buffer, relay.passed()), (b"pong", 1));
        relay.cut();
        assert!(!client.read(&mut buffer).is_ok_and(|n| n > 0));
        assert!(!served.read(&mut buffer).is_ok_and(|n| n > 0));
    }
}
