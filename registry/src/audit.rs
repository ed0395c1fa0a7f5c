//! Audit lines: each says what changed of what is in force, why, and what moved by it. When, is the line's own time.
//!
//! All stand under one target, so that `RINGWAY_LOG=warn,audit=info` keeps them and little else.

use std::fmt::Display;

use tracing::info;

/// The target of every audit line.
pub const TARGET: &str = "audit";

/// Something that is in force has changed, which `message` says in a sentence without its full stop.
pub fn change(message: impl Display, what: impl Display, why: impl Display, moved: impl Display) {
    info!(target: TARGET, %what, %why, %moved, "Audit: {message}.");
}
