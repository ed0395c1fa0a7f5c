//! What a connection holds of a peer, counted by the allocator: all of it happens on one thread.
#![allow(clippy::unwrap_used)]

use allocation_counter::measure;
use bytes::BytesMut;
use proto::limits::STREAM_UNREAD_BYTES_MAX;
use proto::mux::{Frame, StreamId, cost};
use tokio::io::AsyncWriteExt;

use super::*;

/// Streams of which nothing is read.
const STREAMS: u64 = 4;

/// A connection that was sent as many payloads of `length` bytes on each stream as its window allows, between each two
/// of them so many pings, and has taken them all. The peer is gone, and what it sent can still be read.
fn filled(length: usize, pings: u64) -> (Connection, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, inner) = Connection::new(false, Duration::from_millis(1), Vec::new());
    connection.share(&Account::new(2 * TUNNEL_UNREAD_BYTES_MAX));
    let payloads = STREAM_UNREAD_BYTES_MAX / cost(length);
    runtime.block_on(async {
        let (io, mut peer) = tokio::io::duplex(64 * 1024);
        let (_keep, ending) = watch::channel(None);
        let mut sent = BytesMut::new();
        let sending = async {
            for stream in (0..STREAMS).map(|index| StreamId::new(index, true)) {
                Frame::Open(stream).encode(&mut sent);
                for _ in 0..payloads {
                    Frame::Data(stream, Bytes::from(vec![1; length])).encode(&mut sent);
                    (0..pings).for_each(|token| Frame::Ping(token).encode(&mut sent));
                    peer.write_all_buf(&mut sent).await.unwrap();
                }
            }
            drop(peer);
        };
        tokio::join!(run(io, inner, ending), sending);
    });
    (connection, STREAMS as usize * payloads * cost(length))
}

#[test]
fn a_window_of_unread_data_holds_what_it_says_whatever_stands_between() {
    // As many pings as fill what is read at once, and none.
    for (length, pings) in [
        (1, 0),
        (1, 100),
        (255, 0),
        (256, 0),
        (300, 200),
        (4_095, 1),
        (4_096, 0),
        (4_097, 3_600),
        (16_384, 0),
    ] {
        let mut kept = None;
        let held = measure(|| kept = Some(filled(length, pings))).bytes_current;
        let (connection, said) = kept.unwrap();
        let held = usize::try_from(held).unwrap();
        assert!(held <= said + said / 16 + 256 * 1024, "{length} bytes, {pings} pings: {held} of {said}");
        assert!(connection.inner().state().unread() == said, "nothing was lost");
    }
}

#[test]
fn what_was_read_is_not_held() {
    let mut kept = None;
    let held = measure(|| {
        let (connection, _) = filled(4_097, 10);
        for stream in (0..STREAMS).map(|index| StreamId::new(index, true)) {
            let mut reader = MuxRecv { connection: connection.clone(), id: stream };
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut length = 0;
            while let Poll::Ready(Ok(Some(bytes))) = reader.poll_read(&mut cx, usize::MAX) {
                length += bytes.len();
            }
            assert_eq!(length, STREAM_UNREAD_BYTES_MAX / 4_097 * 4_097);
        }
        kept = Some(connection);
    });
    assert!(held.bytes_current < 256 * 1024, "{held:?}");
}
