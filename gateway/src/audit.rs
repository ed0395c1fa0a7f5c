//! The audit lines: exactly one for every change of health and of what is in force, each saying what changed, why, and
//! what moved by it. When, is the line's own time.
//!
//! All stand under one target, so that `RINGWAY_LOG=warn,audit=info` keeps them and little else.

use std::fmt::Display;

use tracing::info;

/// The target of every audit line.
pub const TARGET: &str = "audit";

/// The health of `what`, which is a `subject` such as `peer`, goes over from one state to another.
pub fn health(
    subject: &str,
    what: impl Display,
    (from, to): (&str, &str),
    why: impl Display,
    moved: impl Display,
) {
    info!(target: TARGET, %what, from, to, %why, %moved, "Audit: {subject} health changed.");
}

/// Something else that is in force has changed, which `message` says in a sentence without its full stop.
pub fn change(message: impl Display, what: impl Display, why: impl Display, moved: impl Display) {
    info!(target: TARGET, %what, %why, %moved, "Audit: {message}.");
}

/// The registry's store had lost our UID, and so many applied objects were put back into it.
pub fn taken_again(put_back: usize) {
    change(
        "the registry's store was empty and is this cluster's again",
        "own cluster",
        "it was wiped; the last catalog counts",
        format_args!("{put_back} applied objects were put back"),
    );
}
