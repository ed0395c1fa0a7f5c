//! Log lines that others cause: strangers, peers, workloads, callers. Of each kind, and of each that causes it, the first
//! few are written; of a flood nothing but a count, once in a while.
//!
//! One limit for the whole process, as there is one log. Its lock is held for a look into a small map, and never taken on
//! the way of a request that goes well.

mod repeats;

use std::fmt::Display;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::limits::NAME_BYTES_MAX;
use proto::text::clean;
use tracing::{info, warn};

pub use repeats::{Most, Unsaid};

use repeats::Repeats;

/// Of what anybody can cause who reaches a port: in the worst case two lines a second.
pub const STRANGERS: Most = Most { each: 5, all: 20 };
/// Of what peers, workloads and callers cause.
pub const KNOWN: Most = Most { each: 10, all: 200 };
/// Of audit lines: a whole cluster's endpoints may go and come back, and each shall have its line.
pub const AUDITED: Most = Most { each: 10, all: 2000 };

/// The target of audit lines: how many were not written stands beside them.
pub const AUDIT_TARGET: &str = "audit";

/// How often it is looked whether a count is to be said.
const LOOK: Duration = Duration::from_secs(1);

static SEEN: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);

/// Whether the `event` that `by` causes is said now; if not, it is counted, and the count is said later.
pub fn admits(event: &str, most: Most, by: impl Display) -> bool {
    // Whoever panicked left a map that is whole: it is changed in one place.
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.admit(event, most, &clean(&by.to_string(), NAME_BYTES_MAX), Instant::now())
}

/// Writes the counts of what is not said, for as long as it is polled.
pub async fn count() {
    loop {
        tokio::time::sleep(LOOK).await;
        let all = SEEN.lock().unwrap_or_else(PoisonError::into_inner).take_unsaid(Instant::now());
        all.iter().for_each(say);
    }
}

fn say(unsaid: &Unsaid) {
    let Unsaid { event, count, most_of, most_count, within } = unsaid;
    let (seconds, event) = (within.as_secs(), event.trim_end_matches('.'));
    let most_of = if most_of.is_empty() { "several" } else { most_of };
    if event.starts_with("Audit:") {
        info!(target: AUDIT_TARGET, most_of, most_count, "{event}: {count} more in the last {seconds} s.");
    } else {
        warn!(most_of, most_count, "{event}: {count} more in the last {seconds} s.");
    }
}

/// Writes an event that somebody else causes, if it is not one too many: `limited!(WARN, STRANGERS, from, "Refused.", %from)`
/// says its level, its limit, who causes it, the event, and its fields.
macro_rules! limited {
    ($level:ident, $most:ident, $by:expr, $event:literal $(, $($fields:tt)+)?) => {
        if tracing::enabled!(tracing::Level::$level)
            && $crate::telemetry::limited::admits($event, $crate::telemetry::limited::$most, &$by)
        {
            tracing::event!(tracing::Level::$level, $($($fields)+,)? $event);
        }
    };
}
pub(crate) use limited;
