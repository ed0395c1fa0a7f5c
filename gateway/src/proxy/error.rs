//! What a caller is told when there is no answer to forward: one function turns a failure into a response.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use crate::http::body::Fault;
use crate::http::message::BadRequest;
use crate::proxy::answer::{Answer, AnswerBody};
use policy::grpc;
use policy::retry::Failure;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// An error type of RFC 9209, section 2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// No such name, or nothing of that name at the peer.
    DestinationNotFound,
    /// The name exists and nothing can serve it at the moment.
    DestinationUnavailable,
    /// A limit here or there is reached.
    ConnectionLimitReached,
    /// Every endpoint refused the connection.
    ConnectionRefused,
    /// The exchange broke off before an answer.
    ConnectionTerminated,
    /// No answer in time.
    HttpResponseTimeout,
    /// The service is not granted to this cluster.
    HttpRequestDenied,
    /// The request itself is wrong.
    HttpRequestError,
    /// The head does not fit.
    HttpRequestHeadTooLarge,
    /// The target is longer than may come here.
    HttpRequestTargetTooLong,
    /// The body is longer than may come here.
    HttpRequestBodyTooLarge,
    /// A method that is not served here.
    HttpMethodUnsupported,
    /// The caller stopped sending in the middle.
    ConnectionReadTimeout,
    /// A transfer coding or a version that is not understood here.
    HttpNotImplemented(StatusCode),
    /// The answer is not one that may go on.
    HttpProtocolError,
    /// The answer's head does not fit.
    HttpResponseHeadTooLarge,
    /// The answer does not fit.
    HttpResponseBodyTooLarge,
    /// This process has run out of something.
    ProxyInternalError,
    /// It has come through here too often.
    ProxyLoopDetected,
}

impl ProxyError {
    /// Its name and the status that goes with it.
    pub fn wire(self) -> (&'static str, StatusCode) {
        match self {
            Self::DestinationNotFound => ("destination_not_found", StatusCode::NOT_FOUND),
            Self::DestinationUnavailable => ("destination_unavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::ConnectionLimitReached => ("connection_limit_reached", StatusCode::SERVICE_UNAVAILABLE),
            Self::ConnectionRefused => ("connection_refused", StatusCode::BAD_GATEWAY),
            Self::ConnectionTerminated => ("connection_terminated", StatusCode::BAD_GATEWAY),
            Self::HttpResponseTimeout => ("http_response_timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::HttpRequestDenied => ("http_request_denied", StatusCode::FORBIDDEN),
            Self::HttpRequestError => ("http_request_error", StatusCode::BAD_REQUEST),
            // RFC 9209 has no type of its own for the head as a whole.
            Self::HttpRequestHeadTooLarge => {
                ("http_request_error", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            // Nor for bodies.
            Self::HttpRequestTargetTooLong => ("http_request_error", StatusCode::URI_TOO_LONG),
            Self::HttpRequestBodyTooLarge => ("http_request_error", StatusCode::PAYLOAD_TOO_LARGE),
            // RFC 9209 has no type of its own for it.
            Self::HttpMethodUnsupported => ("http_request_error", StatusCode::NOT_IMPLEMENTED),
            Self::ConnectionReadTimeout => ("connection_read_timeout", StatusCode::REQUEST_TIMEOUT),
            Self::HttpNotImplemented(status) => ("http_request_error", status),
            Self::HttpProtocolError => ("http_protocol_error", StatusCode::BAD_GATEWAY),
            Self::HttpResponseHeadTooLarge => ("http_response_header_section_size", StatusCode::BAD_GATEWAY),
            Self::HttpResponseBodyTooLarge => ("http_response_body_size", StatusCode::BAD_GATEWAY),
            Self::ProxyInternalError => ("proxy_internal_error", StatusCode::SERVICE_UNAVAILABLE),
            Self::ProxyLoopDetected => ("proxy_loop_detected", StatusCode::BAD_GATEWAY),
        }
    }
}

impl ProxyError {
    /// What a caller of gRPC is told; as the project's table has it for the HTTP status, but for our own limits.
    fn grpc(self) -> grpc::Status {
        match self {
            Self::DestinationNotFound => grpc::Status::Unimplemented,
            Self::DestinationUnavailable
            | Self::ConnectionRefused
            | Self::ConnectionTerminated
            | Self::ProxyInternalError => grpc::Status::Unavailable,
            Self::ConnectionLimitReached
            | Self::HttpRequestHeadTooLarge
            | Self::HttpRequestTargetTooLong
            | Self::HttpRequestBodyTooLarge
            | Self::HttpResponseHeadTooLarge
            | Self::HttpResponseBodyTooLarge => grpc::Status::ResourceExhausted,
            Self::HttpResponseTimeout => grpc::Status::DeadlineExceeded,
            Self::HttpRequestDenied => grpc::Status::PermissionDenied,
            Self::HttpRequestError | Self::HttpProtocolError | Self::ProxyLoopDetected => {
                grpc::Status::Internal
            }
            Self::HttpMethodUnsupported | Self::HttpNotImplemented(_) => grpc::Status::Unimplemented,
            Self::ConnectionReadTimeout => grpc::Status::Cancelled,
        }
    }
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind.
    pub error: ProxyError,
    /// For people: what is missing, and where to look.
    pub details: String,
}

impl From<BadRequest> for Rejection {
    fn from(bad: BadRequest) -> Self {
        let error = match bad {
            BadRequest::Connect => ProxyError::HttpMethodUnsupported,
            BadRequest::TooManyFields => ProxyError::HttpRequestHeadTooLarge,
            _ => ProxyError::HttpRequestError,
        };
        Self::new(error, bad.to_string())
    }
}

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLong => Self::new(
                ProxyError::HttpRequestBodyTooLarge,
                "the request's body is longer than may come here (spec.http.bodyBytes)",
            ),
            Fault::Malformed => {
                Self::new(ProxyError::HttpRequestError, "the chunks of the request's body are malformed")
            }
        }
    }
}

impl Rejection {
    /// A rejection.
    pub fn new(error: ProxyError, details: impl Into<String>) -> Self {
        Self { error, details: details.into() }
    }

    /// This process serves as much as it may, which is `most`.
    pub fn full(most: u64) -> Self {
        let details = format!("{most} requests, calls and connections are served here at once, and no more");
        Self::new(ProxyError::ConnectionLimitReached, details)
    }

    /// What the last failure of a request to `service` means to its caller.
    pub fn from_failure(failure: Failure, service: &dyn std::fmt::Display) -> Self {
        use ProxyError as E;
        let (error, details) = match failure {
            Failure::NotSent => (E::DestinationUnavailable, "no tunnel to a cluster that serves it"),
            Failure::Connect => (E::ConnectionRefused, "every endpoint refused the connection"),
            Failure::Unavailable | Failure::Refused => {
                (E::DestinationUnavailable, "nothing that serves it is ready")
            }
            Failure::Overloaded => (E::ConnectionLimitReached, "the cluster that serves it is at its limits"),
            Failure::Misplaced => (E::DestinationUnavailable, "the clusters disagree about its placement"),
            Failure::Denied => {
                (E::HttpRequestDenied, "not granted to this cluster by the one that serves it")
            }
            Failure::Unknown => {
                (E::DestinationNotFound, "the cluster that serves it does not know it (any more)")
            }
            Failure::TooLarge => {
                (E::HttpRequestHeadTooLarge, "the request's head is over 64 KiB with what is added to it")
            }
            Failure::PeerLost => (E::ConnectionTerminated, "the tunnel broke after the request was sent"),
            Failure::Reset | Failure::Status(_) | Failure::GrpcUnavailable => {
                (E::ConnectionTerminated, "the endpoint broke off before its answer")
            }
            Failure::Malformed => (E::HttpProtocolError, "the endpoint's answer is malformed"),
            Failure::AnswerTooLarge => {
                (E::HttpResponseHeadTooLarge, "the answer's head is over 64 KiB or 256 fields")
            }
            Failure::NoRoom => (
                E::ProxyInternalError,
                "this process is out of file descriptors, ports or memory for another connection; raise `ulimit -n`",
            ),
            Failure::Deadline => (E::HttpResponseTimeout, "no answer in time"),
            Failure::Cancelled => (E::ConnectionTerminated, "cancelled"),
        };
        Self::new(error, format!("{service}: {details}"))
    }

    /// The answer that says so; `gateway` is the name of this intermediary, `<cluster>.gateway`.
    fn into_answer(self, gateway: &str) -> Answer {
        let (name, status) = self.error.wire();
        let mut headers = HeaderMap::new();
        self.put_proxy_status(gateway, &mut headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let body = AnswerBody::whole(format!("{gateway}: {name}: {}\n", self.details).into());
        Answer { status, reason: None, headers, body, endpoint: None, upgraded: None }
    }

    /// The answer in the words of whoever asks: of HTTP, or of gRPC.
    pub fn answer(self, grpc: bool, gateway: &str) -> Answer {
        if grpc { self.into_grpc_answer(gateway) } else { self.into_answer(gateway) }
    }

    /// The same to a caller of gRPC: nothing but a status of gRPC, which is 200 to HTTP.
    fn into_grpc_answer(self, gateway: &str) -> Answer {
        let (name, _) = self.error.wire();
        let mut headers = HeaderMap::new();
        self.put_proxy_status(gateway, &mut headers);
        let message = format!("{gateway}: {name}: {}", self.details);
        grpc::put_status(&mut headers, self.error.grpc(), &message);
        Answer {
            status: StatusCode::OK,
            reason: None,
            headers,
            body: AnswerBody::whole(Bytes::new()),
            endpoint: None,
            upgraded: None,
        }
    }

    /// Whether an answer is such a rejection of another gateway that would be the same everywhere: its endpoint's head is too
    /// large to go on.
    pub fn is_everywhere(headers: &HeaderMap) -> bool {
        let (name, _) = ProxyError::HttpResponseHeadTooLarge.wire();
        let says = |value: &HeaderValue| {
            value.to_str().is_ok_and(|value| {
                value.split(';').any(|part| part.trim().strip_prefix("error=") == Some(name))
            })
        };
        headers.get_all(PROXY_STATUS).iter().any(says)
    }

    fn put_proxy_status(&self, gateway: &str, headers: &mut HeaderMap) {
        let (name, _) = self.error.wire();
        // A structured-field string (RFC 8941, section 3.3.3): visible ASCII and space, quotes and backslashes escaped.
        let details: String =
            self.details.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
        let quoted = details.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::try_from(format!("{gateway}; error={name}; details=\"{quoted}\"")) {
            headers.insert(PROXY_STATUS, value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body::Body;

    use super::*;

    #[test]
    fn a_rejection_names_the_gateway_the_error_and_the_reason() {
        let rejection = Rejection::from_failure(Failure::Denied, &"shop/cart");
        let answer = rejection.into_answer("west.gateway");
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert_eq!(
            answer.headers[PROXY_STATUS].to_str().unwrap(),
            "west.gateway; error=http_request_denied; \
             details=\"shop/cart: not granted to this cluster by the one that serves it\""
        );
    }

    #[test]
    fn a_caller_of_grpc_is_told_in_its_own_words() {
        let rejection = Rejection::from_failure(Failure::Deadline, &"shop/cart");
        let answer = rejection.into_grpc_answer("west.gateway");
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers[grpc::STATUS], "4");
        assert_eq!(
            answer.headers[grpc::MESSAGE],
            "west.gateway: http_response_timeout: shop/cart: no answer in time"
        );
        let proxy_status = answer.headers[PROXY_STATUS].to_str().unwrap();
        assert!(proxy_status.starts_with("west.gateway; error=http_response_timeout; "), "{proxy_status}");
        let status = |failure| {
            Rejection::from_failure(failure, &"s").into_grpc_answer("g").headers[grpc::STATUS].clone()
        };
        for (failure, expected) in [
            (Failure::Unavailable, "14"),
            (Failure::Connect, "14"),
            (Failure::PeerLost, "14"),
            (Failure::Overloaded, "8"),
            (Failure::Denied, "7"),
            (Failure::Unknown, "12"),
        ] {
            assert_eq!(status(failure), expected, "{failure:?}");
        }
        // Nothing but a head: that makes it trailers.
        assert!(answer.body.is_end_stream());
    }

    #[test]
    fn details_cannot_break_out_of_the_field() {
        let answer =
            Rejection::new(ProxyError::DestinationNotFound, "a\"b\\c\r\nx: é").into_answer("w.gateway");
        let value = answer.headers[PROXY_STATUS].to_str().unwrap();
        assert_eq!(value, "w.gateway; error=destination_not_found; details=\"a\\\"b\\\\c??x: ?\"");
    }
}
