//! What callers ask in HTTP/1.1.

use e2e::raw::Then;

use super::{Rig, head, status};

const CHUNKED: &str = "5\r\nhello\r\n0\r\n\r\n";

#[test]
fn a_request_that_both_sides_could_read_differently_goes_nowhere() {
    let rig = Rig::new();
    let coded = |coding: &str| {
        format!("POST /t HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: {coding}\r\n\r\n{CHUNKED}")
    };
    let many = format!("GET / HTTP/1.1\r\nhost: HOST\r\n{}\r\n", "a: b\r\n".repeat(300));
    let large = format!("GET / HTTP/1.1\r\nhost: HOST\r\na: {}\r\n\r\n", "b".repeat(100_000));
    let cases: &[(String, u16)] = &[
        (coded("gzip, chunked"), 501),
        (coded("JUNK, chunked"), 501),
        (coded("identity, chunked"), 501),
        (coded("chunked, chunked"), 400),
        (coded("chunked;a=b"), 501),
        (
            format!(
                "POST /t HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n{CHUNKED}"
            ),
            501,
        ),
        (format!("POST /t HTTP/1.0\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n{CHUNKED}"), 400),
        ("POST /t HTTP/1.1\r\nhost: HOST\r\ncontent-length: 5, 6\r\n\r\nhello".into(), 400),
        ("GET /a#b HTTP/1.1\r\nhost: HOST\r\n\r\n".into(), 400),
        ("GET http://HOST/ HTTP/1.1\r\n\r\n".into(), 400),
        ("GET http://HOST/ HTTP/1.1\r\nhost: HOST\r\nhost: HOST\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: HOST\r\nhost: HOST\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nhost: HOST\r\n folded: x\r\n\r\n".into(), 400),
        ("GET / HTTP/3.0\r\nhost: HOST\r\n\r\n".into(), 505),
        (many, 431),
        (large, 431),
    ];
    for way in rig.ways() {
        rig.raw.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep);
        for (request, expected) in cases {
            let seen = way.send(request);
            let shown: String = request.chars().take(120).collect();
            assert_eq!(status(&seen), *expected, "{}, {shown:?}: {seen}", way.name);
            assert!(head(&seen).contains("proxy-status: "), "{}, {shown:?}: {seen}", way.name);
        }
        assert_eq!(rig.raw.seen(), Vec::<String>::new(), "{}", way.name);
    }
}

#[test]
fn what_goes_on_is_what_was_meant() {
    let rig = Rig::new();
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "OPTIONS http://HOST HTTP/1.1\r\nhost: HOST\r\n\r\n",
            &["OPTIONS * HTTP/1.1\r\n", "host: HOST\r\n"],
            &[],
        ),
        ("OPTIONS * HTTP/1.1\r\nhost: HOST\r\n\r\n", &["OPTIONS * HTTP/1.1\r\n"], &[]),
        (
            "GET http://HOST/a?b HTTP/1.1\r\nhost: other\r\n\r\n",
            &["GET /a?b HTTP/1.1\r\n", "host: HOST\r\n"],
            &["other"],
        ),
        ("GET / HTTP/1.0\r\nhost: HOST\r\n\r\n", &["via: 1.0 "], &["1.1 west.gateway", "via: 1.1"]),
        ("GET / HTTP/1.1\r\nhost: HOST\r\n\r\n", &["via: 1.1 "], &[]),
        (
            "POST / HTTP/1.1\r\nhost: HOST\r\ncontent-length: 2, 2\r\n\r\nok",
            &["content-length: 2", "\r\n\r\nok"],
            &["2, 2"],
        ),
        (
            "POST / HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: , Chunked\r\ncontent-length: 2\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\nconnection: close\r\ncontent-length: 9\r\n\r\n",
            &["transfer-encoding: chunked", "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"],
            &["content-length", "connection: close\r\n\r\n"],
        ),
    ];
    for way in rig.ways() {
        for (request, has, lacks) in cases {
            rig.raw.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep);
            let answer = way.send(request);
            let seen = rig.raw.seen();
            let said = format!("{}, {request:?}: {answer}; {seen:?}", way.name);
            assert_eq!((status(&answer), seen.len()), (200, 1), "{said}");
            // A sidecar adds itself to what it hands on to a gateway.
            let through_two = way.name == "sidecar to remote";
            for part in *has {
                assert!(seen[0].contains(&part.replace("HOST", &way.authority)), "no {part:?}: {said}");
            }
            for part in lacks.iter().filter(|_| !through_two) {
                assert!(!seen[0].contains(part), "{part:?}: {said}");
            }
        }
    }
}

#[test]
fn a_request_that_leads_back_to_here_ends() {
    let rig = Rig::new();
    let via = "via: 1.1 west.gateway\r\n".repeat(8);
    let round = "via: 1.1 web-1.west.sidecar, 1.1 west.gateway, 2 nginx, 1.1 north.gateway (x)\r\n";
    let around = round.repeat(2) + "via: 1.1 east.gateway, 1.0 web-2.east.sidecar\r\n";
    let passed = "via: 1.1 west.gateway\r\n".repeat(7);
    for way in rig.ways().iter().take(4) {
        rig.raw.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep);
        for via in [&via, &around] {
            let seen = way.send(&format!("GET / HTTP/1.1\r\nhost: HOST\r\n{via}\r\n"));
            assert!(status(&seen) == 502 && seen.contains("proxy_loop_detected"), "{seen}");
        }
        // Endpoints may well ask for other services of the mesh in their turn. Behind a sidecar a gateway places it, too.
        let by_two = if way.name == "sidecar to remote" { passed.len() / 7 } else { 0 };
        let passed = &passed[by_two..];
        assert_eq!(status(&way.send(&format!("GET / HTTP/1.1\r\nhost: HOST\r\n{passed}\r\n"))), 200);
    }
}
