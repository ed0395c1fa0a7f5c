//! A client that writes and reads HTTP/1.1 by hand: it sees interim answers, trailers and cuts as they are.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::http::{Digest, Fields, Framing, read_body, read_head, value};

/// How long a client waits for the next byte unless told otherwise. Longer than any default of the gateway (`head`
/// 10 s), so that a gateway's own deadline is what a test sees.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that a whole answer may take to come: a body without end must fail a test, not hang it.
const ANSWER_MAX: Duration = Duration::from_secs(240);

/// Bodies up to this size are kept; of longer ones only the digest is. More than any status has: 3,000 services make
/// 1 MiB of it.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Requests up to this size fit in the socket's buffer and are written before the answer is read.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;

/// What an exchange came to.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status codes of the interim answers (1xx) before it.
    pub interim: Vec<u16>,
    /// Its header fields.
    pub fields: Fields,
    /// The first 8 MiB of its body.
    pub body: Vec<u8>,
    /// Length and hash of the whole body.
    pub digest: Digest,
    /// Its trailer fields.
    pub trailers: Fields,
}

impl Response {
    /// The first value of the header field `name` (lower case).
    pub fn field(&self, name: &str) -> Option<&str> {
        value(&self.fields, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum FetchError {
    /// The connection could not be had.
    Connect(std::io::Error),
    /// The request could not be written whole.
    Write(std::io::Error),
    /// The connection ended or failed before the answer's head.
    NoAnswer(String),
    /// The body was cut: the status that it began with, the bytes that came, and how it ended.
    Cut {
        /// The status of the answer.
        status: u16,
        /// Body bytes that came.
        got: u64,
        /// How it ended.
        cause: std::io::Error,
    },
}

/// A request, as text and body.
#[derive(Clone, Debug)]
pub struct Request {
    /// Everything up to and with the empty line.
    pub head: String,
    /// The body, already framed as the head says.
    pub body: Vec<u8>,
}

impl Request {
    /// `METHOD target` for `host`, without a body.
    pub fn new(method: &str, host: &str, target: &str) -> Self {
        Self { head: format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n\r\n"), body: Vec::new() }
    }

    /// A GET.
    pub fn get(host: &str, target: &str) -> Self {
        Self::new("GET", host, target)
    }

    /// A POST with Content-Length.
    pub fn post(host: &str, target: &str, body: &[u8]) -> Self {
        Self::new("POST", host, target).with("content-length", &body.len().to_string()).with_body(body)
    }

    /// Adds a header field.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.head.truncate(self.head.len() - 2);
        self.head.push_str(&format!("{name}: {value}\r\n\r\n"));
        self
    }

    /// Sets the bytes after the head; framing is the caller's.
    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    /// The body as chunks of `size` bytes with `trailers` behind the last.
    pub fn with_chunks(self, body: &[u8], size: usize, trailers: &[(&str, &str)]) -> Self {
        let mut wire = Vec::new();
        for piece in body.chunks(size) {
            wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            wire.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        self.with("transfer-encoding", "chunked").with_body(&wire)
    }

    fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }
}

/// A connection that asks one thing after the other.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects, with [`PATIENCE`].
    ///
    /// # Errors
    /// When it cannot.
    pub fn open(address: SocketAddr) -> Result<Self, FetchError> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(FetchError::Connect)?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        set.and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(FetchError::Connect)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Waits at most `limit` for the next byte of an answer.
    pub fn set_patience(&self, limit: Duration) {
        self.socket().set_read_timeout(Some(limit)).expect("no limit here is zero");
    }

    /// The socket, to write what no request is or to shut it.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.stream.get_mut().write_all(bytes).map_err(FetchError::Write)
    }

    /// Writes a request, head and body at once.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn send(&mut self, request: &Request) -> Result<(), FetchError> {
        self.write(&[request.head.as_bytes(), &request.body].concat())
    }

    /// Reads the answer to a request of this `method`, to its end.
    ///
    /// # Errors
    /// When there is none or it is cut.
    pub fn receive(&mut self, method: &str) -> Result<Response, FetchError> {
        self.receive_with(method, |_| ())
    }

    /// The same, with a look at each piece of the body as it comes.
    ///
    /// # Errors
    /// When there is none or it is cut.
    pub fn receive_with(
        &mut self,
        method: &str,
        mut look: impl FnMut(&[u8]),
    ) -> Result<Response, FetchError> {
        let started = Instant::now();
        let mut interim = Vec::new();
        let (status, fields) = loop {
            let head = read_head(&mut self.stream).map_err(|e| FetchError::NoAnswer(e.to_string()))?;
            let (start, fields) = head.ok_or_else(|| FetchError::NoAnswer("the connection ended".into()))?;
            let status = start
                .strip_prefix("HTTP/1.")
                .and_then(|s| s.get(2..))
                .and_then(|s| s.get(..3))
                .and_then(|s| s.parse().ok());
            let status: u16 =
                status.ok_or_else(|| FetchError::NoAnswer(format!("no status line: {start}")))?;
            if !(100..200).contains(&status) || status == 101 {
                break (status, fields);
            }
            interim.push(status);
        };
        let framing = if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            Framing::None // RFC 9112, section 6.3, rules 1 and 2
        } else {
            Framing::of(&fields, Framing::Close).map_err(|e| FetchError::NoAnswer(e.to_string()))?
        };
        let (mut body, mut digest) = (Vec::new(), Digest::default());
        let trailers = read_body(&mut self.stream, framing, |piece| {
            let room = KEPT_BYTES_MAX - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            digest.update(piece);
            look(piece);
            if started.elapsed() > ANSWER_MAX {
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the body does not end"));
            }
            Ok(())
        });
        let trailers = trailers.map_err(|cause| FetchError::Cut { status, got: digest.len, cause })?;
        Ok(Response { status, interim, fields, body, digest, trailers })
    }

    /// Sends a request and reads its answer, both at once: an answer may come before the request's body is sent.
    ///
    /// # Errors
    /// When there is no answer or it is cut. That the body could not be written whole is none if an answer came.
    ///
    /// # Panics
    /// When the socket cannot be duplicated.
    pub fn exchange(&mut self, request: &Request) -> Result<Response, FetchError> {
        if request.body.len() <= AT_ONCE_BYTES_MAX {
            let sent = self.send(request);
            return self.receive(request.method()).or_else(|e| sent.and(Err(e)));
        }
        let mut writer = self.socket().try_clone().expect("an open socket can be duplicated");
        std::thread::scope(|scope| {
            let sent =
                scope.spawn(move || writer.write_all(&[request.head.as_bytes(), &request.body].concat()));
            let received = self.receive(request.method());
            if received.is_err() {
                // Ends the writer too: nobody reads any more.
                let _ = self.socket().shutdown(std::net::Shutdown::Both);
            }
            let sent = sent.join().unwrap_or(Ok(()));
            received.or_else(|e| sent.map_err(FetchError::Write).and(Err(e)))
        })
    }
}

/// One exchange on a connection of its own.
///
/// # Errors
/// When there is no answer or it is cut.
pub fn fetch(address: SocketAddr, request: &Request) -> Result<Response, FetchError> {
    Connection::open(address)?.exchange(request)
}
