//! What a linked cluster, or all sidecars of a workload, may have unread here: over all their tunnels together, however
//! many they open.
//!
//! On byte streams every unread byte is counted, and when all are taken the stream that holds most is given up. QUIC's
//! windows are counted by quinn, each connection's by itself: there the account is divided among the connections of the
//! moment, which is exact for what a peer is granted anew, and not for what it was granted before others came.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use proto::limits::{TUNNEL_UNREAD_BYTES_LEAST, TUNNEL_UNREAD_BYTES_MAX};

/// A tunnel whose carrier counts by itself what is unread.
pub(crate) trait Window: fmt::Debug + Send + Sync {
    /// What all its streams may have unread from now on.
    fn set_window(&self, bytes: usize);
}

/// So many bytes for all tunnels that [share](crate::Tunnel::share) it, on byte streams and on QUIC each.
#[derive(Debug)]
pub struct Account {
    bytes_max: usize,
    /// What is taken of it by tunnels on byte streams.
    taken: AtomicUsize,
    /// Tunnels on QUIC. Short sections without await, as tunnels come and go.
    windows: Mutex<Vec<Weak<dyn Window>>>,
}

impl Account {
    /// An account of `bytes_max`.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, taken: AtomicUsize::new(0), windows: Mutex::default() })
    }

    /// What tunnels on byte streams have taken of it.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes `bytes` more, or none.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|&taken| taken <= self.bytes_max);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives back what was taken.
    pub(crate) fn give(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Divides it anew with one tunnel on QUIC more.
    pub(crate) fn join(&self, tunnel: Weak<dyn Window>) {
        self.windows().push(tunnel);
        self.divide();
    }

    /// Divides it anew with what is left of those tunnels.
    pub(crate) fn leave(&self) {
        self.divide();
    }

    fn divide(&self) {
        let tunnels: Vec<Arc<dyn Window>> = {
            let mut windows = self.windows();
            windows.retain(|tunnel| tunnel.strong_count() > 0);
            windows.iter().filter_map(Weak::upgrade).collect()
        };
        let share = share(self.bytes_max, tunnels.len());
        tunnels.iter().for_each(|tunnel| tunnel.set_window(share));
        // Any of them may be gone meanwhile but for this handle, and then comes here to leave: the list is not locked.
    }

    fn windows(&self) -> MutexGuard<'_, Vec<Weak<dyn Window>>> {
        // Whoever panicked left a list that is whole: every change is one call.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What each of so many tunnels may have unread.
fn share(bytes_max: usize, tunnels: usize) -> usize {
    (bytes_max / tunnels.max(1)).clamp(TUNNEL_UNREAD_BYTES_LEAST, TUNNEL_UNREAD_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use proto::limits::{PEER_TUNNELS_MAX, PEER_UNREAD_BYTES_MAX};

    use super::*;

    #[test]
    fn what_is_taken_by_all_is_never_more_than_there_is() {
        let account = Account::new(100);
        assert!(account.take(60) && account.take(40));
        assert!(!account.take(1) && !account.take(usize::MAX));
        account.give(40);
        assert!(account.take(40));
        assert_eq!(account.taken(), 100);
    }

    #[test]
    fn the_windows_of_all_connections_are_what_the_limits_say() {
        let share = |tunnels| share(PEER_UNREAD_BYTES_MAX, tunnels);
        assert_eq!(
            [share(0), share(1), share(2)],
            [TUNNEL_UNREAD_BYTES_MAX; 3],
            "as a pair of gateways has it"
        );
        for tunnels in 3..=PEER_TUNNELS_MAX {
            let most = if tunnels <= 64 { PEER_UNREAD_BYTES_MAX } else { 2 * PEER_UNREAD_BYTES_MAX };
            assert!(tunnels * share(tunnels) <= most, "{tunnels}");
        }
        // Whoever fills each window before it opens the next tunnel.
        let filled: usize = (1..=PEER_TUNNELS_MAX).map(share).sum();
        assert!(filled <= 6 * PEER_UNREAD_BYTES_MAX, "{filled}");
    }
}
