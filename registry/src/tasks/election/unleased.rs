//! Keys that should die with a gateway and have no lease, so that no death removes them.

use std::time::Duration;

use tokio::time::Instant;

use super::TTL;
use crate::base::audit;
use crate::store::Entry;

/// A key without a lease that has been unchanged for so long stands for nobody: longer than the lease of any gateway lasts
/// without a word of it.
pub(super) const UNLEASED_AFTER: Duration = Duration::from_secs(2 * TTL.as_secs());

/// The revision of a key without a lease, and since when it is known to be as it is.
#[derive(Debug, Default)]
pub(super) struct Unleased(Option<(u64, Instant)>);

impl Unleased {
    /// Whether `entry`, as it is at `now`, stands for nobody.
    pub(super) fn is_nobodys(&mut self, entry: &Entry, now: Instant) -> bool {
        if entry.lease.is_some() {
            self.0 = None;
            return false;
        }
        let known = self.0.filter(|(revision, _)| *revision == entry.modified);
        let (_, since) = *self.0.insert(known.unwrap_or((entry.modified, now)));
        now.saturating_duration_since(since) >= UNLEASED_AFTER
    }
}

/// Leaves a line of a key that was nobody's.
pub(super) fn taken_over(what: &str, moved: &str) {
    let why = format!(
        "its key in the registry's store had no lease and was unchanged for {UNLEASED_AFTER:?}: nothing would have \
         removed it"
    );
    audit::change(format_args!("{what} was taken over from nobody"), what, why, moved);
}
