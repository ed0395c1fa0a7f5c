//! A simulated cluster: it exports services, changes them, and says how they are, without a gateway behind it. Of a
//! hundred of them one gateway can be asked what many peers cost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use proto::code::Code;
use proto::control::{Control, Digest, ServiceDigest, control};
use proto::limits::{CONTROL_MESSAGE_BYTES_MAX, DIGEST_SERVICES_MAX};
use proto::message::{put_message, take_message};
use proto::stream::StreamKind;
use proto::sync::{Current, Event, Port, Protocol, Record, SnapshotBegin, SnapshotEnd, Watch, event};
use quinn::VarInt;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::peer::{Peer, hello};

/// The history that it exports; one process has one.
const EPOCH: u64 = 7;
/// How often it says that everything is as it was, as a gateway does.
const TELL_STILL: Duration = Duration::from_secs(1);
/// A sign of life on a quiet stream, as a gateway gives it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Records of one write.
const BATCH: usize = 256;

/// A running one. Dropping it ends its tunnel.
#[derive(Debug)]
pub struct Exporter {
    exports: Arc<Exports>,
    peer: Arc<Peer>,
}

/// Where all of a process run: hundreds of them are not hundreds of threads.
static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();

#[derive(Debug)]
struct Exports {
    cluster: String,
    services: Mutex<Services>,
    /// The revision of the last change.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Services {
    /// Each service's port, by its name in the namespace `shop`, and the revision at which it was changed.
    by_name: BTreeMap<String, (u32, u64)>,
    by_revision: BTreeMap<u64, String>,
}

impl Exporter {
    /// The cluster of `hello` with these services (of the namespace `shop`, each with a port 80), linked to the gateway
    /// of the cluster `target` as the identity in `identity_dir`. Every service is told to be ready.
    ///
    /// # Errors
    /// When the tunnel does not come up.
    pub fn link(
        identity_dir: &Path,
        target: (&str, SocketAddr),
        cluster: &str,
        services: impl IntoIterator<Item = String>,
    ) -> Result<Self, String> {
        let uid = std::array::from_fn(|at| cluster.as_bytes().get(at).copied().unwrap_or_default());
        let runtime = match RUNTIME.get() {
            Some(runtime) => runtime.clone(),
            None => {
                let runtime = crate::peer::runtime()?;
                RUNTIME.get_or_init(|| runtime).clone()
            }
        };
        let peer = Arc::new(Peer::dial_on(runtime, identity_dir, target, &hello(cluster, uid))?);
        let exports = Arc::new(Exports {
            cluster: cluster.into(),
            services: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        services.into_iter().for_each(|name| exports.lock().put(name, 80));
        peer.runtime().spawn(serve(peer.connection.clone(), exports.clone()));
        peer.runtime().spawn(tell(exports.clone(), peer.clone()));
        Ok(Self { exports, peer })
    }

    /// Declares these services anew, each with another port than it had: a change that reaches every importer.
    pub fn change(&self, services: impl IntoIterator<Item = String>) {
        let mut exported = self.exports.lock();
        for name in services {
            let port = exported.by_name.get(&name).map_or(80, |(port, _)| 80 + 81 - port);
            exported.put(name, port);
        }
        let revision = exported.revision();
        drop(exported);
        self.exports.changed.send_replace(revision);
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.peer.connection.close(VarInt::from_u32(0), b"");
    }
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What says that every service is ready.
    fn all(&self) -> Vec<Digest> {
        let ready = |name: &String| ServiceDigest {
            namespace: "shop".into(),
            name: name.clone(),
            ready: 100,
            ring: None,
            degraded: false,
        };
        let names: Vec<_> = self.lock().by_name.keys().cloned().collect();
        let digest =
            |names: &[String]| Digest { services: names.iter().map(ready).collect(), ..Digest::default() };
        names.chunks(DIGEST_SERVICES_MAX).map(digest).collect()
    }
}

impl Services {
    fn put(&mut self, name: String, port: u32) {
        let revision = self.revision() + 1;
        if let Some((_, before)) = self.by_name.insert(name.clone(), (port, revision)) {
            self.by_revision.remove(&before);
        }
        self.by_revision.insert(revision, name);
    }

    /// Of the last change.
    fn revision(&self) -> u64 {
        self.by_revision.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    fn record(&self, cluster: &str, name: &str) -> Option<event::Kind> {
        let (port, revision) = self.by_name.get(name)?;
        let port =
            Port { name: "web".into(), number: *port, protocol: Protocol::Http.into(), proxy_header: false };
        Some(event::Kind::Upsert(Record {
            namespace: "shop".into(),
            name: name.into(),
            ports: vec![port],
            region: format!("us-{cluster}"),
            contract: None,
            epoch: EPOCH,
            revision: *revision,
        }))
    }

    /// Up to `max` changes after `revision`, oldest first, and the revision of the last of them.
    fn since(&self, cluster: &str, revision: u64, max: usize) -> (Vec<event::Kind>, u64) {
        let newer = || self.by_revision.range((Bound::Excluded(revision), Bound::Unbounded)).take(max);
        let last = newer().last().map_or(revision, |(at, _)| *at);
        (newer().filter_map(|(_, name)| self.record(cluster, name)).collect(), last)
    }
}

/// Says how everything is, once and whenever it is asked for, and each second that it is still so, until the tunnel ends.
async fn tell(exports: Arc<Exports>, peer: Arc<Peer>) {
    let voice = peer.voice();
    let mut seconds = tokio::time::interval(TELL_STILL);
    let mut all = true;
    while peer.connection.close_reason().is_none() {
        seconds.tick().await;
        all |= peer.take_asks_again();
        let digests = if std::mem::take(&mut all) { exports.all() } else { vec![Digest::default()] };
        for digest in digests {
            let said = voice.send(Control { kind: Some(control::Kind::Digest(digest)) }).await;
            if said.is_err() {
                return;
            }
        }
    }
}

/// Answers what the gateway opens: feeds its sync streams, refuses its requests.
async fn serve(connection: quinn::Connection, exports: Arc<Exports>) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let exports = exports.clone();
        tokio::spawn(async move {
            let mut kind = [0];
            if receive.read_exact(&mut kind).await.is_err() {
                return;
            }
            if StreamKind::from_wire(kind[0]) == Some(StreamKind::Sync) {
                feed(&exports, send, receive).await;
            } else {
                let refused = VarInt::from_u32(Code::Refused.to_wire());
                let _ = (send.reset(refused), receive.stop(refused));
            }
        });
    }
}

/// One sync stream, to its end: a snapshot or what is newer than the importer has, then every change.
async fn feed(exports: &Exports, mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> Option<()> {
    let mut changes = exports.changed.subscribe();
    let mut buffer = BytesMut::new();
    let watch: Watch = loop {
        if let Some(watch) = take_message(&mut buffer, CONTROL_MESSAGE_BYTES_MAX).ok()? {
            break watch;
        }
        buffer.extend_from_slice(&receive.read_chunk(65_536, true).await.ok()??.bytes);
    };
    let mut snapshot = (watch.epoch != EPOCH).then(|| exports.lock().revision());
    let mut revision = if snapshot.is_some() { 0 } else { watch.revision };
    if let Some(revision) = snapshot {
        let begin = event::Kind::SnapshotBegin(SnapshotBegin { epoch: EPOCH, revision });
        write(&mut send, vec![begin]).await?;
    }
    loop {
        changes.mark_unchanged();
        let (mut events, last) = exports.lock().since(&exports.cluster, revision, BATCH);
        let through = events.len() < BATCH;
        revision = last;
        if through && let Some(revision) = snapshot.take() {
            events.push(event::Kind::SnapshotEnd(SnapshotEnd { revision }));
        }
        if through {
            events.push(event::Kind::Current(Current { epoch: EPOCH, revision }));
        }
        write(&mut send, events).await?;
        if through {
            let _ = tokio::time::timeout(HEARTBEAT, changes.changed()).await;
        }
    }
}

async fn write(send: &mut quinn::SendStream, events: Vec<event::Kind>) -> Option<()> {
    let mut bytes = Vec::new();
    events.into_iter().for_each(|kind| put_message(&mut bytes, &Event { kind: Some(kind) }));
    send.write_all(&bytes).await.ok()
}
