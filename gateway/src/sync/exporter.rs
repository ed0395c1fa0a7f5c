//! Our side as exporter: every sync stream that a peer opens is fed until it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::sync::Watch;
use registry::export::Feed;
use registry::model::ClusterName;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Knowledge;
use crate::audit;
use crate::limited::limited;
use crate::worker::SyncStream;

/// The watch must be there by then: the peer sends it at once.
const WATCH_WAIT: Duration = Duration::from_secs(5);
/// A sign of life on a quiet stream.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Services per look at the export: it is not locked for longer.
const BATCH: usize = 256;
/// Sync streams of one peer at once: one per gateway that imports, and the ones that they replace.
const STREAMS_PER_PEER_MAX: usize = 16;

/// Feeds every stream of `syncs` until `stop`.
pub async fn export_to_peers(
    knowledge: Arc<Knowledge>,
    mut syncs: mpsc::Receiver<SyncStream>,
    stop: CancellationToken,
) {
    let mut feeds: JoinSet<ClusterName> = JoinSet::new();
    let mut open: BTreeMap<ClusterName, usize> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(stream) = syncs.recv() => {
                let count = open.entry(stream.peer.clone()).or_default();
                if *count >= STREAMS_PER_PEER_MAX {
                    limited!(
                        INFO, KNOWN, stream.peer, "Refused a sync stream: it has as many as are allowed.",
                        peer = %stream.peer, most = STREAMS_PER_PEER_MAX
                    );
                    continue;
                }
                *count += 1;
                let knowledge = knowledge.clone();
                feeds.spawn(async move {
                    let peer = stream.peer.clone();
                    feed(&knowledge, stream).await;
                    peer
                });
            }
            Some(ended) = feeds.join_next() => {
                if let Ok(peer) = ended
                    && let Some(count) = open.get_mut(&peer)
                {
                    *count -= 1;
                }
            }
        }
    }
}

async fn feed(knowledge: &Knowledge, stream: SyncStream) {
    let SyncStream { peer, mut reader, mut writer } = stream;
    let watch = match tokio::time::timeout(WATCH_WAIT, reader.next::<Watch>()).await {
        Ok(Ok(Some(watch))) => watch,
        _ => return debug!(%peer, "A sync stream without a watch."),
    };
    let mut changes = knowledge.exported.subscribe();
    if knowledge.lock().export.admit(&watch, &mut fastrand::Rng::new()) {
        audit::change_by(
            &peer,
            "a new epoch of our exports begins",
            "exports",
            format_args!("{peer} knows more of them than we do: was a backup restored?"),
            "every peer is sent all of them",
        );
        knowledge.exported.send_modify(|n| *n += 1);
    }
    let mut feed = match Feed::new(peer.clone(), &watch) {
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
