//! One datagram in each buffer that quinn is given, where the kernel joins several of one sender (GRO).
//!
//! quinn makes one allocation of a buffer, and every unread byte of any of its datagrams holds all of it: a window of
//! which one datagram in forty is unread would hold forty times what it says. It counts by datagrams, so that is what it
//! gets.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Buffers that are read into at once: enough that a busy socket is not asked for each.
const BUFFERS: usize = 4;

/// A socket whose buffers are taken apart.
#[derive(Debug)]
pub(crate) struct Apart {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Only quinn's endpoint driver reads; the lock is never waited for.
    received: Mutex<Received>,
}

/// What was received and is not handed on yet.
struct Received {
    /// [`BUFFERS`] buffers, one after the other.
    bytes: Box<[u8]>,
    /// Each datagram, and where it is.
    datagrams: VecDeque<(Range<usize>, RecvMeta)>,
}

impl Apart {
    /// Takes apart what `inner` receives in datagrams of up to `datagram_bytes`.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, datagram_bytes: usize) -> Self {
        let bytes = vec![0; BUFFERS * datagram_bytes * inner.max_receive_segments()].into();
        Self { inner, received: Mutex::new(Received { bytes, datagrams: VecDeque::new() }) }
    }
}

impl AsyncUdpSocket for Apart {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // A panic while it was held left datagrams that are whole.
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        while received.datagrams.is_empty() {
            ready!(received.poll_fill(&*self.inner, cx))?;
        }
        Poll::Ready(Ok(received.hand_on(bufs, metas)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

impl Received {
    /// Reads once; what was read may be nothing of ours.
    fn poll_fill(&mut self, inner: &dyn AsyncUdpSocket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let each = self.bytes.len() / BUFFERS;
        let mut metas = [RecvMeta::default(); BUFFERS];
        let count = {
            let mut chunks = self.bytes.chunks_mut(each).map(IoSliceMut::new);
            // `chunks` has as many.
            let mut bufs: [IoSliceMut<'_>; BUFFERS] =
                std::array::from_fn(|_| chunks.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            ready!(inner.poll_recv(cx, &mut bufs, &mut metas))?
        };
        for (place, meta) in metas.iter().enumerate().take(count) {
            let (start, end) = (place * each, place * each + meta.len.min(each));
            for at in (start..end).step_by(meta.stride.max(1)) {
                let len = meta.stride.max(1).min(end - at);
                self.datagrams.push_back((at..at + len, RecvMeta { len, stride: len, ..*meta }));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Puts one datagram into each of the buffers; gives into how many.
    fn hand_on(&mut self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let count = self.datagrams.len().min(bufs.len()).min(metas.len());
        let places = bufs.iter_mut().zip(metas);
        for ((buf, into), (at, meta)) in places.zip(self.datagrams.drain(..count)) {
            // One that is longer than any that we take is cut, and does not authenticate.
            let len = at.len().min(buf.len());
            buf[..len].copy_from_slice(&self.bytes[at.start..at.start + len]);
            *into = RecvMeta { len, stride: len, ..meta };
        }
        count
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("datagrams", &self.datagrams.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// A socket that has received these buffers, each with the length of its datagrams.
    #[derive(Debug)]
    struct Script(Mutex<VecDeque<(Vec<u8>, usize)>>);

    const NOT_ASKED: &str = "only what was received is asked for";

    impl AsyncUdpSocket for Script {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("{NOT_ASKED}")
        }
        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            unreachable!("{NOT_ASKED}")
        }
        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            bufs: &mut [IoSliceMut<'_>],
            metas: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let mut script = self.0.lock().unwrap();
            let count = script.len().min(bufs.len());
            if count == 0 {
                return Poll::Pending;
            }
            for ((buf, meta), (bytes, stride)) in bufs.iter_mut().zip(metas).zip(script.drain(..count)) {
                buf[..bytes.len()].copy_from_slice(&bytes);
                *meta = RecvMeta { len: bytes.len(), stride, ..RecvMeta::default() };
            }
            Poll::Ready(Ok(count))
        }
        fn local_addr(&self) -> io::Result<SocketAddr> {
            unreachable!("{NOT_ASKED}")
        }
        fn max_receive_segments(&self) -> usize {
            64
        }
    }

    proptest! {
        #[test]
        fn every_datagram_comes_alone_and_in_its_order(
            received in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3000), 1..100_usize), 0..12),
        ) {
            let expected: Vec<Vec<u8>> =
                received.iter().flat_map(|(bytes, stride)| bytes.chunks(*stride).map(<[u8]>::to_vec)).collect();
            let apart = Apart::new(Arc::new(Script(Mutex::new(received.into()))), 100);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let (mut bufs, mut metas) = (vec![vec![0; 100]; 32], [RecvMeta::default(); 32]);
            let mut got = Vec::new();
            loop {
                let mut slices: Vec<_> = bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
                let Poll::Ready(count) = apart.poll_recv(&mut cx, &mut slices, &mut metas) else { break };
                for (buf, meta) in bufs.iter().zip(&metas).take(count.unwrap()) {
                    prop_assert_eq!(meta.stride, meta.len);
                    got.push(buf[..meta.len].to_vec());
                }
            }
            prop_assert_eq!(got, expected);
        }
    }
}
