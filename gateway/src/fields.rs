//! Header fields between HTTP and the tunnel, and the rules of an intermediary (RFC 9110, section 7.6).

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, VIA,
};
use proto::head::Fields;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Removes what is meant for this connection only: `Connection`, every field that it names, and those that RFC 9110,
/// section 7.6.1 lists; also credentials and challenges for a proxy, which are this hop's (sections 11.7.1 and 11.7.2).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
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
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
}

/// Appends this gateway to `Via` (RFC 9110, section 7.6.3).
pub fn append_via(headers: &mut HeaderMap, via: &HeaderValue) {
    headers.append(VIA, via.clone());
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

/// A declared body length.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
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
