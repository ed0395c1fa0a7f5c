//! What a failed request means: whether another member may be asked, and what the caller is told.

use std::error::Error as _;
use std::time::Duration;

use etcd_client::Error;
use proto::limits::QUOTED_BYTES_MAX;
use proto::text::clean;
use tonic::{Code, ConnectError, Status};

use super::super::{Cause, StoreError};
use super::options::FileError;

/// What becomes of a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The lease is not there.
    LeaseGone,
    /// The wanted revision is no longer kept.
    Compacted,
    /// The wanted revision is not there yet.
    Future,
    /// The answer is larger than we take.
    TooLarge,
    /// Our token is of an earlier state of the users: nothing was done, and a new one is wanted.
    OldToken,
    /// Too much waits there; nothing was done.
    Busy,
    /// It will be refused wherever it is sent; nothing was done.
    Refused(&'static str),
    /// The member could not be reached: nothing was sent.
    Unreached,
    /// The member cannot do it, or did not answer: what was sent may have been done.
    Unanswered,
}

/// A request that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("etcd at {endpoint}: {text}")]
pub(super) struct Failure {
    pub(super) kind: Kind,
    endpoint: String,
    text: String,
}

impl Failure {
    /// What the client library reported of the member at `endpoint`.
    pub(super) fn of(endpoint: &str, error: &Error) -> Self {
        let text = match error {
            Error::GRpcStatus(status) => text(status),
            other => other.to_string(),
        };
        Self { kind: kind(error), endpoint: endpoint.into(), text: clean(&text, QUOTED_BYTES_MAX) }
    }

    /// The member said nothing in time.
    pub(super) fn silent(endpoint: &str, wait: Duration) -> Self {
        let text = format!("no answer within {wait:?}");
        Self { kind: Kind::Unanswered, endpoint: endpoint.into(), text }
    }

    /// The member ended a watch.
    pub(super) fn ended(endpoint: &str, reason: &str) -> Self {
        let kind = if reason.contains("permission denied") { REFUSED_PERMISSION } else { Kind::Unanswered };
        let reason = if reason.is_empty() { "no reason given" } else { reason };
        let text = format!("the watch ended: {}", clean(reason, QUOTED_BYTES_MAX));
        Self { kind, endpoint: endpoint.into(), text }
    }

    /// A file that names us cannot be used now.
    pub(super) fn unnamed(endpoint: &str, error: &FileError) -> Self {
        let cause = error.source().map_or(String::new(), |source| format!(": {source}"));
        Self { kind: Kind::Unreached, endpoint: endpoint.into(), text: format!("{error}{cause}") }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            Kind::Busy => Self::Busy,
            Kind::Refused(remedy) => Self::Refused { remedy, cause: Cause::new(failure) },
            // The first five mean something to some requests only, which look at them.
            Kind::LeaseGone
            | Kind::Compacted
            | Kind::Future
            | Kind::TooLarge
            | Kind::OldToken
            | Kind::Unreached
            | Kind::Unanswered => Self::Unavailable(Cause::new(failure)),
        }
    }
}

const REFUSED_PERMISSION: Kind =
    Kind::Refused("grant the user of `registry.etcd` a role that reads and writes its prefix");

/// Texts of etcd's `rpctypes` with their meaning: the codes alone do not tell.
const TEXTS: [(&str, Kind); 13] = [
    ("requested lease not found", Kind::LeaseGone),
    ("revision has been compacted", Kind::Compacted),
    ("is a future revision", Kind::Future),
    ("decoded message length too large", Kind::TooLarge),
    ("revision of auth store is old", Kind::OldToken),
    ("too many requests", Kind::Busy),
    ("too many operations in txn", Kind::Refused("start etcd with `--max-txn-ops` 128 or more")),
    ("request is too large", Kind::Refused("start etcd with `--max-request-bytes` 1572864 or more")),
    ("message larger than max", Kind::Refused("start etcd with `--max-request-bytes` 1572864 or more")),
    (
        "database space exceeded",
        Kind::Refused(
            "compact and defragment etcd or raise `--quota-backend-bytes`, then `etcdctl alarm disarm`",
        ),
    ),
    ("user name is empty", Kind::Refused("this etcd has users: set `registry.etcd.user` and `passwordFile`")),
    ("invalid user ID or password", Kind::Refused("set `registry.etcd.user` and `passwordFile` right")),
    ("authentication is not enabled", Kind::Refused("this etcd has no users: remove `registry.etcd.user`")),
];

fn kind(error: &Error) -> Kind {
    let status = match error {
        Error::GRpcStatus(status) => status,
        // The library's word for a time to live of 0.
        Error::LeaseKeepAliveError(_) => return Kind::LeaseGone,
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::TransportError(_) => {
            return Kind::Refused("set `registry.etcd.endpoints` and `tls` right");
        }
        _ => return Kind::Unanswered,
    };
    if let Some((_, kind)) = TEXTS.iter().find(|(text, _)| status.message().contains(text)) {
        return *kind;
    }
    match status.code() {
        Code::PermissionDenied => REFUSED_PERMISSION,
        Code::Unauthenticated => Kind::OldToken,
        // "no leader" is said before anything is done.
        Code::Unavailable if status.message().contains("no leader") => Kind::Unreached,
        _ if sources(status).any(|source| source.is::<ConnectError>()) => Kind::Unreached,
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented | Code::DataLoss => {
            Kind::Refused("see what it says")
        }
        _ => Kind::Unanswered,
    }
}

/// What it says, and what it says so for.
fn text(status: &Status) -> String {
    let deepest = sources(status).last().map(ToString::to_string);
    match deepest.filter(|deepest| !status.message().contains(deepest.as_str())) {
        Some(deepest) => format!("{}: {deepest}", status.message()),
        None => status.message().to_owned(),
    }
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(code: Code, text: &str) -> Kind {
        kind(&Error::GRpcStatus(Status::new(code, text)))
    }

    #[test]
    fn etcds_words_are_understood() {
        let lease = kind_of(Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(lease, Kind::LeaseGone);
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(kind_of(Code::OutOfRange, compacted), Kind::Compacted);
        let future = "etcdserver: mvcc: required revision is a future revision";
        assert_eq!(kind_of(Code::OutOfRange, future), Kind::Future);
        assert_eq!(kind_of(Code::Unauthenticated, "etcdserver: invalid auth token"), Kind::OldToken);
        assert_eq!(kind_of(Code::ResourceExhausted, "etcdserver: too many requests"), Kind::Busy);
        assert_eq!(kind_of(Code::Unavailable, "etcdserver: no leader"), Kind::Unreached);
        assert_eq!(kind_of(Code::Unavailable, "etcdserver: leader changed"), Kind::Unanswered);
        assert_eq!(kind_of(Code::DeadlineExceeded, "context deadline exceeded"), Kind::Unanswered);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = [
            (Code::InvalidArgument, "etcdserver: too many operations in txn request", "--max-txn-ops"),
            (Code::InvalidArgument, "etcdserver: request is too large", "--max-request-bytes"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "alarm disarm"),
            (Code::PermissionDenied, "etcdserver: permission denied", "role"),
            (Code::InvalidArgument, "etcdserver: user name is empty", "passwordFile"),
        ];
        for (code, text, remedy) in refused {
            let failure = Failure::of("http://a:1", &Error::GRpcStatus(Status::new(code, text)));
            let error = StoreError::from(failure);
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains(remedy), "{error}");
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            assert_eq!(cause, format!("etcd at http://a:1: {text}"));
        }
    }

    #[test]
    fn what_an_etcd_says_is_one_short_line() {
        let text = format!("x\nAudit: y\u{1b}[2J{}", "z".repeat(1 << 20));
        let failed = Failure::of("http://a:1", &Error::GRpcStatus(Status::new(Code::Internal, &text)));
        for failure in [failed, Failure::ended("http://a:1", &text)] {
            let said = failure.to_string();
            assert!(!said.contains(proto::text::is_harmful), "{said}");
            assert!(said.contains("x\\nAudit: y\\u001b[2J") && said.len() < 2048, "{} bytes", said.len());
        }
    }

    #[test]
    fn silence_leaves_open_what_was_done() {
        let error = StoreError::from(Failure::silent("http://a:1", Duration::from_secs(3)));
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
}
