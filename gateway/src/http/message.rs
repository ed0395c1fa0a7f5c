//! What a message must be to go on, and what of it does. One judge for requests and answers, whoever sends them (callers,
//! sidecars, peers, endpoints) and in whichever version of HTTP: an intermediary's rules (RFC 9110, section 7).
//!
//! What is particular to a connection of HTTP/1.1 (where a body ends) was judged in [`http1::framing`] before.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};
use http1::framing::{content_length, is_bodiless};
use proto::limits::MESSAGE_FIELDS_MAX;

use crate::http::fields::{self, Declared};
use crate::http::upgrade;

/// What is sent, apart from the body: independent of where it goes.
#[derive(Debug)]
pub struct RequestHead {
    /// The method; never CONNECT.
    pub method: Method,
    /// Path and query in origin form, or `*`.
    pub target: Uri,
    /// End-to-end fields with `Host`.
    pub headers: HeaderMap,
    /// What it is to speak behind its heads, if not HTTP.
    pub upgrade: Option<HeaderValue>,
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Nothing here is a tunnel for the caller (RFC 9110, section 9.3.6).
    #[error("CONNECT is not served here")]
    Connect,
    /// More fields than go on.
    #[error("the request has more than {MESSAGE_FIELDS_MAX} fields; send fewer")]
    TooManyFields,
    /// No target that could be asked for.
    #[error("the request target is malformed")]
    Target,
    /// None.
    #[error("the request has no Host field")]
    NoHost,
    /// RFC 9112, section 3.2: more than one is a bad request, not a choice.
    #[error("the request has more than one Host field")]
    Hosts,
    /// RFC 9113, section 8.3.1.
    #[error("the Host field is not the authority that the request is for")]
    OtherHost,
    /// Lengths that contradict each other, or are no numbers (RFC 9110, section 8.6).
    #[error("the request's Content-Length is malformed")]
    Length,
    /// Bytes that no host has.
    #[error("the Host field is not ASCII")]
    Host,
}

/// Why an answer is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// A status that is no final answer, or that nobody asked for: no upgrade is sent on.
    #[error("it answered {0}, which nobody asked for")]
    Status(StatusCode),
    /// Lengths that contradict each other.
    #[error("its Content-Length is malformed")]
    Length,
    /// More fields than go on.
    #[error("its head has more than {MESSAGE_FIELDS_MAX} fields")]
    TooManyFields,
}

/// Whether requests of this method hardly ever have a body (RFC 9110, section 9.3).
pub fn rarely_has_body(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}

/// Judges a request of a caller. Gives the authority that it asks for, and what goes on of its head.
///
/// # Errors
/// [`BadRequest`]: what the caller is told.
pub fn request(parts: Parts) -> Result<(String, RequestHead), BadRequest> {
    let upgrade = upgrade::asked(&parts);
    let Parts { method, uri, version, mut headers, .. } = parts;
    // An extended CONNECT (RFC 8441, section 4) is to HTTP/2 what a GET with `Upgrade` is to HTTP/1.1.
    let method = if upgrade.is_some() { Method::GET } else { method };
    if method == Method::CONNECT {
        return Err(BadRequest::Connect);
    }
    if headers.len() > MESSAGE_FIELDS_MAX {
        return Err(BadRequest::TooManyFields);
    }
    let authority = authority(&uri, version, &headers)?;
    fields::strip_hop_by_hop(&mut headers);
    declare_length(&mut headers).ok_or(BadRequest::Length)?;
    if headers.get(HOST).is_none_or(|host| host.as_bytes() != authority.as_bytes()) {
        headers.insert(HOST, HeaderValue::from_str(&authority).map_err(|_| BadRequest::Host)?);
    }
    let target = target(&method, &uri).ok_or(BadRequest::Target)?;
    Ok((authority, RequestHead { method, target, headers, upgrade }))
}

/// The target in origin form (RFC 9112, section 3.2.1): an absolute one without a path has an empty path there, and is
/// about the whole server with OPTIONS (section 3.2.4).
fn target(method: &Method, uri: &Uri) -> Option<Uri> {
    let text = match uri.path_and_query().map(PathAndQuery::as_str) {
        None | Some("") if *method == Method::OPTIONS => "*",
        None | Some("") => "/",
        // `http://host` and `http://host/` are the same to this type; only what has a host of its own was absolute.
        Some("/") if *method == Method::OPTIONS && uri.scheme().is_some() => "*",
        Some(query) if query.starts_with('?') => return Uri::try_from(format!("/{query}")).ok(),
        Some(target) => target,
    };
    match (text, uri.scheme()) {
        ("*", _) => Some(Uri::from_static("*")),
        (_, None) => Some(uri.clone()),
        (text, Some(_)) => Uri::try_from(text).ok(),
    }
}

/// The authority that the caller asks for: of the target if it is absolute, else `Host` (RFC 9112, section 3.2.2). In
/// HTTP/2 `Host` may only repeat it (RFC 9113, section 8.3.1).
///
/// # Errors
/// When there is none, or more than one.
pub fn authority(uri: &Uri, version: Version, headers: &HeaderMap) -> Result<String, BadRequest> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(BadRequest::Hosts);
    }
    match (uri.authority(), host) {
        (Some(authority), Some(host))
            if version == Version::HTTP_2
                && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(BadRequest::OtherHost)
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) => host.to_str().map(str::to_owned).map_err(|_| BadRequest::Host),
        (None, None) => Err(BadRequest::NoHost),
    }
}

/// Judges a request that came through a tunnel, of a peer or of a sidecar; `bytes` are its whole head. Gives what goes on
/// of it, and the length of its body; `None`: it is no request that a gateway would have sent on.
pub fn request_from_tunnel(
    bytes: &Bytes,
    head: &proto::head::RequestHead<'_>,
    head_fields: proto::head::Fields<'_>,
) -> Option<(RequestHead, Declared)> {
    let proto::head::RequestHead { flow, http } = head;
    let method = Method::from_bytes(http.method.as_bytes()).ok()?;
    if method == Method::CONNECT || !names(http.authority, flow.service, flow.namespace) {
        return None;
    }
    let mut headers = fields::to_headers(bytes, head_fields)?;
    fields::strip_hop_by_hop(&mut headers);
    let declared = declare_length(&mut headers)?;
    let shared = |text: &str| bytes.slice_ref(text.as_bytes());
    headers.insert(HOST, HeaderValue::from_maybe_shared(shared(http.authority)).ok()?);
    let target = Uri::from_maybe_shared(shared(http.path)).ok().filter(|uri| uri.scheme().is_none())?;
    let upgrade = match http.upgrade {
        None => None,
        Some(protocol) => Some(HeaderValue::from_maybe_shared(shared(protocol)).ok()?),
    };
    Some((RequestHead { method, target, headers, upgrade }, declared))
}

/// Whether an authority is a name of this service, in whichever domain its mesh has: `Host` reaches the endpoint, which
/// may be there for others as well.
fn names(authority: &str, service: &str, namespace: &str) -> bool {
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let mut labels = host.split('.');
    let mut next_is = |name: &str| labels.next().is_some_and(|label| label.eq_ignore_ascii_case(name));
    next_is(service)
        && next_is(namespace)
        && port.bytes().all(|b| b.is_ascii_digit())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Judges the head of an answer to a request with `method`, from an endpoint or a peer: removes what is for one hop, and
/// tells how long its body must be.
///
/// # Errors
/// [`BadAnswer`].
pub fn answer(method: &Method, status: StatusCode, headers: &mut HeaderMap) -> Result<Declared, BadAnswer> {
    if status.is_informational() {
        return Err(BadAnswer::Status(status));
    }
    if headers.len() > MESSAGE_FIELDS_MAX {
        return Err(BadAnswer::TooManyFields);
    }
    fields::strip_hop_by_hop(headers);
    if status == StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6.
        headers.remove(CONTENT_LENGTH);
    }
    let declared = declare_length(headers).ok_or(BadAnswer::Length)?;
    Ok(if is_bodiless(method, status) { Declared::NOTHING } else { declared })
}

/// Whether an interim answer goes on: those that say something to the caller, and not to this hop (RFC 9110, section
/// 15.2). What is for one hop is removed.
pub fn interim(status: StatusCode, headers: &mut HeaderMap) -> bool {
    let goes_on = status.is_informational()
        && !matches!(status, StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS)
        && headers.len() <= MESSAGE_FIELDS_MAX;
    if goes_on {
        fields::strip_hop_by_hop(headers);
        headers.remove(CONTENT_LENGTH);
    }
    goes_on
}

/// Removes what trailers must not have: what frames or routes the message, or is for one hop (RFC 9110, section 6.5.1).
/// Nobody needs them to understand it.
pub fn trailers(trailers: &mut HeaderMap) {
    fields::strip_hop_by_hop(trailers);
    trailers.remove(CONTENT_LENGTH);
    trailers.remove(HOST);
    trailers.remove(http::header::TRAILER);
}

/// The trailers of a TRAILERS frame; `None` if they are not HTTP.
pub fn trailers_from_tunnel(payload: &Bytes) -> Option<HeaderMap> {
    let mut map = fields::trailers(payload)?;
    trailers(&mut map);
    Some(map)
}

/// The length that is declared, said once from now on.
fn declare_length(headers: &mut HeaderMap) -> Option<Declared> {
    let length = content_length(headers).ok()?;
    if let Some(length) = length {
        let odd = headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some()
            || headers.get(CONTENT_LENGTH).is_some_and(|v| v.as_bytes().contains(&b','));
        if odd {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
    Some(Declared::new(length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::Request;

    use super::*;

    fn map(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn asked(method: &str, uri: &str, version: Version, list: &[(&'static str, &'static str)]) -> Parts {
        let mut parts =
            Request::builder().method(method).uri(uri).version(version).body(()).unwrap().into_parts().0;
        parts.headers = map(list);
        parts
    }

    #[test]
    fn a_request_goes_on_in_origin_form_for_the_authority_that_it_asked_for() {
        let host = [("host", "a.b.mesh")];
        for (method, uri, target) in [
            ("GET", "/a?b", "/a?b"),
            ("GET", "http://a.b.mesh", "/"),
            ("GET", "http://a.b.mesh?b", "/?b"),
            ("GET", "http://a.b.mesh/c?d", "/c?d"),
            ("OPTIONS", "*", "*"),
            ("OPTIONS", "http://a.b.mesh", "*"),
            ("OPTIONS", "/", "/"),
            ("OPTIONS", "/c", "/c"),
        ] {
            let (authority, head) = request(asked(method, uri, Version::HTTP_11, &host)).unwrap();
            assert_eq!(
                (&*authority, head.target.to_string().as_str()),
                ("a.b.mesh", target),
                "{method} {uri}"
            );
            assert_eq!(head.headers[HOST], "a.b.mesh");
        }
        let other = [("host", "other")];
        let (authority, head) = request(asked("GET", "http://a.b.mesh/", Version::HTTP_11, &other)).unwrap();
        assert_eq!((&*authority, &head.headers[HOST]), ("a.b.mesh", &HeaderValue::from_static("a.b.mesh")));
    }

    #[test]
    fn a_request_without_one_clear_authority_is_refused() {
        for (uri, version, list, bad) in [
            ("/", Version::HTTP_11, &[][..], BadRequest::NoHost),
            ("/", Version::HTTP_11, &[("host", "a"), ("host", "a")], BadRequest::Hosts),
            ("http://a/", Version::HTTP_11, &[("host", "a"), ("host", "b")], BadRequest::Hosts),
            ("http://a/", Version::HTTP_2, &[("host", "b")], BadRequest::OtherHost),
        ] {
            assert_eq!(request(asked("GET", uri, version, list)).unwrap_err(), bad, "{uri} {list:?}");
        }
        assert!(request(asked("GET", "http://a/", Version::HTTP_2, &[("host", "A")])).is_ok());
    }

    #[test]
    fn what_is_no_request_to_send_on_is_refused() {
        let host = [("host", "a.b.mesh")];
        let refused = request(asked("CONNECT", "a.b.mesh:80", Version::HTTP_11, &host)).unwrap_err();
        assert_eq!(refused, BadRequest::Connect);
        let mut many = asked("GET", "/", Version::HTTP_11, &host);
        for _ in 0..MESSAGE_FIELDS_MAX {
            many.headers.append("x", HeaderValue::from_static("y"));
        }
        assert_eq!(request(many).unwrap_err(), BadRequest::TooManyFields);
    }

    #[test]
    fn the_host_of_a_peers_request_is_a_name_of_the_service() {
        for fine in
            ["cart.shop.mesh", "Cart.shop.east.mesh:80", "cart.shop.svc.clusterset.local", "cart.shop.mesh:"]
        {
            assert!(names(fine, "cart", "shop"), "{fine}");
        }
        for bad in [
            "evil:443",
            "u:p@evil",
            "cart.shop.mesh@evil",
            "cart.shops",
            "xcart.shop",
            "cart.shop.mesh:80@e",
            "cart.shop/evil",
            "",
        ] {
            assert!(!names(bad, "cart", "shop"), "{bad}");
        }
    }

    #[test]
    fn an_answer_says_its_length_once_or_has_none() {
        let judged = |status: u16, list: &[_]| {
            let mut headers = map(list);
            let declared = answer(&Method::GET, StatusCode::from_u16(status).unwrap(), &mut headers);
            (declared, headers)
        };
        let five = map(&[("content-length", "5")]);
        assert_eq!(judged(200, &[("content-length", "5, 5")]), (Ok(Declared::new(Some(5))), five.clone()));
        let twice = [("content-length", "5"), ("content-length", "5")];
        assert_eq!(judged(200, &twice), (Ok(Declared::new(Some(5))), five.clone()));
        assert_eq!(judged(200, &[("content-length", "5, 6")]).0, Err(BadAnswer::Length));
        assert_eq!(judged(204, &[("content-length", "5")]), (Ok(Declared::NOTHING), HeaderMap::new()));
        assert_eq!(judged(304, &[("content-length", "5")]), (Ok(Declared::NOTHING), five));
        assert_eq!(judged(101, &[]).0, Err(BadAnswer::Status(StatusCode::SWITCHING_PROTOCOLS)));
        // A length beside a coding counts for nothing, whatever `Connection` names.
        let split =
            [("connection", "transfer-encoding"), ("transfer-encoding", "chunked"), ("content-length", "5")];
        assert_eq!(judged(200, &split), (Ok(Declared::UNKNOWN), HeaderMap::new()));
    }

    #[test]
    fn only_hints_go_on_before_an_answer() {
        let goes_on = |status: u16| interim(StatusCode::from_u16(status).unwrap(), &mut HeaderMap::new());
        assert_eq!([100, 101, 102, 103, 199, 200].map(goes_on), [false, false, true, true, true, false]);
    }

    #[test]
    fn trailers_frame_and_route_nothing() {
        let mut all = map(&[
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("content-length", "1"),
            ("host", "x"),
            ("te", "trailers"),
            ("x-sum", "7"),
        ]);
        trailers(&mut all);
        assert_eq!(all, map(&[("x-sum", "7")]));
    }
}
