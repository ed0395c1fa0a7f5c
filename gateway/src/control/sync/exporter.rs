//! Our side as exporter: every sync stream that a peer opens is fed until it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::limits::{SYNC_STREAM_EVERY, SYNC_STREAMS_BURST};
use proto::sync::Watch;
use registry::base::rate::{Bucket, Rate};
use registry::model::ClusterName;
use registry::pure::export::Feed;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Knowledge;
use crate::peers::{Over, Peers};
use crate::proxy::worker::SyncStream;
use crate::telemetry::limited::limited;

/// The watch must be there by then: the peer sends it at once.
const WATCH_WAIT: Duration = Duration::from_secs(5);
/// A sign of life on a quiet stream.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Services per look at the export: it is not locked for longer.
const BATCH: usize = 256;
/// Sync streams of one peer at once: one per gateway that imports, and the ones that they replace.
const STREAMS_PER_PEER_MAX: usize = 16;

/// What one peer has opened.
#[derive(Debug)]
struct Opened {
    /// Streams that are not over.
    now: usize,
    /// When the next one is answered.
    turns: Bucket,
}

impl Opened {
    fn new() -> Self {
        Self { now: 0, turns: Bucket::new(Rate::every(SYNC_STREAMS_BURST, SYNC_STREAM_EVERY)) }
    }

    /// Whether it may have another one, and how long that waits. Turns are given in advance.
    fn open(&mut self, now: Instant) -> Option<Duration> {
        if self.now >= STREAMS_PER_PEER_MAX {
            return None;
        }
        self.now += 1;
        let wait = self.turns.wait(1, now);
        let _ = self.turns.take(1, now + wait);
        Some(wait)
    }
}

/// Feeds every stream of `syncs` until `stop`. Each stream of a peer may cost a snapshot, so they are answered at a pace.
pub async fn export_to_peers(
    knowledge: Arc<Knowledge>,
    peers: Arc<Peers>,
    mut syncs: mpsc::Receiver<SyncStream>,
    stop: CancellationToken,
) {
    let mut feeds: JoinSet<ClusterName> = JoinSet::new();
    let mut opened: BTreeMap<ClusterName, Opened> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(stream) = syncs.recv() => {
                let now = Instant::now();
                let of_peer = opened.entry(stream.peer.clone()).or_insert_with(Opened::new);
                let over = || {
                    if let Some(peer) = peers.get(&stream.peer) {
                        peer.over.note(&peer.name, Over::SyncStreams, now);
                    }
                };
                let Some(wait) = of_peer.open(now) else {
                    over();
                    limited!(
                        INFO, KNOWN, stream.peer, "Refused a sync stream: it has as many as are allowed.",
                        peer = %stream.peer, most = STREAMS_PER_PEER_MAX
                    );
                    continue;
                };
                if !wait.is_zero() {
                    over();
                }
                let (knowledge, peers) = (knowledge.clone(), peers.clone());
                feeds.spawn(async move {
                    sleep(wait).await;
                    let peer = stream.peer.clone();
                    feed(&knowledge, &peers, stream).await;
                    peer
                });
            }
            Some(ended) = feeds.join_next() => {
                if let Ok(peer) = ended
                    && let Some(of_peer) = opened.get_mut(&peer)
                {
                    of_peer.now -= 1;
                }
            }
        }
    }
}

async fn feed(knowledge: &Knowledge, peers: &Peers, stream: SyncStream) {
    let SyncStream { peer, mut reader, mut writer } = stream;
    let watch = match tokio::time::timeout(WATCH_WAIT, reader.next::<Watch>()).await {
        Ok(Ok(Some(watch))) => watch,
        _ => return debug!(%peer, "Sync stream without a watch request."),
    };
    let mut changes = knowledge.exported.subscribe();
    let (feed, claims_more) = {
        let export = &knowledge.lock().export;
        let feed = Feed::new(peer.clone(), &watch, export, &mut fastrand::Rng::new());
        let claims_more = feed.as_ref().is_ok_and(|feed| feed.claims_more(export));
        (feed, claims_more)
    };
    if claims_more && let Some(cluster) = peers.get(&peer) {
        cluster.over.note(&peer, Over::Claims, Instant::now());
    }
    let mut feed = match feed {
        Ok(feed) => feed,
        Err(error) => {
            limited!(INFO, KNOWN, peer, "Refused a watch.", %peer, %error);
            return;
        }
    };
    debug!(%peer, epoch = watch.epoch, revision = watch.revision, "Exporting.");
    loop {
        changes.mark_unchanged();
        let events = feed.next(&knowledge.lock().export, BATCH);
        for event in &events {
            if writer.send(event).await.is_err() {
                return;
            }
        }
        if !events.is_empty() {
            continue;
        }
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(HEARTBEAT) => {
                let heartbeat = feed.heartbeat(&knowledge.lock().export);
                if let Some(event) = heartbeat
                    && writer.send(&event).await.is_err()
                {
                    return;
                }
            }
            // The importer says nothing more: whatever comes is its end.
            _ = reader.next::<Watch>() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_opens_stream_after_stream_waits_and_has_few_at_once() {
        let (mut opened, start) = (Opened::new(), Instant::now());
        // Each is reset at once.
        let mut answered = 0;
        for second in 0..60_u32 {
            let now = start + Duration::from_secs(second.into());
            for _ in 0..1_000 {
                let Some(wait) = opened.open(now) else { break };
                answered += usize::from(wait.is_zero());
                if wait.is_zero() {
                    opened.now -= 1;
                }
            }
            assert!(opened.now <= STREAMS_PER_PEER_MAX);
            // Those that waited had their turn by the next second, or wait still.
            opened.now = opened.now.saturating_sub(2);
        }
        let most = SYNC_STREAMS_BURST as usize + 60 * 2;
        assert!(answered <= most, "{answered} of at most {most}");
    }
}
