//! HTTP from callers, of a gateway or of a sidecar: HTTP/1.1 and, by prior knowledge (RFC 9113, section 3.3), HTTP/2 on one port.

mod calls;
mod http1;
mod http2;
mod mux;
mod thrift;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http1::server::Reply;
use bytes::Bytes;
use first::proxy_header::{self, Told};
use first::{Begins, Seen};
use http::Request;
use registry::model::{HttpRules, ListenProtocol, Listener, Protocol};
use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::base::accept::ACCEPT_PAUSE;
use crate::base::bind;
use crate::http::body::Incoming;
use crate::http::join::{End, KEEPALIVE};
use crate::proxy::connection::Opened;
use crate::proxy::connection::look::look;
use crate::proxy::listeners::Open;
use crate::proxy::outbound::{self, Caller, Outgoing, connection};
use crate::proxy::worker::{Room, Worker};
use crate::telemetry::limited::limited;
use crate::upstream;
use policy::route;

/// Client connections of a process, if its descriptors allow so many; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 20_000;
/// Descriptors that client connections leave for everything else.
const DESCRIPTORS_KEPT: u64 = 128;
/// The least that is served, whatever the limit of descriptors is.
const CONNECTIONS_LEAST: usize = 16;
/// While a connection waits for room, another idle one makes way after so long.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
/// A head must be whole, and an idle connection used again, within this time.
const HEAD_WAIT: Duration = Duration::from_secs(75);

/// How a connection begins that speaks HTTP/2 (RFC 9113, section 3.4). `PRI` is reserved so that no request of
/// HTTP/1.1 begins like this (section 11.6): these bytes are enough to tell.
const PREFACE: &[u8] = b"PRI ";
/// The header of a load balancer comes at once, and a ClientHello soon.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Where the first bytes decide: a caller that has said nothing by then waits for the server to speak first.
const DETECT_WAIT: Duration = Duration::from_millis(200);
/// What a caller of TLS is told whose name leads nowhere: a fatal alert, `unrecognized_name` (RFC 6066, section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 1, 0, 2, 2, 112];

/// How many client connections a process may hold that may have so many descriptors open: most of them, for many callers
/// are idle, and those that are not share connections to endpoints or need one each.
pub fn connections_max(descriptors: u64) -> usize {
    let room = descriptors.saturating_sub(DESCRIPTORS_KEPT) / 4 * 3;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    room.clamp(CONNECTIONS_LEAST, CONNECTIONS_MAX)
}

/// Who answers what a listener takes.
pub trait Front: Clone + 'static {
    /// The thread that it runs on.
    fn worker(&self) -> &Rc<Worker>;

    /// Learns what a name means, if it must; false: nobody says.
    fn learn(&self, authority: &str) -> impl Future<Output = bool>;

    /// Answers one request.
    fn answer(&self, request: Request<Incoming>, caller: Caller<'_>)
    -> impl Future<Output = Reply<Outgoing>>;
}

/// A gateway's: every request is for a name of the mesh.
impl Front for Rc<Worker> {
    fn worker(&self) -> &Rc<Worker> {
        self
    }

    async fn learn(&self, _: &str) -> bool {
        true
    }

    async fn answer(&self, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
        outbound::serve(self, request, caller).await
    }
}

/// A socket that is listened on.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Socket {
    /// The next connection, and whoever opened it.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Tcp(listener) => listener.accept().await,
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((bind::as_stream(stream)?, (Ipv4Addr::LOCALHOST, 0).into()))
            }
        }
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Accepts and serves connections until the process drains, or the listener is `closed`; then each ends as it would have,
/// and this after the last of them. One that is not `declared` is for HTTP.
pub async fn serve(
    front: impl Front,
    socket: Socket,
    declared: Option<Arc<Open>>,
    closed: CancellationToken,
) {
    let worker = front.worker().clone();
    let stop = worker.shared.stop.clone();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            () = worker.shared.handed_over.cancelled() => break,
            () = closed.cancelled() => break,
            () = worker.shared.callers.wanted.notified() => {
                worker.timers.expire_oldest();
                continue;
            }
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                let permit = tokio::select! {
                    () = stop.cancelled() => break,
                    permit = room(&worker) => permit,
                };
                let Some(permit) = permit else { return };
                let declared = declared.as_ref().map(|open| open.declared.load_full());
                let rules = declared.as_ref().map_or(&worker.shared.http, |listener| &listener.http).clone();
                let accepted = Accepted { front: front.clone(), stream, source, rules };
                connections.spawn_local(async move {
                    match declared {
                        None => accepted.http().await,
                        Some(listener) => accepted.by(&listener).await,
                    }
                    drop(permit);
                });
            }
            // What is accepted needs a connection to an endpoint, and more than it can be served would be refused.
            Err(error) if upstream::is_ours(&error) => {
                limited!(WARN, STRANGERS, "", "Cannot accept a connection of a caller.", %error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Err(error) => debug!(%error, "Connection closed before it was accepted."),
        }
        worker.pool.recovered().await;
    }
    drop(socket);
    connections.close();
    connections.wait().await;
}

/// Room for one more connection. Where there is none, those that have idled for longest make way: their callers open
/// another when they need it.
async fn room(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    let Room { left, wanted } = &worker.shared.callers;
    loop {
        if let Ok(permit) = left.clone().try_acquire_owned() {
            return Some(permit);
        }
        if !worker.timers.expire_oldest() {
            // Others may have some.
            wanted.notify_waiters();
        }
        if let Ok(permit) = tokio::time::timeout(ROOM_PAUSE, left.clone().acquire_owned()).await {
            // Closed it never is.
            return permit.ok();
        }
    }
}

/// A connection of a caller.
struct Accepted<F> {
    front: F,
    stream: TcpStream,
    source: SocketAddr,
    rules: Arc<HttpRules>,
}

impl<F: Front> Accepted<F> {
    /// Serves it as a listener is declared.
    async fn by(mut self, listener: &Listener) {
        let mut opened = Opened {
            source: Some(self.source),
            destination: self.stream.local_addr().ok(),
            ..Opened::default()
        };
        if listener.proxy_header_from.holds(self.source.ip()) {
            match self.proxy_header().await {
                Ok(told) => {
                    if let Some((source, destination)) = told.addresses {
                        self.source = source;
                        (opened.source, opened.destination) = (Some(source), Some(destination));
                    }
                    opened.hops = told.tlvs.hops();
                    opened.tlvs = told.tlvs;
                }
                Err(error) => {
                    limited!(WARN, STRANGERS, self.source.ip(), "No PROXY header where one must be.", source = %self.source, %error);
                    return drop(End::socket(self.stream, Bytes::new()));
                }
            }
        }
        let begins = match listener.protocol {
            ListenProtocol::Http => Begins::Http,
            // A server may speak first: nothing is waited for.
            // Of datagrams there are no connections.
            ListenProtocol::Tcp | ListenProtocol::Udp | ListenProtocol::Thrift | ListenProtocol::Mux => {
                Begins::Other
            }
            ListenProtocol::Tls => self.look(FIRST_WAIT).await,
            ListenProtocol::Detect => self.look(DETECT_WAIT).await,
        };
        match begins {
            Begins::Http if listener.protocol != ListenProtocol::Tls => self.http().await,
            Begins::Tls(name) => {
                let domain = &self.front.worker().shared.domain;
                let named = name.as_deref().and_then(|name| match listener.named(name) {
                    Some(lead) => Some(lead.authority(domain)),
                    None => route::parse(name, domain).ok().map(|_| name.to_owned()),
                });
                opened.server_name = name;
                match named.or_else(|| listener.to.as_ref().map(|lead| lead.authority(domain))) {
                    Some(authority) => self.carry(&authority, Protocol::Tls, &opened).await,
                    None => {
                        debug!(source = %self.source, name = ?opened.server_name, "TLS for a name that leads nowhere.");
                        // To whoever does not read it nothing can be told.
                        let _ = self.stream.try_write(&UNRECOGNIZED_NAME);
                    }
                }
            }
            _ => match &listener.to {
                Some(lead) if listener.protocol != ListenProtocol::Tls => {
                    let authority = lead.authority(&self.front.worker().shared.domain);
                    match listener.protocol {
                        speaks @ (ListenProtocol::Thrift | ListenProtocol::Mux) => {
                            self.calls(speaks, authority, opened).await;
                        }
                        _ => self.carry(&authority, Protocol::Tcp, &opened).await,
                    }
                }
                _ => {
                    debug!(source = %self.source, "A connection that leads nowhere.");
                    drop(End::socket(self.stream, Bytes::new()));
                }
            },
        }
    }

    /// What its first bytes are of; nothing in time: nothing that is known.
    async fn look(&self, wait: Duration) -> Begins {
        let looked = look(&self.stream, wait, first::begins).await;
        looked.ok().flatten().unwrap_or(Begins::Other)
    }

    /// Reads the PROXY header that it begins with.
    async fn proxy_header(&mut self) -> io::Result<Told> {
        let nothing = || io::Error::other(format!("nothing of one within {FIRST_WAIT:?}, or too much"));
        let told = look(&self.stream, FIRST_WAIT, proxy_header::read).await?.ok_or_else(nothing)?;
        let told = told.ok_or_else(|| io::Error::other("what it begins with is none"))?;
        self.stream.read_exact(&mut vec![0; told.length]).await?;
        Ok(told)
    }

    /// Carries it as such, to what `authority` names.
    async fn carry(self, authority: &str, preferred: Protocol, opened: &Opened) {
        // A Unix socket has no such option, and no need of it.
        let _ = self.stream.set_nodelay(true);
        if !self.front.learn(authority).await {
            debug!(authority, "No gateway has said what a name means.");
            return drop(End::socket(self.stream, Bytes::new()));
        }
        // Boxed: most connections are of HTTP, and each would be larger by this.
        Box::pin(connection::serve(self.front.worker(), authority, preferred, opened, self.stream)).await;
    }

    /// Serves its calls of Thrift or Mux, which lead to what `authority` names.
    async fn calls(self, speaks: ListenProtocol, authority: String, opened: Opened) {
        // A Unix socket has none of these.
        let _ = SockRef::from(&self.stream).set_tcp_keepalive(&KEEPALIVE);
        let _ = self.stream.set_nodelay(true);
        match speaks {
            ListenProtocol::Mux => Box::pin(mux::serve(self.front, self.stream, authority, opened)).await,
            _ => Box::pin(thrift::serve(self.front, self.stream, authority, opened)).await,
        }
    }

    /// Serves its requests.
    async fn http(self) {
        let Self { front, stream, source, rules } = self;
        let leave = front.worker().shared.leave.clone();
        let version = tokio::select! {
            biased;
            version = look(&stream, HEAD_WAIT, version) => version,
            // Nothing was asked yet.
            () = leave.cancelled() => return,
        };
        let version = version.and_then(|version| version.ok_or_else(|| io::ErrorKind::TimedOut.into()));
        // A Unix socket has no such option, and no need of it.
        let _ = stream.set_nodelay(true);
        match version {
            Ok(Version::Http1) => {
                if let Err(error) = http1::serve(front, stream, Bytes::new(), source, rules).await {
                    debug!(%source, error = &error as &dyn std::error::Error, "Connection ended.");
                }
            }
            Ok(Version::Http2) => {
                if let Err(error) = http2::serve(front, stream, source, rules).await {
                    debug!(%source, %error, "Connection ended.");
                }
            }
            Err(error) => debug!(%source, %error, "Connection ended before the first request."),
        }
    }
}

/// Which version of HTTP these are the first bytes of.
fn version(bytes: &[u8]) -> Seen<Version> {
    if bytes.is_empty() || !bytes.starts_with(&PREFACE[..PREFACE.len().min(bytes.len())]) {
        Seen::All(Version::Http1)
    } else if bytes.len() >= PREFACE.len() {
        Seen::All(Version::Http2)
    } else {
        Seen::Part
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_and_stay() {
        for (sent, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Version::Http2),
            (b"GET / HTTP/1.1\r\n\r\n", Version::Http1),
            (b"PRINT / HTTP/1.1\r\n\r\n", Version::Http1),
            (b"POST / HTTP/1.1\r\n\r\n", Version::Http1),
        ] {
            let (mut client, mut server) = pair().await;
            client.write_all(sent).await.unwrap();
            assert_eq!(look(&server, HEAD_WAIT, version).await.unwrap().unwrap(), expected);
            let mut read = vec![0; sent.len()];
            server.read_exact(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }

    #[tokio::test]
    async fn a_preface_in_crumbs_is_waited_for() {
        for (rest, expected) in [(&b"RI * HTTP/2.0"[..], Version::Http2), (b"UT / HTTP/1.1", Version::Http1)]
        {
            let (mut client, server) = pair().await;
            client.write_all(b"P").await.unwrap();
            let mut looking = std::pin::pin!(look(&server, HEAD_WAIT, version));
            // One byte says nothing, and looking at it again and again would say no more.
            server.readable().await.unwrap();
            assert!(tokio::time::timeout(Duration::from_millis(20), &mut looking).await.is_err());
            client.write_all(rest).await.unwrap();
            assert_eq!(looking.await.unwrap(), Some(expected));
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_at_once_is_no_http2() {
        let (client, server) = pair().await;
        drop(client);
        assert_eq!(look(&server, HEAD_WAIT, version).await.unwrap().unwrap(), Version::Http1);
    }
}
