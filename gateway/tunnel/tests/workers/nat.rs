//! What stands between a client and a server on the way: it changes ports, or somebody listens in.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What it does to the client's datagrams.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    /// Gives the client another port after so many; the old one is gone.
    Rebind { every: NonZeroUsize },
    /// Sends each a second time, from another port.
    Replay,
}

/// Passes datagrams on between one client and `server` until it is dropped.
pub(crate) struct Nat {
    pub(crate) front: SocketAddr,
    /// A client must keep its address until the handshake is over (RFC 9000, 9).
    begun: Arc<AtomicBool>,
    changes: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Nat {
    pub(crate) async fn start(server: SocketAddr, does: Does) -> Self {
        let socket = bind().await;
        let front = socket.local_addr().unwrap();
        let (begun, changes) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let task = tokio::spawn(run(socket, server, does, begun.clone(), changes.clone()));
        Self { front, begun, changes, task }
    }

    /// Until then it only passes on.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Ports given, or packets replayed.
    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn run(
    front: UdpSocket,
    server: SocketAddr,
    does: Does,
    begun: Arc<AtomicBool>,
    changes: Arc<AtomicUsize>,
) {
    let (mut back, other) = (bind().await, bind().await);
    let (mut up, mut down, mut from_other) = ([0; 65_536], [0; 65_536], [0; 65_536]);
    let (mut client, mut passed) = (None, 0);
    loop {
        let to_client = tokio::select! {
            Ok((len, from)) = front.recv_from(&mut up) => {
                client = Some(from);
                back.send_to(&up[..len], server).await.unwrap();
                if !begun.load(Ordering::Relaxed) {
                    continue;
                }
                passed += 1;
                match does {
                    Does::Rebind { every } if passed % every == 0 => back = bind().await,
                    Does::Rebind { .. } => continue,
                    Does::Replay => {
                        other.send_to(&up[..len], server).await.unwrap();
                    }
                }
                changes.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Ok(len) = back.recv(&mut down) => &down[..len],
            Ok(len) = other.recv(&mut from_other) => &from_other[..len],
        };
        if let Some(client) = client {
            front.send_to(to_client, client).await.unwrap();
        }
    }
}
