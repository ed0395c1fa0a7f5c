//! How bodies fail.

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The HTTP/1.1 message that it is of is cut or malformed.
    #[error("the HTTP message was cut")]
    Http1(#[source] http1::BodyError),
    /// The HTTP/2 stream that it came on failed.
    #[error("the HTTP message was cut")]
    Http2(#[source] h2::Error),
    /// It ended without saying that it was at its end.
    #[error("the HTTP message ended early")]
    Truncated,
    /// The tunnel that it came through failed.
    #[error("the exchange was cut")]
    Tunnel(#[source] ::tunnel::TunnelError),
    /// Its beginning is gone: it was too long to be kept for another attempt.
    #[error("the body was too long to be sent again")]
    Gone,
    /// More of it came than may come.
    #[error("the body is longer than may come here")]
    TooLong,
    /// The request that it is the answer to broke off.
    #[error("the request's body broke off")]
    Request,
    /// More or less of it came than was declared.
    #[error("the body is not as long as declared")]
    Length,
    /// Trailers that are no HTTP.
    #[error("malformed trailers")]
    Trailers,
    /// Nothing moved for too long.
    #[error("idle for too long")]
    Idle,
    /// The whole exchange took too long.
    #[error("past its deadline")]
    Deadline,
}

/// What is wrong with a body, and its sender's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is longer than may come where it came in.
    TooLong,
    /// Its coding is none (RFC 9112, section 7.1).
    Malformed,
}
