//! A store in a file of this process: nothing to install, and everything that was answered survives the process.
//!
//! Reads, watches and keep-alives come from memory and never wait for the disk. Writes wait in a bounded queue for
//! one thread, which answers each of them once it is on the disk; nobody sees it before then. Lease deadlines are not
//! kept: after a restart every lease has its full time to live again.
//!
//! A disk that is full or fails refuses writes and loses nothing: the store serves what it has, and writes its file
//! anew as soon as that works.

mod disk;
mod queue;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use files::{FileError, PrivateDir};
use tokio::sync::{oneshot, watch as signal};

use self::disk::{Disk, Unread};
use self::queue::{Queue, Write};
use self::writer::Writer;
use super::state::{Kept, Limits, State};
use super::{
    Cause, Changes, Entry, HISTORY_EVENTS, LeaseId, Outcome, Range, Room, Store, StoreError, Transaction,
    Watch, check_key, check_ttl,
};

const FILE: &str = "registry.redb";
const FILE_NEW: &str = "registry.redb.new";
const LOCK: &str = "registry.lock";

/// Why an embedded store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused, or others can write to it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has it open.
    #[error(
        "the registry in `{}` is in use by another process; stop that one, or give this gateway a `state.directory` \
         of its own", .0.display()
    )]
    InUse(PathBuf),
    /// The file is not what was written.
    #[error(
        "`{}` is damaged; put a backup in its place, or move it away and start with an empty registry: manifests are \
         read from their files again, and imports come back with the first sync of each peer", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// The file has a format that this version does not know.
    #[error(
        "`{}` has format {found}, which this version does not read; start the version that wrote it, or move the file \
         away for an empty registry", path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

/// What contradicts itself in a file whose checksums are right.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Inconsistent(&'static str);

/// A [`Store`] in a file. Handles share it; the file is free again once the last one is dropped and what waited is
/// written, or with [`EmbeddedStore::close`].
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

/// What the handles, the watches and the writing thread share.
#[derive(Debug)]
struct Shared {
    /// All that is on the disk. Held for short, bounded work only, never across an await or a write.
    state: Mutex<State>,
    queue: Queue,
    /// Sent with every change, for watches; true: the thread is gone, and the file is free.
    changed: signal::Sender<bool>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of this crate; what it left is still the best there is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch of an [`EmbeddedStore`]: a cursor over its history. [`StoreError::Closed`] ends it with the store.
#[derive(Debug)]
pub struct EmbeddedWatch {
    shared: Arc<Shared>,
    changed: signal::Receiver<bool>,
    prefix: String,
    from: u64,
}

impl EmbeddedStore {
    /// Opens the store in `directory`, or makes an empty one there. Blocks on the disk, for as long as it takes to
    /// read and check the file.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing is overwritten or repaired that could have been read.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::with_history(directory, HISTORY_EVENTS)
    }

    /// As [`EmbeddedStore::open`], with `events` events of history, or the last revision if that alone has more.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    pub fn with_history(directory: &Path, events: usize) -> Result<Self, OpenError> {
        let directory = PrivateDir::open(directory)?;
        let lock = directory.lock(LOCK)?.ok_or_else(|| OpenError::InUse(directory.path().into()))?;
        let (disk, kept) = open(&directory)?;
        let limits = Limits { history_events: events, ..Limits::default() };
        let state = State::restore(limits, kept, Instant::now()).map_err(|reason| OpenError::Damaged {
            path: directory.join(FILE),
            source: Cause::new(Inconsistent(reason)),
        })?;
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            queue: Queue::default(),
            changed: signal::Sender::new(false),
        });
        let failed = FileError::io("start the writing thread of", directory.path());
        let writer = Writer { shared: Arc::clone(&shared), directory, disk: Ok(disk), lock: Some(lock) };
        let run = move || {
            let shared = Arc::clone(&writer.shared);
            let _told = Told(shared);
            writer.run();
        };
        thread::Builder::new().name("registry".into()).spawn(run).map_err(failed)?;
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// Writes what waits, refuses what comes later, and returns once another process may open the store.
    pub async fn close(&self) {
        let mut ended = self.shared().changed.subscribe();
        self.shared().queue.close();
        // It fails only without a sender, which we hold.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Writes what waits, and returns once another process may open the store. Until [`Self::take_back`] this one goes on
    /// with what it knows, and refuses writes.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Busy`]: it was not lent.
    pub async fn lend(&self) -> Result<(), StoreError> {
        self.write(Write::Lend).await
    }

    /// Gives every lease its full time to live again: for a while nobody could tell this process that its owner lives.
    pub fn renew_leases(&self) {
        self.shared().state().keep_all_alive(Instant::now());
    }

    /// Goes on from what the file holds, whoever has written to it.
    ///
    /// # Errors
    /// [`StoreError::Unkept`] while another process has it, or where it cannot be read: it is still lent then.
    pub async fn take_back(&self) -> Result<(), StoreError> {
        self.write(Write::TakeBack).await
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    async fn write<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared().queue.push(write(reply))?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Tells the watches and whoever closes the store that its thread ended, however it did.
struct Told(Arc<Shared>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.changed.send_replace(true);
    }
}

impl Store for EmbeddedStore {
    type Watch = EmbeddedWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        Ok(self.shared().state().entry(key).cloned())
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        check_key(prefix)?;
        Ok(self.shared().state().range(prefix))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.check()?;
        self.write(|reply| Write::Commit(transaction, reply)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        check_ttl(ttl)?;
        self.write(|reply| Write::Grant(ttl, reply)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared().state().keep_alive(lease, Instant::now())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write(|reply| Write::Revoke(lease, reply)).await
    }

    async fn room(&self) -> Result<Room, StoreError> {
        Ok(self.shared().state().room())
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<EmbeddedWatch, StoreError> {
        check_key(prefix)?;
        let compacted = self.shared().state().compacted();
        if from <= compacted {
            return Err(StoreError::Compacted(compacted));
        }
        let changed = self.shared().changed.subscribe();
        Ok(EmbeddedWatch { shared: Arc::clone(self.shared()), changed, prefix: prefix.into(), from })
    }
}

impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            let ended = *self.changed.borrow_and_update();
            if let Some(changes) = self.shared.state().changes(&self.prefix, &mut self.from)? {
                return Ok(changes);
            }
            // The sender lives in `shared`, which we hold, so an error cannot come.
            if ended || self.changed.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }
}

fn open(directory: &PrivateDir) -> Result<(Disk, Kept), OpenError> {
    let path = directory.join(FILE);
    let Some(file) = directory.file(FILE)? else {
        let kept = Kept::default();
        let disk = Disk::create(directory, &kept);
        return disk.map(|disk| (disk, kept)).map_err(|error| unopened(directory, path, error));
    };
    Disk::open(file).map_err(|unread| match unread {
        Unread::Format(found) => OpenError::Format { path, found },
        Unread::Inconsistent(reason) => OpenError::Damaged { path, source: Cause::new(Inconsistent(reason)) },
        Unread::Database(error) => unopened(directory, path, error),
    })
}

/// What redb's refusal of a file means to whoever started us.
fn unopened(directory: &PrivateDir, path: PathBuf, error: redb::Error) -> OpenError {
    // A file that is no database, or ends too early, is not the system's fault.
    let is_content = |kind| {
        matches!(
            kind,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
        )
    };
    match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::InUse(directory.path().into()),
        redb::Error::UpgradeRequired(found) => OpenError::Format { path, found: found.into() },
        redb::Error::Io(source) if !is_content(source.kind()) => FileError::io("open", &path)(source).into(),
        error => OpenError::Damaged { path, source: Cause::new(error) },
    }
}
