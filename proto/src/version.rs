//! The rule of version skew.
//!
//! Each release speaks its own protocol version and the one before. HELLO carries the range of both sides; the highest
//! version in both is spoken. Within a version everything unknown is skipped: tags in heads, frame kinds, message
//! fields, control and sync kinds, datagrams, and purposes of streams (that one stream is refused). What must not be
//! skipped raises the version.

use thiserror::Error;

/// The protocol version of this release.
pub const VERSION: u32 = 1;

/// The oldest protocol version that this release speaks.
pub const VERSION_MIN: u32 = 1;

/// The protocol's name in the TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"ringway/1";

/// The same where the tunnel runs on a byte stream (TCP, Unix socket): [`crate::mux`] below the streams.
pub const ALPN_MUX: &[u8] = b"ringway-mux/1";

/// The protocol versions that one side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Versions {
    /// What this release speaks.
    pub const OURS: Self = Self { min: VERSION_MIN, max: VERSION };
}

/// No version is spoken by both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "no protocol version in common: we speak {} to {}, the peer {} to {}; upgrade the older side first, one minor \
     version at a time",
    ours.min, ours.max, theirs.min, theirs.max
)]
pub struct VersionMismatch {
    /// What we speak.
    pub ours: Versions,
    /// What the peer speaks.
    pub theirs: Versions,
}

/// The version to speak: the highest in both ranges, so that both sides come to the same.
///
/// # Errors
/// [`VersionMismatch`] when the ranges do not meet, or the peer's is empty.
pub fn negotiate(ours: Versions, theirs: Versions) -> Result<u32, VersionMismatch> {
    let best = ours.max.min(theirs.max);
    if best < ours.min || best < theirs.min { Err(VersionMismatch { ours, theirs }) } else { Ok(best) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_speak_the_older_ones_version_and_others_do_not_meet() {
        let release = |n: u32| Versions { min: n - 1, max: n };
        for n in 2..10 {
            assert_eq!(negotiate(release(n), release(n)), Ok(n));
            assert_eq!(negotiate(release(n), release(n + 1)), Ok(n));
            assert_eq!(negotiate(release(n + 1), release(n)), Ok(n));
            let mismatch = VersionMismatch { ours: release(n), theirs: release(n + 2) };
            assert_eq!(negotiate(release(n), release(n + 2)), Err(mismatch));
        }
    }

    #[test]
    fn an_empty_range_meets_nothing() {
        for theirs in [Versions { min: 0, max: 0 }, Versions { min: 2, max: 1 }] {
            assert!(negotiate(Versions::OURS, theirs).is_err());
        }
    }

    #[test]
    fn a_mismatch_says_who_speaks_what() {
        let theirs = Versions { min: 8, max: 9 };
        let text = VersionMismatch { ours: Versions { min: 1, max: 2 }, theirs }.to_string();
        assert!(text.contains("we speak 1 to 2, the peer 8 to 9"), "{text}");
    }
}
