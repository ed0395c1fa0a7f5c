//! Where a message ends (RFC 9112, section 6.3). Judged from the head as it came, before any field is removed: whoever
//! judges differently from the sender sees other messages than were sent.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// The chunked coding.
    Chunked,
    /// All that comes until the connection ends; of answers only.
    UntilClose,
}

/// Why a message has no end that both sides would agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFraming {
    /// A transfer coding other than `chunked`: it would have to be undone, for the field is this hop's (RFC 9112,
    /// section 6.1).
    #[error("a transfer coding other than chunked")]
    Coding,
    /// `Transfer-Encoding` where there can be none, or `chunked` that is not the last or not the only one.
    #[error("malformed Transfer-Encoding")]
    TransferEncoding,
    /// Lengths that contradict each other, or are no numbers (RFC 9110, section 8.6).
    #[error("malformed Content-Length")]
    Length,
}

/// What `Content-Length` says: one number, or the same one several times (RFC 9110, section 8.6).
///
/// # Errors
/// [`BadFraming::Length`].
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadFraming> {
    let mut known = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| BadFraming::Length)?;
        for one in text.split(',') {
            let digits = one.trim_matches([' ', '\t']);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(BadFraming::Length);
            }
            let length: u64 = digits.parse().map_err(|_| BadFraming::Length)?;
            if known.is_some_and(|known| known != length) {
                return Err(BadFraming::Length);
            }
            known = Some(length);
        }
    }
    Ok(known)
}

/// Whether the message is chunked, and nothing else: the only transfer coding that is understood here.
fn is_chunked(version: Version, headers: &HeaderMap) -> Result<bool, BadFraming> {
    let mut codings = 0;
    let mut chunked = 0;
    let mut present = false;
    for value in headers.get_all(TRANSFER_ENCODING) {
        present = true;
        let text = value.to_str().map_err(|_| BadFraming::TransferEncoding)?;
        // Empty elements of a list mean nothing (RFC 9110, section 5.6.1.2).
        for coding in text.split(',').map(|c| c.trim_matches([' ', '\t'])).filter(|c| !c.is_empty()) {
            codings += 1;
            chunked += usize::from(coding.eq_ignore_ascii_case("chunked"));
        }
    }
    match (present, codings, chunked) {
        (false, ..) => Ok(false),
        // A message of HTTP/1.0 that speaks of it is framed otherwise than it says (RFC 9112, section 6.1).
        _ if version == Version::HTTP_10 => Err(BadFraming::TransferEncoding),
        (_, 1, 1) => Ok(true),
        (_, 0, _) => Err(BadFraming::TransferEncoding),
        // Applied twice, it is malformed; what else stands beside it is unknown here.
        (_, n, m) if n == m => Err(BadFraming::TransferEncoding),
        _ => Err(BadFraming::Coding),
    }
}

/// The framing of a request.
///
/// # Errors
/// [`BadFraming`]: to be answered 501 for a coding, else 400, and the connection closed.
pub fn of_request(version: Version, headers: &HeaderMap) -> Result<Framing, BadFraming> {
    let chunked = is_chunked(version, headers)?;
    let length = content_length(headers)?;
    Ok(match length {
        // It overrides a length that stands beside it.
        _ if chunked => Framing::Chunked,
        None | Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    })
}

/// Whether an answer with this status to this method has no body, whatever its fields say.
pub fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || (*method == Method::CONNECT && status.is_success())
}

/// The framing of an answer to `method`.
///
/// # Errors
/// [`BadFraming`]: the answer must not be forwarded, and the connection not be used any further.
pub fn of_response(
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    method: &Method,
) -> Result<Framing, BadFraming> {
    let chunked = is_chunked(version, headers)?;
    let length = content_length(headers)?;
    Ok(match length {
        _ if is_bodiless(method, status) => Framing::Empty,
        _ if chunked => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    })
}

/// Whether the sender of a message keeps its connection (RFC 9112, section 9.3).
pub fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| lists(headers, &CONNECTION, word);
    // A length beside a transfer coding: whoever sent it may see another end (RFC 9112, section 6.1).
    let doubtful = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
    !says("close") && !doubtful && (version == Version::HTTP_11 || says("keep-alive"))
}

/// Whether the list in a field has this element, in any case.
pub fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn request(fields: &[(&'static str, &'static str)]) -> Result<Framing, BadFraming> {
        of_request(Version::HTTP_11, &map(fields))
    }

    #[test]
    fn one_length_however_often_is_a_length() {
        for one in ["5", "5, 5", "5,5,5 ", "05"] {
            assert_eq!(request(&[("content-length", one)]), Ok(Framing::Length(5)), "{one}");
        }
        assert_eq!(request(&[("content-length", "5"), ("content-length", "5")]), Ok(Framing::Length(5)));
        assert_eq!(request(&[("content-length", "0")]), Ok(Framing::Empty));
        assert_eq!(request(&[]), Ok(Framing::Empty));
        for bad in ["-1", "+5", "5, 6", "", "5,", "0x5", "5 5", "99999999999999999999999"] {
            assert_eq!(request(&[("content-length", bad)]), Err(BadFraming::Length), "{bad}");
        }
        assert_eq!(request(&[("content-length", "5"), ("content-length", "6")]), Err(BadFraming::Length));
    }

    #[test]
    fn chunked_is_the_only_coding_that_is_understood() {
        for fine in ["chunked", "Chunked", "CHUNKED", ", chunked", "chunked, ", "\tchunked"] {
            assert_eq!(request(&[("transfer-encoding", fine)]), Ok(Framing::Chunked), "{fine}");
        }
        for coding in [
            "gzip, chunked",
            "JUNK, chunked",
            "identity, chunked",
            "gzip",
            "xchunked",
            "chunked;a=b",
            "\"chunked\"",
        ] {
            assert_eq!(request(&[("transfer-encoding", coding)]), Err(BadFraming::Coding), "{coding}");
        }
        for bad in ["chunked, chunked", "", ","] {
            assert_eq!(request(&[("transfer-encoding", bad)]), Err(BadFraming::TransferEncoding), "{bad}");
        }
        let two = [("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")];
        assert_eq!(request(&two), Err(BadFraming::Coding));
        let old = of_request(Version::HTTP_10, &map(&[("transfer-encoding", "chunked")]));
        assert_eq!(old, Err(BadFraming::TransferEncoding));
    }

    #[test]
    fn a_coding_overrides_a_length_and_the_connection_ends() {
        let both = map(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        assert_eq!(of_request(Version::HTTP_11, &both), Ok(Framing::Chunked));
        assert!(!keeps_alive(Version::HTTP_11, &both));
    }

    #[test]
    fn an_answer_may_last_until_the_end_of_its_connection_or_have_no_body_at_all() {
        let of = |method, status: u16, fields: &[_]| {
            let status = StatusCode::from_u16(status).expect("a status");
            of_response(Version::HTTP_11, status, &map(fields), &method)
        };
        let length = [("content-length", "5")];
        assert_eq!(of(Method::GET, 200, &[]), Ok(Framing::UntilClose));
        assert_eq!(of(Method::GET, 200, &length), Ok(Framing::Length(5)));
        assert_eq!(of(Method::HEAD, 200, &length), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 204, &length), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 304, &length), Ok(Framing::Empty));
        assert_eq!(of(Method::CONNECT, 200, &length), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 200, &[("transfer-encoding", "gzip")]), Err(BadFraming::Coding));
    }

    #[test]
    fn a_connection_lives_on_as_its_version_and_its_fields_say() {
        let lives = |version, fields: &[_]| keeps_alive(version, &map(fields));
        assert!(lives(Version::HTTP_11, &[]));
        assert!(!lives(Version::HTTP_11, &[("connection", "x, Close")]));
        assert!(!lives(Version::HTTP_10, &[]));
        assert!(lives(Version::HTTP_10, &[("connection", "keep-alive")]));
    }
}
