//! Header fields between HTTP and the tunnel, and the rules of an intermediary (RFC 9110, section 7.6).

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method, Version};
use proto::head::Fields;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What is meant for one connection only.
static HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
];

/// Removes what is meant for this connection only: `Connection`, every field that it names, and those that RFC 9110,
/// section 7.6.1 lists; also credentials and challenges for a proxy, which are this hop's (sections 11.7.1 and 11.7.2).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of them: one look at each name costs less than eight look-ups.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // It overrides a length that stands beside it, and a recipient that took that at its word would see where one
        // message ends and the next begins differently (RFC 9112, section 6.3). First of all: `Connection` may name it.
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Host and Content-Length belong to the message: a sender must not name them (section 7.6.1), and removing
        // them would change where the request goes or where the body ends.
        .filter(|name| name != HOST && name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes one `Cookie` of those that HTTP/2 may split it into; they must not travel so in anything else (RFC 9113,
/// section 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    // Values and what joins them are all that a value may hold.
    if let Ok(whole) = HeaderValue::from_maybe_shared(Bytes::from(whole)) {
        headers.insert(COOKIE, whole);
    }
}

/// Appends this gateway to `Via` (RFC 9110, section 7.6.3): `via` for a message of HTTP/1.1, or `name` with the version.
pub fn append_via(headers: &mut HeaderMap, version: Version, via: &HeaderValue, name: &str) {
    let other = match version {
        Version::HTTP_2 => Some("2"),
        Version::HTTP_10 => Some("1.0"),
        _ => None,
    };
    let other = other.and_then(|version| HeaderValue::try_from(format!("{version} {name}")).ok());
    headers.append(VIA, other.unwrap_or_else(|| via.clone()));
}

/// How often a message has come through `name`, by its `Via`.
pub fn times_through(headers: &HeaderMap, name: &str) -> usize {
    stops(headers).filter(|stop| *stop == name).count()
}

/// How many gateways and sidecars a message has come through, by its `Via`.
pub fn hops(headers: &HeaderMap) -> u8 {
    let ours = |stop: &str| matches!(stop.rsplit_once('.'), Some((_, "gateway" | "sidecar")));
    stops(headers).filter(|stop| ours(stop)).count().try_into().unwrap_or(u8::MAX)
}

/// Whom a message has come through, by its `Via`.
fn stops(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(VIA).iter().flat_map(|list| list.to_str().unwrap_or_default().split(','));
    lists.filter_map(|stop| stop.split_ascii_whitespace().nth(1))
}

/// Counts `Max-Forwards` down, which means something to OPTIONS and TRACE (RFC 9110, section 7.6.2). False: whoever has the
/// request now is the last one, and answers it.
pub fn may_go_on(method: &Method, headers: &mut HeaderMap) -> bool {
    if ![Method::OPTIONS, Method::TRACE].contains(method) {
        return true;
    }
    let left = headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u32>().ok());
    // What is no number is not ours to judge.
    let Some(left) = left else { return true };
    let Some(left) = left.checked_sub(1) else { return false };
    headers.insert(MAX_FORWARDS, left.into());
    true
}

/// The fields as the tunnel's codec takes them; `Host` travels as the authority.
pub fn of(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .iter()
        .filter(|(name, _)| *name != HOST)
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// Header fields of a head that was received; values share its memory. The codec has checked them.
pub fn to_headers(head: &Bytes, fields: Fields<'_>) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(fields.len() + 2);
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value)).ok()?;
        headers.append(name, value);
    }
    Some(headers)
}

/// The fields of a TRAILERS frame; `None` if they are not HTTP.
pub fn trailers(payload: &Bytes) -> Option<HeaderMap> {
    to_headers(payload, Fields::decode(payload).ok()?)
}

/// What is still to come of a declared length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared(Option<u64>);

impl Declared {
    /// Nothing was declared: any length will do.
    pub const UNKNOWN: Self = Self(None);
    /// There is no body.
    pub const NOTHING: Self = Self(Some(0));

    /// So much, if anything.
    pub const fn new(length: Option<u64>) -> Self {
        Self(length)
    }

    /// The length, if declared.
    pub fn length(self) -> Option<u64> {
        self.0
    }

    /// Counts bytes that came; false: more than declared.
    pub fn take(&mut self, bytes: usize) -> bool {
        let Some(left) = self.0 else { return true };
        self.0 = left.checked_sub(bytes as u64);
        self.0.is_some()
    }

    /// Whether all of it came.
    pub fn is_met(self) -> bool {
        self.0.is_none_or(|left| left == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn max_forwards_is_counted_down_to_the_last_who_gets_it() {
        for (method, came, goes_on, left) in [
            (Method::OPTIONS, "1", true, "0"),
            (Method::TRACE, "10", true, "9"),
            (Method::OPTIONS, "0", false, "0"),
            (Method::GET, "0", true, "0"),
            (Method::TRACE, "some", true, "some"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(MAX_FORWARDS, HeaderValue::from_static(came));
            assert_eq!(may_go_on(&method, &mut headers), goes_on, "{method} {came}");
            assert_eq!(headers[MAX_FORWARDS], left, "{method} {came}");
        }
    }

    #[test]
    fn what_is_for_one_hop_stays_on_it() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-connection", "keep-alive"),
            ("authorization", "Bearer t"),
            ("trailer", "x-sum"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("authorization", "Bearer t"), ("trailer", "x-sum")]));
    }

    #[test]
    fn connection_cannot_remove_what_frames_or_routes_the_message() {
        let mut headers =
            map(&[("connection", "host, content-length"), ("host", "a"), ("content-length", "3")]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn a_cookie_that_came_in_crumbs_goes_on_whole() {
        let mut headers = map(&[("cookie", "a=1"), ("x", "y")]);
        join_cookies(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=1"), ("x", "y")]));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        headers.append(COOKIE, HeaderValue::from_static("c=3; d=4"));
        join_cookies(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=1; b=2; c=3; d=4"), ("x", "y")]));
    }

    #[test]
    fn a_length_beside_a_transfer_encoding_counts_for_nothing() {
        for connection in ["close", "transfer-encoding"] {
            let mut headers = map(&[
                ("connection", connection),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("a", "1"),
            ]);
            strip_hop_by_hop(&mut headers);
            assert_eq!(headers, map(&[("a", "1")]), "{connection}");
        }
    }

    #[test]
    fn via_tells_the_version_and_how_often_a_message_came_by() {
        let via = HeaderValue::from_static("1.1 west.gateway");
        let mut headers = HeaderMap::new();
        for version in [Version::HTTP_11, Version::HTTP_10, Version::HTTP_2] {
            append_via(&mut headers, version, &via, "west.gateway");
        }
        headers.append(VIA, HeaderValue::from_static("1.1 other, 1.1 west.gateway (x),2 xwest.gateway"));
        let all: Vec<_> = headers.get_all(VIA).iter().take(3).collect();
        assert_eq!(all, ["1.1 west.gateway", "1.0 west.gateway", "2 west.gateway"]);
        assert_eq!((times_through(&headers, "west.gateway"), hops(&headers)), (4, 5));
        headers.append(
            VIA,
            HeaderValue::from_static("1.1 web-1.east.sidecar, gateway, 1.1 gateway, 1.1 a.gateway.b"),
        );
        assert_eq!(hops(&headers), 6);
    }

    #[test]
    fn a_declared_length_is_held_against_what_comes() {
        let mut five = Declared::new(Some(5));
        assert!(five.take(3) && !five.is_met());
        assert!(five.take(2) && five.is_met());
        assert!(!five.take(1));
        assert!(Declared::UNKNOWN.is_met());
    }

    #[test]
    fn fields_survive_the_tunnel_in_order() {
        let mut headers = map(&[("a", "1"), ("b", "2"), ("host", "x")]);
        headers.append("a", HeaderValue::from_static("3"));
        let mut out = Vec::new();
        proto::head::encode_fields(of(&headers), &mut out).unwrap();
        let back = trailers(&out.into()).unwrap();
        headers.remove(HOST);
        assert_eq!(back, headers);
    }
}
