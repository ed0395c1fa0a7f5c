//! A sorted map of which many versions live beside each other: a clone shares its entries with the original until one of
//! them changes them, and two versions are compared by what they do not share.
//!
//! ```
//! use registry::base::shared_map::SharedMap;
//!
//! let old: SharedMap<u32, &str> = (0..10_000).map(|n| (n, "as it was")).collect();
//! let mut new = old.clone();
//! new.insert(5, "changed");
//! new.remove(&7);
//! assert_eq!(new.differing(&old, |a, b| a == b).collect::<Vec<_>>(), [&5, &7]);
//! ```

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Index;
use std::sync::Arc;

/// Entries of a chunk: what a change of one entry copies. A clone of the map copies a pointer for about each half of it.
const CHUNK_MAX: usize = 64;

/// The map. Entries stand in chunks, sorted within each and from one to the next; no chunk is empty.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

#[derive(Clone)]
struct Chunk<K, V> {
    /// Not above any key of the chunk, and above all keys of the chunk before.
    from: K,
    entries: Arc<Vec<(K, V)>>,
}

impl<K, V> SharedMap<K, V> {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries by ascending key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.entries.iter().map(|(key, value)| (key, value)))
    }

    /// The keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values by ascending key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let entries = &self.chunks.get(self.chunk_of(key))?.entries;
        let at = entries.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        Some(&entries[at].1)
    }

    /// Whether it has an entry of this key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The keys that only one of the two has, or whose values are not the `same`, ascending. Looks only at what the two
    /// do not share.
    pub fn differing<'a>(
        &'a self,
        other: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> impl Iterator<Item = &'a K> {
        let (ours, theirs) = (self.unshared(other), other.unshared(self));
        let changed = ours.filter(|(key, value)| !other.get(key).is_some_and(|other| same(value, other)));
        let gone = theirs.filter(|(key, _)| !self.contains_key(key));
        let mut keys: Vec<&K> = changed.chain(gone).map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.into_iter()
    }

    /// The entries of the chunks that `other` does not have.
    fn unshared(&self, other: &Self) -> impl Iterator<Item = &(K, V)> {
        let theirs: HashSet<_> = other.chunks.iter().map(|chunk| Arc::as_ptr(&chunk.entries)).collect();
        let ours = self.chunks.iter().filter(move |chunk| !theirs.contains(&Arc::as_ptr(&chunk.entries)));
        ours.flat_map(|chunk| chunk.entries.iter())
    }

    /// Where the chunk stands in which `key` is, if it is anywhere; the map may be empty.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.chunks.partition_point(|chunk| chunk.from.borrow() <= key).saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let chunk = self.chunks.get_mut(at)?;
        let place = chunk.entries.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        Some(&mut Arc::make_mut(&mut chunk.entries)[place].1)
    }

    /// Puts an entry in; gives the value that the key had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Chunk { from: key.clone(), entries: Arc::new(vec![(key, value)]) });
            self.len = 1;
            return None;
        };
        let entries = Arc::make_mut(&mut chunk.entries);
        let place = match entries.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(place) => return Some(std::mem::replace(&mut entries[place].1, value)),
            Err(place) => place,
        };
        if place == 0 {
            // Only in the first chunk: every other begins at or below the key.
            chunk.from = key.clone();
        }
        entries.insert(place, (key, value));
        self.len += 1;
        if entries.len() > CHUNK_MAX {
            // Keys that come in order leave full chunks behind.
            let ordered = at + 1 == self.chunks.len() && place == CHUNK_MAX;
            self.split(at, if ordered { CHUNK_MAX } else { CHUNK_MAX / 2 });
        }
        None
    }

    /// Takes an entry out; gives its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let chunk = self.chunks.get_mut(at)?;
        let place = chunk.entries.binary_search_by(|(other, _)| other.borrow().cmp(key)).ok()?;
        let (_, value) = Arc::make_mut(&mut chunk.entries).remove(place);
        self.len -= 1;
        // A map that shrinks must not keep a chunk for each entry that is left.
        let left = chunk.entries.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if left < CHUNK_MAX / 4 && !(at > 0 && self.join(at - 1)) {
            self.join(at);
        }
        Some(value)
    }

    /// Makes two chunks of the one that stands `at`, the first of so many entries.
    fn split(&mut self, at: usize, first: usize) {
        let entries = Arc::make_mut(&mut self.chunks[at].entries);
        let mut second = Vec::with_capacity(CHUNK_MAX + 1);
        second.extend(entries.drain(first..));
        entries.shrink_to_fit();
        let chunk = Chunk { from: second[0].0.clone(), entries: Arc::new(second) };
        self.chunks.insert(at + 1, chunk);
    }

    /// Makes one of the chunk that stands `at` and the next, where both fit well into one; true: it did.
    fn join(&mut self, at: usize) -> bool {
        let fits = |next: &Chunk<K, V>| self.chunks[at].entries.len() + next.entries.len() <= CHUNK_MAX / 2;
        let joins = self.chunks.get(at + 1).is_some_and(fits);
        if joins {
            let next = self.chunks.remove(at + 1);
            Arc::make_mut(&mut self.chunks[at].entries).extend(next.entries.iter().cloned());
        }
        joins
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// When it has no entry of this key.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("an entry of this key")
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Box<dyn Iterator<Item = (&'a K, &'a V)> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    /// By entries, whatever is shared and however they are cut.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
