//! Two processes' worth of endpoints in one, joined by a tunnel of each kind.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use proto::frame::{Frame, FrameKind, put_frame_header};

use proto::stream::StreamKind;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tunnel::{
    Begun, CloseReason, DirectEndpoint, Driver, Endpoint, Event, Exchange, Incoming, Kind, Local, Port,
    Receiver, Secrets, Tunnel, TunnelError, begin,
};

use crate::pki::{self, Pki};

pub(crate) const KINDS: [Kind; 3] = [Kind::Quic, Kind::Tcp, Kind::Unix];
/// Longer than anything here takes on a busy machine.
const WAIT: Duration = Duration::from_secs(60);

/// Waits for what must come.
pub(crate) async fn soon<F: IntoFuture>(what: F) -> F::Output {
    tokio::time::timeout(WAIT, what.into_future()).await.expect("it comes in time")
}

/// What the gateway of `cluster` says and shows of itself.
pub(crate) fn local(pki: &Pki, cluster: &str) -> Local {
    pki::local(&pki.path().join(cluster), cluster, 0, 1)
}

/// One end of a tunnel, driven; `events` ends with it.
pub(crate) struct End {
    pub(crate) tunnel: Tunnel,
    pub(crate) events: mpsc::Receiver<Event>,
    driver: JoinHandle<CloseReason>,
}

impl End {
    pub(crate) fn of((tunnel, driver): (Tunnel, Driver)) -> Self {
        let (told, events) = mpsc::channel(64);
        let driver = tokio::spawn(driver.run(move |event| told.try_send(event).unwrap()));
        Self { tunnel, events, driver }
    }

    /// Lets go of it without a word.
    pub(crate) fn forget(self) {
        self.driver.abort();
    }

    pub(crate) async fn ended(self) -> CloseReason {
        soon(self.driver).await.unwrap()
    }

    /// Opens an exchange with a head of `head` and more to come.
    pub(crate) async fn open(&self, head: &[u8]) -> Exchange {
        let mut first = begin(StreamKind::Exchange);
        put_head(&mut first, head);
        soon(self.tunnel.open(first.into(), false)).await.unwrap()
    }

    /// The next exchange that the other end opened, and its place.
    pub(crate) async fn accept(&self) -> (u64, Exchange) {
        let accepted = soon(self.tunnel.accept()).await.unwrap();
        let index = accepted.index();
        match soon(accepted.begin()).await.unwrap() {
            Begun::Exchange(exchange) => (index, exchange),
            other @ (Begun::Connection(_) | Begun::Datagrams(..) | Begun::Call(_)) => panic!("{other:?}"),
            Begun::Messages(..) => {
                panic!("an exchange was opened")
            }
        }
    }
}

pub(crate) fn put_head(out: &mut Vec<u8>, head: &[u8]) {
    put_frame_header(out, FrameKind::Head, head.len());
    out.extend_from_slice(head);
}

pub(crate) async fn head(receiver: &mut Receiver) -> Bytes {
    match soon(receiver.frame()).await.unwrap() {
        Some(Frame::Head(head)) => head,
        other => panic!("a head, not {other:?}"),
    }
}

/// Reads to the end frame; how many bytes there were, all of them `byte`.
pub(crate) async fn body(receiver: &mut Receiver, byte: u8) -> usize {
    let mut length = 0;
    while let Some(frame) = soon(receiver.frame()).await.unwrap() {
        if let Frame::Data(data) = frame {
            assert!(data.iter().all(|b| *b == byte));
            length += data.len();
        }
    }
    length
}

/// What listens for one kind of tunnel, with what it needs to live.
pub(crate) enum Listener {
    Quic(Endpoint),
    Direct(DirectEndpoint, Socket),
}

pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

pub(crate) type Answered = Result<(Tunnel, Driver), TunnelError>;

pub(crate) fn quic(local: Local, dir: &Path) -> Endpoint {
    let secrets = Secrets::load_or_create(&dir.join(&local.hello.cluster)).unwrap();
    let any = ([127, 0, 0, 1], 0).into();
    let mut ports = Port::bind(any, NonZeroU8::MIN, &secrets, local.hello.boot).unwrap();
    Endpoint::on(ports.remove(0), local).unwrap()
}

impl Listener {
    pub(crate) async fn start(kind: Kind, local: Local, dir: &Path) -> Self {
        let socket = match kind {
            Kind::Quic => return Self::Quic(quic(local, dir)),
            Kind::Tcp => Socket::Tcp(TcpListener::bind(("127.0.0.1", 0)).await.unwrap()),
            Kind::Unix => {
                let path = dir.join(format!("{}.sock", fastrand::u32(..)));
                Socket::Unix(UnixListener::bind(&path).unwrap(), path)
            }
        };
        Self::Direct(DirectEndpoint::new(local, 0).unwrap(), socket)
    }

    pub(crate) async fn accept(&self) -> Answered {
        match self {
            Self::Quic(endpoint) => {
                let handshake = endpoint.accept().await.unwrap().answer(|_| Ok(()));
                handshake.await.map_err(|(_, e)| e)
            }
            Self::Direct(endpoint, socket) => {
                let incoming = match socket {
                    Socket::Tcp(listener) => {
                        let (stream, from) = listener.accept().await.unwrap();
                        Incoming::Tcp(stream, from)
                    }
                    Socket::Unix(listener, _) => Incoming::Unix(listener.accept().await.unwrap().0),
                };
                endpoint.answer(incoming, |_| Ok(())).await.map_err(|(_, e)| e)
            }
        }
    }

    /// Dials it as `local`, which expects `cluster` there.
    pub(crate) async fn dial(&self, local: Local, dir: &Path, cluster: &str) -> Answered {
        match self {
            Self::Quic(listener) => {
                let address = listener.local_address().unwrap();
                quic(local, dir).dial(address, cluster, |_| Ok(())).await
            }
            Self::Direct(_, socket) => {
                let dialler = DirectEndpoint::new(local, 0).unwrap();
                match socket {
                    Socket::Tcp(listener) => {
                        dialler.dial(listener.local_addr().unwrap(), cluster, |_| Ok(())).await
                    }
                    Socket::Unix(_, path) => dialler.dial_unix(path, cluster, |_| Ok(())).await,
                }
            }
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Direct(_, Socket::Tcp(listener)) => listener.local_addr().unwrap(),
            _ => panic!("only TCP is dialled by hand"),
        }
    }
}

/// West dialled east: both ends, and what must stay.
pub(crate) struct Pair {
    pub(crate) west: End,
    pub(crate) east: End,
    pub(crate) listener: Listener,
    pub(crate) pki: Pki,
}

impl Pair {
    pub(crate) async fn new(kind: Kind) -> Self {
        let pki = Pki::new();
        let listener = Listener::start(kind, local(&pki, "east"), pki.path()).await;
        let dialled = listener.dial(local(&pki, "west"), pki.path(), "east");
        let (west, east) = soon(async { tokio::join!(dialled, listener.accept()) }).await;
        let (west, east) = (End::of(west.unwrap()), End::of(east.unwrap()));
        assert_eq!((west.tunnel.carrier(), east.tunnel.carrier()), (kind, kind));
        Self { west, east, listener, pki }
    }
}
