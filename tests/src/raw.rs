//! An endpoint that answers every request with the bytes that a test wrote down, and callers that send such bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a request may pause before it counts as all there is.
const PAUSE: Duration = Duration::from_millis(200);

/// What the endpoint does behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Waits for the next request.
    Keep,
    /// Ends the connection.
    Close,
    /// Says nothing more, and reads nothing.
    Hang,
}

/// A running endpoint; its threads end with the process.
#[derive(Debug)]
pub struct Raw {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    answer: Vec<u8>,
    then: Then,
    seen: Vec<String>,
}

impl Raw {
    /// Starts on a free port of 127.0.0.1, and answers 200 at first.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
        let state = Arc::new(Mutex::new(State { answer, then: Then::Keep, seen: Vec::new() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers from now on. Forgets what it has seen.
    pub fn answer(&self, answer: &[u8], then: Then) {
        *self.lock() = State { answer: answer.to_vec(), then, seen: Vec::new() };
    }

    /// The requests that came, as they came.
    pub fn seen(&self) -> Vec<String> {
        self.lock().seen.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    while let Some(request) = read_request(&mut stream) {
        let (answer, then) = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.seen.push(request);
            (state.answer.clone(), state.then)
        };
        if stream.write_all(&answer).is_err() || then == Then::Close {
            return;
        }
        if then == Then::Hang {
            // Until the other side leaves.
            let _ = stream.set_read_timeout(None);
            let _ = stream.read_to_end(&mut Vec::new());
            return;
        }
    }
}

/// A whole request as it came: until its body ends as it says, or it pauses, or its sender leaves.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let patience = if bytes.is_empty() { None } else { Some(PAUSE) };
        stream.set_read_timeout(patience).ok()?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(_) => return None,
        }
        if is_whole(&bytes) {
            break;
        }
    }
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("0\r\n\r\n") || (body.contains("\r\n0\r\n") && body.ends_with("\r\n\r\n"));
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length: usize = length.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0);
    body.len() >= length
}

/// Sends `request` as it is, and gives all that is answered until the other side ends, or `patience` is over.
///
/// # Panics
/// When there is no connection.
pub fn exchange(to: SocketAddr, request: &[u8], patience: Duration) -> String {
    let mut stream = TcpStream::connect(to).expect("somebody listens");
    // Whoever refuses a request may end the connection under it.
    let _ = stream.write_all(request);
    read_all(&mut stream, patience)
}

/// All that comes until the other side ends, or `patience` is over.
pub fn read_all(stream: &mut TcpStream, patience: Duration) -> String {
    let (mut all, mut piece) = (Vec::new(), [0; 16 * 1024]);
    let end = Instant::now() + patience;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if stream.set_read_timeout(Some(left)).is_err() {
            break;
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => all.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}
