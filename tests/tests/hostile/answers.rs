//! Answers that would do something to the connection of the caller who asked.

use e2e::client::{Connection, Request};
use e2e::hostile::answers::{data, head, interim, whole};
use e2e::hostile::records::{record, snapshot};
use e2e::hostile::stage::Stage;
use e2e::hostile::{Carrier, Hostile};
use e2e::http2::{self, Upload};
use e2e::wait::SOON;
use e2e::wait_until;
use proto::frame::END;

const REVISION: u64 = 1_000_000_000_000_000;
const OF_EAST: &str = "s0.shop.east.mesh";
const OF_WEST: &str = "cart.shop.west.mesh";

/// East, which serves `shop/s0`, with a tunnel on this carrier.
fn east(stage: &Stage, carrier: Carrier) -> Hostile {
    let east = stage.east(carrier);
    east.export(REVISION, &snapshot(REVISION, [record("s0", REVISION)]));
    east.answer(whole(200, &[], b"well"));
    wait_until("east is asked", SOON, || (stage.west.get(OF_EAST, "/").body == b"well").then_some(()));
    east
}

/// Asks east, and on the same connection west, unless it ends after the first answer; gives both statuses.
fn on_one_connection(stage: &Stage) -> (u16, Option<u16>) {
    let mut connection = Connection::open(stage.west.site.http).unwrap();
    let first = connection.exchange(&Request::get(OF_EAST, "/")).unwrap();
    assert!(first.field("upgrade").is_none(), "{first:?}");
    if first.field("connection") == Some("close") {
        return (first.status, None);
    }
    let second = connection.exchange(&Request::get(OF_WEST, "/")).unwrap();
    assert_eq!(second.field("x-served-by"), Some("west/a"), "{second:?}");
    (first.status, Some(second.status))
}

#[test]
fn no_head_of_a_peer_ends_an_exchange_with_what_is_no_final_answer() {
    for carrier in Carrier::ALL {
        let mut stage = Stage::plain();
        let east = east(&stage, carrier);
        for status in [100, 101, 102, 103, 199] {
            let fields = [("connection", "upgrade"), ("upgrade", "x")];
            for answer in [head(status, &fields), whole(status, &fields, b"HTTP/1.1 200 OK\r\n\r\n")] {
                east.answer(answer);
                let (first, second) = on_one_connection(&stage);
                assert_eq!(first, 502, "{status} by {carrier:?}");
                assert_eq!(second.unwrap_or(200), 200, "{status} by {carrier:?}");
                let by_http2 = http2::fetch(stage.west.site.http, "GET", OF_EAST, "/", Upload::None);
                assert_eq!((by_http2.status, by_http2.whole), (502, true), "{status} by {carrier:?}");
            }
        }
        // Whoever answers well again is heard again: nothing was held against its tunnel.
        east.answer(whole(200, &[], b"well"));
        assert_eq!(stage.west.get(OF_EAST, "/").body, b"well");
        stage.assert_unharmed(192);
    }
}

#[test]
fn interim_heads_of_a_peer_are_hints_and_bounded() {
    let mut stage = Stage::plain();
    let east = east(&stage, Carrier::Quic);
    let last = whole(200, &[], b"well");
    // What is no hint is left out; what is one is sent on.
    for (status, seen) in [(101, vec![]), (200, vec![]), (199, vec![199]), (103, vec![103])] {
        east.answer([interim(status, &[("link", "</a>")]), last.clone()].concat());
        let answer = stage.west.get(OF_EAST, "/");
        assert_eq!((answer.status, &*answer.body), (200, &b"well"[..]), "{status}");
        assert!(answer.interim.iter().all(|seen_status| seen.contains(seen_status)), "{answer:?}");
    }
    east.answer([interim(103, &[]).repeat(1_000), last].concat());
    assert_eq!(on_one_connection(&stage).0, 502);
    stage.assert_unharmed(192);
}

#[test]
fn lengths_that_a_peer_lies_about_never_reach_the_next_answer() {
    for carrier in Carrier::ALL {
        let mut stage = Stage::plain();
        let east = east(&stage, carrier);
        let smuggled = b"hello HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        for fields in [
            &[("content-length", "5")][..],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "500")],
        ] {
            east.answer([head(200, fields), data(smuggled), END.to_vec()].concat());
            let mut connection = Connection::open(stage.west.site.http).unwrap();
            if let Ok(first) = connection.exchange(&Request::get(OF_EAST, "/"))
                && let Ok(second) = connection.exchange(&Request::get(OF_WEST, "/"))
            {
                assert_eq!(second.field("x-served-by"), Some("west/a"), "{fields:?}: {first:?} {second:?}");
            }
        }
        stage.assert_unharmed(192);
    }
}
