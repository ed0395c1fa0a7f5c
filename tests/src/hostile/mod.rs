//! A linked cluster that means harm: its certificate is valid, its HELLO is right, and from there on it says what it
//! likes, on either carrier, as fast as it can.
//!
//! [`Hostile`] is one gateway of it. What it exports is told with [`Hostile::export`] and [`Hostile::tell`], where it may
//! be dialled and how its services are with [`Hostile::say`], what requests get with [`Hostile::answer`];
//! [`Hostile::open`] gives a stream of any kind. [`records`] are what it exports, [`answers`] what it answers. An attack is a test that uses these; [`stage`] is what it is made upon, and looks after it.

pub mod answers;
mod mux;
pub mod records;
pub mod stage;
pub(crate) mod stream;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::code::Code;
use proto::control::{Control, GatewayAddress, Gateways, Hello, control};
use proto::limits::{CONTROL_MESSAGE_BYTES_MAX, SYNC_MESSAGE_BYTES_MAX};
use proto::message::{encode_message, put_message};
use proto::stream::StreamKind;
use proto::sync::{Event, Watch};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use self::stream::Connection;
pub use self::stream::{Incoming, Outgoing};
use crate::wait::SOON;

/// What a tunnel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// QUIC.
    Quic,
    /// TLS on TCP.
    Tcp,
}

impl Carrier {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Quic, Self::Tcp];
}

/// Messages of ours that wait to be written; whoever has another waits.
const QUEUE: usize = 64;
/// Those of one sync stream, each of many events.
const SYNC_QUEUE: usize = 1;
/// A sign of life on a quiet sync stream.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A gateway of a hostile cluster, with a tunnel. Dropping it ends it without a word.
#[derive(Debug)]
pub struct Hostile {
    runtime: Runtime,
    connection: Connection,
    control: mpsc::Sender<Bytes>,
    exports: Arc<Exports>,
    _endpoint: Option<quinn::Endpoint>,
}

#[derive(Debug, Default)]
struct Exports {
    /// What each sync stream begins with; none: none is answered yet.
    first: Mutex<Option<Bytes>>,
    /// The sync streams that are open.
    streams: Mutex<Vec<mpsc::Sender<Bytes>>>,
    /// The last revision that was told as complete.
    revision: Mutex<u64>,
    /// What every request gets; none: it is refused.
    answer: Mutex<Option<Bytes>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hostile {
    /// Links to the gateway of the cluster `target`, as the identity in `dir`.
    ///
    /// # Errors
    /// When the tunnel does not come up.
    pub fn dial(
        dir: &Path,
        target: (&str, SocketAddr),
        hello: &Hello,
        carrier: Carrier,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let exports = Arc::<Exports>::default();
        let up = async {
            let (connection, endpoint) = Connection::shake(dir, target, carrier).await?;
            let (mut send, mut receive) = connection.open().await?;
            let mut first = vec![StreamKind::Control.to_wire()];
            first.extend(encode_message(hello));
            send.write(first.into()).await?;
            let theirs = receive.message::<Hello>(CONTROL_MESSAGE_BYTES_MAX).await;
            if !matches!(theirs, Ok(Some(_))) {
                return Err(format!("no HELLO: {theirs:?}, {:?}", connection.ended()));
            }
            let (control, mut to_say) = mpsc::channel::<Bytes>(QUEUE);
            tokio::spawn(async move { while let Ok(Some(_)) = receive.read().await {} });
            tokio::spawn(async move {
                while let Some(bytes) = to_say.recv().await {
                    if send.write(bytes).await.is_err() {
                        break;
                    }
                }
            });
            tokio::spawn(serve(connection.clone(), exports.clone()));
            Ok((connection, endpoint, control))
        };
        let up = runtime.block_on(async { tokio::time::timeout(SOON, up).await });
        let (connection, _endpoint, control) = up.map_err(|_| "no tunnel in time".to_owned())??;
        Ok(Self { runtime, connection, control, exports, _endpoint })
    }

    /// Answers every sync stream, those that wait and those to come, with `events` at first.
    pub fn export(&self, revision: u64, events: &[Event]) {
        *lock(&self.exports.revision) = revision;
        *lock(&self.exports.first) = Some(bytes(events));
    }

    /// Tells `events` on every sync stream that is open; gives on how many.
    pub fn tell(&self, events: &[Event]) -> usize {
        let streams = lock(&self.exports.streams).clone();
        let bytes = bytes(events);
        streams.iter().filter(|stream| stream.blocking_send(bytes.clone()).is_ok()).count()
    }

    /// Answers every request that the gateway sends from now on with these frames.
    pub fn answer(&self, frames: Vec<u8>) {
        *lock(&self.exports.answer) = Some(frames.into());
    }

    /// Says `message` on the control stream; false: the tunnel is gone.
    pub fn say(&self, kind: control::Kind) -> bool {
        self.control.blocking_send(encode_message(&Control { kind: Some(kind) }).into()).is_ok()
    }

    /// Says that its gateways are at these addresses.
    pub fn say_gateways(&self, addresses: impl IntoIterator<Item = (String, String)>) -> bool {
        let address = |(gateway, address)| GatewayAddress { gateway, address };
        let addresses = addresses.into_iter().map(address).collect();
        self.say(control::Kind::Gateways(Gateways { addresses }))
    }

    /// Opens a stream of this kind and gives both of its halves.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn open(&self, kind: StreamKind) -> Result<(Outgoing, Incoming), String> {
        let (mut send, receive) = self.connection.open().await?;
        send.write(vec![kind.to_wire()].into()).await?;
        Ok((send, receive))
    }

    /// Watches the exports of the gateway: up to `count` events, or those that come within `wait`.
    ///
    /// # Errors
    /// When the stream is refused or ends.
    pub fn watch(&self, watch: &Watch, count: usize, wait: Duration) -> Result<Vec<Event>, String> {
        self.run(async {
            let (mut send, mut receive) = self.open(StreamKind::Sync).await?;
            send.say(watch).await?;
            let mut events = Vec::new();
            let reading = async {
                while events.len() < count {
                    match receive.message::<Event>(SYNC_MESSAGE_BYTES_MAX).await? {
                        Some(event) => events.push(event),
                        None => return Err("the stream ended".to_owned()),
                    }
                }
                Ok(())
            };
            let read = tokio::time::timeout(wait, reading).await.unwrap_or(Ok(()));
            send.end(Some(Code::Cancelled.to_wire())).await;
            receive.stop(Code::Cancelled.to_wire()).await;
            read.map(|()| events)
        })
    }

    /// Runs `work` with the runtime of this gateway.
    pub fn run<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(work)
    }

    /// Why the tunnel is over, if it is.
    pub fn ended(&self) -> Option<String> {
        self.connection.ended()
    }

    /// Waits for the end of the tunnel, and gives the gateway's reason.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn closed(&self) -> String {
        let closed = self.run(async { tokio::time::timeout(SOON, self.connection.closed()).await });
        closed.expect("the tunnel ends in time")
    }
}

fn bytes(events: &[Event]) -> Bytes {
    let mut bytes = Vec::new();
    events.iter().for_each(|event| put_message(&mut bytes, event));
    bytes.into()
}

/// Answers what the gateway opens: feeds its sync streams, answers or refuses its requests.
async fn serve(connection: Connection, exports: Arc<Exports>) {
    while let Some((send, receive)) = connection.accept().await {
        tokio::spawn(answer(send, receive, exports.clone()));
    }
}

async fn answer(mut send: Outgoing, mut receive: Incoming, exports: Arc<Exports>) {
    let kind = receive.kind().await.and_then(StreamKind::from_wire);
    let frames = lock(&exports.answer).clone().filter(|_| kind == Some(StreamKind::Exchange));
    if let Some(frames) = frames {
        if send.write(frames).await.is_ok() {
            send.end(None).await;
        }
        // The request is read to its end, as by whoever works on it.
        while let Ok(Some(_)) = receive.read().await {}
        return;
    }
    if kind != Some(StreamKind::Sync) {
        let refused = Code::Refused.to_wire();
        send.end(Some(refused)).await;
        return receive.stop(refused).await;
    }
    let Ok(Some(_)) = receive.message::<Watch>(CONTROL_MESSAGE_BYTES_MAX).await else { return };
    let (sender, mut more) = mpsc::channel(SYNC_QUEUE);
    loop {
        let first = lock(&exports.first).clone();
        match first {
            Some(first) => {
                if send.write(first).await.is_err() {
                    return;
                }
                break;
            }
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    lock(&exports.streams).push(sender);
    loop {
        let bytes = match tokio::time::timeout(HEARTBEAT, more.recv()).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(_) => bytes(&[records::current(*lock(&exports.revision))]),
        };
        if send.write(bytes).await.is_err() {
            return;
        }
    }
}
