//! What may be unread, over all tunnels of one account.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proto::code::Code;
use tokio::task::JoinHandle;
use tunnel::{Account, Exchange, Kind, TunnelError};

use super::pair::{Pair, body, head, soon};
use super::{LARGE, until};

/// An exchange that is written to and not read.
struct Filling {
    served: Exchange,
    written: Arc<AtomicUsize>,
    writer: JoinHandle<Result<Exchange, TunnelError>>,
}

impl Filling {
    /// Writes [`LARGE`] bytes on each of so many, as fast as they are taken.
    async fn begin(pair: &Pair, count: usize) -> Vec<Self> {
        let mut open = Vec::new();
        for _ in 0..count {
            let asked = pair.west.open(b"fills").await;
            let (_, mut served) = pair.east.accept().await;
            head(&mut served.receiver).await;
            open.push((asked, served));
        }
        open.into_iter().map(|(asked, served)| Self::write(asked, served)).collect()
    }

    fn write(mut asked: Exchange, served: Exchange) -> Self {
        let written = Arc::new(AtomicUsize::new(0));
        let counter = written.clone();
        let writer = tokio::spawn(async move {
            for _ in 0..LARGE / (16 * 1024) {
                asked.sender.data(Bytes::from(vec![3; 16 * 1024])).await?;
                counter.fetch_add(16 * 1024, Ordering::Relaxed);
            }
            asked.sender.end(None).await?;
            Ok(asked)
        });
        Self { served, written, writer }
    }

    /// What was written when nothing more is taken: not for as long as it takes many probes to come back.
    async fn stands_still(pair: &mut Pair, all: &[Self]) -> usize {
        let sum = || all.iter().map(|one| one.written.load(Ordering::Relaxed)).sum();
        let mut before = usize::MAX;
        while before != sum() {
            before = sum();
            for sequence in 0..50 {
                pair.west.tunnel.probe(sequence, 0).unwrap();
                soon(pair.west.events.recv()).await.unwrap();
            }
        }
        before
    }
}

async fn passes(pair: &Pair) {
    let mut other = pair.west.open(b"passes").await;
    other.sender.end(None).await.unwrap();
    let (_, mut served) = pair.east.accept().await;
    head(&mut served.receiver).await;
    assert_eq!(body(&mut served.receiver, 0).await, 0);
}

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn what_several_tunnels_leave_unread_is_never_more_than_their_account() {
    for kind in [Kind::Tcp, Kind::Unix] {
        let (mut one, mut other) = (Pair::new(kind).await, Pair::new(kind).await);
        let account = Account::new(6 * MIB);
        one.east.tunnel.share(&account);
        other.east.tunnel.share(&account);
        let mut first = Filling::begin(&one, 1).await;
        let written = Filling::stands_still(&mut one, &first).await;
        assert!((3 * MIB..5 * MIB).contains(&written), "{kind}: {written} of a whole window");
        let mut second = Filling::begin(&other, 1).await;
        Filling::stands_still(&mut other, &second).await;
        let (mut first, mut second) = (first.remove(0), second.remove(0));
        assert!(account.taken() <= 6 * MIB);
        // Whoever reads is told: nothing of it passes for a whole message, or for one that was never looked at.
        let cut = soon(second.served.receiver.frame()).await.unwrap_err();
        assert!(matches!(cut, TunnelError::Reset(Code::Internal)), "{kind}: {cut}");
        assert!(soon(second.writer).await.unwrap().is_err());
        // Small exchanges pass on both, whatever is unread; and what was there before is read to its end.
        passes(&one).await;
        passes(&other).await;
        assert_eq!(body(&mut first.served.receiver, 3).await, LARGE);
        assert!(soon(first.writer).await.unwrap().is_ok());
        until(|| account.taken() == 0).await;
    }
}

#[tokio::test]
async fn on_quic_an_account_is_divided_among_the_tunnels_that_there_are() {
    let account = Account::new(16 * MIB);
    let mut one = Pair::new(Kind::Quic).await;
    one.east.tunnel.share(&account);
    // A stream holds 4 MiB at the most.
    let filling = Filling::begin(&one, 6).await;
    let written = Filling::stands_still(&mut one, &filling).await;
    assert!((15 * MIB..=17 * MIB).contains(&written), "{written}");

    let mut other = Pair::new(Kind::Quic).await;
    other.east.tunnel.share(&account);
    let others = Filling::begin(&other, 6).await;
    let written = Filling::stands_still(&mut other, &others).await;
    assert!((7 * MIB..=9 * MIB).contains(&written), "{written}");
}
