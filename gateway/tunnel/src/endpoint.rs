//! Accepts tunnels and dials them on a worker's share of the UDP port.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proto::code::CloseCode;
use proto::limits;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use crate::apart::Apart;
use crate::carrier::{Carrier, DATAGRAM_BUFFER_BYTES, UDP_PAYLOAD_BYTES_MAX};
use crate::cid::{self, Generator};
use crate::congestion::{Factory, Meter, REORDERED_MAX};
use crate::copies::{CopiedSocket, Copier};
use crate::error::{EndpointError, TunnelError};
use crate::handshake::{self, DIAL_WAIT, lost, within};
use crate::hello::Peer;
use crate::local::Local;
use crate::port::{Group, Port, Strays};
use crate::socket;
use crate::tunnel::{Driver, Tunnel};

/// quinn refuses all writes of a connection above this, small ones as well: well above what all bulk streams that have a
/// place may hold.
const SEND_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// The backstop for a silent peer; probes notice earlier.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// What accepts and dials on a worker. Its connections are driven by the runtime in whose context they were made: call
/// it on the worker that shall own them.
#[derive(Debug)]
pub struct Endpoint {
    quic: quinn::Endpoint,
    local: ArcSwap<Local>,
    /// What attempts are answered with from now on.
    server: ArcSwap<quinn::ServerConfig>,
    copier: Arc<Copier>,
    /// Sends the copies, until this is dropped.
    copying: tokio::task::AbortHandle,
    group: Arc<Group>,
    worker: u8,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.copying.abort();
    }
}

/// A connection that somebody wants to make. While it is not answered, it and what follows waits in quinn's bounded queue.
#[derive(Debug)]
pub struct Attempt {
    incoming: quinn::Incoming,
    local: Arc<Local>,
    server: Arc<quinn::ServerConfig>,
    copier: Arc<Copier>,
}

impl Attempt {
    /// Where it says that it comes from.
    pub fn from(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Whether it has proven that it can be reached there.
    pub fn is_proven(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Has it prove that (RFC 9000, section 8.1.2): forged addresses then cost no handshake.
    pub fn ask_for_proof(self) {
        // Refused only if it was proven after all.
        let _ = self.incoming.retry();
    }

    /// Tells it that it is not wanted.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Does the handshake and HELLO within [`limits::HELLO_WAIT`] each; `admit` has the last word on the peer. Dropped before
    /// its end, it ends the connection.
    pub fn answer<A>(
        self,
        admit: A,
    ) -> impl Future<Output = Result<(Tunnel, Driver), (SocketAddr, TunnelError)>> + use<A>
    where
        A: FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
    {
        let Self { incoming, local, server, copier } = self;
        async move {
            let from = incoming.remote_address();
            let done = async {
                let meter = Arc::<Meter>::default();
                let mut server = quinn::ServerConfig::clone(&server);
                server.transport_config(Arc::new(transport(&meter, &copier)));
                let connecting = incoming.accept_with(Arc::new(server)).map_err(lost)?;
                let connection = within(limits::HELLO_WAIT, connecting).await?.map_err(lost)?;
                handshake::answer(Carrier::Quic(connection, meter), &local, admit).await
            };
            done.await.map_err(|e| (from, e))
        }
    }
}

impl Endpoint {
    /// Accepts and dials on `port` from then on. HELLO names the worker whose share of the port it is.
    ///
    /// # Errors
    /// When our identity is not usable or the socket not readable.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn on(port: Port, mut local: Local) -> Result<Self, EndpointError> {
        let group = port.group.clone();
        let worker = port.worker();
        local.hello.worker = worker.into();
        let mut config = quinn::EndpointConfig::new(Arc::new(group.reset_key.clone()));
        config.max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX).map_err(|_| EndpointError::Cipher)?;
        // A restarted process owes a reset to every tunnel of the one before, at once. Who is not owed one does not get
        // it: quinn asks the generator.
        config.min_reset_interval(Duration::ZERO);
        let codec = group.codec.clone();
        config.cid_generator(move || Box::new(Generator::new(codec.clone(), worker)));
        let server = server_config(&local)?;
        let socket = socket::open(port).map_err(EndpointError::Socket)?;
        let copier = Arc::<Copier>::default();
        let copying = tokio::spawn(copier.clone().run(socket.clone())).abort_handle();
        let socket = Arc::new(Apart::new(socket, UDP_PAYLOAD_BYTES_MAX.into()));
        let socket = Arc::new(CopiedSocket { inner: socket, copier: copier.clone() });
        let runtime = Arc::new(quinn::TokioRuntime);
        let quic = quinn::Endpoint::new_with_abstract_socket(config, Some(server.clone()), socket, runtime)
            .map_err(EndpointError::Socket)?;
        let (local, server) = (ArcSwap::from_pointee(local), ArcSwap::from_pointee(server));
        Ok(Self { quic, local, server, copier, copying, group, worker })
    }

    /// The number of the worker that it belongs to.
    pub fn worker(&self) -> u8 {
        self.worker
    }

    /// What came to the wrong worker: of the whole port, not of this worker alone.
    pub fn strays(&self) -> Strays {
        self.group.strays()
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Handshakes that begin from now on use `local`: new certificates and bundles. Tunnels that are up stay.
    ///
    /// # Errors
    /// When the new identity is not usable; the old one stays in use.
    pub fn replace_local(&self, mut local: Local) -> Result<(), EndpointError> {
        local.hello.worker = self.local.load().hello.worker;
        let server = server_config(&local)?;
        self.quic.set_server_config(Some(server.clone()));
        self.server.store(Arc::new(server));
        self.local.store(Arc::new(local));
        Ok(())
    }

    /// The next connection attempt; `None` when the endpoint is closed. Cancel safe.
    pub async fn accept(&self) -> Option<Attempt> {
        let incoming = self.quic.accept().await?;
        let (local, server) = (self.local.load_full(), self.server.load_full());
        Some(Attempt { incoming, local, server, copier: self.copier.clone() })
    }

    /// Dials `address`, where a gateway of `cluster` must answer.
    ///
    /// # Errors
    /// When nobody answers in time, either side refuses the other's certificate or HELLO, or `admit` says no.
    pub async fn dial(
        &self,
        address: SocketAddr,
        cluster: &str,
        admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
    ) -> Result<(Tunnel, Driver), TunnelError> {
        let local = self.local.load_full();
        let tls = identity::client_config(&local.credentials, local.trust.clone(), cluster, &[crate::ALPN])
            .map_err(|e| TunnelError::Connect(e.to_string()))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| TunnelError::Connect(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let meter = Arc::<Meter>::default();
        config.transport_config(Arc::new(transport(&meter, &self.copier)));
        // Theirs of the same number: of two tunnels each then has a worker of its own at both ends.
        let wish = self.worker;
        config.initial_dst_cid_provider(Arc::new(move || cid::first_choice(wish, &mut fastrand::Rng::new())));
        // The name is only SNI: the verifier looks at the SPIFFE identity.
        let name = format!("{cluster}.gateway.ringway");
        let connecting = self
            .quic
            .connect_with(config, address, &name)
            .map_err(|e| TunnelError::Connect(e.to_string()))?;
        let connection = within(DIAL_WAIT, connecting).await?.map_err(lost)?;
        handshake::greet(Carrier::Quic(connection, meter), &local, admit).await
    }

    /// Closes every tunnel and takes no more; [`Endpoint::wait_idle`] then sees that the peers have heard of it.
    pub fn close(&self, reason: &str) {
        self.quic.close(quinn::VarInt::from_u32(CloseCode::Shutdown.to_wire()), reason.as_bytes());
    }

    /// Waits until every connection has sent its close.
    pub async fn wait_idle(&self) {
        self.quic.wait_idle().await;
    }
}

/// That of one connection.
fn transport(meter: &Arc<Meter>, copier: &Arc<Copier>) -> quinn::TransportConfig {
    let mut t = quinn::TransportConfig::default();
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.max_ack_delay(Some(Duration::from_millis(5)));
    t.max_concurrent_bidi_streams(limits::STREAMS_MAX.into())
        .max_concurrent_uni_streams(0u8.into())
        .stream_receive_window(window(limits::STREAM_UNREAD_BYTES_MAX))
        // Until it is known whose it is.
        .receive_window(window(limits::NEW_TUNNEL_UNREAD_BYTES_MAX))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("3 s fit a QUIC idle timeout")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .ack_frequency_config(Some(acks))
        .packet_threshold(REORDERED_MAX)
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
        .congestion_controller_factory(Arc::new(Factory { meter: meter.clone(), copier: copier.clone() }));
    t
}

fn window(bytes: usize) -> quinn::VarInt {
    u32::try_from(bytes).unwrap_or(u32::MAX).into()
}

fn server_config(local: &Local) -> Result<quinn::ServerConfig, EndpointError> {
    let tls = identity::server_config(&local.credentials, local.trust.clone(), &[crate::ALPN])?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|_| EndpointError::Cipher)?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
}
