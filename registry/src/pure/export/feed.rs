//! One peer's cursor over the export.

use std::collections::BTreeSet;
use std::ops::Bound;

use proto::sync::event::Kind;
use proto::{limits, sync};

use super::{Entry, Export, random_epoch};
use crate::model::{ClusterName, Position, ServiceName};

/// A watch that selects more namespaces than [`limits::SYNC_SELECTORS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the watch has {0} selectors, {max} are allowed; select every namespace instead",
    max = limits::SYNC_SELECTORS_MAX
)]
pub struct TooManySelectors(pub usize);

/// What one watching peer has heard of an [`Export`], and so what it is told next.
///
/// What a watch claims is believed for its own stream alone. One that claims more than there is, which no peer can have
/// heard of this process, is told everything in an epoch of its own: it would take a snapshot of the epoch that it claims
/// to know better for an old one. Nobody else hears of it.
#[derive(Clone, Debug)]
pub struct Feed {
    peer: ClusterName,
    /// Under which all is told.
    epoch: u64,
    /// Empty: every namespace.
    namespaces: BTreeSet<String>,
    /// What the peer has, complete.
    position: Position,
    /// A snapshot under way.
    snapshot: Option<Snapshot>,
    /// The last `Current` that the peer was told.
    told: Option<Position>,
}

#[derive(Clone, Debug)]
struct Snapshot {
    revision: u64,
    /// The last name that was looked at.
    after: Option<ServiceName>,
}

impl Feed {
    /// The feed of `peer` over `export`, from where its watch resumes.
    ///
    /// # Errors
    /// [`TooManySelectors`]: the watch is refused.
    pub fn new(
        peer: ClusterName,
        watch: &sync::Watch,
        export: &Export,
        rng: &mut fastrand::Rng,
    ) -> Result<Self, TooManySelectors> {
        if watch.selectors.len() > limits::SYNC_SELECTORS_MAX {
            return Err(TooManySelectors(watch.selectors.len()));
        }
        let mut namespaces: BTreeSet<_> =
            watch.selectors.iter().map(|selector| selector.namespace.clone()).collect();
        if namespaces.contains("") {
            namespaces.clear();
        }
        let position = Position { epoch: watch.epoch, revision: watch.revision };
        let Position { epoch, revision } = export.position();
        let claims_more = position.epoch == epoch && position.revision > revision;
        let epoch = if claims_more { random_epoch(rng) } else { epoch };
        Ok(Self { peer, epoch, namespaces, position, snapshot: None, told: None })
    }

    /// Whether the peer claimed to know more of `export` than there is.
    pub fn claims_more(&self, export: &Export) -> bool {
        self.epoch != export.position().epoch
    }

    /// The next events, of about `max` services at most; empty: the peer has everything.
    ///
    /// Call it again after each batch was written, and after each change of the export.
    pub fn next(&mut self, export: &Export, max: usize) -> Vec<sync::Event> {
        let mut events = Vec::new();
        self.restart_if_lost(export, &mut events);
        if self.snapshot.is_some() {
            self.next_of_snapshot(export, max, &mut events);
        } else {
            self.next_deltas(export, max, &mut events);
        }
        events.into_iter().map(|kind| sync::Event { kind: Some(kind) }).collect()
    }

    /// A sign of life for a quiet moment, once [`Feed::next`] has nothing; none: it still has.
    pub fn heartbeat(&self, export: &Export) -> Option<sync::Event> {
        let now = self.at(export);
        let Position { epoch, revision } = now;
        (self.told == Some(now))
            .then_some(sync::Event { kind: Some(Kind::Current(sync::Current { epoch, revision })) })
    }

    /// Where `export` stands, as the peer is told.
    fn at(&self, export: &Export) -> Position {
        Position { epoch: self.epoch, ..export.position() }
    }

    /// Begins a snapshot where the peer's position is of another history, or too old to say what was deleted since.
    fn restart_if_lost(&mut self, export: &Export, events: &mut Vec<Kind>) {
        let Position { epoch, revision } = self.at(export);
        let same_epoch = self.position.epoch == epoch;
        let resumable = (export.floor..=revision).contains(&self.position.revision);
        if same_epoch && (resumable || self.snapshot.is_some()) {
            return;
        }
        self.position = Position { epoch, revision: 0 };
        self.snapshot = Some(Snapshot { revision, after: None });
        self.told = None;
        events.push(Kind::SnapshotBegin(sync::SnapshotBegin { epoch, revision }));
    }

    fn next_of_snapshot(&mut self, export: &Export, max: usize, events: &mut Vec<Kind>) {
        let Some(snapshot) = &mut self.snapshot else { return };
        let from = snapshot.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = export.services.range::<ServiceName, _>((from, Bound::Unbounded));
        let mut last = None;
        for (name, entry) in rest {
            if events.len() >= max.max(2) {
                snapshot.after = last;
                return;
            }
            if entry.grant.allows(&self.peer) && selected(&self.namespaces, name) {
                events.extend(entry.event(&self.peer, self.position.epoch));
            }
            last = Some(name.clone());
        }
        let revision = snapshot.revision;
        events.push(Kind::SnapshotEnd(sync::SnapshotEnd { revision }));
        self.position.revision = revision;
        self.snapshot = None;
        self.told = Some(self.position);
    }

    fn next_deltas(&mut self, export: &Export, max: usize, events: &mut Vec<Kind>) {
        let Position { epoch, revision } = self.at(export);
        let newer = export.by_revision.range((Bound::Excluded(self.position.revision), Bound::Unbounded));
        for (at, name) in newer {
            if events.len() >= max.max(1) {
                return;
            }
            if selected(&self.namespaces, name) {
                let event = |entry: &Entry| entry.event(&self.peer, epoch);
                events.extend(export.services.get(name).and_then(event));
            }
            self.position.revision = *at;
        }
        self.position.revision = revision;
        if self.told != Some(self.position) {
            events.push(Kind::Current(sync::Current { epoch, revision }));
            self.told = Some(self.position);
        }
    }
}

fn selected(namespaces: &BTreeSet<String>, name: &ServiceName) -> bool {
    namespaces.is_empty() || namespaces.contains(&*name.namespace)
}
