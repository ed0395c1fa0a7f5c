//! What one peer exports, kept here: a fold over the events of its sync stream.
//!
//! Pure: no clock, no I/O; it returns what changed. Unknown is not empty: nothing here forgets a service because a
//! link was lost, only because the peer said so or said nothing for the link's `expireAfter`.
//!
//! A snapshot is authoritative whatever the revisions in it; between snapshots the newer revision of a service wins.
//! One stream at a time feeds a mirror: what an older one still delivers is not applied.
//!
//! A peer has a budget: what its records add up to is bounded, whether they come from its stream, the state directory or
//! the store. A record that goes over it is left out, and what was known of its service stays.

mod budget;
mod left_out;
mod selection;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::sync::event::Kind;
use proto::{limits, sync};

use self::budget::Budget;
use self::selection::Selection;
use crate::model::{Import, Link, PeerImports, Position, ServiceName};

pub use self::budget::Over;
pub use self::left_out::{LeftOut, Why};

/// How long services stay that vanished in a mass from a snapshot: a half-started peer has mended itself by then.
pub const HOLD: Duration = Duration::from_secs(60);

/// Absences from one snapshot that are believed at once, whatever their share.
pub const BELIEVED_AT_ONCE: usize = 5;

/// Whether `missing` of `known` services are so many that whoever does not name them may be half started, or half written:
/// then they stay for [`HOLD`].
pub fn is_in_a_mass(missing: usize, known: usize) -> bool {
    missing > BELIEVED_AT_ONCE.max(known / 2)
}

/// How often a peer's last word is written to the store where nothing else is.
pub const STAMP_MS: u64 = 60_000;

/// What is followed in the store may have been confirmed by so much more than it says.
const FOLLOWED_SLACK: Duration = Duration::from_millis(2 * STAMP_MS);

/// What became of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The service is new or changed.
    Put(Arc<Import>),
    /// The service is gone.
    Delete(ServiceName),
}

/// The stream does not say what follows from what is known: close it and watch anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Desync {
    /// No watch is open: none was begun, it was lost, or the selection changed meanwhile.
    #[error("no watch is open")]
    NotWatching,
    /// A delta came where only a snapshot can help.
    #[error("a delta came before the snapshot that it builds on")]
    NoSnapshot,
    /// The end of a snapshot that did not begin.
    #[error("a snapshot ends at revision {0} that did not begin")]
    EndWithoutBegin(u64),
    /// A snapshot of epoch 0.
    #[error("the peer's epoch is 0")]
    ZeroEpoch,
    /// An event belongs to another history than the stream.
    #[error("epoch {got:x} in a stream of epoch {expected:x}")]
    OtherEpoch {
        /// The stream's.
        expected: u64,
        /// The event's.
        got: u64,
    },
}

/// The mirrored exports of one peer.
#[derive(Clone, Debug)]
pub struct Mirror {
    imports: Arc<PeerImports>,
    selection: Selection,
    services_max: usize,
    /// What `imports` adds up to.
    budget: Budget,
    left_out: LeftOut,
    /// Grows with what [`Self::notes`] tells of.
    notes: u64,
    expire_after: Duration,
    /// Whether `imports` is what stood in the store: what its writer heard since then is not told.
    followed: bool,
    /// The watch that feeds us; none: the link is down, or the watch was not opened yet.
    stream: Option<Stream>,
    /// Whether `imports` has all of its revision: a snapshot ended, and nothing of it was skipped.
    complete: bool,
    /// Services that a snapshot did not name, by the Unix millisecond at which they were first missed.
    held: BTreeMap<ServiceName, u64>,
    /// Services deleted at a revision above the last complete one: an older record must not revive them.
    gone: BTreeMap<ServiceName, u64>,
    skipped: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    /// The last snapshot that began on this stream, or where it resumed.
    base: Option<Position>,
    /// The snapshot under way.
    snapshot: Option<Snapshot>,
}

#[derive(Clone, Debug)]
struct Snapshot {
    position: Position,
    /// Of those that are mirrored or left out: others need not be remembered, and may be endless.
    seen: BTreeSet<ServiceName>,
    /// Services known before it.
    known: usize,
    /// Whether every record could be used.
    whole: bool,
}

impl Mirror {
    /// The mirror of the peer at the far end of `link`, from what was kept of it (the default: nothing).
    ///
    /// What was kept is served at once; the first watch asks for a snapshot.
    pub fn new(link: &Link, kept: Arc<PeerImports>) -> Self {
        let services_max = limits::SYNC_RECORDS_PER_PEER_MAX;
        let mut mirror = Self {
            imports: Arc::default(),
            selection: Selection::of(link),
            services_max,
            budget: Budget::new(services_max),
            left_out: LeftOut::default(),
            notes: 0,
            expire_after: link.expire_after,
            followed: false,
            stream: None,
            complete: false,
            held: BTreeMap::new(),
            gone: BTreeMap::new(),
            skipped: 0,
        };
        mirror.take(kept);
        mirror.drop_unselected();
        mirror
    }

    /// Takes `imports` in the place of what is mirrored, as far as they fit.
    fn take(&mut self, mut imports: Arc<PeerImports>) {
        self.budget = Budget::new(self.services_max);
        self.left_out = LeftOut::default();
        let mut over = Vec::new();
        for import in imports.services.values() {
            if let Err(why) = self.budget.replace(None, import) {
                over.push((import.name.clone(), why));
            }
        }
        for (name, why) in over {
            Arc::make_mut(&mut imports).services.remove(&name);
            self.left_out.note(Some(&name), why.into());
            self.skipped += 1;
        }
        self.imports = imports;
        self.notes += 1;
    }

    /// All that is mirrored, as the catalog takes it.
    pub fn imports(&self) -> &Arc<PeerImports> {
        &self.imports
    }

    /// Services that a snapshot did not name and that are still served.
    pub fn held(&self) -> impl Iterator<Item = &ServiceName> {
        self.held.keys()
    }

    /// Since when the first of them was missed, in Unix milliseconds; none: nothing is held.
    pub fn held_since(&self) -> Option<u64> {
        self.held.values().min().copied()
    }

    /// Records skipped since the start: wrong, not understood, or above what the peer may cost.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// What is offered and not mirrored at the moment.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// A number that grows whenever [`Self::left_out`], or whether the peer's contracts count, may have changed.
    pub fn notes(&self) -> u64 {
        self.notes
    }

    /// Whether events may be applied; if not, [`Mirror::watch`] comes first.
    pub fn is_watching(&self) -> bool {
        self.stream.is_some()
    }

    /// Begins a new stream: the message that opens it, resuming where that is safe.
    pub fn watch(&mut self) -> sync::Watch {
        let PeerImports { epoch, revision, .. } = *self.imports;
        // A held service is asked for again: the next snapshot may name it.
        let resume = self.complete && self.held.is_empty();
        let base = resume.then_some(Position { epoch, revision });
        self.stream = Some(Stream { base, snapshot: None });
        let Position { epoch, revision } = base.unwrap_or_default();
        sync::Watch { epoch, revision, selectors: self.selection.selectors() }
    }

    /// The stream ended. Everything stays, and held services stay until a later snapshot decides.
    pub fn lost(&mut self) {
        if self.stream.take().is_some_and(|stream| stream.snapshot.is_some()) {
            self.complete = false;
        }
    }

    /// Whether a snapshot began and has not ended, on whichever stream: then what is not there may only not have come
    /// yet.
    pub fn is_filling(&self) -> bool {
        self.imports.partial_since_ms.is_some()
    }

    /// Takes what stands in the store, which another gateway of ours wrote, if nothing has come on a stream of our own
    /// and it is not older than the last time all was known. A time of 0: all of it was never there yet, so it says
    /// nothing. Gives whether anything changed.
    pub fn follow(&mut self, stored: PeerImports) -> bool {
        let heard = self.stream.as_ref().is_some_and(|stream| stream.base.is_some());
        // Part of a snapshot says nothing against what it did not come to.
        let whole_at = self.imports.partial_since_ms.unwrap_or(self.imports.synced_unix_ms);
        if heard || stored.synced_unix_ms == 0 || stored.synced_unix_ms < whole_at {
            return false;
        }
        let same = |known: &Arc<Import>, import: &Arc<Import>| known.same_content(import);
        if self.imports.services.len() == stored.services.len()
            && self.imports.services.differing(&stored.services, same).next().is_none()
        {
            // Where it stands in the peer's history holds on.
            let imports = Arc::make_mut(&mut self.imports);
            (imports.synced_unix_ms, imports.partial_since_ms) = (stored.synced_unix_ms, None);
            self.followed = true;
            return false;
        }
        (self.complete, self.followed) = (false, true);
        self.held.clear();
        self.gone.clear();
        self.take(Arc::new(stored));
        self.drop_unselected();
        true
    }

    /// Follows a change of the link's rules: what is no longer wanted goes at once, and the watch closes, so
    /// that the caller opens one that asks for what is wanted now.
    pub fn select(&mut self, link: &Link) -> Vec<Changed> {
        self.expire_after = link.expire_after;
        let selection = Selection::of(link);
        if selection == self.selection {
            return Vec::new();
        }
        self.selection = selection;
        self.stream = None;
        self.complete = false;
        self.drop_unselected()
    }

    /// Folds one event in; returns what changed. `now_unix_ms`: the time, in Unix
    /// milliseconds.
    ///
    /// Duplicates and replays change nothing. A record that cannot be used is skipped and counted, and what was known
    /// of its service stays.
    ///
    /// # Errors
    /// [`Desync`]: the stream is of no further use; what was applied before stands.
    pub fn apply(&mut self, event: &sync::Event, now_unix_ms: u64) -> Result<Vec<Changed>, Desync> {
        let stream = self.stream.as_ref().ok_or(Desync::NotWatching)?;
        // A newer peer's event: unknown is skipped.
        let Some(kind) = &event.kind else { return Ok(Vec::new()) };
        let base = stream.base.ok_or(Desync::NoSnapshot);
        let changes = match kind {
            Kind::SnapshotBegin(begin) => {
                self.begin(Position { epoch: begin.epoch, revision: begin.revision })?;
                Vec::new()
            }
            Kind::Upsert(record) => self.upsert(record, base?),
            Kind::Removed(removed) => {
                base?;
                self.remove(removed)
            }
            Kind::SnapshotEnd(end) => self.end(end.revision, now_unix_ms)?,
            Kind::Current(current) => {
                self.advance(Position { epoch: current.epoch, revision: current.revision }, base?)?;
                Vec::new()
            }
        };
        self.followed = false;
        let imports = Arc::make_mut(&mut self.imports);
        imports.synced_unix_ms = imports.synced_unix_ms.max(now_unix_ms);
        self.notes += u64::from(std::mem::take(&mut imports.contracts_lapsed));
        Ok(changes)
    }

    /// What time alone changes: held services go once their time is over, the peer's contracts count no more after
    /// [`limits::CONTRACT_KEPT`] without a word, and everything goes after the link's `expireAfter`. Call it every few
    /// seconds.
    pub fn tick(&mut self, now_unix_ms: u64) -> Vec<Changed> {
        let silent_ms = now_unix_ms.saturating_sub(self.imports.synced_unix_ms);
        let unknown = if self.followed { FOLLOWED_SLACK } else { Duration::ZERO };
        let silent_for = |most: Duration| u128::from(silent_ms) >= (most + unknown).as_millis();
        let lapsed = silent_for(limits::CONTRACT_KEPT);
        if lapsed != self.imports.contracts_lapsed {
            Arc::make_mut(&mut self.imports).contracts_lapsed = lapsed;
            self.notes += 1;
        }
        let expired = silent_for(self.expire_after);
        if expired && (self.is_filling() || !self.imports.services.is_empty()) {
            self.complete = false;
            self.stream = None;
            Arc::make_mut(&mut self.imports).partial_since_ms = None;
            let names: Vec<_> = self.imports.services.keys().cloned().collect();
            return self.delete_all(names);
        }
        // Without a stream nothing new can be said for or against them.
        if self.stream.is_some() { self.release_held(now_unix_ms) } else { Vec::new() }
    }

    fn release_held(&mut self, now_unix_ms: u64) -> Vec<Changed> {
        let due = |since: u64| u128::from(now_unix_ms.saturating_sub(since)) >= HOLD.as_millis();
        let names: Vec<_> =
            self.held.iter().filter(|(_, since)| due(**since)).map(|(name, _)| name.clone()).collect();
        self.delete_all(names)
    }

    fn drop_unselected(&mut self) -> Vec<Changed> {
        let unwanted = |name: &&ServiceName| !self.selection.takes(name);
        let names: Vec<_> = self.imports.services.keys().filter(unwanted).cloned().collect();
        self.delete_all(names)
    }

    fn delete_all(&mut self, names: impl IntoIterator<Item = ServiceName>) -> Vec<Changed> {
        let mut changes = Vec::new();
        for name in names {
            self.held.remove(&name);
            if self.imports.services.contains_key(&name)
                && let Some(gone) = Arc::make_mut(&mut self.imports).services.remove(&name)
            {
                self.budget.remove(&gone);
                changes.push(Changed::Delete(name));
            }
        }
        changes
    }

    /// What was skipped is not known, so the next stream asks for everything again.
    fn skip(&mut self, name: Option<ServiceName>, why: Why) -> Vec<Changed> {
        self.skipped += 1;
        self.notes += u64::from(self.left_out.note(name.as_ref(), why));
        if let Some(name) = name.filter(|name| self.left_out.names(name)) {
            self.see(name);
        }
        self.complete = false;
        if let Some(snapshot) = self.stream.as_mut().and_then(|stream| stream.snapshot.as_mut()) {
            snapshot.whole = false;
        }
        Vec::new()
    }
}
