//! What a gateway must know of gRPC over HTTP/2: which requests are gRPC, their deadline, and how one fails.
//!
//! By the "gRPC over HTTP2" specification of the gRPC project (`doc/PROTOCOL-HTTP2.md`) and its status codes
//! (`doc/statuscodes.md`).

use std::fmt::Write as _;
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};

/// The field that says how a call ended: in the trailers, or in the head of an answer that is nothing else.
pub const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Its explanation for people, percent-encoded.
pub const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long the caller waits, from when it sent the request.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The content type of every call; a message encoding may follow behind `+` and parameters behind `;`.
const MEDIA_TYPE: &[u8] = b"application/grpc";

/// How a call can end at a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The caller went away, or stopped sending.
    Cancelled = 1,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// The caller may not.
    PermissionDenied = 7,
    /// A limit is reached; what was sent is not at fault.
    ResourceExhausted = 8,
    /// There is no such service.
    Unimplemented = 12,
    /// What was sent makes no sense.
    Internal = 13,
    /// Not now; trying again may help.
    Unavailable = 14,
}

/// Whether a request or an answer is gRPC. gRPC-Web is not: it is made for those that cannot read trailers.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(rest) = headers.get(CONTENT_TYPE).and_then(|v| v.as_bytes().strip_prefix(MEDIA_TYPE)) else {
        return false;
    };
    matches!(rest.first(), None | Some(b'+' | b';'))
}

/// The deadline that a call asks for: at most eight digits and a unit. A field that is neither is as none; the endpoint
/// may still refuse it.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count: u64, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Whether an answer is nothing but the status `UNAVAILABLE`: its head is its trailers, and no message came before.
pub fn is_unavailable(head: &HeaderMap) -> bool {
    head.get(STATUS).is_some_and(|status| status == "14")
}

/// The fields of an answer that is nothing but `status`, with `message` for people.
pub fn put_status(headers: &mut HeaderMap, status: Status, message: &str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    put_trailers(headers, status, message);
}

/// The trailers of a call that ends with `status`.
pub fn put_trailers(headers: &mut HeaderMap, status: Status, message: &str) {
    headers.insert(STATUS, HeaderValue::from(status as u16));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        headers.insert(MESSAGE, message);
    }
}

/// `Status-Message` of the specification: visible ASCII and spaces stay, all else and `%` become `%XX` by byte.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))].into_iter().collect()
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc;x=1"] {
            assert!(is_grpc(&with(CONTENT_TYPE, yes)), "{yes}");
        }
        for no in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            assert!(!is_grpc(&with(CONTENT_TYPE, no)), "{no}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn every_unit_of_a_timeout_is_read() {
        for (text, duration) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("500m", Duration::from_millis(500)),
            ("600u", Duration::from_micros(600)),
            ("700n", Duration::from_nanos(700)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(timeout(&with(TIMEOUT, text)), Some(duration), "{text}");
        }
    }

    #[test]
    fn a_timeout_that_is_none_is_as_none() {
        for text in ["", "5", "S", "-1S", "+1S", "1.5S", "123456789S", "5s", "5 S", "5SS"] {
            assert_eq!(timeout(&with(TIMEOUT, text)), None, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn a_status_is_written_as_a_caller_reads_it() {
        let mut headers = HeaderMap::new();
        put_status(&mut headers, Status::Unavailable, "100% größer\r\n");
        assert_eq!(headers[STATUS], "14");
        assert_eq!(headers[MESSAGE], "100%25 gr%C3%B6%C3%9Fer%0D%0A");
        assert!(is_grpc(&headers));
        assert!(is_unavailable(&headers));
        put_status(&mut headers, Status::DeadlineExceeded, "late");
        assert_eq!(headers[STATUS], "4");
        assert!(!is_unavailable(&headers));
    }
}
