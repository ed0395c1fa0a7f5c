//! The state directory: what outlives a process even if every peer and every store is away.
//!
//! One file, replaced whole: after a crash it is the old state or the new one, never half of both. One process at a
//! time: a lock says so. Nobody else can write to it ([`files::PrivateDir`]). Everything here blocks on the disk.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use files::{FileError, Lock, PrivateDir};
use prost::Message;
use proto::limits::LAST_CATALOG_BYTES_MAX;
use proto::store::{LastApplied, LastCatalog, PeerCatalog};
use xxhash_rust::xxh3::xxh3_64;

use crate::model::record;
use crate::model::{ClusterName, ObjectName, PeerImports, Position, Stored};
use crate::pure::export::random_epoch;
use crate::pure::registration;
use crate::pure::sources::RegisteredEndpoints;
use crate::tasks::applied::{self, StoredObjects};

/// First bytes of the file, the last of them the version of its format.
const MAGIC: [u8; 8] = *b"ringway\x01";

/// The magic and the checksum of what follows, big-endian.
const HEADER_BYTES: usize = MAGIC.len() + size_of::<u64>();

const CATALOG: &str = "catalog";
const LOCK: &str = "lock";

/// Most bytes of the lock's file: a number in hexadecimal, and a line's end.
const HOME_BYTES_MAX: u64 = 64;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// This cluster's random identity, drawn once.
    pub uid: [u8; 16],
    /// How far our export had come. [`crate::pure::export::Export::new`] goes on from here.
    pub export: Position,
    /// What was mirrored of each peer.
    pub peers: BTreeMap<ClusterName, Arc<PeerImports>>,
    /// What was applied, as the registry had it.
    pub applied: StoredObjects,
    /// What was registered, as it took requests.
    pub registered: RegisteredEndpoints,
}

/// What [`StateDir::load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What was kept, or a new identity.
    pub saved: Saved,
    /// Records that were left out because this version cannot read them; their cluster sends them again.
    pub skipped: usize,
    /// Nothing was kept: UID and epoch were just drawn, and are to be saved before anybody hears of them.
    pub fresh: bool,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused, or others can write to it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process works with this directory.
    #[error(
        "state directory `{}` is in use by another process; stop that one, or give this gateway a `state.directory` \
         of its own", .0.display()
    )]
    InUse(PathBuf),
    /// The file is not what was written.
    #[error(
        "`{}` is damaged ({reason}); move it away and start again: this cluster then gets a new UID, and what it \
         imports comes back with the first sync of each peer", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file has a format that this version does not know.
    #[error(
        "`{}` has format {found}, this version reads format {known}; start the version that wrote it, or move the \
         file away for a new UID and an empty catalog", path.display(), known = MAGIC[7]
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u8,
    },
    /// The lock's file holds something else than what is written to it.
    #[error("`{}` holds something that no gateway wrote: move it away and start again", .0.display())]
    Lock(PathBuf),
    /// There is more to keep than would be read back.
    #[error("the catalog has {bytes} bytes, {max} fit into `{}`; import fewer namespaces", path.display(), max = LAST_CATALOG_BYTES_MAX)]
    TooLarge {
        /// The file, which keeps what it had.
        path: PathBuf,
        /// What the catalog needs.
        bytes: u64,
    },
}

/// A state directory that is ours until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    dir: PrivateDir,
    /// Holding it open holds the lock; the system frees it however the process ends.
    lock: Lock,
}

impl StateDir {
    /// Takes `dir`, made if need be, for this process alone.
    ///
    /// # Errors
    /// [`StateError::InUse`], or [`StateError::File`] where the directory cannot be made or written, or others can write
    /// to it.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let dir = PrivateDir::open(dir)?;
        match dir.lock(LOCK)? {
            Some(lock) => Ok(Self { dir, lock }),
            None => Err(StateError::InUse(dir.path().into())),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A random number of this directory, drawn once: whoever shows it and is not us is an earlier, dead process.
    ///
    /// # Errors
    /// [`StateError::File`], or [`StateError::Lock`]: what no gateway wrote is not overwritten.
    pub fn home(&mut self, rng: &mut fastrand::Rng) -> Result<u64, StateError> {
        let path = self.dir.join(LOCK);
        let mut kept = Vec::new();
        let mut lock = self.lock.file();
        let read = lock.rewind().and_then(|()| lock.take(HOME_BYTES_MAX).read_to_end(&mut kept));
        read.map_err(FileError::io("read", &path))?;
        let kept = String::from_utf8_lossy(&kept);
        // A power cut may have left zeros.
        let kept = kept.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        match u64::from_str_radix(kept, 16) {
            Ok(home) => return Ok(home),
            Err(_) if kept.is_empty() => {}
            Err(_) => return Err(StateError::Lock(path)),
        }
        let home = rng.u64(1..);
        let written = lock.rewind().and_then(|()| writeln!(lock, "{home:016x}"));
        written.map_err(FileError::io("write", &path))?;
        Ok(home)
    }

    /// What was saved last; the first time a new UID and epoch.
    ///
    /// # Errors
    /// [`StateError`]: the file is there and cannot be used. Nothing is overwritten: the caller decides.
    pub fn load(&mut self, rng: &mut fastrand::Rng) -> Result<Loaded, StateError> {
        let path = self.dir.join(CATALOG);
        match self.dir.read(CATALOG, LAST_CATALOG_BYTES_MAX) {
            Ok(Some(bytes)) => decode(&bytes, &path),
            Ok(None) => {
                let export = Position { epoch: random_epoch(rng), revision: 0 };
                let saved = Saved {
                    uid: rng.u128(..).to_be_bytes(),
                    export,
                    peers: BTreeMap::new(),
                    applied: StoredObjects::new(),
                    registered: RegisteredEndpoints::new(),
                };
                Ok(Loaded { saved, skipped: 0, fresh: true })
            }
            Err(FileError::TooLong { .. }) => {
                Err(StateError::Damaged { path, reason: "it is larger than any that was written" })
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// When the last catalog was written, in Unix milliseconds; none: there is none.
    pub fn saved_unix_ms(&self) -> Option<u64> {
        let since = self.dir.modified(CATALOG)?.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok()
    }

    /// Replaces what was saved; once this returns it survives a power cut.
    ///
    /// # Errors
    /// [`StateError::File`] or [`StateError::TooLarge`]: what was saved before is still there.
    pub fn save(&mut self, saved: &Saved) -> Result<(), StateError> {
        let bytes = encode(saved);
        if bytes.len() as u64 > LAST_CATALOG_BYTES_MAX {
            return Err(StateError::TooLarge { path: self.dir.join(CATALOG), bytes: bytes.len() as u64 });
        }
        Ok(self.dir.replace(CATALOG, &bytes)?)
    }
}

fn encode(saved: &Saved) -> Vec<u8> {
    let peer = |(cluster, imports): (&ClusterName, &Arc<PeerImports>)| PeerCatalog {
        cluster: cluster.to_string(),
        epoch: imports.epoch,
        revision: imports.revision,
        synced_unix_ms: imports.synced_unix_ms,
        partial_since_ms: imports.partial_since_ms,
        records: imports.services.values().map(|import| record::encode(import, imports.epoch)).collect(),
    };
    let object = |(name, stored): (&ObjectName, &Arc<Stored>)| LastApplied {
        key: applied::key(name),
        applied: Some(stored.record()),
        revision: stored.revision,
    };
    let registered = saved.registered.iter();
    let registered = registered.flat_map(|(name, of)| of.values().map(move |endpoint| (name, endpoint)));
    // One that drains is not to come back.
    let registered = registered.filter(|(_, endpoint)| endpoint.weight > 0);
    let catalog = LastCatalog {
        uid: saved.uid.to_vec(),
        epoch: saved.export.epoch,
        revision: saved.export.revision,
        peers: saved.peers.iter().map(peer).collect(),
        applied: saved.applied.iter().map(object).collect(),
        registered: registered.map(|(name, endpoint)| registration::encode(name, endpoint)).collect(),
    };
    let mut bytes = vec![0; HEADER_BYTES];
    catalog.encode_raw(&mut bytes);
    let checksum = xxh3_64(&bytes[HEADER_BYTES..]);
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8], path: &Path) -> Result<Loaded, StateError> {
    let damaged = |reason| StateError::Damaged { path: path.into(), reason };
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
    if magic[..7] != MAGIC[..7] {
        return Err(damaged("it does not begin as it should"));
    }
    if magic[7] != MAGIC[7] {
        return Err(StateError::Format { path: path.into(), found: magic[7] });
    }
    let (checksum, body) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
    if u64::from_be_bytes(*checksum) != xxh3_64(body) {
        return Err(damaged("its checksum is wrong"));
    }
    let catalog = LastCatalog::decode(body).map_err(|_| damaged("its content is malformed"))?;
    let uid = catalog.uid.as_slice().try_into().map_err(|_| damaged("its UID has not 16 bytes"))?;
    if catalog.epoch == 0 {
        return Err(damaged("its epoch is 0"));
    }
    let mut peers = BTreeMap::new();
    let mut skipped = 0;
    for peer in &catalog.peers {
        let Ok(cluster) = ClusterName::new(&peer.cluster) else {
            skipped += peer.records.len();
            continue;
        };
        let imports: Vec<_> = peer.records.iter().filter_map(|record| record::decode(record).ok()).collect();
        skipped += peer.records.len() - imports.len();
        let services = imports.into_iter().map(|import| (import.name.clone(), Arc::new(import))).collect();
        let PeerCatalog { epoch, revision, synced_unix_ms, partial_since_ms, .. } = *peer;
        let imports = PeerImports {
            epoch,
            revision,
            synced_unix_ms,
            partial_since_ms,
            services,
            ..PeerImports::default()
        };
        peers.insert(cluster, Arc::new(imports));
    }
    let object = |last: LastApplied| {
        let stored = Stored::of(last.applied?, last.revision);
        Some((applied::name(&last.key)?, Arc::new(stored)))
    };
    let applied = catalog.applied.into_iter().filter_map(object).collect();
    let mut registered = RegisteredEndpoints::new();
    for (name, endpoint) in catalog.registered.iter().filter_map(|said| registration::decode(said).ok()) {
        registered.entry(name).or_default().insert(endpoint.id.clone(), endpoint);
    }
    let export = Position { epoch: catalog.epoch, revision: catalog.revision };
    Ok(Loaded { saved: Saved { uid, export, peers, applied, registered }, skipped, fresh: false })
}
