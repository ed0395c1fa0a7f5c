//! A peer that speaks the tunnel protocol by hand, so that it can also speak it badly: it asks for what it was not
//! granted, lies about its name, sends nonsense.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use identity::{Credentials, Trust};
use proto::code::Code;
use proto::control::{Control, Hello, control};
use proto::datagram::{DatagramKind, Probe};
use proto::frame::{Decoder, END, Frame, FrameKind, put_frame, put_frame_header};
use proto::head::{FlowHead, HttpHead, RequestHead, ResponseHead};
use proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use proto::message::{encode_message, take_message};
use proto::stream::StreamKind;
use proto::version::Versions;
use quinn::VarInt;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::mesh::TRUST_DOMAIN;
use crate::wait::SOON;

/// Control messages that wait to be written; whoever has another waits.
const CONTROL_QUEUE: usize = 16;

/// A sign of life on a connection where nothing is sent, as often as gateways give it.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The protocol of a tunnel in TLS's negotiation.
const ALPN: &[u8] = b"ringway/1";

/// A tunnel from a foreign process; it answers probes. Dropping it ends it without a word.
#[derive(Debug)]
pub struct Peer {
    runtime: Arc<Runtime>,
    _endpoint: quinn::Endpoint,
    /// The connection, for what the methods here do not do.
    pub connection: quinn::Connection,
    /// What goes out on the control stream. None: no HELLO was exchanged.
    control: Option<mpsc::Sender<Control>>,
    /// The gateway has asked to be told everything once more.
    asks_again: Arc<AtomicBool>,
}

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer, whole.
    Whole {
        /// Its status.
        status: u16,
        /// Its body.
        body: Vec<u8>,
    },
    /// The stream was reset.
    Reset(Code),
    /// The whole connection went.
    Lost(String),
}

/// A HELLO that fits the certificate of `gw-1` of `cluster`.
pub fn hello(cluster: &str, uid: [u8; 16]) -> Hello {
    Hello {
        version_min: Versions::OURS.min,
        version_max: Versions::OURS.max,
        cluster: cluster.into(),
        region: format!("us-{cluster}"),
        cluster_uid: uid.to_vec(),
        gateway: "gw-1".into(),
        worker: 0,
        boot: 1,
        takes_over_from: 0,
        addresses: Vec::new(),
        limits: None,
        software: "e2e".into(),
    }
}

/// The head of a GET of `/` for `shop/NAME`, port 80.
pub fn get(name: &str) -> RequestHead<'_> {
    let flow = FlowHead {
        request_id: [7; 16],
        namespace: "shop",
        service: name,
        port: 80,
        attempts_left: 1,
        attempt: 1,
        replayable: true,
        ..FlowHead::default()
    };
    RequestHead {
        flow,
        http: HttpHead { method: "GET", path: "/", authority: "cart.shop.mesh", upgrade: None },
    }
}

/// The same, with what it says of its flow altered.
pub fn get_with<'a>(name: &'a str, alter: impl FnOnce(&mut FlowHead<'a>)) -> RequestHead<'a> {
    let mut head = get(name);
    alter(&mut head.flow);
    head
}

impl Peer {
    /// Shakes hands with the gateway of `cluster` at `address`, with the identity in `identity_dir`, even if that is
    /// not valid now. `Ok` says little: a server that refuses a client's certificate is heard of later.
    ///
    /// # Errors
    /// When the handshake fails on our side.
    pub fn shake(identity_dir: &Path, cluster: &str, address: SocketAddr) -> Result<Self, String> {
        Self::shake_on(runtime()?, identity_dir, cluster, address)
    }

    fn shake_on(
        runtime: Arc<Runtime>,
        identity_dir: &Path,
        cluster: &str,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let (endpoint, connection) = runtime.block_on(Self::connect(identity_dir, cluster, address))?;
        Ok(Self { runtime, _endpoint: endpoint, connection, control: None, asks_again: Arc::default() })
    }

    /// The connection alone, and what it needs; it answers probes.
    pub(crate) async fn connect(
        identity_dir: &Path,
        cluster: &str,
        address: SocketAddr,
    ) -> Result<(quinn::Endpoint, quinn::Connection), String> {
        let credentials = load(identity_dir)?;
        let (trust, problems) = Trust::load(identity_dir, [(cluster, TRUST_DOMAIN)]);
        if let Some((_, problem)) = problems.first() {
            return Err(problem.to_string());
        }
        let tls = identity::client_config(&credentials, Arc::new(trust), cluster, &[ALPN]);
        let tls = tls.map_err(|e| e.to_string())?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| e.to_string())?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        config.transport_config(Arc::new(transport));
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoint = quinn::Endpoint::client(any).map_err(|e| e.to_string())?;
        let connecting = endpoint.connect_with(config, address, "x.invalid").map_err(|e| e.to_string())?;
        let connection = soon(connecting).await.map_err(|e| e.to_string())?;
        tokio::spawn(answer_probes(connection.clone()));
        Ok((endpoint, connection))
    }

    /// The same, and exchanges HELLOs.
    ///
    /// # Errors
    /// When either fails, with the gateway's reason if it gave one.
    pub fn dial(identity_dir: &Path, target: (&str, SocketAddr), ours: &Hello) -> Result<Self, String> {
        Self::dial_on(runtime()?, identity_dir, target, ours)
    }

    /// The same, on a runtime that others share: closing the connection is what ends it.
    ///
    /// # Errors
    /// As [`Peer::dial`].
    pub fn dial_on(
        runtime: Arc<Runtime>,
        identity_dir: &Path,
        target: (&str, SocketAddr),
        ours: &Hello,
    ) -> Result<Self, String> {
        let mut peer = Self::shake_on(runtime, identity_dir, target.0, target.1)?;
        let mut first = vec![StreamKind::Control.to_wire()];
        first.extend(encode_message(ours));
        let (connection, asked) = (peer.connection.clone(), peer.asks_again.clone());
        let (control, mut to_tell) = mpsc::channel::<Control>(CONTROL_QUEUE);
        peer.runtime.block_on(soon(async move {
            let lost = |e: &dyn std::fmt::Display| format!("{e} ({:?})", connection.close_reason());
            let (mut send, mut receive) = connection.open_bi().await.map_err(|e| lost(&e))?;
            send.write_all(&first).await.map_err(|e| lost(&e))?;
            let mut buffer = BytesMut::new();
            loop {
                if take_message::<Hello>(&mut buffer, 65_536).map_err(|e| e.to_string())?.is_some() {
                    break;
                }
                match receive.read_chunk(65_536, true).await.map_err(|e| lost(&e))? {
                    Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
                    None => return Err(lost(&"the control stream ended")),
                }
            }
            // Both halves live as long as the tunnel: dropping them would end the control stream.
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = receive.read_chunk(65_536, true).await {
                    buffer.extend_from_slice(&chunk.bytes);
                    while let Ok(Some(said)) = take_message::<Control>(&mut buffer, CONTROL_MESSAGE_BYTES_MAX)
                    {
                        if let Some(control::Kind::TellAgain(_)) = said.kind {
                            asked.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
            tokio::spawn(async move {
                while let Some(message) = to_tell.recv().await {
                    if send.write_all(&encode_message(&message)).await.is_err() {
                        break;
                    }
                }
            });
            Ok(())
        }))?;
        peer.control = Some(control);
        Ok(peer)
    }

    /// Whether the gateway asks to be told everything once more; true once.
    pub fn take_asks_again(&self) -> bool {
        self.asks_again.swap(false, Ordering::Relaxed)
    }

    /// Says `message` on the control stream; false: the tunnel is gone, or no HELLO was exchanged.
    ///
    /// # Panics
    /// When called from within an asynchronous task.
    pub fn say(&self, message: Control) -> bool {
        self.control.as_ref().is_some_and(|control| control.blocking_send(message).is_ok())
    }

    /// What says something on the control stream, from a task.
    ///
    /// # Panics
    /// When no HELLO was exchanged.
    pub fn voice(&self) -> mpsc::Sender<Control> {
        self.control.clone().expect("it was dialled")
    }

    /// Where tasks run that belong to this peer: they end with it, unless others share the runtime.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// An exchange to its end: `head`, `fields`, and a body if there is one.
    pub fn ask(&self, head: &RequestHead<'_>, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut bytes = vec![StreamKind::Exchange.to_wire()];
        let fields = fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        put_frame(&mut bytes, FrameKind::Head, |out| head.encode(fields, out)).expect("a head that fits");
        if !body.is_empty() {
            put_frame_header(&mut bytes, FrameKind::Data, body.len());
            bytes.extend_from_slice(body);
        }
        bytes.extend_from_slice(&END);
        self.ask_raw(bytes.into())
    }

    /// A stream of these bytes, finished, and what comes back.
    pub fn ask_raw(&self, bytes: Bytes) -> Answer {
        let connection = self.connection.clone();
        self.runtime.block_on(soon(async move {
            match connection.open_bi().await {
                Ok((send, receive)) => exchange(send, receive, bytes).await,
                Err(e) => Answer::Lost(e.to_string()),
            }
        }))
    }

    /// As [`Peer::ask_raw`], with so much time between the first bytes and the rest, as between two packets.
    pub fn ask_in_two(&self, first: Bytes, between: Duration, rest: Bytes) -> Answer {
        let connection = self.connection.clone();
        let begun = self.runtime.block_on(soon(async move {
            let (mut send, receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
            send.write_all(&first).await.map_err(|e| e.to_string())?;
            Ok::<_, String>((send, receive))
        }));
        crate::wait::pause(between);
        match begun {
            Ok((send, receive)) => self.runtime.block_on(soon(exchange(send, receive, rest))),
            Err(lost) => Answer::Lost(lost),
        }
    }

    /// Sends a stream of these bytes and keeps it, whatever comes back.
    ///
    /// # Panics
    /// When the gateway allows no stream.
    pub fn tell(&self, bytes: Bytes) {
        assert_eq!(self.open_and_hold(1, &bytes), 1, "the gateway allows a stream");
    }

    /// Opens up to `n` exchanges that send one byte and then nothing, and keeps them; how many the gateway allowed.
    pub fn open_silent(&self, n: usize) -> usize {
        self.open_and_hold(n, &[StreamKind::Exchange.to_wire()])
    }

    /// Opens up to `n` streams that begin with `first` and never end, and keeps them; how many the gateway allowed.
    pub fn open_and_hold(&self, n: usize, first: &[u8]) -> usize {
        let (connection, first) = (self.connection.clone(), first.to_vec());
        self.runtime.block_on(async move {
            let mut held = Vec::new();
            while held.len() < n {
                let open = tokio::time::timeout(Duration::from_secs(1), connection.open_bi()).await;
                let Ok(Ok((mut send, receive))) = open else { break };
                if send.write_all(&first).await.is_err() {
                    break;
                }
                held.push((send, receive));
            }
            let count = held.len();
            tokio::spawn(async move {
                connection.closed().await;
                drop(held);
            });
            count
        })
    }

    /// Opens a stream of these bytes and keeps it: the first that comes back on it; none: the gateway has refused it.
    ///
    /// # Panics
    /// When the gateway allows no stream, or says nothing in time.
    pub fn first_word(&self, bytes: &[u8]) -> Option<Bytes> {
        let connection = self.connection.clone();
        self.runtime.block_on(soon(async move {
            let (mut send, mut receive) = connection.open_bi().await.expect("the gateway allows a stream");
            // A gateway may refuse before it has read all: what it says then still counts.
            let _ = send.write_all(bytes).await;
            let word = receive.read_chunk(65_536, true).await.ok().flatten();
            tokio::spawn(async move {
                connection.closed().await;
                drop((send, receive));
            });
            word.map(|chunk| chunk.bytes)
        }))
    }

    /// Opens `count` streams of these bytes and resets each soon after.
    ///
    /// # Panics
    /// When the gateway does not take as many in time.
    pub fn open_and_reset(&self, bytes: &[u8], count: usize) {
        /// Those that are open at once, so that their bytes go out before the reset does.
        const OPEN: usize = 64;
        let connection = self.connection.clone();
        let cancelled = VarInt::from_u32(Code::Cancelled.to_wire());
        self.runtime.block_on(soon(async move {
            let mut open = VecDeque::new();
            for _ in 0..count {
                let (mut send, receive) = connection.open_bi().await.expect("the tunnel stays");
                match send.write_all(bytes).await {
                    // What is refused need not be taken to its end.
                    Ok(()) | Err(quinn::WriteError::Stopped(_)) => {}
                    Err(error) => panic!("the tunnel stays: {error}"),
                }
                open.push_back((send, receive));
                if open.len() > OPEN
                    && let Some((mut send, mut receive)) = open.pop_front()
                {
                    let _ = send.reset(cancelled);
                    let _ = receive.stop(cancelled);
                }
            }
        }));
    }

    /// Waits until the gateway has closed the connection, and gives its reason.
    pub fn closed(&self) -> String {
        let connection = self.connection.clone();
        self.runtime.block_on(soon(async move { connection.closed().await.to_string() }))
    }
}

/// A runtime of one thread.
pub(crate) fn runtime() -> Result<Arc<Runtime>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map(Arc::new).map_err(|e| e.to_string())
}

/// The credentials in `dir` as of the day they were valid, so that expired ones can be shown to a gateway.
pub(crate) fn load(dir: &Path) -> Result<Credentials, String> {
    match Credentials::load(dir) {
        Err(identity::IdentityError::Expired { .. }) => {
            let day = Duration::from_secs(24 * 3600);
            let then = SystemTime::now() - day;
            Credentials::load_at(dir, then).map_err(|e| e.to_string())
        }
        other => other.map_err(|e| e.to_string()),
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("an answer within the time of a test")
}

async fn exchange(mut send: quinn::SendStream, mut receive: quinn::RecvStream, bytes: Bytes) -> Answer {
    // A gateway may refuse before it has read all: what it answers then still counts.
    let _ = send.write_chunk(bytes).await;
    let _ = send.finish();
    let mut decoder = Decoder::new();
    let (mut status, mut body) = (0, Vec::new());
    loop {
        match receive.read_chunk(65_536, true).await {
            Ok(Some(chunk)) => decoder.push(chunk.bytes),
            Ok(None) => return Answer::Lost("FIN before END".into()),
            Err(quinn::ReadError::Reset(code)) => return Answer::Reset(Code::from_wire(code.into_inner())),
            Err(e) => return Answer::Lost(e.to_string()),
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Head(head))) => {
                    status = ResponseHead::decode(&head).expect("a gateway's head is well-formed").0.status;
                }
                Ok(Some(Frame::Data(piece))) => body.extend_from_slice(&piece),
                Ok(Some(Frame::Trailers(_) | Frame::Interim(_))) => {}
                Ok(Some(Frame::End)) => return Answer::Whole { status, body },
                Ok(None) => break,
                Err(e) => panic!("a gateway's frames are well-formed: {e}"),
            }
        }
    }
}

async fn answer_probes(connection: quinn::Connection) {
    while let Ok(datagram) = connection.read_datagram().await {
        if let Some(probe) = Probe::decode(&datagram).filter(|p| p.kind == DatagramKind::Ping) {
            let _ = connection.send_datagram(probe.pong().encode().to_vec().into());
        }
    }
}
