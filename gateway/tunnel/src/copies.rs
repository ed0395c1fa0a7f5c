//! Copies of what was sent: a small frame that is lost as the last of what was sent is missed only after a probe's
//! time-out, three round trips in all (RFC 9002, section 6.2). Sent once more, in a datagram of its own a moment later,
//! it arrives but for a second loss. It is the same QUIC packet: whoever has it already drops it by its number.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long after it was sent: what loses one packet often loses the next as well.
const DELAY: Duration = Duration::from_millis(3);
/// Copies that wait; there are no more of them.
const WAITING_MAX: usize = 256;
/// What a packet has beside its frames.
const PACKET_OVERHEAD: usize = 64;

/// The copies of one socket.
#[derive(Debug, Default)]
pub(crate) struct Copier {
    /// Of what is sent next: bytes of frames at its beginning that are worth a copy, and how long all of it is.
    expected: Mutex<Option<(usize, u64)>>,
    /// Whether there is something in that: most of what is sent is not copied, and takes no lock.
    expecting: AtomicBool,
    waiting: Mutex<VecDeque<Waiting>>,
    more: Notify,
}

#[derive(Debug)]
struct Waiting {
    due: Instant,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
    segment_size: Option<usize>,
    src_ip: Option<IpAddr>,
}

impl Copier {
    /// What is sent next is `len` bytes and begins with so many `bytes` of small frames. Said on the thread that sends, right
    /// before it: if that fails, and another connection sends, it is known by its length to be something else.
    pub(crate) fn expect(&self, bytes: usize, len: u64) {
        *lock(&self.expected) = Some((bytes, len));
        self.expecting.store(true, Ordering::Relaxed);
    }

    /// Something was sent.
    fn sent(&self, transmit: &Transmit<'_>) {
        if !self.expecting.swap(false, Ordering::Relaxed) {
            return;
        }
        let all = transmit.contents.len();
        let Some((bytes, len)) = lock(&self.expected).take() else { return };
        if len != all as u64 {
            return;
        }
        let segment = transmit.segment_size.unwrap_or(all).max(1);
        let len = all.min((bytes + PACKET_OVERHEAD).div_ceil(segment) * segment);
        let mut waiting = lock(&self.waiting);
        if waiting.len() == WAITING_MAX {
            return;
        }
        waiting.push_back(Waiting {
            due: Instant::now() + DELAY,
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: transmit.contents[..len].to_vec(),
            segment_size: transmit.segment_size.filter(|&segment| segment < len),
            src_ip: transmit.src_ip,
        });
        drop(waiting);
        self.more.notify_one();
    }

    /// Sends them when they are due, for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, socket: Arc<dyn AsyncUdpSocket>) {
        loop {
            let due = lock(&self.waiting).front().map(|first| first.due);
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => self.more.notified().await,
            }
            let now = Instant::now();
            loop {
                let mut waiting = lock(&self.waiting);
                let Some(copy) = waiting.pop_front_if(|first| first.due <= now) else { break };
                drop(waiting);
                // One that cannot be sent now is not worth waiting for.
                let _ = socket.try_send(&Transmit {
                    destination: copy.destination,
                    ecn: copy.ecn,
                    contents: &copy.contents,
                    segment_size: copy.segment_size,
                    src_ip: copy.src_ip,
                });
            }
        }
    }
}

/// Whoever panicked left what is whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket what is sent on which may be copied.
#[derive(Debug)]
pub(crate) struct CopiedSocket {
    pub(crate) inner: Arc<dyn AsyncUdpSocket>,
    pub(crate) copier: Arc<Copier>,
}

impl AsyncUdpSocket for CopiedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        self.copier.sent(transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[derive(Debug)]
    struct Sent {
        at: Instant,
        contents: Vec<u8>,
        segment_size: Option<usize>,
    }

    /// A socket that notes what is sent, and when.
    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<Sent>>);

    impl AsyncUdpSocket for Noted {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nobody waits to send")
        }
        fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
            let contents = transmit.contents.to_vec();
            let sent = Sent { at: Instant::now(), contents, segment_size: transmit.segment_size };
            self.0.lock().unwrap().push(sent);
            Ok(())
        }
        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    fn transmit(contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        let destination = ([127, 0, 0, 1], 2).into();
        Transmit { destination, ecn: None, contents, segment_size, src_ip: None }
    }

    #[tokio::test]
    async fn only_what_is_expected_is_sent_again_and_a_moment_later() {
        let (noted, copier) = (Arc::<Noted>::default(), Arc::<Copier>::default());
        let socket = CopiedSocket { inner: noted.clone(), copier: copier.clone() };
        let running = tokio::spawn(copier.clone().run(noted.clone()));
        let batch: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        socket.try_send(&transmit(&batch, Some(1000))).unwrap();
        copier.expect(1500, 3000);
        socket.try_send(&transmit(&batch, Some(1000))).unwrap();
        copier.expect(10, 80);
        socket.try_send(&transmit(&batch[..80], None)).unwrap();
        // Of another connection, while what was expected could not be sent.
        copier.expect(10, 90);
        socket.try_send(&transmit(&batch[..70], None)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while noted.0.lock().unwrap().len() < 6 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running.abort();
        let noted = noted.0.lock().unwrap();
        let lengths: Vec<_> = noted.iter().map(|sent| (sent.contents.len(), sent.segment_size)).collect();
        let (large, small) = ((3000, Some(1000)), (80, None));
        assert_eq!(lengths, [large, large, small, (70, None), (2000, Some(1000)), small]);
        assert_eq!(noted[4].contents, batch[..2000]);
        assert!(noted[4].at >= noted[1].at + DELAY);
    }

    #[test]
    fn copies_that_wait_have_a_bound() {
        let copier = Copier::default();
        for _ in 0..2 * WAITING_MAX {
            copier.expect(10, 10);
            copier.sent(&transmit(b"0123456789", None));
        }
        assert_eq!(lock(&copier.waiting).len(), WAITING_MAX);
    }
}
