//! Our side as importer: one sync stream to each peer, opened again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use proto::sync::Event;
use registry::election::Standing;
use registry::model::ClusterName;
use registry::recorder::Stored;
use registry::store::{Store, StoreError, keys};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;
use tunnel::{Tunnel, TunnelError};

use super::Knowledge;
use crate::limited::limited;
use crate::peers::{PeerCluster, Peers};

/// Three missed signs of life: the exporter is stuck, though its tunnel is up.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Wait before a stream that ended is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often what only time changes is looked at.
const TICK: Duration = Duration::from_secs(5);

/// Mirrors the exports of every peer, of those to come too.
///
/// From a peer that no tunnel leads to, what stands in `store` is taken instead: another gateway of ours may reach it.
pub async fn import_from_peers<S: Store>(
    knowledge: Arc<Knowledge>,
    peers: Arc<Peers>,
    store: S,
    standing: watch::Receiver<Standing>,
) {
    let begin = |peer: Arc<PeerCluster>| {
        let others = Others { store: store.clone(), standing: standing.clone(), seen: None };
        drop(tokio::spawn(import_from(knowledge.clone(), peer, others)));
    };
    // Each ends with its link; those that are left when the process drains end with it.
    peers.each(begin).await;
}

/// What the other gateways of our cluster know, by way of the store.
#[derive(Debug)]
struct Others<S> {
    store: S,
    standing: watch::Receiver<Standing>,
    /// The revision of the last word that was taken.
    seen: Option<u64>,
}

impl<S: Store> Others<S> {
    /// Takes what they know of `peer`, if that is news.
    async fn follow(&mut self, knowledge: &Knowledge, peer: &ClusterName) -> Result<(), StoreError> {
        // The elected one wrote it itself.
        if self.standing.borrow().guard(Instant::now()).is_some() {
            return Ok(());
        }
        let stamp = self.store.get(&keys::mirrored(peer)).await?.map(|entry| entry.modified);
        if stamp.is_some() && stamp != self.seen {
            let stored = Stored::read_peer(&self.store, peer).await?;
            knowledge.follow(&stored);
            self.seen = stamp;
        }
        Ok(())
    }
}

/// Mirrors the exports of `peer` until its link is removed or the process drains.
async fn import_from<S: Store>(knowledge: Arc<Knowledge>, peer: Arc<PeerCluster>, mut others: Others<S>) {
    let (cluster, stop) = (&peer.name, &peer.stop);
    let mut pause = PAUSE_MIN;
    loop {
        let tunnel = tokio::select! {
            () = stop.cancelled() => return,
            tunnel = a_tunnel(&knowledge, &peer, &mut others) => tunnel,
        };
        let started = Instant::now();
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = follow(&knowledge, &peer, &tunnel) => ended,
        };
        if let Some(mirror) = knowledge.lock().mirrors.get_mut(cluster) {
            mirror.lost();
        }
        limited!(
            INFO, KNOWN, cluster, "Mirror interrupted; its services stay as they were.",
            peer = %cluster, reason = %ended
        );
        pause = if started.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Waits for a tunnel to the peer; meanwhile time goes on for its records.
async fn a_tunnel<S: Store>(knowledge: &Knowledge, peer: &PeerCluster, others: &mut Others<S>) -> Tunnel {
    loop {
        let mut changed = std::pin::pin!(peer.changed.notified());
        changed.as_mut().enable();
        if let Some((_, tunnel)) = peer.pick(None) {
            return tunnel;
        }
        tokio::select! {
            () = changed => {}
            () = async {
                tokio::time::sleep(TICK).await;
                tick(knowledge, peer);
                // A store that is gone says nothing against what is known.
                if let Err(error) = others.follow(knowledge, &peer.name).await {
                    debug!(peer = %peer.name, %error, "Nothing is heard of it from the other gateways of our cluster.");
                }
            } => {}
        }
    }
}

/// Follows one stream to its end; says why it ended.
async fn follow(knowledge: &Knowledge, peer: &PeerCluster, tunnel: &Tunnel) -> String {
    match import(knowledge, peer, tunnel).await {
        Ok(why) => why,
        Err(error) => error.to_string(),
    }
}

async fn import(knowledge: &Knowledge, peer: &PeerCluster, tunnel: &Tunnel) -> Result<String, TunnelError> {
    let cluster = &peer.name;
    // Before the mirror is asked by which rules: a change after that is seen.
    let mut rules = peer.link_changes();
    let Some(watch) = knowledge.lock().mirrors.get_mut(cluster).map(registry::mirror::Mirror::watch) else {
        return Ok("there is no mirror for it".into());
    };
    let (mut reader, mut writer) = tunnel.open_sync().await?;
    writer.send(&watch).await?;
    debug!(peer = %cluster, epoch = watch.epoch, revision = watch.revision, "Importing.");
    let mut replaced = std::pin::pin!(replaced(peer, tunnel));
    let mut ticks = tokio::time::interval(TICK);
    let mut heard = Instant::now();
    loop {
        let event = tokio::select! {
            event = reader.next::<Event>() => event?,
            // The mirror follows the rules already; the watch must ask by them.
            _ = rules.changed() => return Ok("the link changed".into()),
            () = &mut replaced => return Ok("another tunnel takes its place".into()),
            _ = ticks.tick() => {
                tick(knowledge, peer);
                if heard.elapsed() > SILENCE_MAX {
                    return Ok(format!("no sign of life for {SILENCE_MAX:?}"));
                }
                continue;
            }
        };
        let Some(event) = event else { return Ok("the peer ended the stream".into()) };
        heard = Instant::now();
        let mut state = knowledge.lock();
        let Some(mirror) = state.mirrors.get_mut(cluster) else {
            return Ok("there is no mirror for it".into());
        };
        let skipped = mirror.skipped();
        match mirror.apply(&event, knowledge.clock.unix_ms()) {
            Ok(writes) => {
                if mirror.skipped() > skipped {
                    limited!(
                        WARN, KNOWN, cluster, "Skipped a record that this version cannot use.", peer = %cluster
                    );
                }
                if !writes.is_empty() {
                    knowledge.touch(&mut state);
                }
            }
            Err(desync) => return Ok(desync.to_string()),
        }
    }
}

/// Waits until another tunnel has taken the place of `tunnel`.
async fn replaced(peer: &PeerCluster, tunnel: &Tunnel) {
    loop {
        let mut changed = std::pin::pin!(peer.changed.notified());
        changed.as_mut().enable();
        if tunnel.is_retiring() && peer.pick(None).is_some_and(|(_, other)| !other.is(tunnel)) {
            return;
        }
        changed.await;
    }
}

fn tick(knowledge: &Knowledge, peer: &PeerCluster) {
    let mut state = knowledge.lock();
    let gone = state.mirrors.get_mut(&peer.name).map(|mirror| mirror.tick(knowledge.clock.unix_ms()));
    if gone.is_some_and(|writes| !writes.is_empty()) {
        knowledge.touch(&mut state);
    }
}
