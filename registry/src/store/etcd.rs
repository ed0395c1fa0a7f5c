//! A store in etcd, which several gateways share.
//!
//! Nothing is connected before it is asked for, and every request ends in bounded time, whatever the members do: it is
//! made of one of them, and of the next if that is certain to do no harm. Times to live are whole seconds, and a short
//! one is as long as etcd's shortest (2 s, as etcd is delivered).

mod convert;
mod failure;
mod members;
mod options;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, GetOptions, GetResponse};

use self::convert::{signed, unsigned};
use self::failure::{Failure, Kind};
use self::members::{Answer, Members, Repeat};
use self::options::LEASE_TIMEOUT;
pub use self::options::{FileError, REQUEST_TIMEOUT};
pub use self::watch::EtcdWatch;
use super::{
    Entry, LeaseId, Op, Outcome, Range, Room, STORE_BYTES_MAX, Store, StoreError, Transaction, check_key,
    check_ttl,
};
use crate::model::EtcdOptions;

/// Entries of a range that are asked for at once: with records of a few KiB, some MiB.
const PAGE: i64 = 1000;

/// As many of the largest values as one answer holds, for ranges that hold such.
const PAGE_OF_LARGE: i64 = 8;

/// Bytes of one answer, and of one message of a watch.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Ranges that are begun anew because history was compacted between two of their pages, before we say so.
const RANGE_TRIES: usize = 3;

/// Bytes that an etcd may have in use where it does not say: what it is delivered with. One with less says when it is
/// full, and a version from 3.6 on says it all.
const QUOTA: u64 = 2 * 1024 * 1024 * 1024;

/// A [`Store`] in etcd. Handles share the connections.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

/// What handles and watches share.
#[derive(Debug)]
struct Shared {
    members: Members,
    prefix: String,
}

impl Shared {
    /// Our key, as etcd has it.
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl EtcdStore {
    /// The store that `options` name. Reads and checks the files that they name, blocking on the disk, and connects to
    /// nothing yet.
    ///
    /// # Errors
    /// [`FileError`]: a file cannot be used.
    pub fn open(options: EtcdOptions) -> Result<Self, FileError> {
        options.connect_options()?;
        let prefix = options.prefix.clone();
        Ok(Self { shared: Arc::new(Shared { members: Members::new(options), prefix }) })
    }

    async fn ask<T, F, A>(&self, repeat: Repeat, request: F) -> Result<T, Failure>
    where
        T: Send,
        F: Fn(Client) -> A + Send + Sync,
        A: Future<Output = Result<T, Error>> + Send,
    {
        self.ask_for(repeat, REQUEST_TIMEOUT, request).await
    }

    async fn ask_for<T, F, A>(&self, repeat: Repeat, wait: Duration, request: F) -> Result<T, Failure>
    where
        T: Send,
        F: Fn(Client) -> A + Send + Sync,
        A: Future<Output = Result<T, Error>> + Send,
    {
        self.shared.members.ask(repeat, wait, request).await.map(|Answer { value, .. }| value)
    }

    async fn read(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Failure> {
        self.ask(Repeat::Always, |client| {
            let (key, options) = (key.clone(), options.clone());
            async move {
                let mut client = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                client.get(key, Some(options)).await
            }
        })
        .await
    }

    /// A range at one revision, page by page; none: that revision was compacted meanwhile.
    async fn pages(&self, prefix: &str) -> Result<Option<Range>, StoreError> {
        let end = convert::end(&self.shared.key(prefix));
        let mut from = self.shared.key(prefix).into_bytes();
        let (mut limit, mut bytes) = (PAGE, 0);
        let mut range = Range { revision: 0, entries: Vec::new() };
        loop {
            let at = signed(range.revision);
            let options = GetOptions::new().with_range(end.clone()).with_limit(limit).with_revision(at);
            let mut page = match self.read(from.clone(), options).await {
                Err(Failure { kind: Kind::TooLarge, .. }) if limit > PAGE_OF_LARGE => {
                    limit = PAGE_OF_LARGE;
                    continue;
                }
                Err(Failure { kind: Kind::Compacted, .. }) => return Ok(None),
                page => page?,
            };
            if range.revision == 0 {
                range.revision = convert::revision(page.header());
            }
            let more = page.more();
            let found = page.take_kvs();
            if let Some(last) = found.last() {
                from = last.key().to_vec();
                from.push(0);
            }
            for entry in found.into_iter().filter_map(|found| convert::entry(&self.shared.prefix, found)) {
                bytes += entry.bytes();
                range.entries.push(entry);
            }
            if bytes > STORE_BYTES_MAX {
                return Err(StoreError::Full(bytes));
            }
            if !more {
                return Ok(Some(range));
            }
        }
    }

    /// Which of the leases of a transaction is gone.
    async fn gone(&self, transaction: &Transaction) -> Result<LeaseId, StoreError> {
        let lease_of = |op: &Op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete(_) => None,
        };
        let mut leases: Vec<_> = transaction.ops.iter().filter_map(lease_of).collect();
        leases.sort_unstable();
        leases.dedup();
        let last = leases.pop().unwrap_or(LeaseId(0));
        for lease in leases {
            let left = |client: Client| async move {
                client.lease_client().time_to_live(signed(lease.0), None).await
            };
            if self.ask(Repeat::Always, left).await?.ttl() <= 0 {
                return Ok(lease);
            }
        }
        Ok(last)
    }
}

impl Store for EtcdStore {
    type Watch = EtcdWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let found = self.read(self.shared.key(key).into_bytes(), GetOptions::new()).await?.take_kvs();
        Ok(found.into_iter().find_map(|found| convert::entry(&self.shared.prefix, found)))
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        check_key(prefix)?;
        for _ in 0..RANGE_TRIES {
            if let Some(range) = self.pages(prefix).await? {
                return Ok(range);
            }
        }
        Err(StoreError::Busy)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.check()?;
        let Some(wanted) = convert::transaction(&self.shared.prefix, &transaction) else {
            return Ok(Outcome::Conflict);
        };
        let commit = |client: Client| {
            let wanted = wanted.clone();
            async move { client.kv_client().txn(wanted).await }
        };
        match self.ask(Repeat::Unmade, commit).await {
            Ok(answer) if answer.succeeded() => Ok(Outcome::Committed(convert::revision(answer.header()))),
            Ok(_) => Ok(Outcome::Conflict),
            Err(Failure { kind: Kind::LeaseGone, .. }) => {
                Err(StoreError::LeaseGone(self.gone(&transaction).await?))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        check_ttl(ttl)?;
        let seconds = signed(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        // A second one that nobody keeps alive lapses by itself.
        let granted = self.ask(Repeat::Always, grant).await?;
        Ok(LeaseId(unsigned(granted.id())))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let keep =
            |client: Client| async move { client.lease_client().keep_alive(signed(lease.0)).await.map(drop) };
        match self.ask_for(Repeat::Always, LEASE_TIMEOUT, keep).await {
            Err(Failure { kind: Kind::LeaseGone, .. }) => Err(StoreError::LeaseGone(lease)),
            kept => Ok(kept?),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoke =
            |client: Client| async move { client.lease_client().revoke(signed(lease.0)).await.map(drop) };
        match self.ask(Repeat::Always, revoke).await {
            Err(Failure { kind: Kind::LeaseGone, .. }) => Ok(()),
            revoked => Ok(revoked?),
        }
    }

    /// Of the member that is asked. What was freed by compaction and not given back to its disk is not in use.
    async fn room(&self) -> Result<Room, StoreError> {
        let status = |client: Client| async move { client.maintenance_client().status().await };
        let status = self.ask(Repeat::Always, status).await?;
        let quota = Some(unsigned(status.db_size_quota())).filter(|&quota| quota > 0).unwrap_or(QUOTA);
        let used = Some(unsigned(status.raft_used_db_size())).filter(|&used| used > 0);
        Ok(Room {
            used: used.unwrap_or_else(|| unsigned(status.db_size())),
            max: quota,
            full: status.errors().iter().any(|error| error.contains("NOSPACE")),
        })
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<EtcdWatch, StoreError> {
        check_key(prefix)?;
        EtcdWatch::open(&self.shared, prefix, from).await
    }
}
