//! Accepts tunnels and dials them on byte streams: TLS on TCP, and on Unix sockets.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use identity::Role;
use proto::code::CloseCode;
use proto::limits;
use proto::version::ALPN_MUX;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, CommonState, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::carrier::{Carrier, PeerAddress};
use crate::error::{EndpointError, TunnelError};
use crate::handshake::{self, DIAL_WAIT, within};
use crate::hello::Peer;
use crate::kernel::{Control, Handle};
use crate::local::Local;
use crate::mux;
use crate::tunnel::{Driver, Tunnel};

/// What was sent and stays unacknowledged so long ends a TCP connection: as long as QUIC's idle timeout.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
/// Bytes that the kernel may hold unsent: what is beyond waits where small exchanges pass bulk.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// What accepts and dials on byte streams; needs no port of its own. Its connections are driven by the runtime in whose
/// context they were made: call it on the worker that shall own them.
#[derive(Debug)]
pub struct DirectEndpoint {
    worker: u8,
    now: ArcSwap<Now>,
    /// Told, with the reason, when all tunnels are to end; each holds a receiver until its last byte is written.
    ending: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Now {
    local: Local,
    server: Arc<ServerConfig>,
}

/// A connection that a listener has accepted.
#[derive(Debug)]
pub enum Incoming {
    /// From another host, or over loopback.
    Tcp(TcpStream, SocketAddr),
    /// From this host.
    Unix(UnixStream),
}

impl Incoming {
    /// Whether it has said something. Nothing waits, and nothing is read.
    pub fn has_spoken(&self) -> bool {
        self.peek().is_ok_and(|bytes| bytes > 0)
    }

    /// Waits until something can be read, its end included.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn readable(&self) -> io::Result<()> {
        loop {
            match self {
                Self::Tcp(stream, _) => stream.readable().await?,
                Self::Unix(stream) => stream.readable().await?,
            }
            // The runtime takes whatever was just accepted for readable, until a look proves that it is not.
            let look = || self.peek().map(drop);
            let looked = match self {
                Self::Tcp(stream, _) => stream.try_io(Interest::READABLE, look),
                Self::Unix(stream) => stream.try_io(Interest::READABLE, look),
            };
            match looked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                looked => return looked,
            }
        }
    }

    /// How many bytes are there, one at most; none: it has ended.
    fn peek(&self) -> io::Result<usize> {
        let socket = match self {
            Self::Tcp(stream, _) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
        };
        socket.peek(&mut [MaybeUninit::uninit()])
    }
}

impl DirectEndpoint {
    /// Says HELLO as `local`, for `worker`.
    ///
    /// # Errors
    /// When our identity is not usable.
    pub fn new(mut local: Local, worker: u8) -> Result<Self, EndpointError> {
        local.hello.worker = worker.into();
        Ok(Self { worker, now: ArcSwap::from_pointee(Now::new(local)?), ending: watch::Sender::new(None) })
    }

    /// The worker that it is of.
    pub fn worker(&self) -> u8 {
        self.worker
    }

    /// Handshakes that begin from now on use `local`: new certificates and bundles. Tunnels that are up stay.
    ///
    /// # Errors
    /// When the new identity is not usable; the old one stays in use.
    pub fn replace_local(&self, mut local: Local) -> Result<(), EndpointError> {
        local.hello.worker = self.worker.into();
        self.now.store(Arc::new(Now::new(local)?));
        Ok(())
    }

    /// Does the handshake and HELLO of an accepted connection, within [`limits::HELLO_WAIT`] each; `admit` has the last
    /// word on the peer. Dropped before its end, it ends the connection.
    pub fn answer<A>(
        &self,
        incoming: Incoming,
        admit: A,
    ) -> impl Future<Output = Result<(Tunnel, Driver), (PeerAddress, TunnelError)>> + use<A>
    where
        A: FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
    {
        let now = self.now.load_full();
        let ending = self.ending.subscribe();
        async move {
            match incoming {
                Incoming::Tcp(stream, from) => {
                    tune(&stream);
                    answer(stream, PeerAddress::Ip(from), Handle::of, &now, ending, admit).await
                }
                Incoming::Unix(stream) => {
                    let from = process(&stream);
                    answer(stream, from, |_| None, &now, ending, admit).await
                }
            }
        }
    }

    /// Dials a TCP address, where a gateway of `cluster` must answer.
    ///
    /// # Errors
    /// When nobody answers in time, either side refuses the other's certificate or HELLO, or `admit` says no.
    pub async fn dial(
        &self,
        address: SocketAddr,
        cluster: &str,
        admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
    ) -> Result<(Tunnel, Driver), TunnelError> {
        let begun = Instant::now();
        let connected = within(DIAL_WAIT, TcpStream::connect(address)).await?;
        let stream = connected.map_err(|e| TunnelError::Connect(format!("TCP: {e}")))?;
        tune(&stream);
        self.greet(stream, PeerAddress::Ip(address), Handle::of, begun.elapsed(), cluster, admit).await
    }

    /// Dials a Unix socket, where a gateway of `cluster` must answer.
    ///
    /// # Errors
    /// As [`DirectEndpoint::dial`].
    pub async fn dial_unix(
        &self,
        path: &Path,
        cluster: &str,
        admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
    ) -> Result<(Tunnel, Driver), TunnelError> {
        let begun = Instant::now();
        let connected = within(DIAL_WAIT, UnixStream::connect(path)).await?;
        let stream = connected.map_err(|e| TunnelError::Connect(format!("{}: {e}", path.display())))?;
        let to = process(&stream);
        self.greet(stream, to, |_| None, begun.elapsed(), cluster, admit).await
    }

    async fn greet<S>(
        &self,
        stream: S,
        to: PeerAddress,
        handle: fn(&S) -> Option<Arc<Handle>>,
        rtt: Duration,
        cluster: &str,
        admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
    ) -> Result<(Tunnel, Driver), TunnelError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let now = self.now.load_full();
        let config = client_config(&now.local, cluster)?;
        // Not sent, and nothing to the verifier, which looks at the SPIFFE identity.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let tls = within(DIAL_WAIT, TlsConnector::from(config).connect(name, stream)).await?;
        let tls = tls.map_err(|e| failed(&e))?;
        let certificates = proven(tls.get_ref().1)?;
        let kernel = of_a_link(&certificates).then(|| handle(tls.get_ref().0)).flatten();
        let carrier = start(tls, true, to, kernel, rtt, certificates, self.ending.subscribe());
        handshake::greet(carrier, &now.local, admit).await
    }

    /// Closes every tunnel; [`DirectEndpoint::wait_idle`] then sees that the peers were told.
    pub fn close(&self, reason: &str) {
        self.ending.send_replace(Some(reason.to_owned()));
    }

    /// Waits until every connection has sent its close.
    pub async fn wait_idle(&self) {
        self.ending.closed().await;
    }
}

impl Now {
    fn new(local: Local) -> Result<Self, EndpointError> {
        let server = identity::server_config(&local.credentials, local.trust.clone(), &[ALPN_MUX])?;
        Ok(Self { local, server })
    }
}

fn client_config(local: &Local, cluster: &str) -> Result<Arc<ClientConfig>, TunnelError> {
    identity::client_config(&local.credentials, local.trust.clone(), cluster, &[ALPN_MUX])
        .map_err(|e| TunnelError::Connect(e.to_string()))
}

async fn answer<S>(
    stream: S,
    from: PeerAddress,
    handle: fn(&S) -> Option<Arc<Handle>>,
    now: &Now,
    ending: watch::Receiver<Option<String>>,
    admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
) -> Result<(Tunnel, Driver), (PeerAddress, TunnelError)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let done = async {
        let begun = Instant::now();
        let accepting = TlsAcceptor::from(now.server.clone()).accept(stream);
        let tls = within(limits::HELLO_WAIT, accepting).await?.map_err(|e| failed(&e))?;
        let certificates = proven(tls.get_ref().1)?;
        let kernel = of_a_link(&certificates).then(|| handle(tls.get_ref().0)).flatten();
        let carrier = start(tls, false, from, kernel, begun.elapsed(), certificates, ending);
        handshake::answer(carrier, &now.local, admit).await
    };
    done.await.map_err(|error| (from, error))
}

/// The certificates that the handshake proved, once it is certain that both sides mean the same protocol.
fn proven(tls: &CommonState) -> Result<Vec<CertificateDer<'static>>, TunnelError> {
    if tls.alpn_protocol() != Some(ALPN_MUX) {
        return Err(TunnelError::Connect("the peer does not speak this tunnel protocol (ALPN)".into()));
    }
    Ok(tls.peer_certificates().unwrap_or_default().iter().map(|c| c.clone().into_owned()).collect())
}

/// Whether they are of a gateway: what others have is not shaped, and they may be many.
fn of_a_link(certificates: &[CertificateDer<'static>]) -> bool {
    identity::peer_identity(certificates).is_ok_and(|peer| matches!(peer.role, Role::Gateway { .. }))
}

/// Starts the task that owns the socket. It ends with the connection, which ends with its handles or with `ending`.
fn start<S>(
    tls: S,
    dialled: bool,
    peer: PeerAddress,
    kernel: Option<Arc<Handle>>,
    rtt: Duration,
    certificates: Vec<CertificateDer<'static>>,
    ending: watch::Receiver<Option<String>>,
) -> Carrier
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, inner) = mux::Connection::new(dialled, rtt, certificates);
    let control = Control::of(kernel.as_ref());
    tokio::spawn(async move {
        mux::run(tls, inner, ending).await;
        drop(kernel);
    });
    Carrier::Mux(connection, peer, control)
}

/// What the kernel is to do with a connection; where it cannot, pings do it later.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = SockRef::from(stream);
        let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    }
}

fn process(stream: &UnixStream) -> PeerAddress {
    PeerAddress::Process(stream.peer_cred().ok().and_then(|peer| peer.pid()))
}

/// Why a TLS handshake failed.
fn failed(error: &std::io::Error) -> TunnelError {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    let text = tls.map_or_else(|| format!("TLS: {error}"), identity::reason);
    // It may quote the peer's certificate.
    TunnelError::Connect(proto::text::clean(&text, limits::QUOTED_BYTES_MAX))
}
