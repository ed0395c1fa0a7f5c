//! The file on a disk of memory, whose power is cut and whose bits flip.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use redb::StorageBackend;

use super::*;
use crate::store::staged::Staged;
use crate::store::state::tests::scribble;
use crate::store::state::{Limits, State};

/// What drives write at once or not at all.
const SECTOR_BYTES: usize = 512;

/// A disk with a cache: until a sync any part of what was written may be lost with the power.
#[derive(Clone, Debug)]
struct Platter(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    /// What the system shows.
    shown: Vec<u8>,
    /// What survives for certain, and what was done since.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// Operations until the power is cut.
    left: usize,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Len(len) => bytes.resize(*len, 0),
            Self::Write(at, data) => {
                // The length that it counted on may have been lost.
                let end = bytes.len().max(at + data.len());
                bytes.resize(end, 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl Platter {
    fn new(bytes: Vec<u8>, left: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner { shown: bytes.clone(), synced: bytes, unsynced: Vec::new(), left })))
    }

    /// One more operation, if there is power for it.
    fn act<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> io::Result<T> {
        let mut inner = self.0.lock().unwrap();
        inner.left = inner.left.checked_sub(1).ok_or(io::Error::other("the power was cut"))?;
        Ok(act(&mut inner))
    }

    fn shown(&self) -> Vec<u8> {
        self.0.lock().unwrap().shown.clone()
    }

    /// What is left without power: all that was synced, and any sectors of what was not.
    fn after_power_cut(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        let inner = self.0.lock().unwrap();
        let mut bytes = inner.synced.clone();
        for change in &inner.unsynced {
            match change {
                Change::Write(at, data) => {
                    for (sector, data) in data.chunks(SECTOR_BYTES).enumerate() {
                        if rng.bool() {
                            Change::Write(at + sector * SECTOR_BYTES, data.into()).apply(&mut bytes);
                        }
                    }
                }
                Change::Len(_) if rng.bool() => {}
                Change::Len(_) => change.apply(&mut bytes),
            }
        }
        bytes
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        self.act(|inner| inner.shown.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.act(|inner| {
            let found = inner.shown.get(offset as usize..offset as usize + out.len());
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.act(|inner| {
            inner.synced.clone_from(&inner.shown);
            inner.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset as usize, data.into()))
    }
}

impl Platter {
    fn change(&self, change: Change) -> io::Result<()> {
        self.act(|inner| {
            change.apply(&mut inner.shown);
            inner.unsynced.push(change);
        })
    }

    fn open(&self) -> Result<(Disk, Kept), Unread> {
        Disk::read(|| builder().create_with_backend(self.clone()))
    }

    fn create(&self, kept: &Kept) -> Result<Disk, redb::Error> {
        let disk = Disk { database: builder().create_with_backend(self.clone())? };
        disk.transaction(|transaction| insert_all(transaction, kept))?;
        Ok(disk)
    }
}

fn restored(kept: Kept) -> State {
    let limits = Limits { history_events: 40, ..Limits::default() };
    State::restore(limits, kept, Instant::now()).unwrap()
}

/// Writes batches until the disk fails or `batches` are written; returns what was answered, and what was under way.
fn scribble_on(disk: &Disk, state: &mut State, rng: &mut fastrand::Rng, batches: usize) -> Option<Kept> {
    for at in 0..batches {
        let mut staged = Staged::on(state, at as u64);
        scribble(&mut staged, rng);
        let batch = staged.finish();
        let written = disk.write(&batch);
        let before = state.clone();
        state.apply(batch, Instant::now());
        if written.is_err() {
            let under_way = state.kept();
            *state = before;
            return Some(under_way);
        }
    }
    None
}

#[test]
fn what_was_written_is_read_back() {
    let rng = &mut fastrand::Rng::with_seed(1);
    let platter = Platter::new(Vec::new(), usize::MAX);
    let mut state = restored(Kept::default());
    scribble_on(&platter.create(&Kept::default()).unwrap(), &mut state, rng, 60);
    assert!(state.compacted() > 0, "history was forgotten meanwhile");
    let (disk, kept) = platter.open().unwrap();
    assert_eq!(restored(kept).kept(), without_forgotten(state.kept(), &state));
    drop(disk);
    // Written anew, it is the same.
    let anew = Platter::new(Vec::new(), usize::MAX);
    drop(anew.create(&state.kept()).unwrap());
    assert_eq!(anew.open().unwrap().1, state.kept());
}

/// The disk forgets history one batch later than memory does.
fn without_forgotten(mut kept: Kept, state: &State) -> Kept {
    kept.history.retain(|recorded| recorded.changes.revision > state.compacted());
    kept
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_answered() {
    for seed in 0..100 {
        let rng = &mut fastrand::Rng::with_seed(seed);
        let platter = Platter::new(Vec::new(), usize::MAX);
        let mut state = restored(Kept::default());
        drop(platter.create(&Kept::default()).unwrap());
        let mut image = platter.shown();
        // Restarts after restarts, whose own repair may be cut short as well.
        for _ in 0..4 {
            let platter = Platter::new(image, rng.usize(..400));
            let under_way = match platter.open() {
                Ok((disk, _)) => scribble_on(&disk, &mut state, rng, 30),
                Err(Unread::Database(_)) => None,
                Err(other) => panic!("seed {seed}: {other:?}"),
            };
            image = platter.after_power_cut(rng);
            let (disk, kept) = Platter::new(image.clone(), usize::MAX).open().unwrap();
            drop(disk);
            let found = restored(kept);
            let same = |kept: &Kept| {
                let mut found = found.kept();
                let of = |kept: &Kept| (kept.revision, kept.last_lease);
                // How much history is left may differ by a batch; which it is may not.
                let common = found.history.len().min(kept.history.len());
                found.history.drain(..found.history.len() - common);
                let history = kept.history.iter().skip(kept.history.len() - common);
                of(&found) == of(kept)
                    && (&found.entries, &found.leases) == (&kept.entries, &kept.leases)
                    && found.history.iter().eq(history)
            };
            let answered = state.kept();
            assert!(
                same(&answered) || under_way.is_some_and(|kept| same(&kept)),
                "seed {seed}: revision {} was answered, {} was found",
                answered.revision,
                found.revision()
            );
            state = found;
        }
    }
}

#[test]
fn damage_is_found_or_harmless() {
    let rng = &mut fastrand::Rng::with_seed(3);
    let platter = Platter::new(Vec::new(), usize::MAX);
    let mut state = restored(Kept::default());
    let disk = platter.create(&Kept::default()).unwrap();
    scribble_on(&disk, &mut state, rng, 60);
    let torn = platter.shown();
    drop(disk);
    let whole = platter.shown();
    let (mut found, mut harmless) = (0, 0);
    for image in [torn, whole] {
        let kept = Platter::new(image.clone(), usize::MAX).open().unwrap().1;
        for _ in 0..400 {
            let mut image = image.clone();
            let at = rng.usize(..image.len());
            match rng.u8(..4) {
                0 => {
                    let end = image.len().min(at + rng.usize(1..8192));
                    image[at..end].fill(rng.u8(..));
                }
                _ => image[at] ^= 1 << rng.u8(..8),
            }
            match Platter::new(image, usize::MAX).open() {
                Err(_) => found += 1,
                Ok((_, read)) => {
                    assert_eq!(read, kept, "byte {at}");
                    harmless += 1;
                }
            }
        }
    }
    assert!(found > 50 && harmless > 50, "{found} found, {harmless} harmless");
}

#[test]
fn another_database_and_another_format_are_told_apart() {
    let platter = Platter::new(Vec::new(), usize::MAX);
    drop(builder().create_with_backend(platter.clone()).unwrap());
    assert!(matches!(platter.open(), Err(Unread::Inconsistent(_))));

    let platter = Platter::new(Vec::new(), usize::MAX);
    let disk = platter.create(&Kept::default()).unwrap();
    let newer = |transaction: &WriteTransaction| {
        transaction.open_table(NUMBERS)?.insert(FORMAT_KEY, FORMAT + 1)?;
        Ok(())
    };
    disk.transaction(newer).unwrap();
    drop(disk);
    assert!(matches!(platter.open(), Err(Unread::Format(found)) if found == FORMAT + 1));
}

#[test]
fn a_file_that_could_not_be_made_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let directory = PrivateDir::open(folder.path()).unwrap();
    // In its place stands what no file replaces.
    fs::create_dir(directory.join(FILE)).unwrap();
    Disk::create(&directory, &Kept::default()).unwrap_err();
    assert!(!directory.join(FILE_NEW).exists());
    fs::remove_dir(directory.join(FILE)).unwrap();
    Disk::create(&directory, &Kept::default()).unwrap();
}

#[test]
fn an_empty_file_is_no_empty_registry() {
    let folder = tempfile::tempdir().unwrap();
    let directory = PrivateDir::open(folder.path()).unwrap();
    let read = Disk::open(directory.create(FILE).unwrap());
    assert!(matches!(read, Err(Unread::Inconsistent("it is empty"))));
}
