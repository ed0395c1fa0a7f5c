//! HTTP/1.1 as RFC 9110 and RFC 9112 have it for an intermediary.
#![allow(clippy::unwrap_used)]

use e2e::client::{Connection, FetchError, Request, Response, fetch};
use e2e::http::values;
use e2e::pair::{CART, Pair};
use e2e::wait::{SOON, wait_until};

fn ask(pair: &Pair, request: &Request) -> Response {
    pair.west.ask(request).unwrap_or_else(|e| panic!("{}: {e:?}", request.head))
}

/// An answer to bytes that are written as they are.
fn raw(pair: &Pair, bytes: &str) -> Result<Response, FetchError> {
    fetch(pair.west.site.http, &Request { head: bytes.into(), body: Vec::new() })
}

#[test]
fn fields_for_one_hop_stay_on_it_and_all_others_arrive() {
    // RFC 9110, section 7.6.1: Connection and every field it names, and those that are known to be for one hop.
    let pair = Pair::new();
    let request = Request::get(CART, "/")
        .with("connection", "keep-alive, X-Secret")
        .with("connection", "x-other")
        .with("x-secret", "1")
        .with("x-other", "1")
        .with("keep-alive", "timeout=5")
        .with("proxy-connection", "keep-alive")
        .with("te", "gzip")
        .with("upgrade", "foo/2")
        .with("X-Kept", "one")
        .with("x-kept", "two, three")
        .with("accept", "*/*")
        .with("cookie", "a=1; b=2");
    assert_eq!(ask(&pair, &request).status, 200);
    let seen = &pair.backend().seen()[0];
    for gone in ["x-secret", "x-other", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(values(&seen.fields, gone), [""; 0], "{gone}");
    }
    assert!(values(&seen.fields, "connection").iter().all(|v| !v.contains("ecret")), "{:?}", seen.fields);
    assert_eq!(values(&seen.fields, "x-kept"), ["one", "two, three"]);
    assert_eq!(values(&seen.fields, "cookie"), ["a=1; b=2"]);
    assert_eq!(values(&seen.fields, "host"), [CART]);
}

#[test]
fn credentials_for_a_proxy_stay_at_the_proxy() {
    // RFC 9110, section 11.7.2: for the first inbound proxy that asked; we never ask.
    let pair = Pair::new();
    ask(
        &pair,
        &Request::get(CART, "/")
            .with("proxy-authorization", "Basic c2VjcmV0")
            .with("authorization", "Bearer x"),
    );
    let seen = &pair.backend().seen()[0];
    assert_eq!(values(&seen.fields, "proxy-authorization"), [""; 0]);
    assert_eq!(values(&seen.fields, "authorization"), ["Bearer x"]);
}

#[test]
fn fields_for_one_hop_stay_on_it_on_the_way_back() {
    let pair = Pair::new();
    let answer = pair.get("/hops");
    for gone in ["x-hop", "keep-alive"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    assert!(values(&answer.fields, "connection").iter().all(|v| !v.contains("x-hop")), "{:?}", answer.fields);
    assert_eq!(answer.field("x-end"), Some("1"));
}

#[test]
fn the_target_arrives_byte_for_byte() {
    let pair = Pair::new();
    for target in ["/seen/%2e%2E/a%20b?x=1&&y=%zz;z", "/seen//double/../dots/./", "/seen?", "/seen?q=/a?b#c"]
    {
        let target = target.split('#').next().unwrap();
        pair.get(target);
        assert_eq!(pair.backend().seen().last().unwrap().target, target);
    }
}

#[test]
fn every_form_of_the_authority_leads_to_the_service() {
    let pair = Pair::new();
    for host in [
        "cart.shop.mesh",
        "CART.Shop.MESH",
        "cart.shop.mesh.",
        "cart.shop.mesh:80",
        "cart.shop.east.mesh",
        "cart.shop.svc.clusterset.local",
    ] {
        assert_eq!(pair.west.get(host, "/").field("x-served-by"), Some("east/a"), "{host}");
    }
    // RFC 9112, section 3.2.2: the absolute form wins over Host, and is turned into the origin form.
    let answer =
        raw(&pair, "GET http://cart.shop.mesh/seen?x=1 HTTP/1.1\r\nhost: nobody.example\r\n\r\n").unwrap();
    assert_eq!(answer.field("x-served-by"), Some("east/a"));
    let seen = pair.backend().seen();
    let seen = seen.last().unwrap();
    assert_eq!((seen.target.as_str(), values(&seen.fields, "host")), ("/seen?x=1", vec!["cart.shop.mesh"]));
}

#[test]
fn a_request_without_one_clear_host_is_bad() {
    // RFC 9112, section 3.2: no Host, or more than one, is answered 400.
    let pair = Pair::new();
    for bytes in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nhost: cart.shop.mesh\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: cart.shop.mesh, other\r\n\r\n",
    ] {
        let status = raw(&pair, bytes).unwrap().status;
        assert_eq!(status, 400, "{bytes:?}");
    }
    assert_eq!(pair.backend().seen().len(), 0);
}

#[test]
fn ambiguous_framing_reaches_no_backend() {
    // RFC 9112, sections 6.1 and 6.3: what two parsers could read differently is how requests are smuggled.
    let pair = Pair::new();
    let head = format!("POST / HTTP/1.1\r\nhost: {CART}\r\n");
    for fields in [
        "content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "content-length: -1\r\n\r\n",
        "content-length: 3, 4\r\n\r\nabcd",
        "content-length: 1e1\r\n\r\n0123456789",
        "transfer-encoding: gzip\r\n\r\n",
        "transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        "x-bad : 1\r\n\r\n",
        "x-bad: a\0b\r\n\r\n",
    ] {
        match raw(&pair, &format!("{head}{fields}")) {
            Ok(answer) => assert!((400..=501).contains(&answer.status), "{fields:?}: {}", answer.status),
            Err(FetchError::NoAnswer(_) | FetchError::Write(_)) => {}
            other => panic!("{fields:?}: {other:?}"),
        }
    }
    assert!(pair.backend().seen().iter().all(|s| s.outcome != e2e::backend::Outcome::Answered));
    // Both at once: Transfer-Encoding wins or the request is refused; never is the rest a second request.
    let both = format!(
        "{head}content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: {CART}\r\n\r\n"
    );
    let mut connection = Connection::open(pair.west.site.http).unwrap();
    connection.write(both.as_bytes()).unwrap();
    if connection.receive("POST").is_ok_and(|a| a.status == 200) {
        // RFC 9112, section 6.1: having answered such a request, the connection is closed.
        assert!(connection.receive("GET").is_err());
    }
    assert_eq!(pair.backend().count("/smuggled"), 0);
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn answers_without_a_body_keep_their_fields_and_the_connection() {
    let pair = Pair::new();
    let mut connection = Connection::open(pair.west.site.http).unwrap();
    let head = connection.exchange(&Request::new("HEAD", CART, "/bytes/5000")).unwrap();
    assert_eq!((head.status, head.field("content-length"), head.digest.len), (200, Some("5000"), 0));
    for status in [204, 304] {
        let answer = connection.exchange(&Request::get(CART, &format!("/status/{status}"))).unwrap();
        assert_eq!((answer.status, answer.field("etag"), answer.digest.len), (status, Some("\"7\""), 0));
        assert_eq!(
            (answer.field("content-length"), answer.field("transfer-encoding")),
            (None, None),
            "{status}"
        );
    }
    assert_eq!(connection.exchange(&Request::get(CART, "/")).unwrap().text(), "east/a\n");
}

#[test]
fn every_method_and_status_passes() {
    let pair = Pair::new();
    for method in ["GET", "DELETE", "OPTIONS", "PATCH", "PURGE", "X-OWN"] {
        assert_eq!(ask(&pair, &Request::new(method, CART, "/m")).status, 200, "{method}");
        assert_eq!(pair.backend().seen().last().unwrap().method, method);
    }
    for status in [201, 206, 301, 404, 410, 418, 429, 500, 501, 599] {
        let answer = pair.get(&format!("/status/{status}"));
        assert_eq!((answer.status, answer.field("x-served-by")), (status, Some("east/a")));
        // It is the backend's own answer, not ours.
        assert_eq!(answer.field("proxy-status"), None, "{status}");
    }
}

#[test]
fn a_client_that_expects_100_gets_it_before_its_body() {
    let pair = Pair::new();
    let mut connection = Connection::open(pair.west.site.http).unwrap();
    let head =
        format!("POST /echo HTTP/1.1\r\nhost: {CART}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    let mut first = [0; 25];
    std::io::Read::read_exact(&mut connection.socket(), &mut first).unwrap();
    assert_eq!(first, *b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write(b"body").unwrap();
    let answer = connection.receive("POST").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
}

#[test]
fn an_answer_before_the_body_was_read_arrives() {
    let pair = Pair::new();
    for _ in 0..20 {
        let answer = ask(&pair, &Request::post(CART, "/refuse-body", &vec![b'x'; 300_000]));
        assert_eq!(answer.status, 413);
    }
}

#[test]
fn interim_answers_do_not_disturb_the_final_one() {
    let pair = Pair::new();
    let answer = pair.get("/early");
    assert_eq!((answer.status, answer.text().as_str()), (200, "late\n"));
    assert!(answer.interim.iter().all(|s| *s == 103), "{:?}", answer.interim);
}

#[test]
fn a_head_above_the_limit_is_answered_431() {
    let pair = Pair::new();
    let long = |bytes| Request::get(CART, "/").with("x-long", &"x".repeat(bytes));
    assert_eq!(ask(&pair, &long(30_000)).status, 200);
    let answer = ask(&pair, &long(200_000));
    assert_eq!(answer.status, 431);
    let many = (0..300).fold(Request::get(CART, "/"), |r, i| r.with(&format!("x-{i}"), "1"));
    assert_eq!(ask(&pair, &many).status, 431);
    assert_eq!(pair.backend().seen().len(), 1);
}

#[test]
fn a_client_of_http_1_0_gets_a_body_it_can_read() {
    let pair = Pair::new();
    let answer = raw(&pair, &format!("GET /chunked/50000 HTTP/1.0\r\nhost: {CART}\r\n\r\n")).unwrap();
    assert_eq!(answer.digest, e2e::http::Digest::of_pattern(50_000));
    assert_eq!(answer.field("transfer-encoding"), None);
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let pair = Pair::new();
    let mut connection = Connection::open(pair.west.site.http).unwrap();
    for i in 0..100 {
        let answer =
            connection.exchange(&Request::post(CART, "/echo", format!("body {i}").as_bytes())).unwrap();
        assert_eq!(answer.text(), format!("body {i}"));
    }
    // The way behind it is kept as well: one or two connections, not a hundred.
    assert!(pair.backend().accepted() <= 4, "{}", pair.backend().accepted());
    // Two at once in one write (RFC 9112, section 9.3.2): answered in order.
    let two = [Request::get(CART, "/status/201"), Request::get(CART, "/status/202")];
    connection.write(two.map(|r| r.head).concat().as_bytes()).unwrap();
    assert_eq!(
        [201, 202],
        [connection.receive("GET").unwrap().status, connection.receive("GET").unwrap().status]
    );
}

#[test]
fn a_backend_that_closes_idle_connections_loses_nothing() {
    let pair = Pair::new();
    // It answers and closes without having said so: the next request may be written into the closing.
    for i in 0..300 {
        assert_eq!(pair.get("/hang-up").status, 200, "request {i}");
    }
    let post = |id: String| ask(&pair, &Request::post(CART, "/hang-up", b"x").with("x-id", &id)).status;
    // Which may cost a POST: it is not sent twice.
    for i in 0..300 {
        let status = post(format!("at-once-{i}"));
        assert!(matches!(status, 200 | 502), "{status}");
    }
    // A connection that is closed is seen before it is written to.
    for i in 0..300 {
        wait_until("it has closed", SOON, || (pair.backend().open() == 0).then_some(()));
        assert_eq!(post(format!("later-{i}")), 200, "request {i}");
    }
    let deliveries = pair.backend().deliveries();
    assert!(deliveries.values().all(|n| *n == 1), "{deliveries:?}");
}
