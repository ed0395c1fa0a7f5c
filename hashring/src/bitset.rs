//! What an order has already visited.

/// A set of small numbers; up to 64 of them need no allocation.
#[derive(Debug, Clone)]
pub(crate) enum BitSet {
    Small(u64),
    Large(Box<[u64]>),
}

impl BitSet {
    /// An empty set for numbers below `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        if limit <= 64 { Self::Small(0) } else { Self::Large(vec![0; limit.div_ceil(64)].into()) }
    }

    /// Adds `number`, which is below the limit; false if it was there.
    pub(crate) fn insert(&mut self, number: usize) -> bool {
        let (word, bit) = match self {
            Self::Small(word) => (word, number),
            Self::Large(words) => (&mut words[number / 64], number % 64),
        };
        let mask = 1 << bit;
        let fresh = *word & mask == 0;
        *word |= mask;
        fresh
    }

    /// Empties the set and keeps its room.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Small(word) => *word = 0,
            Self::Large(words) => words.fill(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BitSet;

    #[test]
    fn holds_every_number_below_its_limit_once() {
        for limit in [1, 63, 64, 65, 128, 129, 1000] {
            let mut set = BitSet::new(limit);
            for _ in 0..2 {
                assert!((0..limit).all(|number| set.insert(number)), "{limit}");
                assert!((0..limit).all(|number| !set.insert(number)), "{limit}");
                set.clear();
            }
        }
    }
}
