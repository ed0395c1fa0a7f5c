//! What endpoints answer in HTTP/1.1.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use e2e::backend::Backend;
use e2e::http2::{Upload, fetch};
use e2e::manifest::{link, service};
use e2e::mesh::{Mesh, find};
use e2e::raw::{Raw, Then, read_all};
use e2e::wait::SOON;
use e2e::wait_until;

use super::{Rig, body, head, status};

/// What the caller is to see.
enum Sees {
    /// This status, and a body that ends as it should and is this.
    Whole(u16, &'static str),
    /// A failure of the gateway's own words, this error.
    Refused(&'static str),
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// Answers, and what becomes of them.
fn cases() -> Vec<(&'static str, String, Sees)> {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        ("a length", format!("{OK}content-length: 5\r\n\r\nhello"), Sees::Whole(200, "hello")),
        ("chunks", format!("{OK}transfer-encoding: chunked\r\n\r\n{chunked}"), Sees::Whole(200, "hello")),
        ("the end of the connection", format!("{OK}\r\nhello"), Sees::Whole(200, "hello")),
        ("one length twice", format!("{OK}content-length: 5, 5\r\n\r\nhello"), Sees::Whole(200, "hello")),
        (
            "a length beside a coding that Connection names",
            format!(
                "{OK}connection: transfer-encoding\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{chunked}"
            ),
            Sees::Whole(200, "hello"),
        ),
        (
            "no content with a length",
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n".into(),
            Sees::Whole(204, ""),
        ),
        ("an odd status", "HTTP/1.1 299 Odd\r\ncontent-length: 0\r\n\r\n".into(), Sees::Whole(299, "")),
        (
            "two lengths",
            format!("{OK}content-length: 5, 6\r\n\r\nhello"),
            Sees::Refused("http_protocol_error"),
        ),
        (
            "gzip and chunked",
            format!("{OK}transfer-encoding: gzip, chunked\r\n\r\n{chunked}"),
            Sees::Refused("http_protocol_error"),
        ),
        (
            "gzip alone",
            format!("{OK}transfer-encoding: gzip\r\n\r\nhello"),
            Sees::Refused("http_protocol_error"),
        ),
        (
            "an upgrade that nobody asked for",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".into(),
            Sees::Refused("http_protocol_error"),
        ),
        ("no HTTP", "+OK ready\r\n\r\n".into(), Sees::Refused("http_protocol_error")),
        (
            "255 fields",
            format!("{OK}content-length: 0\r\n{}\r\n", "link: </a>\r\n".repeat(254)),
            Sees::Whole(200, ""),
        ),
        (
            "300 fields",
            format!("{OK}content-length: 0\r\n{}\r\n", "link: </a>\r\n".repeat(299)),
            Sees::Refused("http_response_header_section_size"),
        ),
        (
            "a head of 70 KiB",
            format!("{OK}content-length: 0\r\nx: {}\r\n\r\n", "y".repeat(70_000)),
            Sees::Refused("http_response_header_section_size"),
        ),
        (
            "less than was said",
            format!("{OK}content-length: 50\r\n\r\nhello"),
            Sees::Refused("connection_terminated"),
        ),
    ]
}

#[test]
fn an_answer_goes_on_whole_or_not_at_all() {
    let rig = Rig::new();
    for way in rig.ways() {
        for (case, answer, sees) in &cases() {
            rig.raw.answer(answer.as_bytes(), Then::Close);
            let seen = way.get("/");
            let said = format!("{}, {case}: {seen}", way.name);
            match sees {
                Sees::Whole(expected, text) => {
                    assert_eq!(status(&seen), *expected, "{said}");
                    let chunked = head(&seen).contains("transfer-encoding: chunked");
                    let got = body(&seen);
                    let whole = if chunked { got.ends_with("0\r\n\r\n") } else { got == *text };
                    assert!(whole && got.contains(text), "{said}");
                    assert!(!(chunked && head(&seen).contains("content-length")), "{said}");
                }
                // What passes through is what its server does, and a remote cut is told by whoever saw it last.
                Sees::Refused("connection_terminated") if way.name == "passthrough" => {
                    assert!(status(&seen) == 502 || !body(&seen).ends_with("hello\r\n"), "{said}");
                }
                Sees::Refused(error) => {
                    assert_eq!(status(&seen), 502, "{said}");
                    assert!(head(&seen).contains("proxy-status: "), "{said}");
                    // A peer says only that it failed, unless it can say it in an answer of its own.
                    let far = way.name.contains("remote") && *error == "http_protocol_error";
                    assert!(
                        head(&seen).contains(if far { "error=connection_terminated" } else { error }),
                        "{said}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_next_answer_on_a_connection_is_never_what_an_endpoint_hid_in_the_last() {
    let rig = Rig::new();
    let hidden = "AAAAAHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged";
    let split = format!(
        "{OK}connection: transfer-encoding\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
        hidden.len()
    );
    for way in rig.ways() {
        rig.raw.answer(split.as_bytes(), Then::Keep);
        let mut caller = TcpStream::connect(way.to).unwrap();
        write!(caller, "GET /odd HTTP/1.1\r\nhost: {}\r\n\r\n", way.authority).unwrap();
        let first = read_all(&mut caller, Duration::from_millis(500));
        let (whole, split) = (body(&first).contains(hidden), head(&first).contains("content-length: 5\r\n"));
        assert!(whole && !split, "{}: {first}", way.name);
        rig.raw.answer(format!("{OK}content-length: 6\r\n\r\nhonest").as_bytes(), Then::Keep);
        write!(caller, "GET /next HTTP/1.1\r\nhost: {}\r\n\r\n", way.authority).unwrap();
        let second = read_all(&mut caller, Duration::from_millis(500));
        assert!(second.starts_with(OK) && second.ends_with("honest"), "{}: {second}", way.name);
    }
}

#[test]
fn hints_reach_the_caller_before_the_answer_and_continue_does_not() {
    let rig = Rig::new();
    let answer = format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x\r\nx: 1\r\n\r\n\
         HTTP/1.1 102 Processing\r\n\r\n{OK}content-length: 2\r\n\r\nok"
    );
    rig.raw.answer(answer.as_bytes(), Then::Keep);
    for way in rig.ways() {
        let seen = way.get("/");
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n";
        assert!(seen.starts_with(hint) && seen.ends_with("ok"), "{}: {seen}", way.name);
        let seen = fetch(way.to, "GET", &way.authority, "/", Upload::None);
        assert_eq!((seen.interim, seen.status, seen.whole), (vec![103, 102], 200, true), "{}", way.name);
    }
}

#[test]
fn an_answer_that_is_too_large_is_held_against_nobody() {
    let rig = Rig::new();
    let many = format!("{OK}content-length: 0\r\n{}\r\n", "link: </a>\r\n".repeat(299));
    rig.raw.answer(many.as_bytes(), Then::Keep);
    for way in rig.ways() {
        for _ in 0..8 {
            let seen = way.get("/");
            assert!(status(&seen) == 502 && seen.contains("256 fields"), "{}: {seen}", way.name);
        }
    }
    let state = rig.west.wait_status("own has an endpoint", SOON, |status| {
        let service = find(&status["services"], "name", "shop/own")?;
        Some(service["endpoints"][0]["state"].as_str()?.to_owned())
    });
    assert_eq!(state, "ready");
}

/// Whoever refuses a long body often closes with most of it unread.
#[test]
fn a_refusal_of_a_long_body_reaches_the_caller() {
    let rig = Rig::new();
    rig.raw.answer(
        b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno",
        Then::Close,
    );
    let body = "x".repeat(2_000_000);
    for way in rig.ways() {
        for _ in 0..10 {
            let request = format!(
                "POST / HTTP/1.1\r\nhost: HOST\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let seen = way.send(&request);
            assert!(status(&seen) == 413 && seen.ends_with("no"), "{}: {seen}", way.name);
        }
    }
}

#[test]
fn an_upload_that_stalls_behind_its_answer_ends_with_the_idle_time() {
    let rig = Rig::new();
    rig.raw.answer(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno", Then::Hang);
    for way in rig.ways().iter().filter(|way| way.name != "passthrough") {
        for sent in ["content-length: 1000\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
            let mut caller = TcpStream::connect(way.to).unwrap();
            write!(caller, "POST / HTTP/1.1\r\nhost: {}\r\n{sent}", way.authority).unwrap();
            // Read to its end: that is the point. The policy gives it 2 s, where 60 are usual.
            let seen = read_all(&mut caller, Duration::from_secs(30));
            assert!(status(&seen) == 401 && seen.ends_with("no"), "{}: {seen}", way.name);
            // The end of the connection was seen, and not the end of patience.
            caller.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            let more = std::io::Read::read(&mut caller, &mut [0; 1]);
            assert!(matches!(more, Ok(0)), "{}: {more:?}", way.name);
        }
    }
}

/// The rest of a request is for the attempt that answers: behind an answer that is not taken it is read by nobody else.
#[test]
fn the_rest_of_an_upload_goes_only_to_who_answers_it() {
    let (busy, well) = (Raw::start(), Backend::start("well"));
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[link("west", &[]), service("cart", &[("a", well.address())])]);
    let own = service("cart", &[("a", busy.address())]);
    let west = west.start(&[link("east", &[east.site.tunnel]), own]);
    west.wait_service("shop/cart", &["east"]);
    west.wait_peer("east", "up");
    busy.answer(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno", Then::Keep);
    for upload in 1..=5 {
        let mut caller = TcpStream::connect(west.site.http).unwrap();
        let id = format!("upload-{upload}");
        let head = format!("PUT /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\nx-id: {id}\r\nconnection: close");
        write!(caller, "{head}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
        let begun = || well.deliveries().contains_key(&id).then_some(());
        wait_until("another attempt is under way", SOON, begun);
        write!(caller, "4\r\nlast\r\n0\r\n\r\n").unwrap();
        let seen = read_all(&mut caller, SOON);
        assert!(status(&seen) == 200 && seen.contains("last"), "{seen}");
    }
    let seen = busy.seen();
    assert!(seen.len() == 5 && !seen.iter().any(|seen| seen.contains("last")), "{seen:?}");
}
