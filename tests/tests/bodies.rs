//! Bodies cross the mesh whole or not at all, in both directions, known in length or streamed.
#![allow(clippy::unwrap_used)]

use e2e::client::{Connection, FetchError, Request, Response};
use e2e::http::{Digest, pattern, value};
use e2e::pair::{CART, Pair};
use e2e::wait::{SOON, wait_until};

/// Sizes around every threshold on the way: empty, one byte, what is forwarded whole (16 KiB), what is bulk (64 KiB).
const SIZES: [u64; 12] =
    [0, 1, 1_000, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1_048_576, 5_000_003, 64 * 1_048_576];

fn body(len: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(len as usize);
    pattern(len, |piece| {
        body.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    body
}

fn ask(pair: &Pair, request: &Request) -> Response {
    pair.west.ask(request).unwrap_or_else(|e| panic!("{}: {e:?}", request.head))
}

#[test]
fn bodies_of_known_length_arrive_whole_both_ways() {
    let pair = Pair::new();
    for size in SIZES {
        let echoed = ask(&pair, &Request::post(CART, "/echo", &body(size)));
        assert_eq!((echoed.status, echoed.digest), (200, Digest::of_pattern(size)), "{size}");
        assert_eq!(echoed.field("content-length"), Some(size.to_string().as_str()), "{size}");
        let seen = pair.backend().seen();
        assert_eq!(seen.last().unwrap().body, Digest::of_pattern(size), "{size}");
        let got = pair.get(&format!("/bytes/{size}"));
        assert_eq!(got.digest, Digest::of_pattern(size), "{size}");
    }
}

#[test]
fn streamed_bodies_arrive_whole_both_ways() {
    let pair = Pair::new();
    for size in SIZES {
        let request = Request::new("POST", CART, "/echo").with_chunks(&body(size), 10_007, &[]);
        let echoed = ask(&pair, &request);
        assert_eq!((echoed.status, echoed.digest), (200, Digest::of_pattern(size)), "{size}");
        for framing in ["chunked", "until-close"] {
            assert_eq!(
                pair.get(&format!("/{framing}/{size}")).digest,
                Digest::of_pattern(size),
                "{framing} {size}"
            );
        }
    }
}

#[test]
fn a_body_arrives_with_any_method() {
    // RFC 9110, section 9.3.1: content in a GET has no general meaning, and is still the client's to send.
    let pair = Pair::new();
    for method in ["GET", "DELETE", "OPTIONS", "PUT", "X-OWN"] {
        let known = Request::new(method, CART, "/echo").with("content-length", "5").with_body(b"known");
        let streamed = Request::new(method, CART, "/echo").with_chunks(b"streamed", 3, &[]);
        assert_eq!(ask(&pair, &known).text(), "known", "{method}");
        assert_eq!(ask(&pair, &streamed).text(), "streamed", "{method}");
    }
}

#[test]
fn trailers_arrive_both_ways() {
    let pair = Pair::new();
    let request = Request::new("POST", CART, "/echo")
        .with("te", "trailers")
        .with("trailer", "x-sum")
        .with_chunks(b"seven", 2, &[("x-sum", "7")]);
    let echoed = ask(&pair, &request);
    assert_eq!(value(&pair.backend().seen()[0].trailers, "x-sum"), Some("7"));
    assert_eq!((echoed.text().as_str(), value(&echoed.trailers, "x-sum")), ("seven", Some("7")));
}

#[test]
fn a_stream_is_forwarded_as_it_comes_in_both_directions_at_once() {
    let pair = Pair::new();
    let mut connection = Connection::open(pair.west.site.http).unwrap();
    let head = format!("POST /echo HTTP/1.1\r\nhost: {CART}\r\ntransfer-encoding: chunked\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    // Each piece is sent only after the one before came back; whoever gathers pieces would wait for ever.
    let mut writer = connection.socket().try_clone().unwrap();
    let (mut sent, mut got) = (0, Vec::new());
    let mut send_next = move || {
        use std::io::Write;
        sent += 1;
        let piece: &[u8] = if sent <= 5 { b"4\r\nping\r\n" } else { b"0\r\n\r\n" };
        writer.write_all(piece).unwrap();
    };
    send_next();
    let answer = connection.receive_with("POST", |piece| {
        got.extend_from_slice(piece);
        if got.len() % 4 == 0 {
            send_next();
        }
    });
    assert_eq!(answer.unwrap().text(), "ping".repeat(5));
}

#[test]
fn a_cut_answer_is_never_a_short_success() {
    let pair = Pair::new();
    // Above what is forwarded whole: the caller has the head and part of the body, and sees the cut.
    for target in ["/cut/1000000/100000", "/cut/1000000/0", "/cut-chunked/100000", "/cut-chunked/10"] {
        match pair.west.ask(&Request::get(CART, target)) {
            Err(FetchError::Cut { status: 200, .. }) => {}
            Ok(answer) if answer.status == 502 => {}
            other => panic!("{target}: {other:?}"),
        }
    }
    // Small answers are forwarded once they are whole: the caller of a POST gets an error, not a piece.
    let answer = ask(&pair, &Request::post(CART, "/cut/100/60", b"x"));
    assert_eq!((answer.status, pair.backend().count("/cut/100/60")), (502, 1));
    let proxy_status = answer.field("proxy-status").unwrap().to_owned();
    assert!(proxy_status.contains("connection_terminated"), "{proxy_status}");
}

#[test]
fn an_answer_cut_by_the_death_of_a_gateway_is_an_error() {
    for victim in ["east", "west"] {
        let mut pair = Pair::new();
        let mut connection = Connection::open(pair.west.site.http).unwrap();
        connection.send(&Request::get(CART, "/drip")).unwrap();
        let mut killed = false;
        let result = connection.receive_with("GET", |_| {
            if !std::mem::replace(&mut killed, true) {
                let gateway = if victim == "east" { &mut pair.east } else { &mut pair.west };
                gateway.process.kill();
            }
        });
        assert!(matches!(result, Err(FetchError::Cut { status: 200, .. })), "{victim}: {result:?}");
    }
}

#[test]
fn a_request_cut_by_its_client_is_never_whole_at_the_backend() {
    let pair = Pair::new();
    let framings = ["content-length: 1000000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n186a0\r\n"];
    for (sent, framing) in (1..).zip(framings) {
        let mut connection = Connection::open(pair.west.site.http).unwrap();
        let head = format!("POST /cut-by-client HTTP/1.1\r\nhost: {CART}\r\n{framing}");
        connection.write(head.as_bytes()).unwrap();
        connection.write(&[b'x'; 90_000]).unwrap();
        // A client that leaves at once may leave before there is anything to cancel.
        wait_until("the backend has begun", SOON, || (pair.backend().seen().len() == sent).then_some(()));
        drop(connection);
    }
    wait_until("both are cancelled", SOON, || {
        let seen = pair.backend().seen();
        let cancelled = seen.iter().filter(|s| s.outcome == e2e::backend::Outcome::Cancelled).count();
        assert_eq!(seen.iter().filter(|s| s.outcome == e2e::backend::Outcome::Answered).count(), 0);
        (cancelled == 2).then_some(())
    });
}

/// What `tests/run` leaves out, counted, where there is no curl.
mod with_curl {
    use super::*;
    use e2e::curl::{PARTIAL_FILE, RECV_ERROR, curl};

    #[test]
    fn curl_moves_64_mib_both_ways_and_streamed() {
        let pair = Pair::new();
        let dir = pair.mesh.dir();
        std::fs::write(dir.join("sent"), body(64 * 1_048_576)).unwrap();
        let (sent, got) = (format!("@{}", dir.join("sent").display()), dir.join("got"));
        let url = format!("http://{}/echo", pair.west.site.http);
        for extra in ["content-type: application/octet-stream", "transfer-encoding: chunked"] {
            let said = curl(&[
                "--data-binary",
                &sent,
                "--output",
                got.to_str().unwrap(),
                "--header",
                "expect:",
                "--header",
                extra,
                "--header",
                &format!("host: {CART}"),
                "--write-out",
                "%{http_code}",
                &url,
            ]);
            assert_eq!((said.code, said.out.as_str()), (Some(0), "200"), "{extra}: {said:?}");
            assert_eq!(
                Digest::of(&std::fs::read(&got).unwrap()),
                Digest::of_pattern(64 * 1_048_576),
                "{extra}"
            );
        }
    }

    #[test]
    fn curl_names_a_cut_body_an_error() {
        let pair = Pair::new();
        for target in ["/cut/1000000/100000", "/cut-chunked/100000"] {
            let url = format!("http://{}{target}", pair.west.site.http);
            let host = format!("host: {CART}");
            let said =
                curl(&["--header", &host, "--output", "/dev/null", "--write-out", "%{http_code}", &url]);
            // The cut may overtake the head: then it is an answer of ours, and says so.
            let refused = said.code == Some(0) && said.out == "502";
            let cut = matches!(said.code, Some(PARTIAL_FILE | RECV_ERROR));
            assert!(cut || refused, "{target}: {said:?}");
        }
    }
}
