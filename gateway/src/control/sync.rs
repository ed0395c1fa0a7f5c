//! The mirror's traffic: our exports to peers, theirs to us, and the view that follows from it. Runs on the control
//! plane; what is right is decided by [`registry::pure::export`], [`registry::pure::mirror`] and [`registry::pure::union`].

mod applied;
mod conditions;
mod declare;
mod digests;
mod exporter;
mod importer;
mod last_catalog;
mod lookups;
mod members;
mod objections;
mod owned;
mod record;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use registry::model::{Catalog, ClusterName, Condition, ObjectName, PeerImports, Position};
use registry::pure::export::Export;
use registry::pure::mirror::Mirror;
use registry::pure::sources::{Applied, Merged, Sources};
use registry::tasks::applied::StoredObjects;
use registry::tasks::recorder::{Picture, Stored};
use registry::tasks::state::Saved;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tracing::error;

use crate::base::clock::Clock;
use crate::proxy::worker::Shared;
use crate::telemetry::metrics::Metrics;
use crate::view::{View, ViewBuilder};

pub use applied::{first_applied, follow_applied};
pub use conditions::{SaidOf, conditions, in_use, other_rings, told_ring};
pub use declare::Change;
pub use digests::tell_peers;
pub use exporter::export_to_peers;
pub use importer::import_from_peers;
pub use last_catalog::keep;
pub use lookups::answer_sidecars;
pub use members::announce;
pub use owned::keep_owned;
pub use record::record;

/// Views are rebuilt at most so often.
const REBUILD_PAUSE: Duration = Duration::from_millis(50);
/// What this cluster knows: declared in files, applied, registered, mirrored from its peers.
#[derive(Debug)]
pub struct Knowledge {
    cluster: ClusterName,
    region: String,
    uid: [u8; 16],
    /// The ages of records count by it.
    clock: Clock,
    /// Short sections without await, on the control plane and by what builds views for it.
    state: Mutex<State>,
    /// Told when the view must be built anew.
    dirty: Notify,
    /// Told when the registry must follow.
    unrecorded: Notify,
    /// Records of peers for which the registry has no room.
    unwritten: AtomicUsize,
    /// Told when what is on the disk must follow.
    unsaved: Notify,
    /// Grows when the export changes.
    exported: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    /// Where declarations come from.
    sources: Sources,
    /// What follows from them.
    merged: Merged,
    /// Links, and our own cluster, of which nobody is believed.
    untrusted: Vec<Condition>,
    /// What of the files is not in use, and why.
    of_files: Vec<Condition>,
    mirrors: BTreeMap<ClusterName, Mirror>,
    export: Export,
}

impl Knowledge {
    /// From what is declared and what was saved last; `untrusted`: see [`Self::declare`].
    pub fn new(
        cluster: ClusterName,
        region: &str,
        sources: Sources,
        untrusted: Vec<Condition>,
        saved: Saved,
        clock: Clock,
    ) -> Self {
        let merged = sources.merge(&cluster);
        let declared = &merged.declared;
        let mirrors = declared.links.values().map(|link| {
            let kept = saved.peers.get(&link.cluster).cloned().unwrap_or_default();
            let mut mirror = Mirror::new(link, kept);
            // Whose contracts are too old counts from the start.
            mirror.tick(clock.unix_ms());
            (link.cluster.clone(), mirror)
        });
        let state = State {
            revision: 1,
            mirrors: mirrors.collect(),
            export: Export::new(saved.export, declared, region, clock.unix_ms(), &mut fastrand::Rng::new()),
            sources,
            merged,
            untrusted,
            of_files: Vec::new(),
        };
        Self {
            cluster,
            region: region.to_owned(),
            uid: saved.uid,
            clock,
            state: Mutex::new(state),
            dirty: Notify::new(),
            unrecorded: Notify::new(),
            unwritten: AtomicUsize::new(0),
            unsaved: Notify::new(),
            exported: watch::Sender::new(0),
        }
    }

    /// The random identity of this cluster.
    pub fn uid(&self) -> [u8; 16] {
        self.uid
    }

    /// The catalog of this moment.
    pub fn catalog(&self) -> Catalog {
        let state = self.lock();
        Catalog {
            revision: state.revision,
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            declared: state.merged.declared.clone(),
            imports: state.imports(),
        }
    }

    /// What is mirrored of a peer at this moment, signs of life included.
    pub fn imports(&self, cluster: &ClusterName) -> Option<Arc<PeerImports>> {
        self.lock().mirrors.get(cluster).map(|mirror| mirror.imports().clone())
    }

    /// The peers of which many services are missing at once, how many are held, and since when (Unix milliseconds).
    pub fn held(&self) -> Vec<(ClusterName, usize, u64)> {
        let state = self.lock();
        let held = |(peer, mirror): (&ClusterName, &Mirror)| {
            Some((peer.clone(), mirror.held().count(), mirror.held_since()?))
        };
        state.mirrors.iter().filter_map(held).collect()
    }

    /// Records of peers that this gateway would write to the registry's store, and for which that has no room.
    pub fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// How far the history of our exports has come.
    pub fn exported_position(&self) -> Position {
        self.lock().export.position()
    }

    /// What the store shall hold of peers.
    fn picture(&self) -> Picture {
        let state = self.lock();
        let imports = |mirror: &Mirror| (!mirror.is_filling()).then(|| mirror.imports().clone());
        state.mirrors.iter().map(|(cluster, mirror)| (cluster.clone(), imports(mirror))).collect()
    }

    /// Takes what stands in the store of every peer that says nothing to us itself.
    fn follow(&self, stored: &Stored) {
        let mut state = self.lock();
        let mut changed = false;
        for (cluster, mirror) in &mut state.mirrors {
            changed |= stored.of(cluster).is_some_and(|imports| mirror.follow(imports));
        }
        if changed {
            self.touch(&mut state);
        }
    }

    fn saved(&self) -> Saved {
        let state = self.lock();
        Saved {
            uid: self.uid,
            export: state.export.position(),
            peers: state.imports(),
            applied: state.applied(),
            registered: state.sources.registered.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left values that are whole: every change is one call.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn touch(&self, state: &mut State) {
        state.revision += 1;
        self.dirty.notify_one();
        self.unrecorded.notify_one();
    }
}

impl State {
    /// What is applied, as it is kept.
    fn applied(&self) -> StoredObjects {
        let stored = |(name, applied): (&ObjectName, &Arc<Applied>)| (name.clone(), applied.stored.clone());
        self.sources.applied.iter().map(stored).collect()
    }

    fn imports(&self) -> BTreeMap<ClusterName, Arc<PeerImports>> {
        self.mirrors.iter().map(|(cluster, mirror)| (cluster.clone(), mirror.imports().clone())).collect()
    }
}

/// Publishes a view whenever what is known changes, until the process drains. It is built, and the one before dropped, on a
/// thread of its own: rings may take a second, and the control plane has leases to keep. Whoever changes something all the
/// time has that thread busy for half of the time at most.
pub async fn publish(knowledge: Arc<Knowledge>, shared: Arc<Shared>, mut builder: ViewBuilder) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = knowledge.dirty.notified() => {}
        }
        let began = tokio::time::Instant::now();
        let means = (knowledge.clone(), shared.clone());
        let built = spawn_blocking(move || {
            let (knowledge, shared) = means;
            let previous = shared.view.load_full();
            let view = build(&mut builder, &knowledge, &shared, &previous);
            shared.view.store(Arc::new(view));
            builder
        });
        builder = match built.await {
            Ok(builder) => builder,
            Err(panic) => {
                error!(error = %panic, "View build panicked; keeping the previous view.");
                ViewBuilder::new(knowledge.cluster.clone(), knowledge.region.clone())
            }
        };
        shared.news.tell();
        // What is said of applied objects follows from it.
        knowledge.unrecorded.notify_one();
        knowledge.unsaved.notify_one();
        tokio::time::sleep(REBUILD_PAUSE.max(began.elapsed())).await;
    }
}

/// The view of what is known now.
pub fn build(builder: &mut ViewBuilder, knowledge: &Knowledge, shared: &Shared, previous: &View) -> View {
    let metrics: &Metrics = &shared.metrics;
    let now = shared.clock.now();
    let mut view = builder.build(Arc::new(knowledge.catalog()), &shared.peers, metrics, previous, now);
    view.conditions.splice(0..0, knowledge.conditions());
    view
}
