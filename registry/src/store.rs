//! Where the registry is kept: keys with revisions, leases and watches, as etcd has them.
//!
//! Every back end passes [`conformance`]. Knows nothing of what the values mean; [`keys`] says where each one stands.
//! [`embedded`] keeps them in a file of this process, [`etcd`] where several processes share them, [`memory`] nowhere;
//! [`AnyStore`] is the one that a manifest asks for.

mod any;
pub mod conformance;
pub mod embedded;
pub mod etcd;
pub mod keys;
pub mod memory;
mod staged;
mod state;

pub use self::any::{AnyStore, AnyWatch, OpenError};

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use crate::model::VALUE_BYTES_MAX;

/// Bytes of a key: three labels of 63 bytes, a cluster's or an endpoint's name and the words between them.
pub const KEY_BYTES_MAX: usize = 1024;

/// Conditions, and operations, of one transaction: etcd's default (`--max-txn-ops`).
pub const TRANSACTION_OPS_MAX: usize = 128;

/// Bytes of keys and values of one transaction: the largest value with the longest keys, within etcd's default for a
/// request (`--max-request-bytes`, 1.5 MiB).
pub const TRANSACTION_BYTES_MAX: usize = VALUE_BYTES_MAX + 256 * 1024;

/// Bytes of keys and values of a whole store that this process holds in memory: 100,000 records of 2.5 KiB.
pub const STORE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Leases of such a store: one per registrar, so far more than one process serves.
pub const LEASES_MAX: usize = 64 * 1024;

/// Events that such a store keeps for watches that lag behind: a change of every service of a large cluster, and as
/// much again.
pub const HISTORY_EVENTS: usize = 16 * 1024;

/// Bytes of keys and values kept for them, whichever limit comes first: large values must not fill the memory.
pub const HISTORY_BYTES: usize = 32 * 1024 * 1024;

/// How long they are kept at most, as seen by the next write: who was away for longer reads anew.
pub const HISTORY_AGE: Duration = Duration::from_secs(3600);

/// Shortest and longest time to live of a lease: a keep-alive must fit in well before the one, and the other bounds
/// for how long the dead look alive.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// See [`TTL_MIN`].
pub const TTL_MAX: Duration = Duration::from_secs(3600);

/// A key's value and its place in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came to be.
    pub created: u64,
    /// The revision of its last change.
    pub modified: u64,
    /// The lease it dies with.
    pub lease: Option<LeaseId>,
}

/// What stands under a prefix at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The store's revision; a watch from the one after it misses nothing.
    pub revision: u64,
    /// By ascending key.
    pub entries: Vec<Entry>,
}

/// Changes made together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold.
    pub expect: Vec<Expect>,
    /// What is done then; each key at most once.
    pub ops: Vec<Op>,
}

/// What a key must be for a transaction to go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is not there.
    Absent(String),
    /// Its last change was at this revision.
    Modified(String, u64),
    /// It is there, with this value.
    Equals(String, Bytes),
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets the key. It lives and dies with `lease`; none: until it is deleted.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The lease, granted by this store.
        lease: Option<LeaseId>,
    },
    /// Removes the key, if it is there.
    Delete(
        /// The key.
        String,
    ),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went through; everything it changed has this revision.
    Committed(u64),
    /// Something it expected does not hold; nothing changed.
    Conflict,
}

/// A lease: keys put with it vanish once it is not kept alive for its time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// The changes of one revision under a watched prefix, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: u64,
    /// Never empty.
    pub events: Vec<Event>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key is new or changed.
    Put(Entry),
    /// The key is gone: deleted, or its lease lapsed.
    Deleted(String),
}

/// How full a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in use.
    pub used: u64,
    /// Bytes that may be, as far as that is known.
    pub max: u64,
    /// Whether the store says that it takes nothing more.
    pub full: bool,
}

impl Room {
    /// Bytes that may still be taken for what can be had again from others: the last quarter is for what this cluster
    /// declares, and for its leases.
    pub fn for_others(&self) -> u64 {
        if self.full { 0 } else { (self.max - self.max / 4).saturating_sub(self.used) }
    }
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The key is empty, longer than [`KEY_BYTES_MAX`] or does not begin with a slash.
    #[error("key `{0}` is no path of 1 to {KEY_BYTES_MAX} bytes")]
    Key(String),
    /// The value is longer than [`VALUE_BYTES_MAX`].
    #[error("the value of `{key}` has {bytes} bytes, {VALUE_BYTES_MAX} are allowed")]
    Value {
        /// The key.
        key: String,
        /// The value's length.
        bytes: usize,
    },
    /// More conditions or operations than [`TRANSACTION_OPS_MAX`].
    #[error("a transaction of {0} conditions or operations, {TRANSACTION_OPS_MAX} are allowed; split it")]
    Transaction(usize),
    /// More bytes of keys and values than [`TRANSACTION_BYTES_MAX`].
    #[error("a transaction of {0} bytes, {TRANSACTION_BYTES_MAX} are allowed; split it")]
    TransactionBytes(usize),
    /// Two operations of one transaction on one key.
    #[error("two operations of one transaction change `{0}`")]
    Twice(String),
    /// The lease lapsed, was revoked or never was.
    #[error("lease {} is gone; grant another and put its keys again", .0.0)]
    LeaseGone(LeaseId),
    /// A time to live outside [`TTL_MIN`] to [`TTL_MAX`].
    #[error("a time to live of {0:?} is outside {TTL_MIN:?} to {TTL_MAX:?}")]
    Ttl(Duration),
    /// The history from the wanted revision on is no longer kept: get the range anew and watch from there.
    #[error("history up to revision {0} is compacted")]
    Compacted(u64),
    /// The transaction would take the store above [`STORE_BYTES_MAX`]; nothing changed.
    #[error("the store would hold {0} bytes, {STORE_BYTES_MAX} are allowed; delete what nobody needs")]
    Full(usize),
    /// As many leases live as [`LEASES_MAX`] allows.
    #[error("{LEASES_MAX} leases live, no more are granted; let each registrar use one for all its keys")]
    Leases,
    /// More writes wait than the store lets wait; nothing changed.
    #[error("too many writes wait for the store; try again once earlier ones were answered")]
    Busy,
    /// The store cannot keep the change. What was answered before is safe; reads, watches and keep-alives go on, and
    /// writes as soon as the cause is mended.
    ///
    /// The change may yet be found kept if the process restarts before then: read before writing it again.
    #[error(
        "the store cannot keep the change, which may or may not survive a restart; free or mend the disk"
    )]
    Unkept(#[source] Cause),
    /// The store cannot be reached, or did not answer in time. A write may have been made: read before writing it
    /// again.
    #[error("the registry cannot be reached; what was read stays as it is until it can")]
    Unavailable(#[source] Cause),
    /// The back end refuses what we allow; nothing changed, and asking again will not help.
    #[error("the registry refuses the request: {remedy}")]
    Refused {
        /// What to do about it.
        remedy: &'static str,
        /// What the back end said.
        #[source]
        cause: Cause,
    },
    /// The store has not come to the revision before this one, which was read from it: it was restored from an older
    /// backup. Get the range anew and watch from there.
    #[error("the registry told of the revision before {0}, and is older now: it was restored from a backup")]
    SetBack(u64),
    /// The store is of this cluster, and not of ours: see [`crate::tasks::owned`].
    #[error("the registry's store is of another cluster ({0}): nothing is read from it or written to it")]
    Foreign(String),
    /// The store does not say which cluster it is of any more: see [`crate::tasks::owned`].
    #[error("the registry's store has lost this cluster's UID, as one that was wiped; it is taken again")]
    Unclaimed,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// What stands below an error, as its back end told it, without the back end's types.
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl Cause {
    /// For a back end's own error.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Two causes are equal if they say the same.
impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Cause {}

/// A registry store. Handles are cheap to clone and share one store.
///
/// Every change has a revision, one higher than the last. Reads see every write that was answered before.
pub trait Store: Clone + Send + Sync + 'static {
    /// A running watch.
    type Watch: Watch;

    /// The entry of `key`, if it is there.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// Every entry whose key begins with `prefix`.
    fn range(&self, prefix: &str) -> impl Future<Output = Result<Range, StoreError>> + Send;

    /// Compare and write: all of `transaction`, if everything it expects holds. One that changes nothing commits at
    /// the store's revision.
    ///
    /// Not cancel safe: a future dropped half way may or may not have committed.
    fn commit(&self, transaction: Transaction) -> impl Future<Output = Result<Outcome, StoreError>> + Send;

    /// A new lease that lives for `ttl` after its grant and after each keep-alive.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Lets the lease live for another time to live.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends the lease and deletes its keys in one revision. One that is gone already is no error.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// How full it is.
    fn room(&self) -> impl Future<Output = Result<Room, StoreError>> + Send;

    /// Every change under `prefix` from revision `from` on, that one included: at most the one after a revision that
    /// this store has told of. [`StoreError::Compacted`] or [`StoreError::SetBack`] if it cannot tell them.
    fn watch(&self, prefix: &str, from: u64) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;
}

/// A running watch.
pub trait Watch: Send {
    /// The next changes, oldest first, none left out. [`StoreError::Compacted`] ends the watch: the reader was slower
    /// than the store keeps history. So does every other error. Get the range anew then: the store may be another one
    /// by now, restored from a backup.
    ///
    /// Cancel safe: a dropped future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Changes, StoreError>> + Send;
}

impl Op {
    /// The key it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }

    /// Its key and value, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

impl Transaction {
    /// What every back end checks before it does anything.
    ///
    /// # Errors
    /// [`StoreError`]: which limit is exceeded.
    pub fn check(&self) -> Result<(), StoreError> {
        let largest = self.expect.len().max(self.ops.len());
        if largest > TRANSACTION_OPS_MAX {
            return Err(StoreError::Transaction(largest));
        }
        for expect in &self.expect {
            let (Expect::Absent(key) | Expect::Modified(key, _) | Expect::Equals(key, _)) = expect;
            check_key(key)?;
        }
        let mut keys: Vec<_> = self.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(StoreError::Twice(twice[0].into()));
        }
        for op in &self.ops {
            check_key(op.key())?;
            if let Op::Put { key, value, .. } = op
                && value.len() > VALUE_BYTES_MAX
            {
                return Err(StoreError::Value { key: key.clone(), bytes: value.len() });
            }
        }
        let bytes = self.bytes();
        if bytes > TRANSACTION_BYTES_MAX { Err(StoreError::TransactionBytes(bytes)) } else { Ok(()) }
    }

    /// Its keys and values, in bytes.
    fn bytes(&self) -> usize {
        let of_expect = |expect: &Expect| match expect {
            Expect::Absent(key) | Expect::Modified(key, _) => key.len(),
            Expect::Equals(key, value) => key.len() + value.len(),
        };
        self.ops.iter().map(Op::bytes).sum::<usize>() + self.expect.iter().map(of_expect).sum::<usize>()
    }
}

/// `ops` in their order, in as many transactions as they need: each leaves room for another operation and its condition.
pub(crate) fn batches(mut ops: &[Op]) -> impl Iterator<Item = &[Op]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = ops.iter().take(TRANSACTION_OPS_MAX - 1).take_while(|op| {
            bytes += op.bytes();
            bytes <= VALUE_BYTES_MAX
        });
        // One alone always goes: no record is as large.
        let count = fits.count().max(1).min(ops.len());
        let (batch, rest) = ops.split_at(count);
        ops = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

impl Entry {
    /// Its key and value, in bytes.
    fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

impl Event {
    /// The key it is about.
    fn key(&self) -> &str {
        match self {
            Self::Put(Entry { key, .. }) | Self::Deleted(key) => key,
        }
    }

    /// What it keeps in memory, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Put(entry) => entry.bytes(),
            Self::Deleted(key) => key.len(),
        }
    }
}

/// Checks a key, or a prefix of keys.
///
/// # Errors
/// [`StoreError::Key`].
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.starts_with('/') && key.len() <= KEY_BYTES_MAX { Ok(()) } else { Err(StoreError::Key(key.into())) }
}

/// Checks a lease's time to live.
///
/// # Errors
/// [`StoreError::Ttl`].
pub fn check_ttl(ttl: Duration) -> Result<(), StoreError> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) { Ok(()) } else { Err(StoreError::Ttl(ttl)) }
}

/// The wall clock, in Unix milliseconds.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
