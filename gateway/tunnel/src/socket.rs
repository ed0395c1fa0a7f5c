//! The socket that quinn reads and writes: a worker's own, less what is another worker's, plus what others received
//! for it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::sync::mpsc;

use crate::cid::Owner;
use crate::port::{Datagram, Group, Port};

/// Makes the socket of `port` in the runtime of this thread.
pub(crate) fn open(port: Port) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let inner = TokioRuntime.wrap_udp_socket(port.socket)?;
    let inbox = Mutex::new(port.inbox);
    Ok(Arc::new(SharedSocket { inner, worker: port.worker, inbox, group: port.group }))
}

#[derive(Debug)]
struct SharedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    worker: u8,
    /// Only quinn's endpoint driver reads; the lock is never waited for.
    inbox: Mutex<mpsc::Receiver<Datagram>>,
    group: Arc<Group>,
}

impl AsyncUdpSocket for SharedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    /// Fills half of the buffers from the inbox and the rest from the socket, so that neither starves the other.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let handed = self.poll_inbox(cx, bufs, meta);
        if handed == bufs.len() {
            return Poll::Ready(Ok(handed));
        }
        // Held while it reads: whoever takes the socket over then knows that nothing is read here any more.
        let reads = self.group.reads(self.worker);
        if !*reads {
            return if handed > 0 { Poll::Ready(Ok(handed)) } else { Poll::Pending };
        }
        match self.inner.poll_recv(cx, &mut bufs[handed..], &mut meta[handed..]) {
            Poll::Ready(Ok(received)) => {
                let received = handed..handed + received;
                for (buf, meta) in bufs[received.clone()].iter_mut().zip(&mut meta[received.clone()]) {
                    self.sort(buf, meta);
                }
                Poll::Ready(Ok(received.end))
            }
            // A failure that lasts shows again at the next call; the handed datagrams are not lost for it.
            _ if handed > 0 => Poll::Ready(Ok(handed)),
            nothing => nothing,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl SharedSocket {
    /// Takes what others handed over, as much as half of the buffers hold; registers for more if there is less.
    fn poll_inbox(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        // A panic while it was held left nothing half done.
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let half = bufs.len().div_ceil(2);
        let mut taken = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas).take(half) {
            let Poll::Ready(Some(datagram)) = inbox.poll_recv(cx) else { break };
            // Every worker's buffers are of one size, so what fitted into one fits into the other.
            let len = datagram.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.bytes[..len]);
            *meta = RecvMeta { len, ..datagram.meta };
            taken += 1;
        }
        taken
    }

    /// Leaves in `buf` what this worker has to look at, and hands the rest over. One buffer may hold several datagrams
    /// of one sender (GRO), all but the last of the length `stride`, and of several tunnels. quinn skips a buffer in
    /// which nothing is left.
    fn sort(&self, buf: &mut [u8], meta: &mut RecvMeta) {
        if self.group.is_alone() {
            return;
        }
        let (mut kept, mut next) = (0, 0);
        while next < meta.len {
            let datagram = next..meta.len.min(next + meta.stride.max(1));
            next = datagram.end;
            let bytes = &buf[datagram.clone()];
            match self.group.owner(bytes) {
                Owner::One(owner) if owner != self.worker => {
                    self.group.hand_over(owner, Datagram::copy(bytes, meta));
                    continue;
                }
                Owner::Earlier if self.group.carry_to_elder(bytes, meta, true) => continue,
                Owner::All => {
                    self.group.show_to_others(Some(self.worker), &Datagram::copy(bytes, meta));
                    self.group.carry_to_elder(bytes, meta, false);
                }
                Owner::One(_) | Owner::Earlier | Owner::Any => {}
            }
            if kept < datagram.start {
                buf.copy_within(datagram.clone(), kept);
            }
            kept += datagram.len();
        }
        meta.len = kept;
    }
}

#[cfg(test)]
#[path = "socket/tests.rs"]
mod tests;
