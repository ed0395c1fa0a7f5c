//! Moves the bytes of a connection both ways between two ends: sockets, streams of a tunnel, or streams of HTTP/2.
//!
//! Each way ends by itself (a half-close). What is not read is not written: there is one chunk on its way each way, or the
//! pieces of one that are here, and TCP's windows and the tunnel's hold up the rest. A cut of one end resets the other: it
//! never passes for an end.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, SendStream};
use proto::frame::Frame;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tunnel::{Exchange, Receiver, Sender};

use crate::base::clock::Activity;
use crate::http::body::http2::Received;
use crate::http::datagrams::{self, Side};
use crate::http::websocket::{Place, goodbye_to_client, goodbye_to_server};
use crate::telemetry::metrics::{ConnectionGuard, Drops, Outcome};

/// What is read at once: little of a connection that says little, more the more it says.
const CHUNK_LEAST: usize = 4 * 1024;
const CHUNK_MOST: usize = 256 * 1024;

/// Pieces that are written to a socket at once, if so many are here: what comes in packets comes in small ones, and to call
/// the system for each costs more than the packet.
const PIECES: usize = 64;

/// What is said last must be taken, and its answer be here, by then.
const LAST_WAIT: Duration = Duration::from_millis(300);

/// When a connection that says nothing is asked for a sign of life, how often, and how many may be missed: one whose other
/// end is gone ends after a minute and a half.
pub const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(20))
    .with_retries(3);

/// One end of a connection. Dropped before both ways have come to their ends it is reset, even by the death of this
/// process. (A Unix socket knows no resets: whoever reads it sees an end.)
#[derive(Debug)]
pub enum End {
    /// A socket of [`End::socket`], and what of it was read already.
    Socket(TcpStream, Bytes),
    /// A stream of a tunnel, behind its head.
    Tunnel(Box<Exchange>),
    /// A side of a flow of datagrams: such go to such alone.
    Datagrams(Side),
    /// A stream of HTTP/2 that is a tunnel from now on (RFC 9113, section 8.5; RFC 8441).
    Http2(Http2),
}

/// Both halves of a stream of HTTP/2.
#[derive(Debug)]
pub struct Http2 {
    send: SendStream<Bytes>,
    receive: Received,
    ended: bool,
}

impl Http2 {
    /// A stream whose heads went both ways.
    pub fn new(send: SendStream<Bytes>, receive: Received) -> Self {
        Self { send, receive, ended: false }
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if !self.ended {
            // What a reset connection is in HTTP/2 (RFC 8441, section 5).
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both ways came to their ends.
    Whole,
    /// Its caller broke off.
    ByCaller,
    /// The side that serves it broke off.
    ByServer,
    /// Nothing moved for too long.
    Idle,
    /// This process waits no longer.
    Stopped,
}

impl From<Ended> for Outcome {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Whole => Self::Answered,
            Ended::ByCaller => Self::Cancelled,
            Ended::ByServer | Ended::Stopped => Self::Cut,
            Ended::Idle => Self::Timeout,
        }
    }
}

/// When what is joined ends because its process does.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Cancelled when what idles is to end.
    pub leave: CancellationToken,
    /// Cancelled when nothing is waited for any longer.
    pub cut: CancellationToken,
}

/// What holds while an end is joined to another.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// How long nothing may move.
    pub idle: Duration,
    /// The same in a flow of datagrams that was answered and may be over; none: as long.
    pub idle_answered: Option<Duration>,
    /// Moves with every byte.
    pub activity: &'a Activity,
    /// When the process ends.
    pub ends: &'a Ends,
    /// What counts its bytes.
    pub counted: Option<&'a ConnectionGuard>,
    /// What counts datagrams that are dropped.
    pub drops: &'a Drops,
    /// Whether what moves are frames of WebSocket: then both ends are told between two of them that it is stopped.
    pub websocket: bool,
}

/// An end that broke off.
struct Broken;

/// How far one way of frames has come; none while some are on their way to an end.
type Passed = Cell<Option<Place>>;

enum Reading<'a> {
    Socket { stream: &'a TcpStream, begun: &'a mut Bytes, chunk: usize },
    Tunnel(&'a mut Receiver),
    Http2(&'a mut Received),
    Nothing,
}

enum Writing<'a> {
    Socket(&'a TcpStream),
    Tunnel(&'a mut Sender),
    Http2(&'a mut SendStream<Bytes>),
    Nothing,
}

/// Moves bytes between the end of a caller and the one that serves it until both ways have ended, one end breaks off,
/// nothing has moved for too long, or it is stopped.
pub async fn join(caller: End, server: End, joining: Joining<'_>) -> Ended {
    let (mut caller, mut server) = match (caller, server) {
        (End::Datagrams(caller), End::Datagrams(server)) => {
            return datagrams::join(caller, server, joining).await;
        }
        ends => ends,
    };
    let Joining { idle, activity, ends, counted, websocket, .. } = joining;
    let [passed_there, passed_back] = [(); 2].map(|()| Passed::new(websocket.then(Place::default)));
    for end in [&mut caller, &mut server] {
        if let End::Tunnel(exchange) = end {
            exchange.sender.never_ends();
        }
    }
    let ended = {
        let (from_caller, to_caller) = caller.split();
        let (from_server, to_server) = server.split();
        let there = one_way(from_caller, to_server, &passed_there, |bytes| {
            counted.inspect(|counted| counted.received(bytes));
            activity.receive(bytes);
        });
        let back = one_way(from_server, to_caller, &passed_back, |bytes| {
            counted.inspect(|counted| counted.sent(bytes));
            activity.send(bytes);
        });
        let there =
            async { there.await.map_err(|(from, _)| if from { Ended::ByCaller } else { Ended::ByServer }) };
        let back =
            async { back.await.map_err(|(from, _)| if from { Ended::ByServer } else { Ended::ByCaller }) };
        tokio::select! {
            biased;
            both = async { tokio::try_join!(there, back) } => both.err().unwrap_or(Ended::Whole),
            () = activity.silent(idle) => Ended::Idle,
            () = ends.cut.cancelled() => Ended::Stopped,
        }
    };
    if ended == Ended::Whole {
        caller.release();
        server.release();
    } else if ended == Ended::Stopped {
        let is_between = |passed: &Passed| passed.get().is_some_and(|place| place.is_between());
        let mask = fastrand::u32(..).to_be_bytes();
        let to_caller = is_between(&passed_back).then(|| goodbye_to_client().into());
        let to_server = is_between(&passed_there).then(|| goodbye_to_server(mask).into());
        tokio::join!(caller.say_last(to_caller), server.say_last(to_server));
    }
    ended
}

/// Moves bytes one way to their end. An error says whether it was the end that they come from which broke off.
async fn one_way(
    mut from: Reading<'_>,
    mut to: Writing<'_>,
    passed: &Passed,
    mut moved: impl FnMut(usize),
) -> Result<(), (bool, Broken)> {
    let mut gone = std::pin::pin!(to.gone());
    let gathers = from.is_in_pieces() && matches!(to, Writing::Socket(_));
    let mut pieces = VecDeque::new();
    loop {
        let mut next = tokio::select! {
            biased;
            next = from.next() => next,
            () = &mut gone => return Err((false, Broken)),
        };
        let mut bytes = 0;
        let over = loop {
            match next {
                Ok(Some(piece)) => {
                    bytes += piece.len();
                    pieces.push_back(piece);
                }
                over => break Some(over.map(drop)),
            }
            if !gathers || pieces.len() == PIECES || bytes >= CHUNK_MOST {
                break None;
            }
            match from.next_now().await {
                Some(another) => next = another,
                None => break None,
            }
        };
        // If it is stopped meanwhile, nobody knows how far it has come.
        let place = passed.take().map(|mut place| {
            pieces.iter().for_each(|piece| place.pass(piece));
            place
        });
        to.put(&mut pieces).await.map_err(|broken| (false, broken))?;
        passed.set(place);
        moved(bytes);
        match over {
            None => {}
            Some(Ok(())) => return to.end().await.map_err(|broken| (false, broken)),
            Some(Err(broken)) => return Err((true, broken)),
        }
    }
}

impl End {
    fn split(&mut self) -> (Reading<'_>, Writing<'_>) {
        match self {
            Self::Socket(stream, begun) => {
                let stream = &*stream;
                (Reading::Socket { stream, begun, chunk: CHUNK_LEAST }, Writing::Socket(stream))
            }
            Self::Tunnel(exchange) => {
                (Reading::Tunnel(&mut exchange.receiver), Writing::Tunnel(&mut exchange.sender))
            }
            Self::Datagrams(_) => (Reading::Nothing, Writing::Nothing),
            Self::Http2(stream) => (Reading::Http2(&mut stream.receive), Writing::Http2(&mut stream.send)),
        }
    }

    /// A socket, of which `begun` was read already.
    pub fn socket(stream: TcpStream, begun: Bytes) -> Self {
        let socket = SockRef::from(&stream);
        let _ = socket.set_linger(Some(Duration::ZERO));
        // A Unix socket has none.
        let _ = socket.set_tcp_keepalive(&KEEPALIVE);
        Self::Socket(stream, begun)
    }

    /// Says the last and waits for the end of the other side, whatever it says until then: who has not read it yet might
    /// lose it to a reset. If all of that is done in time, then this end is no broken one.
    async fn say_last(&mut self, last: Option<Bytes>) {
        let Some(last) = last else { return };
        let (mut from, mut to) = self.split();
        let said = async {
            to.put(&mut [last].into()).await?;
            tokio::try_join!(to.end(), async {
                while from.next().await?.is_some() {}
                Ok(())
            })
        };
        if let Ok(Ok(_)) = tokio::time::timeout(LAST_WAIT, said).await {
            self.release();
        }
    }

    /// Both ways have ended: what is still on its way arrives.
    fn release(&mut self) {
        match self {
            Self::Socket(stream, _) => drop(SockRef::from(&*stream).set_linger(None)),
            Self::Http2(stream) => stream.ended = true,
            // It knows by itself.
            Self::Tunnel(_) | Self::Datagrams(_) => {}
        }
    }
}

impl Reading<'_> {
    /// Whether it gives what came in one packet, or in one frame, at a time.
    fn is_in_pieces(&self) -> bool {
        matches!(self, Self::Tunnel(_) | Self::Http2(_))
    }

    /// The next bytes, if they are here, or its end. Cancel safe.
    async fn next_now(&mut self) -> Option<Result<Option<Bytes>, Broken>> {
        tokio::select! {
            biased;
            next = self.next() => Some(next),
            () = std::future::ready(()) => None,
        }
    }

    /// The next bytes; `None` at their end. Cancel safe.
    async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        match self {
            Self::Socket { begun, .. } if !begun.is_empty() => Ok(Some(std::mem::take(*begun))),
            Self::Socket { stream, chunk, .. } => loop {
                // Nothing is held for a connection that says nothing.
                stream.readable().await.map_err(|_| Broken)?;
                let mut bytes = BytesMut::with_capacity(*chunk);
                match stream.try_read_buf(&mut bytes) {
                    Ok(0) => return Ok(None),
                    Ok(count) => {
                        *chunk = if count == *chunk { count * 2 } else { count.next_power_of_two() };
                        *chunk = (*chunk).clamp(CHUNK_LEAST, CHUNK_MOST);
                        return Ok(Some(bytes.freeze()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Err(Broken),
                }
            },
            Self::Tunnel(receiver) => match receiver.frame().await {
                Ok(Some(Frame::Data(bytes))) => Ok(Some(bytes)),
                Ok(Some(Frame::End)) => Ok(None),
                Ok(_) | Err(_) => Err(Broken),
            },
            Self::Nothing => Err(Broken),
            Self::Http2(stream) => loop {
                match poll_fn(|cx| stream.poll_frame(cx)).await {
                    None => return Ok(None),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) if bytes.is_empty() => {}
                        Ok(bytes) => return Ok(Some(bytes)),
                        // A tunnel has no trailers (RFC 9113, section 8.5).
                        Err(_) => return Err(Broken),
                    },
                    Some(Err(_)) => return Err(Broken),
                }
            },
        }
    }
}

impl Writing<'_> {
    /// Ends once the other side takes nothing more, as far as that shows without writing.
    fn gone(&self) -> impl Future<Output = ()> + 'static {
        let stopped = match self {
            // Their reading halves are told.
            Self::Socket(_) | Self::Http2(_) | Self::Nothing => None,
            Self::Tunnel(sender) => Some(sender.stopped()),
        };
        async {
            match stopped {
                Some(stopped) => stopped.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Writes all of `pieces`, and leaves none.
    async fn put(&mut self, pieces: &mut VecDeque<Bytes>) -> Result<(), Broken> {
        if let Self::Socket(stream) = self {
            return put_to_socket(stream, pieces).await;
        }
        while let Some(mut bytes) = pieces.pop_front() {
            match self {
                Self::Tunnel(sender) => sender.data(bytes).await.map_err(|_| Broken)?,
                Self::Http2(stream) => {
                    while !bytes.is_empty() {
                        stream.reserve_capacity(bytes.len());
                        let room = poll_fn(|cx| match stream.poll_reset(cx) {
                            Poll::Ready(_) => Poll::Ready(None),
                            Poll::Pending => stream.poll_capacity(cx).map(|room| room.and_then(Result::ok)),
                        });
                        let room = room.await.ok_or(Broken)?;
                        let part = bytes.split_to(room.min(bytes.len()));
                        stream.send_data(part, false).map_err(|_| Broken)?;
                    }
                }
                Self::Socket(_) | Self::Nothing => return Err(Broken),
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Broken> {
        match self {
            // The other side may have ended all of it meanwhile.
            Self::Socket(stream) => match SockRef::from(*stream).shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken),
                _ => Ok(()),
            },
            Self::Tunnel(sender) => {
                sender.end(None).await.map_err(|_| Broken)?;
                // Much of it may still be on its way: a process that drains must not close under it.
                sender.stopped().await;
                Ok(())
            }
            Self::Nothing => Err(Broken),
            Self::Http2(stream) => stream.send_data(Bytes::new(), true).map_err(|_| Broken),
        }
    }
}

async fn put_to_socket(stream: &TcpStream, pieces: &mut VecDeque<Bytes>) -> Result<(), Broken> {
    while !pieces.is_empty() {
        // The slices are gone before anything is waited for: each connection would be larger by them.
        let written = {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let filled = pieces.iter().zip(&mut slices).map(|(piece, slice)| *slice = IoSlice::new(piece));
            let count = filled.count();
            stream.try_write_vectored(&slices[..count])
        };
        match written {
            Ok(mut written) => {
                while let Some(piece) = pieces.front_mut() {
                    if written < piece.len() {
                        piece.advance(written);
                        break;
                    }
                    written -= piece.len();
                    pieces.pop_front();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.writable().await.map_err(|_| Broken)?;
            }
            Err(_) => return Err(Broken),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_silent_end_is_asked_for_signs_of_life_and_a_cut_one_is_reset() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let End::Socket(stream, _) = End::socket(stream, Bytes::new()) else { panic!("a socket") };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.linger().unwrap(), Some(Duration::ZERO));
    }
}
