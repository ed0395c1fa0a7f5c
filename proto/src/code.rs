//! Why a stream was reset or stopped, and why a connection was closed. Values are stable; the two ranges do not meet,
//! and both fit in 32 bits, as HTTP/2 needs them.

use std::fmt;

/// Why one stream was reset, or its sender told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Code {
    /// Nothing was processed: no endpoint took it, or the receiver is draining.
    Refused = 0x100,
    /// Nothing was processed: shed. Only another cluster may take it, charged to the retry budget.
    Overloaded = 0x101,
    /// Nothing was processed: contract generation or owner disagree.
    Misplaced = 0x102,
    /// The service is not granted to this peer or caller (403); tried nowhere else.
    Denied = 0x103,
    /// There is no such service here (404); tried nowhere else.
    Unknown = 0x104,
    /// The total deadline ran out.
    Deadline = 0x105,
    /// The other side lost interest: its caller went away.
    Cancelled = 0x106,
    /// Anything else went wrong, part of it perhaps after work was done.
    Internal = 0x107,
}

impl Code {
    /// Every code, by ascending value.
    pub const ALL: [Self; 8] = [
        Self::Refused,
        Self::Overloaded,
        Self::Misplaced,
        Self::Denied,
        Self::Unknown,
        Self::Deadline,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The value on the wire.
    pub const fn to_wire(self) -> u32 {
        self as u32
    }

    /// The code of `value`. One that is not known reads as [`Code::Internal`]: it certifies nothing.
    pub fn from_wire(value: u64) -> Self {
        Self::ALL.into_iter().find(|code| u64::from(code.to_wire()) == value).unwrap_or(Self::Internal)
    }

    /// Whether it certifies that nothing was processed, so that even a POST may be sent again.
    pub const fn certifies_unprocessed(self) -> bool {
        matches!(self, Self::Refused | Self::Overloaded | Self::Misplaced)
    }

    /// The word for logs, metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Overloaded => "overloaded",
            Self::Misplaced => "misplaced",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a whole connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CloseCode {
    /// The process ends, after its streams were finished.
    Shutdown = 0x200,
    /// The peer sent what the protocol does not allow.
    ProtocolError = 0x201,
    /// Both sides dialled; this is the tunnel too many.
    DuplicateTunnel = 0x202,
    /// Another cluster with the same name and another UID is linked.
    DuplicateCluster = 0x203,
    /// The link, or the bundle that vouched for the peer, was removed.
    LinkRemoved = 0x204,
    /// No protocol version is spoken by both.
    VersionMismatch = 0x205,
    /// The certificate, the link and HELLO do not name the same peer.
    WrongPeer = 0x206,
    /// HELLO did not come in time.
    HelloTimeout = 0x207,
    /// Probes stayed unanswered.
    Unresponsive = 0x208,
}

impl CloseCode {
    /// Every code, by ascending value.
    pub const ALL: [Self; 9] = [
        Self::Shutdown,
        Self::ProtocolError,
        Self::DuplicateTunnel,
        Self::DuplicateCluster,
        Self::LinkRemoved,
        Self::VersionMismatch,
        Self::WrongPeer,
        Self::HelloTimeout,
        Self::Unresponsive,
    ];

    /// The value on the wire.
    pub const fn to_wire(self) -> u32 {
        self as u32
    }

    /// The code of `value`. None: of a later version, or a close that Ringway did not choose.
    pub fn from_wire(value: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|code| u64::from(code.to_wire()) == value)
    }

    /// The word for logs, metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::ProtocolError => "protocol-error",
            Self::DuplicateTunnel => "duplicate-tunnel",
            Self::DuplicateCluster => "duplicate-cluster",
            Self::LinkRemoved => "link-removed",
            Self::VersionMismatch => "version-mismatch",
            Self::WrongPeer => "wrong-peer",
            Self::HelloTimeout => "hello-timeout",
            Self::Unresponsive => "unresponsive",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_stable_and_read_back() {
        for (value, code) in (0x100..).zip(Code::ALL) {
            assert_eq!((code.to_wire(), Code::from_wire(value.into())), (value, code));
        }
        for (value, code) in (0x200..).zip(CloseCode::ALL) {
            assert_eq!((code.to_wire(), CloseCode::from_wire(value.into())), (value, Some(code)));
        }
    }

    #[test]
    fn an_unknown_value_certifies_nothing() {
        for value in [0, 1, 0xff, 0x108, 0x200, 1 << 32 | 0x100, u64::MAX] {
            assert_eq!(Code::from_wire(value), Code::Internal);
        }
        assert!(!Code::Internal.certifies_unprocessed());
        assert_eq!(CloseCode::from_wire(0x100), None);
    }

    #[test]
    fn only_what_was_never_processed_is_certified() {
        let certified: Vec<_> = Code::ALL.into_iter().filter(|code| code.certifies_unprocessed()).collect();
        assert_eq!(certified, [Code::Refused, Code::Overloaded, Code::Misplaced]);
    }

    #[test]
    fn words_are_distinct() {
        let words: std::collections::BTreeSet<_> =
            Code::ALL.map(Code::as_str).into_iter().chain(CloseCode::ALL.map(CloseCode::as_str)).collect();
        assert_eq!(words.len(), Code::ALL.len() + CloseCode::ALL.len());
    }
}
