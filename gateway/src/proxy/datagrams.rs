//! UDP of callers: datagrams of one source to one address are a flow, which is placed by its source and stays where it was
//! placed until that side is gone; then it is placed again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use registry::model::Protocol;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::http::datagrams::{Queue, Side};
use crate::http::join::{End, Ended};
use crate::proxy::connection::Opened;
use crate::proxy::listener::Front;
use crate::proxy::listeners::Open;
use crate::proxy::outbound::connection;
use crate::telemetry::metrics::{InProgressGuard, Lost};

/// Flows of callers of one process; datagrams of more are dropped.
const FLOWS_MAX: u64 = 16 * 1024;
/// Reads at once, each of as many datagrams of one source as the kernel joins.
const BATCH: usize = 8;
/// What one read may give.
const READ_BYTES: usize = 64 * 1024;
/// After nobody took a flow, it is not placed again for so long.
const PLACE_PAUSE: Duration = Duration::from_millis(100);

/// A socket that callers send to.
#[derive(Debug)]
pub struct Listening {
    io: UdpSocket,
    state: UdpSocketState,
}

impl Listening {
    /// Takes a socket that is bound.
    ///
    /// # Errors
    /// When the runtime, or the system, cannot take it.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Self { io: UdpSocket::from_std(socket)?, state })
    }

    /// Waits for datagrams, and tells how many reads there were.
    async fn receive(&self, buffers: &mut [Vec<u8>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        loop {
            self.io.readable().await?;
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv(UdpSockRef::from(&self.io), &mut slices, metas)
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    /// Answers a caller from the address that it has asked; false: the socket has no room.
    fn send(&self, to: Caller, contents: &[u8]) -> bool {
        let Caller(destination, src_ip) = to;
        let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip };
        // Of the system itself: the runtime learns that a socket can be written when it looks next.
        self.state.try_send(UdpSockRef::from(&self.io), &transmit).is_ok()
    }
}

/// Who sends, and to which of our addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Caller(SocketAddr, Option<IpAddr>);

type Flows = Rc<RefCell<HashMap<Caller, Rc<Queue>>>>;

/// Serves the datagrams of a listener until it is `closed`; its flows end with it.
pub async fn serve(front: impl Front, socket: Listening, leads: Arc<Open>, closed: CancellationToken) {
    let shared = front.worker().shared.clone();
    let socket = Rc::new(socket);
    let flows = Flows::default();
    let mut buffers = vec![vec![0; READ_BYTES]; BATCH];
    let mut metas = [RecvMeta::default(); BATCH];
    let address = socket.io.local_addr().ok();
    loop {
        let received = tokio::select! {
            () = closed.cancelled() => return,
            // Flows still have their answers.
            () = shared.handed_over.cancelled() => return closed.cancelled().await,
            received = socket.receive(&mut buffers, &mut metas) => received,
        };
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                // What an answer of ours came to (ICMP).
                debug!(%error, "Cannot receive a datagram.");
                continue;
            }
        };
        for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
            let caller = Caller(meta.addr, meta.dst_ip);
            let known = flows.borrow().get(&caller).cloned();
            let queue = match known {
                Some(queue) => queue,
                None => {
                    let Some(guard) = shared.flows.enter(FLOWS_MAX) else {
                        shared.drops.count(Lost::Flows, 1);
                        continue;
                    };
                    let queue = Queue::new(shared.budget.reservation());
                    flows.borrow_mut().insert(caller, queue.clone());
                    let port = address.map_or(0, |address| address.port());
                    let opened = Opened {
                        source: Some(meta.addr),
                        destination: meta.dst_ip.map(|ip| SocketAddr::new(ip, port)).or(address),
                        ..Opened::default()
                    };
                    let flow = Flow { caller, opened, queue: queue.clone(), socket: socket.clone(), guard };
                    let (front, leads, flows, closed) =
                        (front.clone(), leads.clone(), flows.clone(), closed.clone());
                    tokio::task::spawn_local(async move {
                        tokio::select! {
                            () = flow.run(&front, &leads) => {}
                            () = closed.cancelled() => {}
                        }
                        flows.borrow_mut().remove(&caller);
                    });
                    queue
                }
            };
            // An empty one is one, too.
            let empty = (meta.len == 0).then_some(&[][..]);
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)).chain(empty) {
                if !queue.push(Bytes::copy_from_slice(datagram)) {
                    shared.drops.count(Lost::Queue, 1);
                }
            }
        }
    }
}

/// One flow of a caller.
struct Flow {
    caller: Caller,
    opened: Opened,
    queue: Rc<Queue>,
    socket: Rc<Listening>,
    guard: InProgressGuard,
}

impl Flow {
    /// Serves it until nothing has moved for its idle time.
    async fn run(self, front: &impl Front, leads: &Open) {
        let Self { caller, opened, queue, socket, guard } = self;
        let worker = front.worker();
        let listener = leads.declared.load_full();
        let Some(lead) = &listener.to else { return };
        let authority = lead.authority(&worker.shared.domain);
        loop {
            let placed = match front.learn(&authority).await {
                true => connection::open(worker, &authority, Protocol::Udp, &opened).await.ok(),
                false => None,
            };
            let Some(carry) = placed else {
                worker.shared.drops.count(Lost::Unplaced, queue.clear());
                tokio::time::sleep(PLACE_PAUSE).await;
                break;
            };
            let answers = socket.clone();
            let reply = Box::new(move |datagram: &[u8]| answers.send(caller, datagram));
            let ended = carry.run(End::Datagrams(Side::Caller(queue.clone(), reply))).await;
            match ended {
                // Its cluster, its gateway or its endpoint is gone: elsewhere with what comes next, and not before.
                Ended::ByServer => queue.wait().await,
                _ => break,
            }
        }
        drop(guard);
    }
}
