//! What of a peer's exports is not mirrored although it was offered, and why: for people.

use std::collections::{BTreeMap, BTreeSet};

use super::Over;
use crate::model::ServiceName;
use crate::model::record::BadRecord;

/// Services that are named; more are counted.
const NAMED_MAX: usize = 1_000;

/// Why a record is not mirrored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// It cannot be used by itself.
    #[error(transparent)]
    Bad(#[from] BadRecord),
    /// The peer has used up what it may cost.
    #[error(transparent)]
    Over(#[from] Over),
}

/// The records that are left out at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    named: BTreeMap<ServiceName, Why>,
    /// Those without a name that could be read, and those beyond [`NAMED_MAX`], since the last snapshot began.
    more: usize,
    /// Why the last of those was.
    last: Option<Why>,
}

impl LeftOut {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.named.len() + self.more
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them, and why it is left out.
    pub fn example(&self) -> Option<(String, &Why)> {
        let named = self.named.first_key_value().map(|(name, why)| (name.to_string(), why));
        named.or_else(|| self.last.as_ref().map(|why| ("one without a usable name".into(), why)))
    }

    /// Gives whether that is news.
    pub(super) fn note(&mut self, name: Option<&ServiceName>, why: Why) -> bool {
        if let Some(name) = name
            && (self.named.len() < NAMED_MAX || self.named.contains_key(name))
        {
            return self.named.insert(name.clone(), why.clone()).is_none_or(|before| before != why);
        }
        self.more += 1;
        self.last.replace(why).is_none()
    }

    /// It is mirrored, or the peer has taken it back. Gives whether it was left out.
    pub(super) fn forget(&mut self, name: &ServiceName) -> bool {
        self.named.remove(name).is_some()
    }

    /// A snapshot begins: those that have no name come again, if they are still there.
    pub(super) fn begin(&mut self) {
        (self.more, self.last) = (0, None);
    }

    /// A snapshot has ended that named, of those that are left out, only these again.
    pub(super) fn end(&mut self, again: &BTreeSet<ServiceName>) {
        self.named.retain(|name, _| again.contains(name));
    }

    /// Names that may come again in a snapshot.
    pub(super) fn names(&self, name: &ServiceName) -> bool {
        self.named.contains_key(name)
    }
}
