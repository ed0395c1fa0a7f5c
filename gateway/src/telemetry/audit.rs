//! The audit lines: exactly one for every change of health and of what is in force, each saying what changed, why, and
//! what moved by it. When, is the line's own time. What others change so often that it is a flood is counted, as all that
//! others cause ([`crate::telemetry::limited`]).
//!
//! All stand under one target, so that `RINGWAY_LOG=warn,audit=info` keeps them and little else.

use std::fmt::Display;

use registry::base::audit::shown;
pub use registry::base::audit::{TARGET, change};
use tracing::info;

use crate::telemetry::limited::{AUDITED, admits};

/// The health of `what`, which is a `subject` such as `peer`, goes over from one state to another.
pub fn health(
    subject: &str,
    what: impl Display,
    (from, to): (&str, &str),
    why: impl Display,
    moved: impl Display,
) {
    let event = format!("Audit: {subject} health changed.");
    if admits(&event, AUDITED, &what) {
        let (what, why, moved) = (shown(what), shown(why), shown(moved));
        info!(target: TARGET, %what, from, to, %why, %moved, "{event}");
    }
}

/// What [`change`] says where somebody else is the cause: `by` a linked cluster, or a workload.
pub fn change_by(
    by: impl Display,
    message: &str,
    what: impl Display,
    why: impl Display,
    moved: impl Display,
) {
    let event = format!("Audit: {message}.");
    if admits(&event, AUDITED, by) {
        let (what, why, moved) = (shown(what), shown(why), shown(moved));
        info!(target: TARGET, %what, %why, %moved, "{event}");
    }
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
