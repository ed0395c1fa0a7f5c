#![allow(clippy::unwrap_used)]
use super::*;
use crate::client::{Connection, FetchError, Request, fetch};
use crate::wait::{SOON, wait_until};

fn get(backend: &Backend, target: &str) -> Result<crate::client::Response, FetchError> {
    fetch(backend.address(), &Request::get("h", target))
}

#[test]
fn says_who_it_is_and_keeps_a_journal() {
    let backend = Backend::start("east/a");
    let mut connection = Connection::open(backend.address()).unwrap();
    for id in ["1", "2", "2"] {
        let answer = connection.exchange(&Request::post("h", "/", b"body").with("x-id", id)).unwrap();
        assert_eq!((answer.status, answer.field("x-served-by")), (200, Some("east/a")));
    }
    assert_eq!(backend.deliveries(), [("1".to_owned(), 1), ("2".to_owned(), 2)].into());
    assert_eq!(backend.accepted(), 1);
    assert!(backend.seen().iter().all(|s| s.body == Digest::of(b"body")));
    wait_until("all are answered", SOON, || {
        backend.seen().iter().all(|s| s.outcome == Outcome::Answered).then_some(())
    });
}

#[test]
fn echoes_bodies_and_trailers_in_both_framings() {
    let backend = Backend::start("a");
    let body: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let whole = fetch(backend.address(), &Request::post("h", "/echo", &body)).unwrap();
    assert_eq!(whole.digest, Digest::of(&body));
    let request = Request::new("POST", "h", "/echo").with_chunks(&body, 333, &[("x-sum", "7")]);
    let chunked = fetch(backend.address(), &request).unwrap();
    assert_eq!((chunked.digest, value(&chunked.trailers, "x-sum")), (Digest::of(&body), Some("7")));
}

#[test]
fn serves_the_pattern_in_every_framing() {
    let backend = Backend::start("a");
    for target in ["/bytes/70000", "/chunked/70000", "/until-close/70000"] {
        assert_eq!(get(&backend, target).unwrap().digest, Digest::of_pattern(70_000), "{target}");
    }
}

#[test]
fn cuts_where_it_is_told() {
    let backend = Backend::start("a");
    for target in ["/cut/100/60", "/cut-chunked/60"] {
        assert!(
            matches!(get(&backend, target), Err(FetchError::Cut { status: 200, got: 60, .. })),
            "{target}"
        );
    }
    assert!(matches!(get(&backend, "/slam"), Err(FetchError::NoAnswer(_))));
}

#[test]
fn answers_with_interim_heads_and_without_bodies() {
    let backend = Backend::start("a");
    assert_eq!(get(&backend, "/early").unwrap().interim, [103]);
    assert_eq!(get(&backend, "/status/204").unwrap().body, b"");
    assert_eq!(get(&backend, "/status/404").unwrap().status, 404);
    let head = fetch(backend.address(), &Request::new("HEAD", "h", "/bytes/50")).unwrap();
    assert_eq!((head.field("content-length"), head.digest.len), (Some("50"), 0));
    assert_eq!(value(&get(&backend, "/trailers").unwrap().trailers, "x-sum"), Some("7"));
    let expecting = Request::post("h", "/", b"x").with("expect", "100-continue");
    assert_eq!(fetch(backend.address(), &expecting).unwrap().interim, [100]);
}

#[test]
fn notices_a_client_that_goes_away() {
    let backend = Backend::start("a");
    for target in ["/hold", "/drip"] {
        let mut connection = Connection::open(backend.address()).unwrap();
        connection.send(&Request::get("h", target)).unwrap();
        wait_until("the request arrived", SOON, || (backend.count(target) == 1).then_some(()));
        drop(connection);
        wait_until("the cancellation is seen", SOON, || {
            (backend.seen().last()?.outcome == Outcome::Cancelled).then_some(())
        });
    }
}

#[test]
fn holds_until_released() {
    let backend = Backend::start("a");
    let mut connection = Connection::open(backend.address()).unwrap();
    connection.send(&Request::get("h", "/hold")).unwrap();
    wait_until("the request arrived", SOON, || (backend.count("/hold") == 1).then_some(()));
    backend.release();
    assert_eq!(connection.receive("GET").unwrap().text(), "a\n");
}

#[test]
fn stops_and_starts_again_on_its_port() {
    let mut backend = Backend::start("a");
    assert!(get(&backend, "/").is_ok());
    backend.stop();
    assert!(matches!(get(&backend, "/"), Err(FetchError::Connect(_))));
    backend.start_again();
    assert!(get(&backend, "/").is_ok());
    assert_eq!(backend.count("/"), 2);
}
