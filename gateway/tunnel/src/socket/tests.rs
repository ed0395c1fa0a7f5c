#![allow(clippy::unwrap_used)]

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::num::NonZeroU8;

use proptest::prelude::*;
use quinn::ConnectionIdGenerator;

use crate::cid::Generator;
use crate::port::Strays;
use crate::secrets::Secrets;

use super::*;

const WORKERS: u8 = 3;

/// The socket of worker 0, and the ports of the others.
fn shared() -> (SharedSocket, Vec<Port>) {
    let secrets = Secrets { reset_key: [1; 32], cid_key: [2; 32] };
    let workers = NonZeroU8::new(WORKERS).unwrap();
    let mut ports = Port::bind((Ipv4Addr::LOCALHOST, 0).into(), workers, &secrets, 7).unwrap();
    let Port { socket, worker, inbox, group } = ports.remove(0);
    let inner = TokioRuntime.wrap_udp_socket(socket).unwrap();
    (SharedSocket { inner, worker, inbox: Mutex::new(inbox), group }, ports)
}

/// A datagram for a tunnel of `worker`.
fn datagram_of(group: &Group, worker: u8, filler: u8, len: usize) -> Vec<u8> {
    let cid = Generator::new(group.codec.clone(), worker).generate_cid();
    let mut datagram = [&[0x40][..], &cid].concat();
    datagram.resize(len, filler);
    datagram
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Polls once.
async fn poll_once(socket: &SharedSocket, bufs: &mut [Vec<u8>], metas: &mut [RecvMeta]) -> Poll<usize> {
    let mut slices: Vec<_> = bufs.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    poll_fn(|cx| Poll::Ready(socket.poll_recv(cx, &mut slices, metas).map(Result::unwrap))).await
}

#[test]
fn inbox_and_socket_take_turns() {
    runtime().block_on(async {
        let (socket, _others) = shared();
        let own = datagram_of(&socket.group, 0, 1, 60);
        let handed = datagram_of(&socket.group, 0, 2, 70);
        let (mut bufs, mut metas) = (vec![vec![0; 100]; 4], [RecvMeta::default(); 4]);
        assert_eq!(poll_once(&socket, &mut bufs, &mut metas).await, Poll::Pending);
        let sender = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        sender.send_to(&own, socket.local_addr().unwrap()).await.unwrap();
        let mut slices: Vec<_> = bufs.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        assert_eq!(poll_fn(|cx| socket.poll_recv(cx, &mut slices, &mut metas)).await.unwrap(), 1);
        for _ in 0..3 {
            socket.group.hand_over(0, Datagram::copy(&handed, &RecvMeta::default()));
        }
        sender.send_to(&own, socket.local_addr().unwrap()).await.unwrap();
        let polled = poll_once(&socket, &mut bufs, &mut metas).await;
        assert_eq!(polled, Poll::Ready(3), "two of the inbox, and the socket has its turn");
        let received: Vec<_> = bufs.iter().zip(&metas).map(|(b, m)| &b[..m.len]).take(3).collect();
        assert_eq!(received, [&handed[..], &handed, &own]);
        assert_eq!(poll_once(&socket, &mut bufs, &mut metas).await, Poll::Ready(1));
        assert_eq!(poll_once(&socket, &mut bufs, &mut metas).await, Poll::Pending);
    });
}

#[test]
fn what_is_handed_over_wakes_its_worker() {
    runtime().block_on(async {
        let (socket, _others) = shared();
        let group = socket.group.clone();
        let handed = datagram_of(&group, 0, 2, 70);
        let mut bufs = vec![vec![0; 100]; 4];
        let mut metas = [RecvMeta::default(); 4];
        let mut slices: Vec<_> = bufs.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let receive = poll_fn(|cx| socket.poll_recv(cx, &mut slices, &mut metas));
        let hand = async { group.hand_over(0, Datagram::copy(&handed, &RecvMeta::default())) };
        // `receive` is polled first, and waits.
        let (received, ()) = tokio::join!(biased; receive, hand);
        assert_eq!(received.unwrap(), 1);
        assert_eq!(bufs[0][..metas[0].len], handed);
    });
}

/// What a segment of a received buffer is.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Of(u8),
    PossibleReset,
}

proptest! {
    #[test]
    fn a_buffer_of_several_datagrams_is_sorted(
        segments in prop::collection::vec(
            prop_oneof![(0..WORKERS).prop_map(Segment::Of), Just(Segment::PossibleReset)], 1..20),
        stride in 30..60usize,
        last in 30..60usize,
    ) {
        let runtime = runtime();
        let _entered = runtime.enter();
        let (socket, mut others) = shared();
        let last_len = last.min(stride);
        let datagrams: Vec<Vec<u8>> = (0u8..).zip(&segments).map(|(n, segment)| {
            let len = if usize::from(n) + 1 == segments.len() { last_len } else { stride };
            match *segment {
                Segment::Of(worker) => datagram_of(&socket.group, worker, n, len),
                Segment::PossibleReset => vec![n & 0x7f; len],
            }
        }).collect();
        let mut buf = datagrams.concat();
        let mut meta = RecvMeta { len: buf.len(), stride, ..RecvMeta::default() };
        socket.sort(&mut buf, &mut meta);

        let of = |worker: u8| -> Vec<&Vec<u8>> {
            let takes = |s: &Segment| match s { Segment::Of(w) => *w == worker, Segment::PossibleReset => true };
            datagrams.iter().zip(&segments).filter(|(_, s)| takes(s)).map(|(d, _)| d).collect()
        };
        let left: Vec<&[u8]> = buf[..meta.len].chunks(stride).collect();
        prop_assert_eq!(left, of(0));
        for other in &mut others {
            let handed: Vec<_> = std::iter::from_fn(|| other.inbox.try_recv().ok()).map(|d| d.bytes.to_vec()).collect();
            prop_assert_eq!(handed.iter().collect::<Vec<_>>(), of(other.worker()));
        }
        let resets = segments.iter().filter(|s| matches!(s, Segment::PossibleReset)).count();
        let handed_over = segments.iter().filter(|s| matches!(s, Segment::Of(1..))).count();
        let counted = Strays { handed_over: handed_over as u64, possible_resets: resets as u64, dropped: 0 };
        prop_assert_eq!(socket.group.strays(), counted);
    }

    #[test]
    fn any_buffer_can_be_sorted(mut buf in prop::collection::vec(any::<u8>(), 0..300), stride in 0..100usize) {
        let runtime = runtime();
        let _entered = runtime.enter();
        let (socket, _others) = shared();
        let mut meta = RecvMeta { len: buf.len(), stride, ..RecvMeta::default() };
        socket.sort(&mut buf, &mut meta);
        prop_assert!(meta.len <= buf.len());
    }
}
