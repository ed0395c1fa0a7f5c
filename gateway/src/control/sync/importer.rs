//! Our side as importer: one sync stream to each peer, opened again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::limits;
use proto::stream::StreamKind;
use proto::sync::Event;
use registry::base::rate::{Bucket, Rate};
use registry::model::ClusterName;
use registry::store::{Store, StoreError, keys};
use registry::tasks::election::Standing;
use registry::tasks::recorder::Stored;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::debug;
use tunnel::{Tunnel, TunnelError};

use super::Knowledge;
use crate::peers::{Over, PeerCluster, Peers};
use crate::telemetry::limited::limited;

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
    let mut imports = JoinSet::new();
    let begin = |peer: Arc<PeerCluster>| {
        let others = Others { store: store.clone(), standing: standing.clone(), seen: None };
        while imports.try_join_next().is_some() {}
        // Each ends with its link; those that are left when the process drains end here.
        imports.spawn(import_from(knowledge.clone(), peer, others));
    };
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

/// How fast events of one peer are read, over all its streams.
#[derive(Debug)]
struct Pace {
    events: Bucket,
    bytes: Bucket,
}

impl Pace {
    fn new() -> Self {
        let burst = |most: usize| u32::try_from(most).unwrap_or(u32::MAX);
        let events = burst(limits::SYNC_RECORDS_PER_PEER_MAX);
        let bytes = burst(limits::PEER_BYTES_MAX);
        Self {
            events: Bucket::new(Rate::per_second(events, limits::SYNC_RECORDS_PER_SECOND)),
            bytes: Bucket::new(Rate::per_second(bytes, limits::SYNC_BYTES_PER_SECOND)),
        }
    }

    /// How long `event`, which came at `now`, has to wait; then it is as if it had.
    fn hold(&mut self, event: &Event, now: std::time::Instant) -> Duration {
        let wait = self.events.wait(1, now).max(self.bytes.wait(event.encoded_len(), now));
        let _ = self.events.take(1, now + wait);
        let _ = self.bytes.take(event.encoded_len(), now + wait);
        wait
    }
}

/// Mirrors the exports of `peer` until its link is removed or the process drains.
async fn import_from<S: Store>(knowledge: Arc<Knowledge>, peer: Arc<PeerCluster>, mut others: Others<S>) {
    let (cluster, stop) = (&peer.name, &peer.stop);
    let mut pause = PAUSE_MIN;
    let mut pace = Pace::new();
    loop {
        let tunnel = tokio::select! {
            () = stop.cancelled() => return,
            tunnel = a_tunnel(&knowledge, &peer, &mut others) => tunnel,
        };
        let started = Instant::now();
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = follow(&knowledge, &peer, &tunnel, &mut pace) => ended,
        };
        if let Some(mirror) = knowledge.lock().mirrors.get_mut(cluster) {
            mirror.lost();
        }
        limited!(
            INFO, KNOWN, cluster, "Sync stream to peer lost; keeping last imports.",
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
async fn follow(knowledge: &Knowledge, peer: &PeerCluster, tunnel: &Tunnel, pace: &mut Pace) -> String {
    match import(knowledge, peer, tunnel, pace).await {
        Ok(why) => why,
        Err(error) => error.to_string(),
    }
}

async fn import(
    knowledge: &Knowledge,
    peer: &PeerCluster,
    tunnel: &Tunnel,
    pace: &mut Pace,
) -> Result<String, TunnelError> {
    let cluster = &peer.name;
    // Before the mirror is asked by which rules: a change after that is seen.
    let mut rules = peer.link_changes();
    let Some(watch) = knowledge.lock().mirrors.get_mut(cluster).map(registry::pure::mirror::Mirror::watch)
    else {
        return Ok("there is no mirror for it".into());
    };
    let (mut reader, mut writer) = tunnel.open_messages(StreamKind::Sync).await?;
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
        let wait = pace.hold(&event, heard.into_std());
        if !wait.is_zero() {
            peer.over.note(cluster, Over::Records, heard.into_std());
            // Meanwhile the stream is not read, so that the peer waits as well.
            sleep(wait).await;
            heard = Instant::now();
        }
        let mut state = knowledge.lock();
        let Some(mirror) = state.mirrors.get_mut(cluster) else {
            return Ok("there is no mirror for it".into());
        };
        let (skipped, notes) = (mirror.skipped(), mirror.notes());
        match mirror.apply(&event, knowledge.clock.unix_ms()) {
            Ok(writes) => {
                if mirror.skipped() > skipped {
                    peer.over.note(cluster, Over::LeftOut, heard.into_std());
                }
                if !writes.is_empty() || mirror.notes() != notes {
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
    let Some(mirror) = state.mirrors.get_mut(&peer.name) else { return };
    let notes = mirror.notes();
    let gone = mirror.tick(knowledge.clock.unix_ms());
    if !gone.is_empty() || mirror.notes() != notes {
        knowledge.touch(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use proto::sync::{Record, event};

    use super::*;

    #[test]
    fn a_burst_of_records_is_read_at_once_and_more_at_the_pace_of_one_peer() {
        let event = |bytes: usize| Event {
            kind: Some(event::Kind::Upsert(Record { region: "r".repeat(bytes), ..Record::default() })),
        };
        for (bytes, burst, a_second) in [
            (1, limits::SYNC_RECORDS_PER_PEER_MAX, limits::SYNC_RECORDS_PER_SECOND as usize),
            (60_000, limits::PEER_BYTES_MAX / 60_100, limits::SYNC_BYTES_PER_SECOND as usize / 60_000),
        ] {
            let (event, mut pace, start) = (event(bytes), Pace::new(), std::time::Instant::now());
            assert!((0..burst).all(|_| pace.hold(&event, start).is_zero()), "{bytes} bytes");
            let seconds = 20;
            let mut now = start;
            for _ in 0..a_second * seconds {
                now += pace.hold(&event, now);
            }
            let took = (now - start).as_secs_f64();
            assert!((took - seconds as f64).abs() < 2.0, "{bytes} bytes: {took} s");
        }
    }
}
