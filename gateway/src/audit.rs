//! The audit lines: exactly one for every change of health and of what is in force, each saying what changed, why, and
//! what moved by it. When, is the line's own time. What others change so often that it is a flood is counted, as all that
//! others cause ([`crate::limited`]).
//!
//! All stand under one target, so that `RINGWAY_LOG=warn,audit=info` keeps them and little else.

use std::fmt::Display;

use proto::text::clean;
use tracing::info;

use crate::limited::{AUDIT_TARGET, AUDITED, admits};

/// The target of every audit line.
const TARGET: &str = AUDIT_TARGET;

/// Bytes of each field that are shown: ten services by name, and what moves of each.
const FIELD_BYTES_MAX: usize = 4096;

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

/// Something else that is in force has changed, which `message` says in a sentence without its full stop. By us, or by our
/// own operators.
pub fn change(message: impl Display, what: impl Display, why: impl Display, moved: impl Display) {
    let (what, why, moved) = (shown(what), shown(why), shown(moved));
    info!(target: TARGET, %what, %why, %moved, "Audit: {message}.");
}

/// The same where somebody else is the cause: `by` a linked cluster, or a workload.
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

fn shown(field: impl Display) -> String {
    clean(&field.to_string(), FIELD_BYTES_MAX)
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
