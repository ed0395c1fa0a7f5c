//! Exchanges that become something else behind their heads: `Upgrade` of HTTP/1.1 (RFC 9110, section 7.8) and extended
//! CONNECT of HTTP/2 (RFC 8441), and each said in the words of the other.
//!
//! Between the two, an asked upgrade is a GET whose head says the protocol, and an agreed one is an answer of 101.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::http::fields;

/// What a server of WebSocket joins to the key of a client (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const SEC_WEBSOCKET_VERSION: HeaderName = http::header::SEC_WEBSOCKET_VERSION;

/// What a request of a caller asks to speak behind its heads, if not HTTP.
pub fn asked(parts: &Parts) -> Option<HeaderValue> {
    if parts.version == Version::HTTP_2 {
        let protocol = parts.extensions.get::<Protocol>().filter(|_| parts.method == Method::CONNECT)?;
        return HeaderValue::from_str(protocol.as_str()).ok();
    }
    let headers = &parts.headers;
    let named = list(headers, &CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    // What stands behind a body, nobody would know: it is served as if it asked for nothing (RFC 9110, section 7.8).
    let bodiless = !headers.contains_key(TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    if parts.version != Version::HTTP_11 || parts.method != Method::GET || !named || !bodiless {
        return None;
    }
    // Other versions of HTTP are this hop's affair, and TLS would hide what is to be placed.
    let ours = |name: &str| {
        let name = name.split('/').next().unwrap_or_default();
        ["h2c", "http", "tls"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
    };
    let others: Vec<_> = list(headers, &UPGRADE).filter(|name| !ours(name)).collect();
    if others.is_empty() { None } else { HeaderValue::from_str(&others.join(", ")).ok() }
}

/// The fields that ask an endpoint of HTTP/1.1 for `protocol`; `key` is made where a caller of HTTP/2 had none to give.
pub fn ask_http1(headers: &mut HeaderMap, protocol: &HeaderValue, key: impl FnOnce() -> [u8; 16]) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.clone());
    if is_websocket(protocol) && !headers.contains_key(SEC_WEBSOCKET_KEY) {
        if let Ok(key) = HeaderValue::try_from(STANDARD.encode(key())) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    }
}

/// Judges the head of an answer of 101 to what was `asked` of an endpoint of HTTP/1.1: whether it agrees to what was asked
/// (RFC 9110, section 15.2.2), and, of WebSocket, has understood it. Removes what is for one hop.
pub fn agreed(asked: &HeaderMap, answer: &mut HeaderMap) -> bool {
    let offered: Vec<_> = list(asked, &UPGRADE).map(str::to_ascii_lowercase).collect();
    let taken: Vec<_> = list(answer, &UPGRADE).map(str::to_ascii_lowercase).collect();
    let fits = !taken.is_empty() && taken.iter().all(|name| offered.contains(name));
    let understood = match (asked.get(SEC_WEBSOCKET_KEY), answer.get(SEC_WEBSOCKET_ACCEPT)) {
        (Some(key), Some(accept)) => accept_of(key) == accept.as_bytes(),
        (Some(_), None) => !offered.iter().any(|name| name == "websocket"),
        (None, _) => true,
    };
    fields::strip_hop_by_hop(answer);
    fits && understood
}

/// The head of an answer to a caller of HTTP/1.1 whose request, with the fields `asked`, is upgraded to `protocol`.
pub fn answer_http1(
    asked: Option<&HeaderValue>,
    protocol: &HeaderValue,
    answer: &mut HeaderMap,
) -> StatusCode {
    answer.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(UPGRADE, protocol.clone());
    if let Some(key) = asked
        && is_websocket(protocol)
        && let Ok(accept) = HeaderValue::from_bytes(&accept_of(key))
    {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    StatusCode::SWITCHING_PROTOCOLS
}

/// The same to a caller of HTTP/2, where the handshake of WebSocket has no key (RFC 8441, section 5).
pub fn answer_http2(answer: &mut HeaderMap) -> StatusCode {
    answer.remove(SEC_WEBSOCKET_ACCEPT);
    StatusCode::OK
}

/// Removes from the head of a request to an endpoint of HTTP/2 what its handshake does not have.
pub fn ask_http2(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_KEY);
}

fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

/// What a server answers to the key of a client (RFC 6455, section 4.2.2).
fn accept_of(key: &HeaderValue) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID);
    STANDARD.encode(context.finish()).into_bytes()
}

/// The elements of a field that is a list (RFC 9110, section 5.6.1).
fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn parts(method: &str, version: Version, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut parts =
            Request::builder().method(method).uri("/").version(version).body(()).unwrap().into_parts().0;
        for (name, value) in fields {
            parts.headers.append(*name, HeaderValue::from_static(value));
        }
        parts
    }

    fn of_http1(fields: &[(&'static str, &'static str)]) -> Option<String> {
        let asked = asked(&parts("GET", Version::HTTP_11, fields))?;
        Some(asked.to_str().unwrap().to_owned())
    }

    #[test]
    fn an_upgrade_is_asked_for_by_name_and_without_a_body() {
        let upgrade = ("upgrade", "websocket");
        assert_eq!(of_http1(&[("connection", "Upgrade"), upgrade]).as_deref(), Some("websocket"));
        assert_eq!(of_http1(&[("connection", "keep-alive, upgrade"), upgrade]).as_deref(), Some("websocket"));
        let several = ("upgrade", "h2c, HTTP/2.0, TLS/1.2, foo/1");
        assert_eq!(of_http1(&[("connection", "upgrade"), several]).as_deref(), Some("foo/1"));
        for nothing in [
            &[upgrade][..],
            &[("connection", "upgrade")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), upgrade, ("content-length", "5")],
            &[("connection", "upgrade"), upgrade, ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(of_http1(nothing), None, "{nothing:?}");
        }
        let fields = [("connection", "upgrade"), upgrade];
        assert_eq!(asked(&parts("POST", Version::HTTP_11, &fields)), None);
        assert_eq!(asked(&parts("GET", Version::HTTP_10, &fields)), None);
        let mut connect = parts("CONNECT", Version::HTTP_2, &[]);
        assert_eq!(asked(&connect), None, "a tunnel, and no protocol in it");
        connect.extensions.insert(Protocol::from_static("websocket"));
        assert_eq!(asked(&connect).unwrap(), "websocket");
    }

    #[test]
    fn what_nobody_asked_for_is_not_agreed_and_a_key_is_answered() {
        let mut asks = HeaderMap::new();
        // RFC 6455, section 1.3.
        asks.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        ask_http1(&mut asks, &HeaderValue::from_static("websocket"), || [0; 16]);
        let answer = |fields: &[(&'static str, &'static str)]| {
            let mut headers = parts("GET", Version::HTTP_11, fields).headers;
            (agreed(&asks, &mut headers), headers)
        };
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let connection = ("connection", "Upgrade");
        let (fits, left) = answer(&[connection, ("upgrade", "WebSocket"), accept]);
        assert!(fits && left.len() == 1, "{left:?}");
        assert!(!answer(&[connection, ("upgrade", "websocket")]).0, "no key was understood");
        assert!(!answer(&[connection, ("upgrade", "websocket"), ("sec-websocket-accept", "x")]).0);
        assert!(!answer(&[connection, ("upgrade", "other"), accept]).0);
        assert!(!answer(&[connection, accept]).0);
        let mut told = HeaderMap::new();
        let key = asks.get(SEC_WEBSOCKET_KEY);
        assert_eq!(answer_http1(key, &HeaderValue::from_static("websocket"), &mut told), 101);
        assert_eq!(told[SEC_WEBSOCKET_ACCEPT], accept.1);
        assert_eq!(
            (answer_http2(&mut told), told.contains_key(SEC_WEBSOCKET_ACCEPT)),
            (StatusCode::OK, false)
        );
        // A caller of HTTP/2 has no key: one is made.
        let mut without = HeaderMap::new();
        ask_http1(&mut without, &HeaderValue::from_static("websocket"), || [7; 16]);
        assert_eq!(without[SEC_WEBSOCKET_KEY], "BwcHBwcHBwcHBwcHBwcHBw==");
        assert_eq!(without[SEC_WEBSOCKET_VERSION], "13");
    }
}
