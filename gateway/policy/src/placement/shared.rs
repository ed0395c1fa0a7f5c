//! Values that several services share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// The values in use by all that they are a function of, each built once however many declare it. A value goes when the
/// last that holds it goes.
#[derive(Debug)]
pub(super) struct Shared<K, V>(HashMap<K, Weak<V>>);

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> Shared<K, V> {
    /// The value of `key`; built if nobody holds it.
    pub(super) fn get<E>(&mut self, key: K, build: impl FnOnce(&K) -> Result<V, E>) -> Result<Arc<V>, E> {
        if let Some(value) = self.0.get(&key).and_then(Weak::upgrade) {
            return Ok(value);
        }
        let value = Arc::new(build(&key)?);
        // Swept only before the map would grow, so that building many stays linear.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, value| value.strong_count() > 0);
        }
        self.0.insert(key, Arc::downgrade(&value));
        Ok(value)
    }

    /// How many are remembered, in use or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
