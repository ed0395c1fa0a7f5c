//! How a gateway stands in the election, and what an elected one expects of the store.

use bytes::Bytes;
use tokio::time::Instant;

use crate::store::{Expect, LeaseId, Op, keys};

/// What an elected gateway expects of the store in every write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    pub(super) revision: u64,
    pub(super) boot: u64,
    pub(super) lease: LeaseId,
    pub(super) until: Instant,
}

/// How a gateway stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The store has not answered yet, does not any more, or refuses what we must write.
    Unknown {
        /// Since when.
        since: Instant,
        /// Why, for people, once that is known.
        why: Option<String>,
    },
    /// Another process of this cluster uses our id.
    IdTaken(
        /// What it says of itself, for people.
        String,
    ),
    /// It lives, and another one is elected or shall be.
    Member(
        /// The id of the elected one; none: nobody, for the moment.
        Option<String>,
    ),
    /// It writes for the cluster.
    Elected(Guard),
}

impl Guard {
    /// What every write expects of the leader's key.
    pub fn expect(&self) -> Expect {
        Expect::Modified(keys::LEADER.into(), self.revision)
    }

    /// The key of this office, gone with its lease. No other office ever has it: not of this gateway, not after a restart
    /// of it, and not after a restore of the store.
    pub fn office(&self) -> String {
        keys::office(self.boot, self.lease)
    }

    /// Rewrites the key of this office: part of every write.
    pub fn sign(&self) -> Op {
        Op::Put { key: self.office(), value: Bytes::new(), lease: Some(self.lease) }
    }

    /// Whether it still holds at `now` as far as our own clock knows; if so, the store has the last word.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Whether both are of one office; how long it holds is no part of it.
    pub fn is_of(&self, other: &Self) -> bool {
        (self.revision, self.boot, self.lease) == (other.revision, other.boot, other.lease)
    }
}

impl Standing {
    /// A standing before the first word.
    pub fn unknown() -> Self {
        Self::Unknown { since: Instant::now(), why: None }
    }

    /// Since when the store has not answered, if it does not.
    pub fn unknown_since(&self) -> Option<Instant> {
        match self {
            Self::Unknown { since, .. } => Some(*since),
            Self::IdTaken(_) | Self::Member(_) | Self::Elected(_) => None,
        }
    }

    /// Why it is unknown, for people.
    pub fn unknown_why(&self) -> Option<&str> {
        match self {
            Self::Unknown { why, .. } => why.as_deref(),
            Self::IdTaken(_) | Self::Member(_) | Self::Elected(_) => None,
        }
    }

    /// Unknown from now on, or still, for this reason. Gives whether that is news.
    pub(super) fn lose(&mut self, because: String) -> bool {
        if let Self::Unknown { why, .. } = self {
            return why.replace(because.clone()).is_none_or(|before| before != because);
        }
        *self = Self::Unknown { since: Instant::now(), why: Some(because) };
        true
    }

    /// In a word: `unknown`, `id-taken`, `member` or `elected`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::IdTaken(_) => "id-taken",
            Self::Member(_) => "member",
            Self::Elected(_) => "elected",
        }
    }

    /// The guard of an elected gateway at `now`.
    pub fn guard(&self, now: Instant) -> Option<Guard> {
        match self {
            Self::Elected(guard) if guard.holds(now) => Some(*guard),
            _ => None,
        }
    }
}
