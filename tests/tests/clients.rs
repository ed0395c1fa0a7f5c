//! Clients in numbers, slow ones, and ones that go away.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use e2e::backend::Outcome;
use e2e::client::{Connection, FetchError, Request, Response};
use e2e::http::Digest;
use e2e::mesh::undoubted;
use e2e::pair::{CART, Pair};
use e2e::process::memory_kib;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{AT_ONCE, SOON, wait_until};

/// What a slow reader reads: of eight, much more than two gateways may hold.
const SLOW_BYTES: u64 = 64 * 1_048_576;

#[test]
fn a_hundred_clients_at_once_are_all_answered() {
    let pair = Pair::new();
    let traffic = Traffic::start(pair.west.site.http, 100, Ask::get(CART));
    traffic.wait_more(3_000);
    traffic.stop().assert_none_failed();
}

#[test]
fn a_hundred_requests_wait_for_their_answers_at_once() {
    let pair = Pair::with_west_policy("timeout: { head: 120s }");
    let traffic = Traffic::start(pair.west.site.http, 100, Ask { target: "/hold".into(), ..Ask::get(CART) });
    wait_until("all hundred are at the backend", SOON, || {
        (pair.backend().count("/hold") == 100).then_some(())
    });
    assert_eq!(traffic.count(), 0);
    pair.backend().release();
    wait_until("all hundred are answered", SOON, || (traffic.count() >= 100).then_some(()));
    traffic.stop().assert_none_failed();
}

#[test]
fn a_client_that_goes_away_cancels_its_request_at_the_backend() {
    let pair = Pair::new();
    // Before the answer has begun, and in the middle of it.
    for target in ["/hold", "/drip"] {
        let mut connection = Connection::open(pair.west.site.http).unwrap();
        connection.send(&Request::get(CART, target)).unwrap();
        wait_until("it is at the backend", SOON, || (pair.backend().count(target) == 1).then_some(()));
        drop(connection);
        wait_until("the backend sees the cancellation", SOON, || {
            let seen = pair.backend().seen();
            let seen = seen.iter().find(|s| s.target == target)?;
            (seen.outcome == Outcome::Cancelled).then_some(())
        });
    }
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_slow_reader_gets_everything_and_costs_bounded_memory() {
    let pair = Pair::new();
    let answers = undoubted([&pair.west, &pair.east], || slow_readers(&pair));
    for answer in answers {
        assert_eq!(answer.unwrap().digest, Digest::of_pattern(SLOW_BYTES));
    }
}

/// Eight downloads that stop reading after their first piece, and go on when others have been served meanwhile.
fn slow_readers(pair: &Pair) -> Vec<Result<Response, FetchError>> {
    let target = format!("/bytes/{SLOW_BYTES}");
    let (stalled, all_stalled) = sync_channel(8);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (stalled, target, address) = (stalled.clone(), target.clone(), pair.west.site.http);
            let (go_on, wait) = sync_channel::<()>(1);
            let reader = std::thread::spawn(move || {
                let mut connection = Connection::open(address).unwrap();
                connection.send(&Request::get(CART, &target)).unwrap();
                let mut first = true;
                connection.receive_with("GET", |_| {
                    if std::mem::take(&mut first) {
                        // Nobody listens any more when the test has failed.
                        let _ = stalled.send(());
                        let _ = wait.recv();
                    }
                })
            });
            (reader, go_on)
        })
        .collect();
    for _ in 0..8 {
        all_stalled.recv_timeout(SOON).unwrap();
    }
    // Others are served meanwhile, and nothing piles up in either gateway.
    let traffic = Traffic::start(pair.west.site.http, 2, Ask::get(CART));
    traffic.wait_more(300);
    let report = traffic.stop();
    report.assert_none_failed();
    assert!(report.slowest() < AT_ONCE, "{:?}", report.slowest());
    for gateway in [&pair.west, &pair.east] {
        let kib = memory_kib(gateway.process.pid(), "VmRSS").unwrap();
        assert!(kib < 200 * 1024, "{} holds {kib} KiB for eight stalled readers", gateway.site.cluster);
    }
    let go_on = |(reader, go_on): (JoinHandle<_>, SyncSender<()>)| {
        // It has ended already if it was cut.
        let _ = go_on.send(());
        reader.join().unwrap()
    };
    threads.into_iter().map(go_on).collect()
}

#[test]
fn a_slow_backend_holds_its_sender_back() {
    const SENT_MAX: usize = 64 * 1_048_576;
    let pair = Pair::new();
    // `/hold` reads the body first, so the stall is the backend process itself: it is not read from at all.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let site = &pair.east.site;
    let objects = [
        e2e::manifest::link("west", &[]),
        e2e::manifest::service("stuck", &[("a", listener.local_addr().unwrap())]),
    ];
    drop(pair.east.process);
    let _east = site.start(&objects);
    pair.west.wait_service("shop/stuck", &["east"]);
    let connection = Connection::open(pair.west.site.http).unwrap();
    connection.socket().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut connection = connection;
    let head = format!("POST / HTTP/1.1\r\nhost: stuck.shop.mesh\r\ncontent-length: {SENT_MAX}\r\n\r\n");
    connection.write(head.as_bytes()).unwrap();
    let piece = vec![b'x'; 65_536];
    let taken =
        (0..SENT_MAX / piece.len()).take_while(|_| connection.write(&piece).is_ok()).count() * piece.len();
    assert!(taken < SENT_MAX / 2, "{taken} bytes went somewhere without being read");
}

/// What `tests/run` leaves out, counted, where there is no curl.
mod with_curl {
    use super::*;
    use e2e::curl::curl;

    #[test]
    fn a_hundred_curls_at_once_get_their_bodies() {
        let pair = Pair::new();
        let url = format!("http://{}/bytes/100000?[1-100]", pair.west.site.http);
        let said = curl(&[
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "100",
            "--header",
            &format!("host: {CART}"),
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code} %{size_download}\n",
            &url,
        ]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out, "200 100000\n".repeat(100));
    }

    #[test]
    fn a_slow_curl_gets_everything() {
        let pair = Pair::new();
        let url = format!("http://{}/bytes/3000000", pair.west.site.http);
        let host = format!("host: {CART}");
        let said = curl(&[
            "--limit-rate",
            "1M",
            "--header",
            &host,
            "--output",
            "/dev/null",
            "--write-out",
            "%{size_download}",
            &url,
        ]);
        assert_eq!((said.code, said.out.as_str()), (Some(0), "3000000"), "{said:?}");
    }
}
