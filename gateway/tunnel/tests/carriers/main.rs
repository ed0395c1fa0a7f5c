//! The three carriers do the same: every promise of a tunnel, on QUIC, on TLS on TCP and on a Unix socket.
#![allow(clippy::unwrap_used)]

mod hostile;
mod pair;
#[path = "../common/pki.rs"]
mod pki;
mod trust;
mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proto::code::{CloseCode, Code};
use proto::stream::StreamKind;
use tunnel::{DirectEndpoint, Event, Exchange, Kind, PeerAddress, Sender, TunnelError};

use pair::{End, KINDS, Listener, Pair, body, head, local, put_head, soon};
use pki::Pki;

/// More than the windows of a stream hold, on either carrier.
const LARGE: usize = 24 * 1024 * 1024;

/// Waits for `what` with a deadline.
async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn either_side_opens_and_the_order_is_that_of_opening() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        for (here, there, first) in [(&pair.west, &pair.east, 1), (&pair.east, &pair.west, 0)] {
            // The dialler's control stream has the first place.
            let mut asked = Vec::new();
            for n in 0..3 {
                asked.push(here.open(&[n]).await);
            }
            for (n, asked) in (0..).zip(&mut asked) {
                let (index, mut served) = there.accept().await;
                assert_eq!(
                    (index, head(&mut served.receiver).await),
                    (first + u64::from(n), Bytes::from(vec![n]))
                );
                let mut answer = Vec::new();
                put_head(&mut answer, b"answer");
                served.sender.write(answer.into()).await.unwrap();
                served.sender.end(None).await.unwrap();
                asked.sender.end(None).await.unwrap();
                assert_eq!(body(&mut served.receiver, 0).await, 0);
                assert_eq!(head(&mut asked.receiver).await, "answer");
                assert_eq!(body(&mut asked.receiver, 0).await, 0);
            }
        }
        until(|| pair.west.tunnel.outstanding() + pair.east.tunnel.serving() == 0).await;
        assert!(pair.west.tunnel.heard() > 0 && pair.west.tunnel.rtt() < Duration::from_secs(1));
        assert!(
            !pair.west.tunnel.peer_certificates().is_empty()
                && !pair.east.tunnel.peer_certificates().is_empty()
        );
        let local = matches!(pair.east.tunnel.remote_address(), PeerAddress::Process(Some(_)));
        assert_eq!(local, kind == Kind::Unix);
    }
}

async fn send_large(sender: &mut Sender, byte: u8) {
    for _ in 0..LARGE / (512 * 1024) {
        soon(sender.data(Bytes::from(vec![byte; 512 * 1024]))).await.unwrap();
    }
    soon(sender.end(None)).await.unwrap();
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let Exchange { mut sender, mut receiver } = pair.west.open(b"large").await;
        let (_, mut served) = pair.east.accept().await;
        head(&mut served.receiver).await;
        let mut answer = Vec::new();
        put_head(&mut answer, b"answer");
        served.sender.write(answer.into()).await.unwrap();
        head(&mut receiver).await;
        let lengths = tokio::join!(
            async { send_large(&mut sender, 1).await },
            async { send_large(&mut served.sender, 2).await },
            body(&mut served.receiver, 1),
            body(&mut receiver, 2),
        );
        assert_eq!((lengths.2, lengths.3), (LARGE, LARGE));
    }
}

#[tokio::test]
async fn each_half_ends_on_its_own_and_codes_arrive() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        // The reader stops; the answer goes on.
        let mut asked = pair.west.open(b"one").await;
        let (_, mut served) = pair.east.accept().await;
        head(&mut served.receiver).await;
        served.receiver.stop(Code::Overloaded);
        soon(asked.sender.stopped()).await;
        let refused = loop {
            if let Err(error) = soon(asked.sender.data(Bytes::from_static(b"more"))).await {
                break error;
            }
        };
        assert!(matches!(refused, TunnelError::Reset(Code::Overloaded)), "{kind}: {refused}");
        let mut answer = Vec::new();
        put_head(&mut answer, b"answer");
        served.sender.write(answer.into()).await.unwrap();
        served.sender.end(None).await.unwrap();
        assert_eq!(head(&mut asked.receiver).await, "answer");
        assert_eq!(body(&mut asked.receiver, 0).await, 0);

        // The writer resets; dropped halves cancel.
        let asked = pair.west.open(b"two").await;
        let (_, mut served) = pair.east.accept().await;
        head(&mut served.receiver).await;
        served.sender.reset(Code::Misplaced);
        let Exchange { sender, mut receiver } = asked;
        assert!(matches!(soon(receiver.frame()).await, Err(TunnelError::Reset(Code::Misplaced))));
        drop(sender);
        assert!(matches!(soon(served.receiver.frame()).await, Err(TunnelError::Reset(Code::Cancelled))));

        // A reader that goes away is noticed by a writer that has nothing to write.
        let asked = pair.west.open(b"three").await;
        let (_, served) = pair.east.accept().await;
        let stopped = served.sender.stopped();
        drop(asked);
        soon(stopped).await;
    }
}

#[tokio::test]
async fn an_exchange_counts_until_both_its_halves_are_over() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let mut asked = pair.west.open(b"get").await;
        asked.sender.end(None).await.unwrap();
        let (_, mut served) = pair.east.accept().await;
        head(&mut served.receiver).await;
        assert_eq!(body(&mut served.receiver, 0).await, 0);
        // As for a request without a body, whose answer may take hours.
        drop(served.receiver);
        assert_eq!((pair.west.tunnel.outstanding(), pair.east.tunnel.serving()), (1, 1), "{kind}");
        let mut answer = Vec::new();
        put_head(&mut answer, b"answer");
        served.sender.write(answer.into()).await.unwrap();
        served.sender.end(None).await.unwrap();
        drop(served.sender);
        assert_eq!(head(&mut asked.receiver).await, "answer");
        drop(asked);
        assert_eq!((pair.west.tunnel.outstanding(), pair.east.tunnel.serving()), (0, 0), "{kind}");
    }
}

#[tokio::test]
async fn a_stream_without_its_end_is_cut() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let mut asked = pair.west.open(b"cut").await;
        let (_, mut served) = pair.east.accept().await;
        head(&mut served.receiver).await;
        asked.sender.data(Bytes::from_static(b"half")).await.unwrap();
        asked.sender.finish();
        assert!(soon(served.receiver.frame()).await.unwrap().is_some());
        assert!(matches!(soon(served.receiver.frame()).await, Err(TunnelError::Truncated)));
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_its_writer_and_nobody_else() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let mut asked = pair.west.open(b"stalls").await;
        let (_, mut served) = pair.east.accept().await;
        head(&mut served.receiver).await;
        let written = Arc::new(AtomicUsize::new(0));
        let counter = written.clone();
        let writer = tokio::spawn(async move {
            for _ in 0..LARGE / 65_536 {
                asked.sender.data(Bytes::from(vec![3; 65_536])).await.unwrap();
                counter.fetch_add(65_536, Ordering::Relaxed);
            }
            asked.sender.end(None).await.unwrap();
            asked
        });
        // As many exchanges as it takes for the writer to stand still.
        let mut before = usize::MAX;
        while before != written.load(Ordering::Relaxed) {
            before = written.load(Ordering::Relaxed);
            for _ in 0..20 {
                let mut other = pair.west.open(b"passes").await;
                other.sender.end(None).await.unwrap();
                let (_, mut served) = pair.east.accept().await;
                head(&mut served.receiver).await;
                assert_eq!(body(&mut served.receiver, 0).await, 0);
            }
        }
        assert!(before <= 5 * 1024 * 1024, "{kind}: {before} bytes were taken of a stream that nobody reads");
        assert_eq!(body(&mut served.receiver, 3).await, LARGE);
        soon(writer).await.unwrap();
    }
}

#[tokio::test]
async fn streams_above_a_goaway_are_certified_unprocessed() {
    for kind in KINDS {
        let mut pair = Pair::new(kind).await;
        let mut taken = pair.west.open(b"taken").await;
        let (_, mut served) = pair.east.accept().await;
        pair.east.tunnel.go_away("draining");
        // Opened before west has heard of it.
        let mut late = pair.west.open(b"late").await;
        let accepting = pair.east.tunnel.accept();
        let refused = tokio::select! {
            refused = late.receiver.frame() => refused.unwrap_err(),
            _ = accepting => panic!("nothing is accepted after the GOAWAY"),
        };
        assert!(refused.certifies_unprocessed(), "{kind}: {refused}");
        assert_eq!(soon(pair.west.events.recv()).await, Some(Event::GoingAway));
        assert!(!pair.west.tunnel.is_open());
        // What was accepted goes on.
        taken.sender.end(None).await.unwrap();
        head(&mut served.receiver).await;
        assert_eq!(body(&mut served.receiver, 0).await, 0);
        drop(taken);
        // Never seen by the other side, and the connection ends: still above the last one taken.
        let down = pair.west.tunnel.open(Bytes::from_static(b"x"), false).await.unwrap_err();
        assert!(down.certifies_unprocessed());
    }
}

#[tokio::test]
async fn probes_are_answered() {
    for kind in KINDS {
        let mut pair = Pair::new(kind).await;
        for (end, sequence) in [(&mut pair.west, 7), (&mut pair.east, 8)] {
            let heard = end.tunnel.heard();
            end.tunnel.probe(sequence, 9).unwrap();
            assert_eq!(soon(end.events.recv()).await, Some(Event::Answered { sequence, clock_us: 9 }));
            assert!(end.tunnel.heard() > heard);
        }
    }
}

#[tokio::test]
async fn a_close_says_why_and_fails_everything() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let Exchange { mut sender, mut receiver } = pair.west.open(b"open").await;
        pair.east.accept().await;
        let stopped = sender.stopped();
        pair.east.tunnel.close(CloseCode::LinkRemoved, "the link was removed");
        let reason = soon(pair.west.tunnel.closed()).await;
        assert_eq!((reason.code, reason.cut), (Some(CloseCode::LinkRemoved), false));
        assert_eq!(reason.text, "peer closed: link-removed (the link was removed)");
        assert!(matches!(soon(receiver.frame()).await, Err(TunnelError::Lost(_))));
        assert!(matches!(soon(sender.data(Bytes::from_static(b"x"))).await, Err(TunnelError::Lost(_))));
        soon(stopped).await;
        assert!(!pair.west.tunnel.is_open() && !pair.east.tunnel.is_open());
        let down = pair.west.tunnel.open(Bytes::new(), false).await.unwrap_err();
        assert!(matches!(down, TunnelError::Down(_)), "{down}");
        assert_eq!(pair.west.ended().await, reason);
        assert_eq!(pair.east.ended().await.text, "closed here");
    }
}

#[tokio::test]
async fn what_was_written_arrives_before_the_end_of_its_endpoint() {
    let pki = Pki::new();
    for kind in [Kind::Tcp, Kind::Unix] {
        let listener = Listener::start(kind, local(&pki, "east"), pki.path()).await;
        let dialled = listener.dial(local(&pki, "west"), pki.path(), "east");
        let (west, east) = soon(async { tokio::join!(dialled, listener.accept()) }).await;
        let (west, east) = (End::of(west.unwrap()), End::of(east.unwrap()));
        let mut asked = west.open(b"last").await;
        let (_, mut served) = east.accept().await;
        let mut answer = Vec::new();
        put_head(&mut answer, b"answer");
        served.sender.write(answer.into()).await.unwrap();
        let written = 3 * 1024 * 1024;
        soon(served.sender.data(vec![5; written].into())).await.unwrap();
        served.sender.end(None).await.unwrap();
        soon(served.sender.stopped()).await;
        let Listener::Direct(endpoint, _) = &listener else { unreachable!() };
        endpoint.close("drained");
        let idle = endpoint.wait_idle();
        let read = async {
            head(&mut asked.receiver).await;
            body(&mut asked.receiver, 5).await
        };
        let ((), read) = soon(async { tokio::join!(idle, read) }).await;
        assert_eq!(read, written);
        let reason = west.ended().await;
        assert_eq!((reason.code, reason.cut), (Some(CloseCode::Shutdown), false), "{reason}");
    }
}

#[tokio::test]
async fn a_process_that_dies_cuts_its_tunnels_at_once() {
    for kind in [Kind::Tcp, Kind::Unix] {
        let pki = Pki::new();
        let listener = Listener::start(kind, local(&pki, "east"), pki.path()).await;
        let (told, up) = std::sync::mpsc::sync_channel(1);
        let dying = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (local, dir) = (local(&pki, "west"), pki.path().to_owned());
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let Listener::Direct(_, socket) = &listener else { unreachable!() };
        let address = match socket {
            pair::Socket::Tcp(listener) => Ok(listener.local_addr().unwrap()),
            pair::Socket::Unix(_, path) => Err(path.clone()),
        };
        let process = std::thread::spawn(move || {
            dying.block_on(async {
                let endpoint = DirectEndpoint::new(local, 0).unwrap();
                let dialled = match address {
                    Ok(address) => endpoint.dial(address, "east", |_| Ok(())).await,
                    Err(path) => endpoint.dial_unix(&path, "east", |_| Ok(())).await,
                };
                let west = End::of(dialled.unwrap());
                let asked = west.open(b"dies").await;
                told.send(()).unwrap();
                ended.await.unwrap_err();
                // As a killed process: nothing of it gets to run.
                std::mem::forget((west, asked));
            });
            drop(dir);
        });
        let east = End::of(soon(listener.accept()).await.unwrap());
        let (_, served) = east.accept().await;
        tokio::task::spawn_blocking(move || up.recv().unwrap()).await.unwrap();
        drop(end);
        let reason = soon(east.tunnel.closed()).await;
        process.join().unwrap();
        assert!(reason.cut && reason.code.is_none(), "{kind}: {reason:?}");
        soon(served.sender.stopped()).await;
    }
}

#[tokio::test]
async fn a_tunnel_that_nobody_holds_ends() {
    for kind in KINDS {
        let Pair { west, east, listener, pki } = Pair::new(kind).await;
        west.forget();
        let reason = east.ended().await;
        assert!(!reason.cut, "{kind}: {reason}");
        drop((listener, pki));
    }
}

#[tokio::test]
async fn the_peers_limit_of_streams_is_busy_and_frees_again() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let mut asked = Vec::new();
        let busy = loop {
            let opened = pair.west.tunnel.open(Bytes::from_static(&[1]), false).await;
            match opened {
                Ok(exchange) => asked.push(exchange),
                Err(error) => break error,
            }
        };
        assert!(matches!(busy, TunnelError::Busy), "{kind}: {busy}");
        assert!((4000..=4096).contains(&asked.len()), "{}", asked.len());
        // They are only over once the other side has ended its halves, too.
        asked.clear();
        let again = async {
            while pair.west.tunnel.open(Bytes::from_static(&[1]), false).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let looked_at = async {
            while let Ok(accepted) = pair.east.tunnel.accept().await {
                drop(accepted);
            }
        };
        soon(async {
            tokio::select! { () = again => {}, () = looked_at => {} }
        })
        .await;
    }
}

#[tokio::test]
async fn one_message_stream_is_as_good_as_another() {
    for kind in KINDS {
        let pair = Pair::new(kind).await;
        let (mut reader, mut writer) = pair.west.tunnel.open_messages(StreamKind::Sync).await.unwrap();
        let accepted = soon(pair.east.tunnel.accept()).await.unwrap();
        let Ok(tunnel::Begun::Messages(StreamKind::Sync, mut theirs, mut answers)) =
            soon(accepted.begin()).await
        else {
            panic!("a sync stream")
        };
        let message = |n| proto::control::GoAway { last_stream: Some(n), reason: "x".repeat(50_000) };
        for n in 0..100 {
            soon(writer.send(&message(n))).await.unwrap();
            assert_eq!(soon(theirs.next()).await.unwrap(), Some(message(n)));
            soon(answers.send(&message(n))).await.unwrap();
            assert_eq!(soon(reader.next()).await.unwrap(), Some(message(n)));
        }
        writer.finish();
        assert_eq!(soon(theirs.next::<proto::control::GoAway>()).await.unwrap(), None);
    }
}
