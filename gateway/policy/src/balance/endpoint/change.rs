//! What is said when an endpoint goes out of use, or comes back.

use std::fmt;

/// That an endpoint was taken into use, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every change of health leaves an audit line"]
pub struct Change {
    /// Whether it takes requests now.
    pub ready: bool,
    /// Why.
    pub cause: Cause,
}

/// Why an endpoint was taken into use, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// So many checks in a row passed.
    ChecksPassed(u32),
    /// So many checks in a row failed.
    ChecksFailed(u32),
    /// A connect was refused.
    ConnectRefused,
    /// A connect was not answered in time.
    ConnectUnanswered,
    /// A connect was accepted again.
    Connected,
    /// So many requests in a row were cut or answered 502, 503 or 504.
    RequestsFailed(u32),
    /// So many requests in a row were not answered in time.
    RequestsTimedOut(u32),
    /// So many requests wait for an answer, and none has come for long.
    NothingAnswered(u32),
    /// A request was answered again.
    ProbeAnswered,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksPassed(n) => write!(f, "{n} checks in a row passed"),
            Self::ChecksFailed(n) => write!(f, "{n} checks in a row failed"),
            Self::ConnectRefused => f.write_str("a connect was refused"),
            Self::ConnectUnanswered => f.write_str("a connect was not answered in time"),
            Self::Connected => f.write_str("it can be connected to again"),
            Self::RequestsFailed(n) => write!(f, "{n} requests in a row failed"),
            Self::RequestsTimedOut(n) => write!(f, "{n} requests in a row were not answered in time"),
            Self::NothingAnswered(n) => write!(f, "{n} requests wait, and nothing is answered"),
            Self::ProbeAnswered => f.write_str("a probing request was answered"),
        }
    }
}
