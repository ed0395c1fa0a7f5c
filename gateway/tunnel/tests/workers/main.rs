//! Several workers on one UDP port: no live tunnel is ever reset, and a dead process is noticed at once. Real sockets,
//! real handshakes, and processes that are killed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod gateway;
mod nat;
#[path = "../common/pki.rs"]
mod pki;
mod restart;
mod scatter;
mod succession;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tunnel::{Strays, Tunnel};

use gateway::{Gateway, call};
use nat::Nat;
use pki::Pki;

const EAST_BOOT: u64 = 11;
const WEST_BOOT: u64 = 22;
const CALLERS: u64 = 8;

/// Callers on `tunnel`, one call after the other, until `done`; gives back how many calls there were. None may fail.
async fn traffic(tunnels: &[Tunnel], done: impl Fn() -> bool + Send + Sync + 'static) -> u64 {
    let done = Arc::new(done);
    let mut callers = tokio::task::JoinSet::new();
    for (n, tunnel) in (0..CALLERS).flat_map(|n| tunnels.iter().map(move |t| (n, t.clone()))) {
        let done = done.clone();
        callers.spawn(async move {
            let mut calls = 0;
            while !done() {
                call(&tunnel, n << 32 | calls).await;
                calls += 1;
            }
            calls
        });
    }
    callers.join_all().await.iter().sum()
}

#[tokio::test]
async fn a_client_whose_port_changes_a_thousand_times_keeps_its_tunnel() {
    let pki = Pki::new();
    let east = Gateway::start(&pki, "east", 2, EAST_BOOT);
    // Nothing of the kernel's choice is left: every other datagram comes to the wrong worker.
    scatter::over(east.address, 2);
    let west = Gateway::start(&pki, "west", 1, WEST_BOOT);
    let nat =
        Arc::new(Nat::start(east.address, nat::Does::Rebind { every: NonZeroUsize::new(10).unwrap() }).await);
    let tunnel = west.dial(0, nat.front, "east").await;
    nat.begin();

    let until = nat.clone();
    let calls = traffic(std::slice::from_ref(&tunnel), move || until.changes() >= 1000).await;

    assert!(tunnel.is_open());
    assert_eq!(east.accepted().len(), 1, "no second tunnel was needed");
    let strays = east.strays();
    println!("{calls} calls over {} ports of the client; {strays:?}", nat.changes());
    assert!(strays.handed_over > 500 && strays.dropped == 0, "{strays:?}");
}

#[tokio::test]
async fn packets_replayed_from_another_port_reset_nothing() {
    let pki = Pki::new();
    let east = Gateway::start(&pki, "east", 2, EAST_BOOT);
    scatter::over(east.address, 2);
    let west = Gateway::start(&pki, "west", 1, WEST_BOOT);
    // Whatever the replayed packets bring about reaches the client: a reset would end its tunnel.
    let nat = Arc::new(Nat::start(east.address, nat::Does::Replay).await);
    let tunnel = west.dial(0, nat.front, "east").await;
    nat.begin();

    let until = nat.clone();
    let calls = traffic(std::slice::from_ref(&tunnel), move || until.changes() >= 2000).await;

    println!("{calls} calls while {} packets were replayed", nat.changes());
    assert!(tunnel.is_open());
    assert_eq!(east.accepted().len(), 1);
}

#[tokio::test]
async fn tunnels_spread_over_the_workers_and_the_kernel_steers() {
    let pki = Pki::new();
    let east = Gateway::start(&pki, "east", 2, EAST_BOOT);
    let west = Gateway::start(&pki, "west", 2, WEST_BOOT);
    let mut tunnels = Vec::new();
    for n in 0..32 {
        tunnels.push(west.dial(n % 2, east.address, "east").await);
    }
    for (n, tunnel) in (0..).zip(&tunnels) {
        call(tunnel, n).await;
    }
    let of_worker = |worker| tunnels.iter().filter(|t| t.peer().hello.worker == worker).count();
    assert_eq!(of_worker(0) + of_worker(1), 32, "HELLO names the worker");
    assert!(of_worker(0) > 0 && of_worker(1) > 0, "all come from one address, and yet not to one worker");
    // In both directions: the answers to our dials come to the worker that dialled.
    assert_eq!([east.strays(), west.strays()], [Strays::default(); 2]);
}

#[tokio::test]
async fn sockets_that_join_and_leave_the_port_take_nothing() {
    let pki = Pki::new();
    let east = Gateway::start(&pki, "east", 2, EAST_BOOT);
    let west = Gateway::start(&pki, "west", 2, WEST_BOOT);
    let tunnels = [west.dial(0, east.address, "east").await, west.dial(1, east.address, "east").await];

    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let (addresses, probe) = ([east.address, west.address], tunnels[0].clone());
    let churn = tokio::spawn(async move {
        for n in 0..200 {
            let joined: Vec<_> = addresses.map(scatter::join).into_iter().collect();
            call(&probe, n).await;
            drop(joined);
        }
        over.store(true, Ordering::Relaxed);
    });
    let calls = traffic(&tunnels, move || until.load(Ordering::Relaxed)).await;
    churn.await.unwrap();

    println!("{calls} calls while 400 sockets came and went");
    assert!(tunnels.iter().all(Tunnel::is_open));
    assert_eq!([east.strays(), west.strays()], [Strays::default(); 2]);
}

#[tokio::test]
async fn every_datagram_at_a_worker_drawn_by_lot_is_as_good() {
    let pki = Pki::new();
    let east = Gateway::start(&pki, "east", 3, EAST_BOOT);
    let west = Gateway::start(&pki, "west", 3, WEST_BOOT);
    scatter::over(east.address, 3);
    scatter::over(west.address, 3);
    let mut tunnels = Vec::new();
    for n in 0..9 {
        tunnels.push(west.dial(n % 3, east.address, "east").await);
    }
    let left = std::sync::atomic::AtomicI64::new(3000);
    let calls = traffic(&tunnels, move || left.fetch_sub(1, Ordering::Relaxed) <= 0).await;

    let strays = [east.strays(), west.strays()];
    println!("{calls} calls; {strays:?}");
    assert!(tunnels.iter().all(Tunnel::is_open));
    assert!(strays.iter().all(|s| s.handed_over > 100 && s.dropped == 0), "{strays:?}");
}
