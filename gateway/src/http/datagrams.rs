//! Moves the datagrams of a flow between two sides. As UDP does: nothing waits for room, and what finds none is dropped and
//! counted.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::datagram::{on_stream, take_from_stream};
use proto::frame::Frame;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tunnel::{Datagrams, Exchange, Receiver, Sender, Unsent};

use super::join::{Ended, Joining};
use crate::base::budget::Reservation;
use crate::base::clock::Activity;
use crate::telemetry::metrics::Lost;

/// Datagrams of one flow that wait for its placement, and their bytes; more are dropped.
const QUEUE: usize = 128;
const QUEUE_BYTES: usize = 256 * 1024;
/// Datagrams of one flow that wait for its stream, where the carrier takes them no other way.
const STREAM_QUEUE: usize = 64;
/// Who has asked no more than that may have asked all: two addresses of a name, say.
const QUESTIONS: u32 = 2;
/// What has been quiet for so long is over once idle connections of a process that drains are closed.
const LEAVE_WAIT: Duration = Duration::from_secs(1);
/// The largest that UDP has.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Sends a datagram to a caller; false: it was dropped.
pub type Reply = Box<dyn Fn(&[u8]) -> bool>;

/// One side of a flow.
pub enum Side {
    /// A caller: what it sends is queued, and its answers go by its listener.
    Caller(Rc<Queue>, Reply),
    /// An endpoint.
    Socket(UdpSocket),
    /// A tunnel.
    Tunnel(Box<Carried>),
}

/// A flow in a tunnel.
pub struct Carried {
    receiver: Receiver,
    datagrams: Datagrams,
    /// What of the stream is no whole datagram yet.
    part: BytesMut,
    /// To whoever writes on the stream.
    stream: mpsc::Sender<Bytes>,
}

/// What a caller sent and nobody has taken yet.
#[derive(Debug)]
pub struct Queue {
    datagrams: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    held: RefCell<Reservation>,
    came: Notify,
}

impl Queue {
    /// Empty; what waits in it counts as `held`.
    pub fn new(held: Reservation) -> Rc<Self> {
        Rc::new(Self {
            datagrams: RefCell::default(),
            bytes: Cell::new(0),
            held: RefCell::new(held),
            came: Notify::new(),
        })
    }

    /// Adds one; false: it was dropped.
    pub fn push(&self, datagram: Bytes) -> bool {
        let mut datagrams = self.datagrams.borrow_mut();
        let bytes = self.bytes.get() + datagram.len();
        let room = datagrams.len() < QUEUE && bytes <= QUEUE_BYTES;
        if !room || !self.held.borrow_mut().grow(datagram.len()) {
            return false;
        }
        self.bytes.set(bytes);
        datagrams.push_back(datagram);
        self.came.notify_one();
        true
    }

    /// Drops all that wait; how many there were.
    pub fn clear(&self) -> u64 {
        self.bytes.set(0);
        self.held.borrow_mut().release();
        std::mem::take(&mut *self.datagrams.borrow_mut()).len() as u64
    }

    /// Waits until there is one.
    pub async fn wait(&self) {
        while self.datagrams.borrow().is_empty() {
            self.came.notified().await;
        }
    }

    async fn next(&self) -> Bytes {
        loop {
            self.wait().await;
            let next = self.datagrams.borrow_mut().pop_front();
            if let Some(datagram) = next {
                self.bytes.set(self.bytes.get() - datagram.len());
                self.held.borrow_mut().shrink(datagram.len());
                return datagram;
            }
        }
    }
}

impl Side {
    /// A flow in a tunnel, behind its heads.
    pub fn tunnel(exchange: Exchange, datagrams: Datagrams) -> Self {
        let Exchange { sender, receiver } = exchange;
        let (stream, queue) = mpsc::channel(STREAM_QUEUE);
        // Ends with the flow, which holds the other end of the queue.
        tokio::task::spawn_local(write(sender, queue));
        Self::Tunnel(Box::new(Carried { receiver, datagrams, part: BytesMut::new(), stream }))
    }

    /// The next datagram; `None`: none come any more. Cancel safe.
    async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Caller(queue, _) => Some(queue.next().await),
            Self::Socket(socket) => loop {
                socket.readable().await.ok()?;
                match SCRATCH.with_borrow_mut(|scratch| {
                    let count = socket.try_recv(scratch)?;
                    io::Result::Ok(Bytes::copy_from_slice(&scratch[..count]))
                }) {
                    Ok(datagram) => return Some(datagram),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody is there (ICMP).
                    Err(_) => return None,
                }
            },
            Self::Tunnel(carried) => carried.next().await,
        }
    }

    /// Sends a datagram; an error says why it is lost, `None` that all that follow are.
    fn send(&self, datagram: &[u8]) -> Result<(), Option<Lost>> {
        match self {
            Self::Caller(_, reply) => {
                if reply(datagram) {
                    Ok(())
                } else {
                    Err(Some(Lost::Socket))
                }
            }
            // Of the system itself: the runtime learns that a socket can be written when it looks next.
            Self::Socket(socket) => match SockRef::from(socket).send(datagram) {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Some(Lost::Socket)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Err(None),
                // One that is too large for the way, above all.
                Err(_) => Err(Some(Lost::Size)),
            },
            Self::Tunnel(carried) => match carried.datagrams.send(datagram) {
                Ok(()) => Ok(()),
                Err(Unsent::Full) => Err(Some(Lost::Tunnel)),
                Err(Unsent::Down) => Err(None),
                Err(Unsent::TooLarge) => {
                    let datagram = Bytes::copy_from_slice(datagram);
                    carried.stream.try_send(datagram).map_err(|_| Some(Lost::Tunnel))
                }
            },
        }
    }
}

thread_local! {
    /// Where datagrams of endpoints are received.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
}

impl Carried {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(datagram) = take_from_stream(&mut self.part) {
                return Some(datagram);
            }
            tokio::select! {
                biased;
                datagram = self.datagrams.next() => return datagram,
                frame = self.receiver.frame() => match frame {
                    Ok(Some(Frame::Data(bytes))) => self.part.extend_from_slice(&bytes),
                    // Its end, or that of the tunnel.
                    Ok(_) | Err(_) => return None,
                },
            }
        }
    }
}

/// Writes datagrams on the stream of their flow until that ends.
async fn write(mut sender: Sender, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(datagram) = queue.recv().await {
        let Some(bytes) = on_stream(&datagram) else { continue };
        if sender.data(bytes).await.is_err() {
            return;
        }
    }
    // Nobody waits for it.
    let _ = sender.end(None).await;
}

/// Moves datagrams between a caller and the side that serves it, until one of them is gone, nothing has moved for too long, or
/// it is stopped.
pub async fn join(mut caller: Side, mut server: Side, joining: Joining<'_>) -> Ended {
    let Joining { idle, idle_answered, activity, ends, counted, drops, .. } = joining;
    let said = Said::default();
    // A flow has no end of its own.
    let leaves = async {
        ends.leave.cancelled().await;
        activity.silent(LEAVE_WAIT).await;
    };
    let ended = async {
        loop {
            tokio::select! {
                datagram = caller.next() => {
                    let Some(datagram) = datagram else { return Ended::ByCaller };
                    match server.send(&datagram) {
                        Ok(()) => {
                            counted.inspect(|counted| counted.received(datagram.len()));
                            activity.receive(datagram.len());
                            said.asked.set(said.asked.get().saturating_add(1));
                        }
                        Err(Some(lost)) => drops.count(lost, 1),
                        Err(None) => return Ended::ByServer,
                    }
                }
                datagram = server.next() => {
                    let Some(datagram) = datagram else { return Ended::ByServer };
                    match caller.send(&datagram) {
                        Ok(()) => {
                            counted.inspect(|counted| counted.sent(datagram.len()));
                            activity.send(datagram.len());
                            said.answered.set(said.answered.get().saturating_add(1));
                        }
                        Err(Some(lost)) => drops.count(lost, 1),
                        Err(None) => return Ended::ByCaller,
                    }
                }
            }
        }
    };
    let ended = tokio::select! {
        biased;
        ended = ended => ended,
        () = said.silent(activity, idle, idle_answered.unwrap_or(idle)) => Ended::Idle,
        () = leaves => Ended::Whole,
        () = ends.cut.cancelled() => Ended::Stopped,
    };
    for side in [&caller, &server] {
        if let Side::Tunnel(carried) = side {
            drops.count(Lost::Queue, carried.datagrams.dropped());
        }
    }
    ended
}

/// Datagrams of a flow that went on, so far.
#[derive(Debug, Default)]
struct Said {
    asked: Cell<u32>,
    answered: Cell<u32>,
}

impl Said {
    /// Ends when nothing has moved for `idle`, or for `answered` where all that was asked, and that was little, is answered.
    async fn silent(&self, activity: &Activity, idle: Duration, answered: Duration) {
        loop {
            let little = self.asked.get() <= QUESTIONS;
            let over = little && self.answered.get() >= self.asked.get();
            let until = activity.last() + if over { answered } else { idle };
            let now = Instant::now();
            if until <= now {
                return;
            }
            // The answer may come meanwhile.
            tokio::time::sleep_until(if little { until.min(now + answered) } else { until }).await;
        }
    }
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Caller(..) => "Caller",
            Self::Socket(_) => "Socket",
            Self::Tunnel(_) => "Tunnel",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::budget::ByteBudget;

    #[tokio::test]
    async fn a_queue_holds_so_many_datagrams_and_so_many_bytes() {
        let budget = ByteBudget::new(1 << 20);
        let queue = Queue::new(budget.reservation());
        let full = |length: usize| (0..QUEUE + 1).take_while(|_| queue.push(vec![7; length].into())).count();
        assert_eq!(full(1), QUEUE);
        for _ in 0..QUEUE {
            queue.next().await;
        }
        assert_eq!(full(60_000), QUEUE_BYTES / 60_000);
        let poor = Queue::new(ByteBudget::new(100).reservation());
        assert!(poor.push(vec![7; 100].into()) && !poor.push(vec![7].into()));
        poor.next().await;
        assert!(poor.push(vec![7; 100].into()), "what was taken makes room");
    }
}
