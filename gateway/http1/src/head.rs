//! Heads of messages: the start line and the fields, from bytes and to bytes. Whatever can be malformed is found here.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

/// Most fields that a head may have, whatever [`Limits`] say: room for them stands on the stack while a head is read.
pub const FIELDS_MAX: usize = 512;

/// What a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes, the start line included.
    pub bytes: usize,
    /// Fields; no more than [`FIELDS_MAX`].
    pub fields: usize,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is not HTTP/1.1.
    #[error("the head is malformed: {0}")]
    Malformed(&'static str),
    /// Another major version (RFC 9110, section 15.6.6).
    #[error("the version is not HTTP/1.0 or HTTP/1.1")]
    Version,
    /// More bytes than a head may have.
    #[error("the head is over {0} bytes")]
    TooLarge(usize),
    /// More fields than a head may have.
    #[error("the head has more than {0} fields")]
    TooManyFields(usize),
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The target as it was written: visible ASCII and obs-text, never empty.
    pub target: Bytes,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// The fields, in order.
    pub headers: HeaderMap,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// What stands behind the status, if it is not what usually does.
    pub reason: Option<Bytes>,
    /// The fields, in order.
    pub headers: HeaderMap,
}

/// Finds heads in what comes. Bytes that were looked through are not looked through again, however small the pieces.
#[derive(Debug, Default)]
pub struct Finder {
    searched: usize,
}

impl Finder {
    /// Takes the next head, up to and with its empty line, off `buf`; `None`: there is more to come.
    ///
    /// # Errors
    /// [`HeadError::TooLarge`] once there is more than a head may have.
    pub fn take(&mut self, buf: &mut BytesMut, limits: &Limits) -> Result<Option<Bytes>, HeadError> {
        if self.searched == 0 {
            // RFC 9112, section 2.2: empty lines before a start line are ignored.
            let blank = buf.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            buf.advance(blank);
        }
        // An end that was cut may begin up to three bytes before what was searched.
        let from = self.searched.saturating_sub(3);
        let Some(end) = end_of_head(&buf[from..]).map(|end| from + end) else {
            self.searched = buf.len();
            return if buf.len() > limits.bytes { Err(HeadError::TooLarge(limits.bytes)) } else { Ok(None) };
        };
        if end > limits.bytes {
            return Err(HeadError::TooLarge(limits.bytes));
        }
        self.searched = 0;
        Ok(Some(buf.split_to(end).freeze()))
    }

    /// Whether some bytes of a head are here.
    pub fn has_begun(&self) -> bool {
        self.searched > 0
    }
}

/// Where the bytes behind the first empty line begin. A line may end with a lone LF (RFC 9112, section 2.2).
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'\n', &bytes[from..]) {
        let next = from + at + 1;
        match bytes[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

impl Request {
    /// Reads a whole head, as [`Finder::take`] gives it.
    ///
    /// # Errors
    /// [`HeadError`]; the connection cannot be used any further.
    pub fn parse(head: &Bytes, limits: &Limits) -> Result<Self, HeadError> {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        let fields = &mut room[..limits.fields.min(FIELDS_MAX)];
        let done = parsed.parse_with_uninit_headers(head, fields).map_err(|e| refused(e, limits))?;
        let (Some(method), Some(target), Some(version), true) =
            (parsed.method, parsed.path, parsed.version, done.is_complete())
        else {
            return Err(HeadError::Malformed("it ends within a line"));
        };
        Ok(Self {
            method: Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed("method"))?,
            target: head.slice_ref(target.as_bytes()),
            version: version_of(version),
            headers: headers(head, parsed.headers)?,
        })
    }
}

impl Response {
    /// Reads a whole head, as [`Finder::take`] gives it.
    ///
    /// # Errors
    /// [`HeadError`]; the connection cannot be used any further.
    pub fn parse(head: &Bytes, limits: &Limits) -> Result<Self, HeadError> {
        let mut room = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let fields = &mut room[..limits.fields.min(FIELDS_MAX)];
        let done = httparse::ParserConfig::default()
            .parse_response_with_uninit_headers(&mut parsed, head, fields)
            .map_err(|e| refused(e, limits))?;
        let (Some(code), Some(version), true) = (parsed.code, parsed.version, done.is_complete()) else {
            return Err(HeadError::Malformed("it ends within a line"));
        };
        let status = StatusCode::from_u16(code).map_err(|_| HeadError::Malformed("status"))?;
        let reason = parsed.reason.unwrap_or_default();
        let usual = status.canonical_reason() == Some(reason);
        Ok(Self {
            status,
            version: version_of(version),
            reason: (!usual).then(|| head.slice_ref(reason.as_bytes())),
            headers: headers(head, parsed.headers)?,
        })
    }
}

/// The fields of a trailer section, which ends with an empty line as a head does.
///
/// # Errors
/// [`HeadError`].
pub(crate) fn trailers(section: &Bytes, limits: &Limits) -> Result<HeaderMap, HeadError> {
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    match httparse::parse_headers(section, &mut room[..limits.fields.min(FIELDS_MAX)]) {
        Ok(httparse::Status::Complete((_, fields))) => headers(section, fields),
        Ok(httparse::Status::Partial) => Err(HeadError::Malformed("it ends within a line")),
        Err(error) => Err(refused(error, limits)),
    }
}

fn refused(error: httparse::Error, limits: &Limits) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields(limits.fields),
        httparse::Error::Version => HeadError::Version,
        httparse::Error::HeaderName => HeadError::Malformed("field name"),
        httparse::Error::HeaderValue => HeadError::Malformed("field value"),
        httparse::Error::NewLine => HeadError::Malformed("line end"),
        httparse::Error::Status => HeadError::Malformed("status"),
        httparse::Error::Token => HeadError::Malformed("start line"),
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// The fields; values share the head's memory.
fn headers(head: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::with_capacity(fields.len() + 4);
    for field in fields {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Malformed("field name"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| HeadError::Malformed("field value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Appends the start line of a request.
pub fn put_request_line(out: &mut Vec<u8>, method: &Method, target: &str) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Appends the start line of an answer. Without `reason` the usual one is written, and nothing for a status that has
/// none.
pub fn put_status_line(out: &mut Vec<u8>, status: StatusCode, reason: Option<&[u8]>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().as_bytes()));
    out.extend_from_slice(b"\r\n");
}

/// Appends a field.
pub fn put_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends fields.
pub fn put_fields(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        put_field(out, name, value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1024, fields: 8 };

    fn request(text: &str) -> Result<Request, HeadError> {
        let head = Finder::default().take(&mut text.into(), &LIMITS)?.expect("whole");
        Request::parse(&head, &LIMITS)
    }

    #[test]
    fn a_head_is_found_however_it_is_cut() {
        let text = "\r\nGET /a HTTP/1.1\r\nhost: x\r\nweird:\n\nrest";
        let end = text.len() - "rest".len();
        for cut in 1..end {
            let (mut finder, mut buf) = (Finder::default(), BytesMut::from(&text[..cut]));
            assert_eq!(finder.take(&mut buf, &LIMITS), Ok(None), "{cut}");
            buf.extend_from_slice(&text.as_bytes()[cut..]);
            let head = finder.take(&mut buf, &LIMITS).unwrap().unwrap();
            assert_eq!((&head[..], &buf[..]), (&text.as_bytes()[2..end], &b"rest"[..]), "{cut}");
        }
    }

    #[test]
    fn a_head_that_never_ends_is_refused_at_the_limit() {
        let mut buf = BytesMut::from(&[b'a'; 1025][..]);
        assert_eq!(Finder::default().take(&mut buf, &LIMITS), Err(HeadError::TooLarge(1024)));
        let mut whole = BytesMut::from(format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1010)).as_str());
        assert_eq!(Finder::default().take(&mut whole, &LIMITS), Err(HeadError::TooLarge(1024)));
    }

    #[test]
    fn what_was_written_is_read() {
        let read = request("POST /a?b HTTP/1.0\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n").unwrap();
        assert_eq!(
            (read.method, &read.target[..], read.version),
            (Method::POST, &b"/a?b"[..], Version::HTTP_10)
        );
        let two: Vec<_> = read.headers.get_all("x-two").iter().collect();
        assert_eq!(two, ["1", "2"]);
    }

    #[test]
    fn what_is_no_http_is_refused() {
        for (text, error) in [
            ("GET / HTTP/2.0\r\n\r\n", HeadError::Version),
            ("GET  / HTTP/1.1\r\n\r\n", HeadError::Malformed("start line")),
            ("G@T{ / HTTP/1.1\r\n\r\n", HeadError::Malformed("start line")),
            ("GET / HTTP/1.1\r\nhost : x\r\n\r\n", HeadError::Malformed("field name")),
            ("GET / HTTP/1.1\r\n host: x\r\n\r\n", HeadError::Malformed("field name")),
            ("GET / HTTP/1.1\r\na: x\r\n folded\r\n\r\n", HeadError::Malformed("field name")),
            ("GET / HTTP/1.1\r\na: \0\r\n\r\n", HeadError::Malformed("field value")),
            ("GET / HTTP/1.1\r\na: b\rc\r\n\r\n", HeadError::Malformed("field value")),
        ] {
            assert_eq!(request(text).map(|r| r.headers).unwrap_err(), error, "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(9));
        assert_eq!(request(&many).map(|r| r.headers).unwrap_err(), HeadError::TooManyFields(8));
    }

    #[test]
    fn an_unusual_reason_is_kept_and_a_missing_one_is_empty() {
        let read = |text: &str| {
            let head = Finder::default().take(&mut text.into(), &LIMITS).unwrap().unwrap();
            Response::parse(&head, &LIMITS).unwrap()
        };
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\n").reason, None);
        assert_eq!(read("HTTP/1.1 299 Odd one\r\n\r\n").reason.unwrap(), "Odd one");
        assert_eq!(read("HTTP/1.1 299\r\n\r\n").reason.unwrap(), "");
        let mut out = Vec::new();
        put_status_line(&mut out, StatusCode::from_u16(299).unwrap(), None);
        assert_eq!(out, b"HTTP/1.1 299 \r\n");
    }
}
