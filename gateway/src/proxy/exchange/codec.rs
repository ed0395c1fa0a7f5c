//! The heads of an exchange on a tunnel, written and read: those of requests by [`RequestFacts`], those of answers here
//! both ways; and what a failure is as a code, and a code as a failure.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proto::code::Code;
use proto::frame::{FrameKind, put_frame};
use proto::head::{HeadError, ResponseHead};
use tunnel::{Tunnel, TunnelError};

use crate::http::fields;
use policy::retry::Failure;

/// Appends the head of an answer as a frame of `kind`: final, or interim.
///
/// # Errors
/// It does not fit a head.
pub(super) fn put_answer(
    out: &mut Vec<u8>,
    kind: FrameKind,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), HeadError> {
    let head = ResponseHead { status: status.as_u16(), endpoint: None };
    put_frame(out, kind, |out| head.encode(fields::of(headers), out))
}

/// The head of an answer; `None`: it is none.
pub fn answer(head: &Bytes) -> Option<(StatusCode, HeaderMap)> {
    let (response, head_fields) = ResponseHead::decode(head).ok()?;
    Some((StatusCode::from_u16(response.status).ok()?, fields::to_headers(head, head_fields)?))
}

/// The code by which the serving side tells a failure. What codes do not tell apart is an answer, or
/// [`Code::Internal`].
pub fn code(failure: Failure) -> Code {
    match failure {
        Failure::Connect | Failure::Unavailable | Failure::Refused => Code::Refused,
        Failure::Overloaded | Failure::NoRoom => Code::Overloaded,
        Failure::Misplaced => Code::Misplaced,
        Failure::Denied => Code::Denied,
        Failure::Unknown => Code::Unknown,
        Failure::Deadline => Code::Deadline,
        Failure::Cancelled => Code::Cancelled,
        Failure::NotSent
        | Failure::PeerLost
        | Failure::Reset
        | Failure::Malformed
        | Failure::AnswerTooLarge
        | Failure::Status(_)
        | Failure::GrpcUnavailable
        | Failure::TooLarge => Code::Internal,
    }
}

/// What a code of the serving side means to the one that asked.
fn failure_of(code: Code) -> Failure {
    match code {
        Code::Refused => Failure::Refused,
        Code::Overloaded => Failure::Overloaded,
        Code::Misplaced => Failure::Misplaced,
        Code::Denied => Failure::Denied,
        Code::Unknown => Failure::Unknown,
        Code::Deadline => Failure::Deadline,
        Code::Cancelled | Code::Internal => Failure::Reset,
    }
}

/// What it means to the one that asked that an exchange on `tunnel` failed; said in the log.
pub fn failed(tunnel: &Tunnel, error: &TunnelError) -> Failure {
    let hello = &tunnel.peer().hello;
    tracing::debug!(peer = %hello.cluster, gateway = %hello.gateway, %error, "Exchange failed.");
    failure(error)
}

/// What a tunnel's error means to the one that asked.
pub fn failure(error: &TunnelError) -> Failure {
    match error {
        TunnelError::Down(_)
        | TunnelError::Busy
        | TunnelError::Abandoned
        | TunnelError::Connect(_)
        | TunnelError::Hello(_) => Failure::NotSent,
        TunnelError::Lost(_) => Failure::PeerLost,
        TunnelError::Truncated | TunnelError::Protocol(_) => Failure::Reset,
        TunnelError::Reset(code) => failure_of(*code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_code_certifies_is_what_the_failure_behind_it_certifies() {
        let all = [
            Failure::NotSent,
            Failure::Connect,
            Failure::Unavailable,
            Failure::Refused,
            Failure::Overloaded,
            Failure::Misplaced,
            Failure::Denied,
            Failure::Unknown,
            Failure::PeerLost,
            Failure::Reset,
            Failure::Malformed,
            Failure::AnswerTooLarge,
            Failure::NoRoom,
            Failure::Status(503),
            Failure::GrpcUnavailable,
            Failure::TooLarge,
            Failure::Deadline,
            Failure::Cancelled,
        ];
        for sent in all {
            let told = failure_of(code(sent));
            // A failure may lose its certificate on the way, and never win one.
            assert!(
                sent.certifies_unprocessed() || !told.certifies_unprocessed(),
                "{sent:?} is told as {told:?}"
            );
        }
        for failure in [
            Failure::Refused,
            Failure::Overloaded,
            Failure::Misplaced,
            Failure::Denied,
            Failure::Unknown,
            Failure::Deadline,
        ] {
            assert_eq!(failure_of(code(failure)), failure);
        }
    }
}
