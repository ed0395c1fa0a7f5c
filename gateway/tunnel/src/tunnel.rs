//! The life of one connection after HELLO: streams, GOAWAY, probes, and its end.

mod accepted;
mod driver;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use identity::Credentials;
use proto::code::{CloseCode, Code};
use proto::control::{Control, Digest, Gateways, GoAway, TellAgain, control};
use proto::datagram::{DatagramKind, Probe};
use proto::stream::StreamKind;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc};

use crate::account::{Account, Window};
use crate::carrier::{Carrier, Kind, PeerAddress, Stream};
use crate::congestion::{Path, Shaping};
use crate::error::{CloseReason, TunnelError};
use crate::flight::{Flight, Flights};
use crate::flow::{Datagrams, Flows};
use crate::hello::Peer;
use crate::local::Local;
use crate::stream::{Exchange, MessageReader, MessageWriter, Receiver, Sender};

pub use accepted::{Accepted, Begun};
pub(crate) use driver::ControlStream;
pub use driver::{Driver, Event};

/// No GOAWAY yet.
const NONE: u64 = u64::MAX;
/// Control messages waiting to be written; digests leave room for the handful of others in the life of a tunnel, and
/// when the queue is full the peer does not read: the connection's idle timeout ends that.
const CONTROL_QUEUE: usize = 16;

/// A tunnel to one process of a peer. Clones share the connection; it ends when it is closed, by either side.
#[derive(Clone, Debug)]
pub struct Tunnel {
    shared: Arc<Shared>,
}

/// What all handles of a tunnel share.
#[derive(Debug)]
pub(crate) struct Shared {
    carrier: Carrier,
    peer: Peer,
    dialled: bool,
    /// Ours that owns it.
    worker: u32,
    credentials: Arc<Credentials>,
    flights: Arc<Flights>,
    /// Who takes the datagrams of flows.
    datagrams: Arc<Flows>,
    /// One above the highest stream index of the peer that we took.
    accepted_next: AtomicU64,
    /// One above the last stream that our GOAWAY accepts.
    we_take: AtomicU64,
    /// Whether either side asked for another tunnel in its place.
    retiring: AtomicBool,
    /// On which what is unread of the peer counts.
    account: OnceLock<Arc<Account>>,
    control: mpsc::Sender<Control>,
}

impl Window for Shared {
    fn set_window(&self, bytes: usize) {
        self.carrier.set_window(bytes);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(account) = self.account.get() {
            account.leave();
        }
    }
}

impl Tunnel {
    pub(crate) fn new(
        carrier: Carrier,
        peer: Peer,
        dialled: bool,
        local: &Local,
        control: ControlStream,
    ) -> (Self, Driver) {
        let (sender, outgoing) = mpsc::channel(CONTROL_QUEUE);
        let shared = Arc::new(Shared {
            carrier,
            peer,
            dialled,
            worker: local.hello.worker,
            credentials: local.credentials.clone(),
            flights: Arc::default(),
            datagrams: Arc::default(),
            accepted_next: AtomicU64::new(0),
            we_take: AtomicU64::new(NONE),
            retiring: AtomicBool::new(false),
            account: OnceLock::new(),
            control: sender,
        });
        (Self { shared: shared.clone() }, Driver::new(shared, control, outgoing))
    }

    /// The process at the other end.
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Whether we dialled it.
    pub fn dialled(&self) -> bool {
        self.shared.dialled
    }

    /// The number of our worker that owns it: only there it costs no hand-over between threads.
    pub fn worker(&self) -> u32 {
        self.shared.worker
    }

    /// The number of the worker that dialled it, on whichever side: of tunnels between two gateways that the same side
    /// dialled one of each lane is enough.
    pub fn lane(&self) -> u32 {
        if self.shared.dialled { self.shared.worker } else { self.shared.peer.hello.worker }
    }

    /// The certificate by which we proved ourselves in the handshake.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.shared.credentials
    }

    /// The certificates that the peer proved itself by in the handshake, its own first.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.shared.carrier.peer_certificates()
    }

    /// What it runs on.
    pub fn carrier(&self) -> Kind {
        self.shared.carrier.kind()
    }

    /// The peer's address at the moment.
    pub fn remote_address(&self) -> PeerAddress {
        self.shared.carrier.remote_address()
    }

    /// The carrier's smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.shared.carrier.rtt()
    }

    /// How it may use its path from now on. What may be in flight on byte streams is decided by the system, which is told.
    pub fn shape(&self, shaping: Shaping) {
        self.shared.carrier.set_congestion(shaping.congestion);
        self.shared.flights.bulk.set_rate_max(shaping.rate_max);
    }

    /// Most bits per second that are sent on it; none: there is no limit.
    pub fn rate_max(&self) -> Option<u64> {
        self.shared.flights.bulk.rate_max()
    }

    /// What is known of its path; none on byte streams.
    pub fn path(&self) -> Option<Path> {
        self.shared.carrier.path()
    }

    /// A number that grows whenever something authenticated arrives from the peer.
    pub fn heard(&self) -> u64 {
        self.shared.carrier.authenticated_frames()
    }

    /// Exchanges that we opened and that are not over.
    pub fn outstanding(&self) -> usize {
        self.shared.flights.opened()
    }

    /// Whether the peer takes another exchange, as far as is known here.
    pub fn has_room(&self) -> bool {
        (self.outstanding() as u64) < self.shared.peer.streams_max
    }

    /// Exchanges that the peer opened and that are not over, with streams of which it is not known yet what they are.
    pub fn serving(&self) -> usize {
        self.shared.flights.accepted()
    }

    /// Whether new exchanges may be opened: it is not closed and the peer has not said GOAWAY.
    pub fn is_open(&self) -> bool {
        self.shared.flights.peer_takes_all() && self.shared.carrier.close_reason().is_none()
    }

    /// Whether another tunnel shall take the place of this one, which works until it does.
    pub fn is_retiring(&self) -> bool {
        self.shared.retiring.load(Ordering::Acquire)
    }

    /// Asks both sides for another tunnel in the place of this one. Nothing is refused until [`Tunnel::go_away`]: like
    /// the first of the two GOAWAYs of RFC 9113, section 6.8, it lets everyone move over first.
    pub fn retire(&self) {
        if !self.shared.retiring.swap(true, Ordering::AcqRel) {
            let go_away =
                GoAway { last_stream: Some(u64::MAX), reason: "another tunnel shall replace it".into() };
            // Full means that the peer reads nothing: its end will end this tunnel anyway.
            let _ = self.shared.control.try_send(Control { kind: Some(control::Kind::GoAway(go_away)) });
        }
    }

    /// From now on what is unread of the peer counts on `account`, which it shares with other tunnels: until then it may
    /// have little. Only the first call counts.
    pub fn share(&self, account: &Arc<Account>) {
        let shared = &self.shared;
        if shared.account.set(account.clone()).is_ok() {
            shared.carrier.share(account);
            if shared.carrier.kind() == Kind::Quic {
                account.join(Arc::downgrade(&(shared.clone() as Arc<dyn Window>)));
            }
        }
    }

    /// `notify` is told whenever the first exchange is opened on the idle tunnel. Only the first call counts.
    pub fn notify_when_busy(&self, notify: Arc<Notify>) {
        self.shared.flights.notify_when_busy(notify);
    }

    /// Whether both are the same connection.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Opens an exchange or a connection and sends `first`: what [`begin`] began, the request's head frame and whatever of the
    /// body is there; with `whole`, `first` ends with the end frame.
    ///
    /// # Errors
    /// Nothing was sent if the error [certifies](TunnelError::certifies_unprocessed) it.
    pub async fn open(&self, first: Bytes, whole: bool) -> Result<Exchange, TunnelError> {
        let stream = self.open_stream().await?;
        self.begin(stream, first, whole).await
    }

    /// Opens a flow of datagrams and sends `first`: what [`begin`] began, and its head.
    ///
    /// # Errors
    /// As [`Tunnel::open`].
    pub async fn open_datagrams(&self, first: Bytes) -> Result<(Exchange, Datagrams), TunnelError> {
        let stream = self.open_stream().await?;
        // Before anything can come.
        let datagrams = Datagrams::begin(&self.shared.datagrams, &self.shared.carrier, stream.0, true);
        Ok((self.begin(stream, first, false).await?, datagrams))
    }

    async fn begin(&self, stream: Stream, first: Bytes, whole: bool) -> Result<Exchange, TunnelError> {
        let s = &self.shared;
        let (index, send, recv) = stream;
        let flight = Flight::begin(&s.flights, s.clone(), index, true);
        let sender = Sender::new(send, flight.clone());
        let mut exchange = Exchange { sender, receiver: Receiver::new(recv, flight) };
        exchange.sender.write(first).await?;
        if whole {
            exchange.sender.finish();
        }
        Ok(exchange)
    }

    /// Opens a stream of messages of this kind.
    ///
    /// # Errors
    /// As [`Tunnel::open`]; also of a kind that carries no messages.
    pub async fn open_messages(
        &self,
        kind: StreamKind,
    ) -> Result<(MessageReader, MessageWriter), TunnelError> {
        let (_, max) = kind
            .message_bytes_max()
            .ok_or_else(|| TunnelError::Protocol(format!("no messages on a stream of kind {kind:?}")))?;
        let (_, send, recv) = self.open_stream().await?;
        let reader = Receiver::new(recv, Flight::uncounted()).into_messages(max);
        let mut writer = MessageWriter::new(Sender::new(send, Flight::uncounted()));
        writer.raw(Bytes::copy_from_slice(&[kind.to_wire()])).await?;
        Ok((reader, writer))
    }

    async fn open_stream(&self) -> Result<Stream, TunnelError> {
        let s = &self.shared;
        if !s.flights.peer_takes_all() {
            let text = "the peer is going away".into();
            return Err(TunnelError::Down(CloseReason { code: None, text, cut: false }));
        }
        if s.flights.opened() as u64 >= s.peer.streams_max {
            return Err(TunnelError::Busy);
        }
        s.carrier.open().await
    }

    /// The peer's next stream. Streams above our GOAWAY are refused here. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel has ended.
    pub async fn accept(&self) -> Result<Accepted, CloseReason> {
        let s = &self.shared;
        loop {
            let (index, mut send, mut recv) = s.carrier.accept().await?;
            if index >= s.we_take.load(Ordering::Acquire) {
                send.reset(Code::Refused);
                recv.stop(Code::Refused);
                continue;
            }
            s.accepted_next.fetch_max(index + 1, Ordering::AcqRel);
            return Ok(Accepted::new((index, send, recv), s.clone()));
        }
    }

    /// Sends a probe; it may be lost.
    ///
    /// # Errors
    /// When the tunnel has ended.
    pub fn probe(&self, sequence: u64, clock_us: u64) -> Result<(), TunnelError> {
        let ping = Probe { kind: DatagramKind::Ping, sequence, clock_us };
        self.shared.carrier.send_datagram(Bytes::copy_from_slice(&ping.encode()))
    }

    /// Takes no further streams of the peer, and says so. What was accepted goes on.
    pub fn go_away(&self, reason: &str) {
        let s = &self.shared;
        let take = s.accepted_next.load(Ordering::Acquire);
        if s.we_take.compare_exchange(NONE, take, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let go_away = GoAway { last_stream: take.checked_sub(1), reason: reason.into() };
            // Full means that the peer reads nothing: it will see the close instead.
            let _ = s.control.try_send(Control { kind: Some(control::Kind::GoAway(go_away)) });
        }
    }

    /// Says how our services are. False: what was said before is not written yet, and this is lost.
    pub fn tell(&self, digest: Digest) -> bool {
        self.say(control::Kind::Digest(digest))
    }

    /// Says where the gateways of our cluster may be dialled. False, as [`Tunnel::tell`].
    pub fn tell_gateways(&self, gateways: Gateways) -> bool {
        self.say(control::Kind::Gateways(gateways))
    }

    /// Asks for everything that digests have told. False, as [`Tunnel::tell`].
    pub fn ask_again(&self) -> bool {
        self.say(control::Kind::TellAgain(TellAgain {}))
    }

    fn say(&self, kind: control::Kind) -> bool {
        // Half of the queue is left for messages that are said only once.
        let control = &self.shared.control;
        control.capacity() > CONTROL_QUEUE / 2 && control.try_send(Control { kind: Some(kind) }).is_ok()
    }

    /// Ends the tunnel at once: every exchange on it fails.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.shared.carrier.close(code, reason);
    }

    /// Waits for its end.
    pub async fn closed(&self) -> CloseReason {
        self.shared.carrier.closed().await
    }
}

/// The first bytes of a stream of this kind, with room for a usual head.
pub fn begin(kind: StreamKind) -> Vec<u8> {
    let mut first = Vec::with_capacity(1024);
    first.push(kind.to_wire());
    first
}
