//! Audit lines: each says what changed of what is in force, why, and what moved by it. When, is the line's own time.
//!
//! All stand under one target, so that `RINGWAY_LOG=warn,audit=info` keeps them and little else.

use std::fmt::Display;

use proto::text::clean;
use tracing::info;

/// The target of every audit line.
pub const TARGET: &str = "audit";

/// Bytes of each field that are shown: ten services by name, and what moves of each.
const FIELD_BYTES_MAX: usize = 4096;

/// Something that is in force has changed, which `message` says in a sentence without its full stop. By us, or by our own
/// operators.
pub fn change(message: impl Display, what: impl Display, why: impl Display, moved: impl Display) {
    let (what, why, moved) = (shown(what), shown(why), shown(moved));
    info!(target: TARGET, %what, %why, %moved, "Audit: {message}.");
}

/// A field as it is shown.
pub fn shown(field: impl Display) -> String {
    clean(&field.to_string(), FIELD_BYTES_MAX)
}
