//! A peer with a good certificate and bad manners, and one without either: bounded, ended, and told why.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::code::{CloseCode, Code};
use proto::control::Hello;
use proto::mux::{Frame, StreamId};
use proto::version::{ALPN_MUX, Versions};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tunnel::{Kind, TunnelError};

use crate::pair::{End, Listener, local, soon};
use crate::pki::Pki;

/// A dialler that speaks the frames by hand.
struct ByHand {
    stream: TlsStream<TcpStream>,
    buf: BytesMut,
}

impl ByHand {
    async fn connect(pki: &Pki, listener: &Listener, alpn: &[u8]) -> std::io::Result<Self> {
        let local = local(pki, "west");
        let config = identity::client_config(&local.credentials, local.trust, "east", &[alpn]).unwrap();
        let stream = TcpStream::connect(listener.address()).await?;
        let name = ServerName::try_from("east").unwrap();
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self { stream, buf: BytesMut::new() })
    }

    /// One that has said HELLO; the other end of the tunnel with it.
    async fn up(pki: &Pki) -> (Self, End, Listener) {
        let listener = Listener::start(Kind::Tcp, local(pki, "east"), pki.path()).await;
        let hello = Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            cluster: "west".into(),
            gateway: "gw-1".into(),
            cluster_uid: vec![7; 16],
            ..Hello::default()
        };
        let control = StreamId::new(0, true);
        let first = [&[0][..], &proto::message::encode_message(&hello)].concat();
        let dialling = async {
            let mut by_hand = Self::connect(pki, &listener, ALPN_MUX).await.unwrap();
            by_hand.send(&[Frame::Open(control), Frame::Data(control, first.into())]).await.unwrap();
            by_hand
        };
        let (by_hand, accepted) = soon(async { tokio::join!(dialling, listener.accept()) }).await;
        (by_hand, End::of(accepted.unwrap()), listener)
    }

    async fn send(&mut self, frames: &[Frame]) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        self.stream.write_all(&out).await?;
        self.stream.flush().await
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buf).unwrap() {
                return Some(frame);
            }
            if !self.stream.read_buf(&mut self.buf).await.is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }

    /// What the other end said last.
    async fn close(&mut self) -> (Option<CloseCode>, String) {
        let read = async {
            loop {
                match self.next().await.expect("a close before the end") {
                    Frame::Close(code, reason) => {
                        let reason = String::from_utf8(reason.to_vec()).unwrap();
                        return (CloseCode::from_wire(code.into()), reason);
                    }
                    _ => continue,
                }
            }
        };
        soon(read).await
    }
}

/// What a peer is told that sends `frames` after a good HELLO.
async fn told(frames: &[Frame]) -> String {
    let pki = Pki::new();
    let (mut by_hand, east, _listener) = ByHand::up(&pki).await;
    by_hand.send(frames).await.unwrap();
    let (code, reason) = by_hand.close().await;
    assert_eq!(code, Some(CloseCode::ProtocolError), "{reason}");
    assert_eq!(east.ended().await.code, Some(CloseCode::ProtocolError));
    reason
}

fn ours(index: u64) -> StreamId {
    StreamId::new(index, true)
}

#[tokio::test]
async fn what_the_protocol_forbids_ends_the_tunnel_with_a_reason() {
    let data = |index, length| Frame::Data(ours(index), Bytes::from(vec![1; length]));
    let cases = [
        (vec![Frame::Open(ours(2))], "a stream opened out of order"),
        (vec![Frame::Open(StreamId::new(0, false))], "a stream opened out of order"),
        (vec![data(1, 1)], "a stream that was never opened"),
        (vec![Frame::Stop(StreamId::new(0, false), 0x100)], "a stream that was never opened"),
        (vec![Frame::Open(ours(1)), Frame::Fin(ours(1)), data(1, 1)], "data after the end of a stream"),
        (vec![Frame::Open(ours(1)), Frame::Fin(ours(1)), Frame::Fin(ours(1))], "a stream ended twice"),
        (vec![Frame::Open(ours(1)), Frame::Window(Some(ours(1)), 1)], "a window that was never granted"),
        (vec![Frame::Window(None, u32::MAX)], "a window that was never granted"),
    ];
    for (frames, reason) in cases {
        assert_eq!(told(&frames).await, reason);
    }
}

#[tokio::test]
async fn what_nobody_reads_is_limited_by_the_windows() {
    let chunk = Bytes::from(vec![1; 16 * 1024]);
    let mut frames = vec![Frame::Open(ours(1))];
    frames.extend(std::iter::repeat_n(Frame::Data(ours(1), chunk), 4 * 1024 / 16 + 1));
    assert_eq!(told(&frames).await, "more data than the window allows");
    // Single bytes cost what they hold.
    let mut frames = vec![Frame::Open(ours(1))];
    frames.extend(std::iter::repeat_n(Frame::Data(ours(1), Bytes::from_static(b"x")), 16 * 1024 + 1));
    assert_eq!(told(&frames).await, "more data than the window allows");
}

#[tokio::test]
async fn streams_opened_and_reset_count_until_they_were_looked_at() {
    let mut frames = Vec::new();
    for index in 1..=4096 {
        frames.extend([
            Frame::Open(ours(index)),
            Frame::Reset(ours(index), 0x106),
            Frame::Stop(ours(index), 0x106),
        ]);
    }
    assert_eq!(told(&frames).await, "too many streams");
}

#[tokio::test]
async fn who_asks_and_does_not_listen_is_closed_and_a_flood_of_pings_is_one_pong() {
    let pki = Pki::new();
    let (mut by_hand, east, _listener) = ByHand::up(&pki).await;
    let pings: Vec<_> = (0..10_000).map(Frame::Ping).collect();
    by_hand.send(&pings).await.unwrap();
    let mut pongs = 0;
    soon(async {
        loop {
            match by_hand.next().await.unwrap() {
                Frame::Pong(9_999) => break,
                Frame::Pong(_) => pongs += 1,
                _ => {}
            }
        }
    })
    .await;
    assert!(pongs < 5_000, "{pongs}");
    assert!(east.tunnel.is_open());
    east.tunnel.close(CloseCode::Shutdown, "enough");
    assert_eq!(by_hand.close().await, (Some(CloseCode::Shutdown), "enough".into()));
}

#[tokio::test]
async fn codes_are_on_the_wire_as_they_are() {
    let pki = Pki::new();
    let (mut by_hand, east, _listener) = ByHand::up(&pki).await;
    by_hand.send(&[Frame::Open(ours(1)), Frame::Data(ours(1), Bytes::from_static(&[1]))]).await.unwrap();
    let (index, mut served) = east.accept().await;
    assert_eq!(index, 1);
    served.sender.reset(Code::Refused);
    served.receiver.stop(Code::Overloaded);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let frame = soon(by_hand.next()).await.unwrap();
        if matches!(frame, Frame::Reset(..) | Frame::Stop(..)) {
            seen.push(frame);
        }
    }
    seen.sort_by_key(|frame| matches!(frame, Frame::Stop(..)));
    assert_eq!(seen, [Frame::Reset(ours(1), 0x100), Frame::Stop(ours(1), 0x101)]);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_gone_after_three_seconds() {
    let pki = Pki::new();
    let (_silent, east, _listener) = ByHand::up(&pki).await;
    let begun = std::time::Instant::now();
    let reason = soon(east.tunnel.closed()).await;
    assert_eq!((reason.text.as_str(), reason.cut), ("timed out", false));
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_no_tunnel_is_refused() {
    let pki = Pki::new();
    let listener = Listener::start(Kind::Tcp, local(&pki, "east"), pki.path()).await;
    // Not TLS.
    let garbage = async {
        let mut stream = TcpStream::connect(listener.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        // An alert, and the end; or only the end.
        let _ = stream.read_to_end(&mut rest).await;
    };
    let ((), refused) = soon(async { tokio::join!(garbage, listener.accept()) }).await;
    assert!(matches!(refused, Err(TunnelError::Connect(_))), "{refused:?}");
    // TLS for something else.
    let (other, refused) =
        soon(async { tokio::join!(ByHand::connect(&pki, &listener, b"h2"), listener.accept()) }).await;
    assert!(other.is_err());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("ALPN"), "{refused}");
    // The right protocol, and another first stream than the control stream.
    let first = async {
        let mut by_hand = ByHand::connect(&pki, &listener, ALPN_MUX).await.unwrap();
        by_hand.send(&[Frame::Open(ours(0)), Frame::Data(ours(0), Bytes::from_static(&[1]))]).await.unwrap();
        by_hand.close().await
    };
    let ((code, _), refused) = soon(async { tokio::join!(first, listener.accept()) }).await;
    assert_eq!(code, Some(CloseCode::ProtocolError));
    assert!(matches!(refused, Err(TunnelError::Hello(_))), "{refused:?}");
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_given_up() {
    let pki = Pki::new();
    let listener = Listener::start(Kind::Tcp, local(&pki, "east"), pki.path()).await;
    let silent = TcpStream::connect(listener.address()).await.unwrap();
    let refused = soon(listener.accept()).await.unwrap_err().to_string();
    assert!(refused.contains("no answer within 5s"), "{refused}");
    drop(silent);
}
