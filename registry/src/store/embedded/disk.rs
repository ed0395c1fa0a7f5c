//! The file of an embedded store: tables of a redb database, and what is read back from them.
//!
//! Everything here blocks on the disk. Commits are in two phases: one phase less would be an fsync less, but then a
//! damaged last commit is taken for one that never was, and revisions go back in silence.

use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use files::{FileError, PrivateDir};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError,
    WriteTransaction,
};

use super::{FILE, FILE_NEW};
use crate::store::staged::Batch;
use crate::store::state::{Kept, Recorded};
use crate::store::{Changes, Entry, Event, LeaseId};

/// Bytes of pages that redb keeps in memory: reads come from [`crate::store::state::State`], so they only serve
/// writes.
const CACHE_BYTES: usize = 1024 * 1024;

/// The layout of the tables below.
const FORMAT: u64 = 1;

/// Numbers by name: [`FORMAT_KEY`], [`REVISION`] and [`LAST_LEASE`].
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const FORMAT_KEY: &str = "format";
const REVISION: &str = "revision";
const LAST_LEASE: &str = "last lease";

/// By key.
const ENTRIES: TableDefinition<'_, &str, EntryRow<'_>> = TableDefinition::new("entries");

/// Revision of creation, revision of the last change, lease (0: none), value.
type EntryRow<'a> = (u64, u64, u64, &'a [u8]);

/// By lease: time to live in milliseconds.
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");

/// By revision and place within it.
const HISTORY: TableDefinition<'_, (u64, u32), EventRow<'_>> = TableDefinition::new("history");

/// Unix milliseconds, key, and what was put there: revision of creation, lease and value; none: it was deleted.
type EventRow<'a> = (u64, &'a str, Option<(u64, u64, &'a [u8])>);

/// The file's content, on the disk.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
}

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// Its tables have this layout, which is not ours.
    Format(u64),
    /// What it holds is not what was written.
    Inconsistent(&'static str),
    /// The database says no.
    Database(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Unread {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

impl Disk {
    /// Makes the registry's file in `directory` hold `kept`. It stands there whole, or what stood there before still does:
    /// it is written under another name first.
    pub(super) fn create(directory: &PrivateDir, kept: &Kept) -> Result<Self, redb::Error> {
        let created = Self::create_new(directory, kept).and_then(|disk| {
            // The content is on the disk, now the name that points to it.
            directory.rename(FILE_NEW, FILE).map_err(refused)?;
            Ok(disk)
        });
        if created.is_err() {
            // Half of a file would hold the room that is missing.
            let _ = fs::remove_file(directory.join(FILE_NEW));
        }
        created
    }

    fn create_new(directory: &PrivateDir, kept: &Kept) -> Result<Self, redb::Error> {
        let new = directory.create(FILE_NEW).map_err(refused)?;
        let disk = Self { database: builder().create_file(new)? };
        disk.transaction(|transaction| insert_all(transaction, kept))?;
        Ok(disk)
    }

    /// Reads what the registry's file holds.
    pub(super) fn open(file: File) -> Result<(Self, Kept), Unread> {
        // The library would make an empty file a new database.
        if file.metadata()?.len() == 0 {
            return Err(Unread::Inconsistent("it is empty"));
        }
        Self::read(|| builder().create_file(file))
    }

    /// Reads what a database holds, after a check of every page against its checksum: damage in what nobody happens
    /// to read would else show years later.
    fn read(open: impl FnOnce() -> Result<Database, DatabaseError>) -> Result<(Self, Kept), Unread> {
        let read = || {
            let mut database = open()?;
            database.check_integrity()?;
            let kept = read_all(&database)?;
            Ok((Self { database }, kept))
        };
        // Before any checksum is looked at, redb takes some damage for a bug of its own and panics.
        let panicked = |_| Err(Unread::Inconsistent("its pages contradict each other"));
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(panicked)
    }

    /// Makes a batch true on the disk: once this returns, it survives a power cut.
    pub(super) fn write(&self, batch: &Batch) -> Result<(), redb::Error> {
        self.transaction(|transaction| {
            insert_batch(transaction, batch)?;
            let mut history = transaction.open_table(HISTORY)?;
            let forgotten: RangeInclusive<(u64, u32)> = (0, 0)..=(batch.compacted, u32::MAX);
            Ok(history.retain_in(forgotten, |_, _| false)?)
        })
    }

    fn transaction(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        write(&transaction)?;
        Ok(transaction.commit()?)
    }
}

/// A file that could not be made, as the database tells of its own.
fn refused(error: FileError) -> redb::Error {
    match error {
        FileError::Io { source, .. } => source.into(),
        other => io::Error::other(other).into(),
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn insert_batch(transaction: &WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut numbers = transaction.open_table(NUMBERS)?;
    numbers.insert(LAST_LEASE, batch.last_lease)?;
    if let Some(Changes { revision, .. }) = batch.changes.last() {
        numbers.insert(REVISION, revision)?;
    }
    let mut entries = transaction.open_table(ENTRIES)?;
    for (key, entry) in &batch.entries {
        match entry {
            Some(entry) => insert_entry(&mut entries, entry)?,
            None => drop(entries.remove(key.as_str())?),
        }
    }
    let mut leases = transaction.open_table(LEASES)?;
    for (id, ttl) in &batch.granted {
        leases.insert(id.0, millis(*ttl))?;
    }
    for id in &batch.ended {
        leases.remove(id.0)?;
    }
    let mut history = transaction.open_table(HISTORY)?;
    batch.changes.iter().try_for_each(|changes| insert_changes(&mut history, changes, batch.at_unix_ms))
}

fn insert_all(transaction: &WriteTransaction, kept: &Kept) -> Result<(), redb::Error> {
    let mut numbers = transaction.open_table(NUMBERS)?;
    numbers.insert(FORMAT_KEY, FORMAT)?;
    numbers.insert(LAST_LEASE, kept.last_lease)?;
    numbers.insert(REVISION, kept.revision)?;
    let mut entries = transaction.open_table(ENTRIES)?;
    kept.entries.values().try_for_each(|entry| insert_entry(&mut entries, entry))?;
    let mut leases = transaction.open_table(LEASES)?;
    for (id, ttl) in &kept.leases {
        leases.insert(id.0, millis(*ttl))?;
    }
    let mut history = transaction.open_table(HISTORY)?;
    let mut insert =
        |recorded: &Recorded| insert_changes(&mut history, &recorded.changes, recorded.at_unix_ms);
    kept.history.iter().try_for_each(&mut insert)
}

fn insert_entry(entries: &mut Table<'_, &str, EntryRow<'_>>, entry: &Entry) -> Result<(), redb::Error> {
    let row = (entry.created, entry.modified, number(entry.lease), &*entry.value);
    entries.insert(entry.key.as_str(), row)?;
    Ok(())
}

fn insert_changes(
    history: &mut Table<'_, (u64, u32), EventRow<'_>>,
    Changes { revision, events }: &Changes,
    at_unix_ms: u64,
) -> Result<(), redb::Error> {
    for (place, event) in (0..).zip(events) {
        let put = match event {
            Event::Put(entry) => Some((entry.created, number(entry.lease), &*entry.value)),
            Event::Deleted(_) => None,
        };
        history.insert((*revision, place), (at_unix_ms, event.key(), put))?;
    }
    Ok(())
}

fn read_all(database: &Database) -> Result<Kept, Unread> {
    let transaction = database.begin_read()?;
    let numbers = match transaction.open_table(NUMBERS) {
        Err(TableError::TableDoesNotExist(_)) => return Err(Unread::Inconsistent("it is of something else")),
        numbers => numbers?,
    };
    let number = |name| numbers.get(name).map(|found| found.map_or(0, |found| found.value()));
    match number(FORMAT_KEY)? {
        FORMAT => {}
        other => return Err(Unread::Format(other)),
    }
    let mut kept = Kept { revision: number(REVISION)?, last_lease: number(LAST_LEASE)?, ..Kept::default() };
    for row in transaction.open_table(LEASES)?.iter()? {
        let (id, ttl) = row?;
        kept.leases.insert(LeaseId(id.value()), Duration::from_millis(ttl.value()));
    }
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, row) = row?;
        let (created, modified, lease_id, value) = row.value();
        let (key, value) = (key.value().to_owned(), value.to_vec().into());
        let entry = Entry { key: key.clone(), value, created, modified, lease: lease(lease_id) };
        kept.entries.insert(key, entry);
    }
    for row in transaction.open_table(HISTORY)?.iter()? {
        let (at, row) = row?;
        let (revision, _) = at.value();
        let (at_unix_ms, key, put) = row.value();
        let event = put.map_or_else(
            || Event::Deleted(key.into()),
            |(created, lease_id, value)| {
                // What is still there shares its value with the history.
                let same = kept.entries.get(key).filter(|entry| entry.modified == revision);
                let value = same.map_or_else(|| value.to_vec().into(), |entry| entry.value.clone());
                Event::Put(Entry {
                    key: key.into(),
                    value,
                    created,
                    modified: revision,
                    lease: lease(lease_id),
                })
            },
        );
        match kept.history.back_mut().filter(|last| last.changes.revision == revision) {
            Some(last) => last.changes.events.push(event),
            None => {
                let changes = Changes { revision, events: vec![event] };
                kept.history.push_back(Recorded { at_unix_ms, changes });
            }
        }
    }
    Ok(kept)
}

/// How a lease stands in a row: ids begin at 1, so 0 is none.
fn number(lease: Option<LeaseId>) -> u64 {
    lease.map_or(0, |lease| lease.0)
}

fn lease(number: u64) -> Option<LeaseId> {
    (number != 0).then_some(LeaseId(number))
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
