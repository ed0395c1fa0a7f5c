//! The same in HTTP/2, of callers and of endpoints.

use std::time::Duration;

use e2e::http2::{Answer, Upload, fetch};
use e2e::raw::{Then, exchange};
use e2e::wait::SOON;
use e2e::wait_until;

use super::Rig;

#[test]
fn an_answer_is_whole_only_if_its_stream_said_so() {
    let rig = Rig::new();
    for way in rig.http2_ways() {
        for path in ["/reset/0", "/reset/2", "/reset/8", "/goaway"] {
            let seen = fetch(way.to, "GET", &way.authority, path, Upload::None);
            assert_eq!((seen.status, seen.whole), (200, false), "{}, {path}", way.name);
            let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", way.authority);
            let seen = exchange(way.to, request.as_bytes(), Duration::from_millis(1_500));
            assert!(seen.starts_with("HTTP/1.1 200 "), "{}, {path}: {seen}", way.name);
            assert!(!seen.ends_with("\r\n0\r\n\r\n"), "{}, {path}", way.name);
        }
        let seen = fetch(way.to, "GET", &way.authority, "/", Upload::None);
        assert_eq!((seen.status, seen.whole, &seen.body[..]), (200, true, &b"ok"[..]), "{}", way.name);
        // Whoever answers early may want no more of the request: that is no error of the answer.
        let seen = fetch(way.to, "POST", &way.authority, "/early-reset", Upload::Half(b"abc"));
        assert_eq!((seen.status, seen.whole, &seen.body[..]), (200, true, &b"ok"[..]), "{}", way.name);
    }
}

#[test]
fn an_upload_that_is_given_up_never_arrives_whole() {
    let rig = Rig::new();
    rig.raw.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep);
    for code in [0, 8, 2] {
        for way in rig.ways().iter().filter(|way| way.name != "passthrough") {
            for _ in 0..5 {
                fetch(way.to, "POST", &way.authority, "/up", Upload::Reset(b"hello", code));
            }
        }
        for way in rig.http2_ways() {
            for _ in 0..5 {
                fetch(way.to, "POST", &way.authority, "/up", Upload::Reset(b"hello", code));
            }
        }
    }
    // Something that does come behind all of it.
    let ways = rig.http2_ways();
    fetch(ways[0].to, "POST", &ways[0].authority, "/last", Upload::Whole(b"x"));
    wait_until("the last one came", SOON, || {
        rig.http2.seen().iter().any(|seen| seen.what == "POST /last").then_some(())
    });
    let whole: Vec<_> = rig.http2.seen().into_iter().filter(|s| s.whole && s.what == "POST /up").collect();
    assert!(whole.is_empty(), "{whole:?}");
    let whole: Vec<_> = rig.raw.seen().into_iter().filter(|seen| seen.ends_with("0\r\n\r\n")).collect();
    assert!(whole.is_empty(), "{whole:?}");
}

/// A POST is not sent twice: one that is written into a connection that is being closed is lost.
#[test]
fn an_end_is_seen_before_a_post_is_written() {
    let rig = Rig::new();
    let ways = rig.http2_ways();
    for way in ways.iter().cycle().take(400) {
        wait_until("it has closed", SOON, || (rig.http2.open() == 0).then_some(()));
        let seen = fetch(way.to, "POST", &way.authority, "/hang-up", Upload::Whole(b"x"));
        assert_eq!((seen.status, &seen.body[..]), (200, &b"ok"[..]), "{}", way.name);
    }
    // The last one is noted after it was answered.
    wait_until("all are noted", SOON, || (rig.http2.seen().len() >= 400).then_some(()));
    assert_eq!(rig.http2.seen().len(), 400);
}

/// A request that may be sent again is, where its connection was closed under it: with the one endpoint that there is.
#[test]
fn a_get_survives_the_end_of_its_connection() {
    let rig = Rig::new();
    let ways = rig.http2_ways();
    for way in ways.iter().cycle().take(400) {
        let seen = fetch(way.to, "GET", &way.authority, "/hang-up", Upload::None);
        assert_eq!((seen.status, &seen.body[..]), (200, &b"ok"[..]), "{}", way.name);
    }
}

#[test]
fn trailers_go_on_without_what_is_for_one_hop() {
    let rig = Rig::new();
    for way in rig.http2_ways() {
        for trailer in
            ["x-sum: 7\r\n", "x-sum: 7\r\nconnection: close\r\ntransfer-encoding: chunked\r\nhost: x\r\n"]
        {
            let request = format!(
                "POST /echo HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailer}\r\n",
                way.authority
            );
            let seen = exchange(way.to, request.as_bytes(), Duration::from_millis(1_000));
            assert!(seen.starts_with("HTTP/1.1 200 "), "{}: {seen}", way.name);
            assert!(seen.ends_with("5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"), "{}: {seen}", way.name);
        }
    }
    let seen = rig.http2.seen();
    assert!(seen.iter().all(|s| s.whole && s.body == b"hello" && s.trailers.len() == 1), "{seen:?}");
}

#[test]
fn hints_cross_from_http2_to_both() {
    let rig = Rig::new();
    for way in rig.http2_ways() {
        let seen = fetch(way.to, "GET", &way.authority, "/hint", Upload::None);
        assert_eq!((seen.interim, seen.status), (vec![103], 200), "{}", way.name);
        let request = format!("GET /hint HTTP/1.1\r\nhost: {}\r\n\r\n", way.authority);
        let seen = exchange(way.to, request.as_bytes(), Duration::from_millis(500));
        assert!(seen.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n"), "{}: {seen}", way.name);
    }
}

#[test]
fn a_call_that_breaks_off_is_unavailable_as_without_us() {
    let rig = Rig::new();
    for way in rig.http2_ways() {
        for path in ["/die", "/stall"] {
            let Answer { status, headers, trailers, whole, .. } =
                fetch(way.to, "POST", &way.authority, path, Upload::Whole(b"x"));
            let said = format!("{}, {path}: {headers:?} {trailers:?}", way.name);
            assert_eq!((status, whole), (200, true), "{said}");
            // In the head where the break was the whole answer: it may overtake the first bytes.
            let code = trailers.get("grpc-status").or_else(|| headers.get("grpc-status"));
            assert_eq!(code.map(|v| v.as_bytes()), Some(&b"14"[..]), "{said}");
        }
    }
}

#[test]
fn a_head_of_many_fields_goes_on_or_its_limit_is_named() {
    let rig = Rig::new();
    for way in rig.http2_ways() {
        let seen = fetch(way.to, "GET", &way.authority, "/fields/250", Upload::None);
        assert_eq!((seen.status, seen.headers.get_all("link").iter().count()), (200, 250), "{}", way.name);
        let seen = fetch(way.to, "GET", &way.authority, "/fields/300", Upload::None);
        let text = String::from_utf8_lossy(&seen.body);
        assert!(seen.status == 502 && text.contains("256 fields"), "{}: {} {text}", way.name, seen.status);
    }
}

/// What says that there is no body may come a frame after the head: an endpoint of HTTP/1.1 is not told of one.
#[test]
fn a_get_whose_end_comes_in_a_frame_of_its_own_has_no_body() {
    let rig = Rig::new();
    rig.raw.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Then::Keep);
    let ways = rig.ways();
    for way in &ways {
        let seen = fetch(way.to, "GET", &way.authority, "/no-body", Upload::Whole(b""));
        assert_eq!((seen.status, seen.whole), (200, true), "{}", way.name);
    }
    let seen: Vec<_> = rig.raw.seen().into_iter().filter(|seen| seen.starts_with("GET /no-body")).collect();
    assert_eq!(seen.len(), ways.len(), "{seen:?}");
    assert!(seen.iter().all(|head| !head.to_lowercase().contains("transfer-encoding")), "{seen:?}");
}
