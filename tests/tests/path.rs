//! The path between two gateways changes under a tunnel: it swallows, loses, delays and moves. No request is lost, and no
//! tunnel is made anew where the old one does.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::client::{Connection, Request};
use e2e::http::Digest;
use e2e::mesh::Gateway;
use e2e::pair::{CART, Pair, Setup};
use e2e::relay::{Fault, Toward};
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{SOON, pause};

const MIB: u64 = 1_048_576;

/// West and east behind a path of UDP alone.
fn pair() -> Pair {
    Pair::with(Setup { relayed: true, ..Setup::default() })
}

fn set_both(pair: &Pair, fault: Fault) {
    pair.relay().set(Toward::Target, fault);
    pair.relay().set(Toward::Client, fault);
}

/// Downloads so much; `during` is called while it comes.
fn download(address: SocketAddr, bytes: u64, during: impl FnMut(&[u8])) {
    let mut connection = Connection::open(address).unwrap();
    connection.set_patience(SOON);
    connection.send(&Request::get(CART, &format!("/bytes/{bytes}"))).unwrap();
    let answer = connection.receive_with("GET", during).unwrap();
    assert_eq!(answer.digest, Digest::of_pattern(bytes));
}

fn assert_no_tunnel_ended(gateway: &Gateway) {
    let ended = gateway.process.log().matches("Tunnel ended.").count();
    assert_eq!(ended, 0, "{ended} tunnels were lost meanwhile");
}

#[test]
fn eight_downloads_outlive_two_seconds_of_thirty_per_cent_of_loss() {
    const DOWNLOADS: usize = 8;
    let pair = pair();
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..DOWNLOADS {
            scope.spawn(|| {
                let mut first = true;
                download(pair.west.site.http, 16 * MIB, |_| {
                    if std::mem::take(&mut first) {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        e2e::wait_until("all have begun", SOON, || {
            (begun.load(Ordering::Relaxed) == DOWNLOADS).then_some(())
        });
        set_both(&pair, Fault { loss: 0.3, ..Fault::default() });
        pause(Duration::from_secs(2));
        pair.relay().heal();
    });
    let (_, lost) = pair.relay().counts(Toward::Client);
    assert!(lost > 20, "the relay lost only {lost}");
    assert_no_tunnel_ended(&pair.west);
}

#[test]
fn who_sends_little_learns_of_a_lossy_path_from_who_sends_much() {
    let pair = pair();
    pair.relay().set(Toward::Client, Fault { loss: 0.02, ..Fault::default() });
    let copies = |gateway: &Gateway| {
        let status = gateway.status().unwrap_or_default();
        let tunnels = status["peers"][0]["tunnels"].as_array().cloned().unwrap_or_default();
        tunnels.iter().any(|tunnel| tunnel["path"]["copies"] == true)
    };
    assert!(!copies(&pair.west));
    download(pair.west.site.http, 16 * MIB, |_| {});
    // Not one datagram of west's was lost.
    pair.west.wait_status("west sends small packets twice", SOON, |_| copies(&pair.west).then_some(()));
    assert!(copies(&pair.east));
    assert_eq!(pair.relay().counts(Toward::Target).1, 0);
}

#[test]
fn a_path_that_begins_to_swallow_long_datagrams_loses_no_request() {
    let pair = pair();
    // The tunnel finds out how long they may be.
    download(pair.west.site.http, 4 * MIB, |_| {});
    set_both(&pair, Fault { longest: 1_252, ..Fault::default() });
    let traffic = Traffic::start(pair.west.site.http, 2, Ask::get(CART));
    download(pair.west.site.http, 2 * MIB, |_| {});
    let swallowed = pair.relay().counts(Toward::Client).1;
    assert!(swallowed > 0, "nothing was too long");
    traffic.stop().assert_none_failed();
    assert_no_tunnel_ended(&pair.west);
}

#[test]
fn a_gateway_that_moves_to_another_address_loses_no_request() {
    let pair = pair();
    let traffic = Traffic::start(pair.west.site.http, 8, Ask::get(CART));
    for _ in 0..5 {
        traffic.wait_more(200);
        pair.relay().move_clients();
    }
    traffic.wait_more(200);
    traffic.stop().assert_none_failed();
    // While it moves, a download goes on.
    let mut last = Instant::now();
    download(pair.west.site.http, 32 * MIB, |_| {
        if last.elapsed() > Duration::from_millis(20) {
            pair.relay().move_clients();
            last = Instant::now();
        }
    });
    assert_no_tunnel_ended(&pair.west);
}

#[test]
fn a_path_of_two_seconds_and_much_loss_is_slow_but_alive_and_comes_back_by_itself() {
    let west_policy = "timeout: { head: 60s }".into();
    let pair = Pair::with(Setup { relayed: true, west_policy, ..Setup::default() });
    let far = Fault { delay: Duration::from_secs(1), loss: 0.1, ..Fault::default() };
    set_both(&pair, far);
    // A silence of two seconds is one of somebody dead, where answers came at once before. It is found again.
    let ask = || pair.west.ask(&Request::get(CART, "/"));
    let answered = |patience| {
        e2e::wait_until("east is asked again", patience, || {
            ask().is_ok_and(|a| a.status == 200).then_some(())
        });
    };
    answered(SOON);
    let downs = || pair.west.process.log().matches("to=\"down\"").count();
    let before = downs();
    for _ in 0..10 {
        assert_eq!(ask().unwrap().status, 200);
    }
    assert_eq!(downs(), before, "it was taken for dead again");
    pair.relay().heal();
    e2e::wait_until("it is near again", SOON, || {
        let asked = Instant::now();
        answered(SOON);
        (asked.elapsed() < Duration::from_millis(500)).then_some(())
    });
    assert_eq!(downs(), before, "it was taken for dead again");
}
