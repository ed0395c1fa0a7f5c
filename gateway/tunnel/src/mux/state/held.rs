//! What a connection holds of its peer that nobody has read yet, and on whose account.

use std::sync::Arc;

use proto::limits::{BULK_AFTER_BYTES, NEW_TUNNEL_UNREAD_BYTES_MAX};

use crate::account::Account;

/// Every connection may hold so much whatever others have taken of the account: small exchanges always find room.
const FREE_BYTES: usize = BULK_AFTER_BYTES as usize;

/// Unread bytes, by what they cost, and what of them is taken of the account.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: usize,
    taken: usize,
    /// None: it is not known yet whose it is.
    account: Option<Arc<Account>>,
}

impl Held {
    /// Counts `bytes` more; false: that is more than may be held.
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.settle()
    }

    /// Counts so many less.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.settle();
    }

    /// From now on it counts on `account`; false: that has not as much left as is held already.
    pub(super) fn share(&mut self, account: Arc<Account>) -> bool {
        self.account.get_or_insert(account);
        self.settle()
    }

    /// Takes what is due, or gives back what is not; false: there is not so much left.
    pub(super) fn settle(&mut self) -> bool {
        let Some(account) = &self.account else { return self.bytes <= NEW_TUNNEL_UNREAD_BYTES_MAX };
        let due = self.bytes.saturating_sub(FREE_BYTES);
        if due > self.taken {
            if !account.take(due - self.taken) {
                return false;
            }
        } else {
            account.give(self.taken - due);
        }
        self.taken = due;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            account.give(self.taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_taken_and_given_back_with_the_connection() {
        let account = Account::new(1_000);
        let mut held = Held::default();
        assert!(held.add(FREE_BYTES + 600));
        assert!(held.share(account.clone()));
        assert_eq!(account.taken(), 600);
        let mut other = Held::default();
        assert!(other.share(account.clone()) && other.add(FREE_BYTES), "small things always find room");
        assert!(other.add(400) && !other.add(1));
        other.remove(2);
        assert_eq!(account.taken(), 999);
        held.remove(FREE_BYTES);
        assert_eq!(account.taken(), 399);
        drop((held, other));
        assert_eq!(account.taken(), 0);
    }

    #[test]
    fn little_is_held_of_whoever_is_not_known_yet() {
        let mut held = Held::default();
        assert!(held.add(NEW_TUNNEL_UNREAD_BYTES_MAX));
        assert!(!held.add(1));
        held.remove(1);
        assert!(held.settle());
    }
}
