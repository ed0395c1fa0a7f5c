//! The audit lines: exactly one for every change of health and of what is in force, each saying what changed, why, and
//! what moved by it. When, is the line's own time.
//!
//! All stand under one target, so that `RINGWAY_LOG=warn,audit=info` keeps them and little else.

use std::fmt::Display;

use tracing::info;

pub use registry::audit::{TARGET, change};

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

/// The registry's store had lost our UID, and so many applied objects were put back into it.
pub fn taken_again(put_back: usize) {
    change(
        "the registry's store was empty and is this cluster's again",
        "own cluster",
        "it was wiped; the last catalog counts",
        format_args!("{put_back} applied objects were put back"),
    );
}
