//! The server behind the mesh: HTTP/1.1 on plain threads, well or badly behaved as the path asks, with a journal of
//! everything that reached it.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | 200, its name |
//! | `/echo` | the request's body, streamed, framed as the request was, with its trailers |
//! | `/seen` | the request line and fields as they arrived, one a line |
//! | `/bytes/N`, `/chunked/N`, `/until-close/N` | N bytes of [`crate::http::pattern`], framed so |
//! | `/cut/N/M`, `/cut-chunked/M` | announces N bytes (or chunks), sends M, closes |
//! | `/status/N` | that status, no body where the status has none |
//! | `/early` | 103, then 200 |
//! | `/hops` | fields that are for one hop only, beside `x-end` |
//! | `/trailers` | chunks, then the trailer `x-sum` |
//! | `/hold` | nothing until [`Backend::release`] |
//! | `/stall/N` | announces 10 bytes more than the N it sends, then says nothing until released |
//! | `/drip` | a chunk every few milliseconds until the reader is gone |
//! | `/trickle/N/MS` | N bytes, one every MS milliseconds |
//! | `/close` | 200 with `connection: close` |
//! | `/hang-up` | 200, then closes without having said so |
//! | `/slam` | reads the request and closes without an answer |
//! | `/refuse-body` | 413 before the body is read, then throws that away until the other side closes |
//!
//! Every answer carries `x-served-by: NAME`. A field `x-id` in a request is counted: [`Backend::deliveries`].

mod answer;

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::http::{Digest, Fields, value};
use crate::port::free_port;
use crate::wait::{SOON, wait_until};

/// Connections that wait to be accepted.
const ACCEPT_QUEUE: i32 = 4096;

/// What became of a request here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its body is being read or its answer written.
    Open,
    /// Answered as asked.
    Answered,
    /// The other side went away before the end.
    Cancelled,
}

/// A request that reached the backend.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its target as on the wire.
    pub target: String,
    /// Its header fields.
    pub fields: Fields,
    /// Its trailer fields, once read.
    pub trailers: Fields,
    /// Its body so far.
    pub body: Digest,
    /// What became of it.
    pub outcome: Outcome,
}

/// A running backend; dropping it stops it.
#[derive(Debug)]
pub struct Backend {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
    /// Rung when [`State::released`] or [`State::stopped`] changes.
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    /// A second handle on each open connection, by the number it was accepted under.
    connections: BTreeMap<usize, TcpStream>,
    accepted: usize,
    released: bool,
    stopped: bool,
    /// Targets that are answered as if another had been asked for.
    instead: BTreeMap<String, String>,
}

impl Backend {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start(name: &str) -> Self {
        let state = Mutex::default();
        let shared = Arc::new(Shared { name: name.into(), state, bell: Condvar::new() });
        let mut backend = Self { port: free_port(), shared, acceptor: None };
        backend.start_again();
        backend
    }

    /// Listens again on the same port after [`Backend::stop`]; the journal goes on.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start_again(&mut self) {
        // A process that another thread has just started may hold a copy of the last listener for a moment.
        let listener = wait_until("the port is ours", SOON, || match listen(self.address()) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            listener => Some(listener.unwrap_or_else(|e| panic!("{}: {e}", self.address()))),
        });
        self.shared.state().stopped = false;
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(std::thread::spawn(move || accept(&shared, &listener)));
    }

    /// Refuses new connections and closes those it has, as a process that died.
    pub fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.state().stopped = true;
        self.shared.bell.notify_all();
        // Wakes the acceptor, which then drops its listener.
        let _ = TcpStream::connect(self.address());
        let _ = acceptor.join();
        self.close_connections();
    }

    /// Closes every connection that it has and keeps listening.
    pub fn close_connections(&self) {
        for connection in self.shared.state().connections.values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets everything that holds go on.
    pub fn release(&self) {
        self.shared.state().released = true;
        self.shared.bell.notify_all();
    }

    /// From now on answers requests for exactly `target` as if they asked for `instead`: `/status/503` for a health
    /// page that fails, `/slam` for a server that cuts; the same target again: as it is asked for.
    pub fn answer_instead(&self, target: &str, instead: &str) {
        self.shared.state().instead.insert(target.into(), instead.into());
    }

    /// Its name, as in `x-served-by`.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Every request so far, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many requests for exactly this target came.
    pub fn count(&self, target: &str) -> usize {
        self.shared.state().seen.iter().filter(|s| s.target == target).count()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.state().accepted
    }

    /// Connections that it has not closed.
    pub fn open(&self) -> usize {
        self.shared.state().connections.len()
    }

    /// How often each `x-id` was delivered.
    pub fn deliveries(&self) -> BTreeMap<String, usize> {
        let mut deliveries = BTreeMap::new();
        for seen in &self.shared.state().seen {
            if let Some(id) = value(&seen.fields, "x-id") {
                *deliveries.entry(id.to_owned()).or_default() += 1;
            }
        }
        deliveries
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until released or stopped, or until `gone` says that the other side went away.
    fn hold(&self, gone: impl Fn() -> bool) -> bool {
        let mut state = self.state();
        while !state.released && !state.stopped {
            if gone() {
                return false;
            }
            let woken = self.bell.wait_timeout(state, Duration::from_millis(10));
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.released
    }
}

/// The standard library's listener, with room for a thousand callers at once.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_QUEUE)?;
    Ok(socket.into())
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    while let Ok((stream, _)) = listener.accept() {
        let mut state = shared.state();
        if state.stopped {
            return;
        }
        let Ok(copy) = stream.try_clone() else { continue };
        let number = state.accepted;
        state.connections.insert(number, copy);
        state.accepted += 1;
        drop(state);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let mut reader = BufReader::new(stream);
            while answer::serve(&shared, &mut reader).unwrap_or(false) {}
            // Said before it is closed: a child that has not begun its program yet holds a copy of every handle.
            let _ = reader.get_ref().shutdown(Shutdown::Write);
            drop(reader);
            // Closed only with its second handle, and not counted any more once it is.
            let mut state = shared.state();
            drop(state.connections.remove(&number));
        });
    }
}

#[cfg(test)]
mod tests;
