//! A process hands its port over to another one, which has its tunnels beside it.

use std::sync::atomic::{AtomicBool, Ordering};

use tunnel::Tunnel;

use super::*;

async fn dial(west: &Gateway, east: &Gateway) -> Vec<Tunnel> {
    let mut tunnels = Vec::new();
    for n in 0..4 {
        tunnels.push(west.dial(n % 2, east.address, "east").await);
    }
    tunnels
}

fn are_of(tunnels: &[Tunnel], boot: u64) -> bool {
    tunnels.iter().all(|t| t.peer().hello.boot == boot && t.is_open())
}

/// `workers` of the one whose port is taken over; of more than one also where the kernel steers nothing.
async fn is_taken_over(workers: u8, scattered: bool) {
    let pki = Pki::new();
    let elder = Gateway::start(&pki, "east", workers, EAST_BOOT);
    if scattered {
        scatter::over(elder.address, workers.into());
    }
    let west = Gateway::start(&pki, "west", 2, WEST_BOOT);
    let old = dial(&west, &elder).await;
    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let calling = {
        let old = old.clone();
        tokio::spawn(async move { traffic(&old, move || until.load(Ordering::Relaxed)).await })
    };
    let (heir, mut carrying) = Gateway::heir_of(&elder, &pki, "east", EAST_BOOT + 1);
    let new = dial(&west, &heir).await;
    assert!(are_of(&new, EAST_BOOT + 1), "who dials reaches the heir");
    let left = std::sync::atomic::AtomicI64::new(1000);
    let beside = traffic(&new, move || left.fetch_sub(1, Ordering::Relaxed) <= 0).await;
    over.store(true, Ordering::Relaxed);
    let calls = calling.await.unwrap();
    assert!(are_of(&old, EAST_BOOT), "and none of the elder's hears of it");
    println!("{workers} workers: {calls} calls with the elder, {beside} with the heir beside it");

    carrying.abort_all();
    drop(elder);
    for tunnel in &old {
        tunnel.closed().await;
    }
    let left = std::sync::atomic::AtomicI64::new(100);
    traffic(&new, move || left.fetch_sub(1, Ordering::Relaxed) <= 0).await;
    assert!(are_of(&new, EAST_BOOT + 1));
}

#[tokio::test]
async fn an_heir_has_its_own_tunnels_beside_those_of_its_elder() {
    is_taken_over(1, false).await;
    is_taken_over(2, false).await;
    is_taken_over(3, true).await;
}

#[tokio::test]
async fn a_port_whose_heir_fails_is_taken_back() {
    let pki = Pki::new();
    let elder = Gateway::start(&pki, "east", 2, EAST_BOOT);
    let west = Gateway::start(&pki, "west", 2, WEST_BOOT);
    let old = dial(&west, &elder).await;
    for boot in EAST_BOOT + 1..EAST_BOOT + 4 {
        let (heir, carrying) = Gateway::heir_of(&elder, &pki, "east", boot);
        drop((heir, carrying));
        elder.spare.take();
        let left = std::sync::atomic::AtomicI64::new(200);
        traffic(&old, move || left.fetch_sub(1, Ordering::Relaxed) <= 0).await;
        let again = dial(&west, &elder).await;
        assert!(are_of(&again, EAST_BOOT) && are_of(&old, EAST_BOOT));
    }
}
