//! Our congestion control on a simulated link: packet by packet, in virtual time, each run from a seed.
#![allow(clippy::unwrap_used)]

mod flow;
mod link;
mod world;

use std::time::Duration;

use link::{Burst, Link};
use world::{Kind, Report, World};

const MBIT: f64 = 1e6;
const RTT: Duration = Duration::from_millis(50);

/// 300 Mbit/s, 50 ms, a queue of 25 ms.
fn wan() -> Link {
    Link::new(300.0 * MBIT, RTT, Duration::from_millis(25))
}

fn alone(link: Link, seconds: u32) -> Report {
    World::new(link, 1).flow(Kind::Own, 0).run(seconds)
}

#[test]
fn random_loss_costs_what_is_lost_and_no_queue_builds_up() {
    for loss in [0.0, 0.002, 0.01, 0.02, 0.05] {
        let report = alone(Link { loss, ..wan() }, 12);
        let share = report.mbit(0, 2..12) / 300.0;
        let queue = report.queue_ms(2..12);
        assert!(share > 0.85 * (1.0 - loss), "{loss}: {share} {queue:?}");
        assert!(queue.p50 <= 3.0 && queue.p99 <= 15.0, "{loss}: {queue:?}");
    }
}

#[test]
fn one_stream_is_bound_by_what_it_may_have_unread_and_by_little_else() {
    let unread_max = Some(proto::limits::STREAM_UNREAD_BYTES_MAX as u64);
    for (loss, least) in [(0.0, 0.95), (0.01, 0.85), (0.02, 0.75)] {
        let world = World::new(Link { loss, ..wan() }, 1).flow(Kind::Own, 0);
        let share = world.bound(unread_max, Duration::ZERO).run(12).mbit(0, 2..12) / 300.0;
        assert!(share > least, "{loss}: {share}");
    }
}

#[test]
fn a_sender_that_often_has_other_work_finds_the_rate_all_the_same() {
    for busy in [1, 2] {
        let mut link = wan();
        link.loss = 0.01;
        link.rates = vec![(4.0, 60.0 * MBIT), (8.0, 300.0 * MBIT)];
        let world = World::new(link, 1).flow(Kind::Own, 0);
        let share = world.bound(None, Duration::from_millis(busy)).run(24).mbit(0, 16..24) / 300.0;
        assert!(share > 0.8 * (1.0 - busy as f64 / 10.0), "{busy} ms of ten: {share}");
    }
}

#[test]
fn bursts_of_losses_are_survived() {
    let burst = Burst { every: Duration::from_millis(500), packets: 20 };
    let report = alone(Link { burst: Some(burst), ..wan() }, 12);
    let share = report.mbit(0, 2..12) / 300.0;
    assert!(share > 0.8, "{share}");
}

#[test]
fn a_path_that_gets_slower_and_faster_is_followed() {
    let mut link = wan();
    link.rates = vec![(6.0, 30.0 * MBIT), (14.0, 300.0 * MBIT)];
    let report = alone(link, 26);
    assert!(report.mbit(0, 8..14) > 0.8 * 30.0, "slower: {}", report.mbit(0, 8..14));
    let queue = report.queue_ms(8..14);
    assert!(queue.p50 <= 8.0, "slower: {queue:?}");
    assert!(report.mbit(0, 20..26) > 0.8 * 300.0, "faster again: {}", report.mbit(0, 20..26));
}

#[test]
fn a_path_that_gets_longer_and_shorter_is_followed() {
    let mut link = wan();
    link.rtts = vec![(6.0, Duration::from_millis(150)), (16.0, RTT)];
    let report = alone(link, 26);
    assert!(report.mbit(0, 10..16) > 0.75 * 300.0, "longer: {}", report.mbit(0, 10..16));
    assert!(report.mbit(0, 18..26) > 0.8 * 300.0, "shorter again: {}", report.mbit(0, 18..26));
    let queue = report.queue_ms(20..26);
    assert!(queue.p50 <= 15.0, "shorter again: {queue:?}");
}

#[test]
fn short_and_long_queues_are_used_alike() {
    for queue in [5, 25, 100] {
        let link = Link::new(300.0 * MBIT, RTT, Duration::from_millis(queue));
        let report = alone(link, 12);
        let share = report.mbit(0, 2..12) / 300.0;
        let queued = report.queue_ms(2..12);
        assert!(share > 0.85, "{queue} ms: {share}");
        assert!(queued.p50 <= 3.0 && queued.p99 <= 15.0, "{queue} ms: {queued:?}");
    }
}

#[test]
fn narrow_and_wide_paths_are_filled() {
    for (mbit, rtt) in [(2.0, 50), (20.0, 10), (100.0, 100), (1000.0, 5), (50.0, 250)] {
        let link = Link::new(mbit * MBIT, Duration::from_millis(rtt), Duration::from_millis(50));
        let report = alone(link, 20);
        let share = report.mbit(0, 8..20) / mbit;
        assert!(share > 0.8, "{mbit} Mbit/s, {rtt} ms: {share}");
    }
}

#[test]
fn flows_share_a_path_evenly() {
    for flows in [2, 4, 8] {
        let world = (0..flows).fold(World::new(wan(), 7), |world, n| world.flow(Kind::Own, n));
        let report = world.run(40);
        let rates: Vec<f64> = (0..flows as usize).map(|n| report.mbit(n, 20..40)).collect();
        let (sum, squares) = (rates.iter().sum::<f64>(), rates.iter().map(|r| r * r).sum::<f64>());
        let fairness = sum * sum / (f64::from(flows) * squares);
        assert!(fairness > 0.8, "Jain's index of {rates:?}: {fairness}");
        assert!(sum > 0.85 * 300.0, "{rates:?}");
    }
}

#[test]
fn cubic_neither_starves_nor_is_starved() {
    for queue in [25, 100] {
        let link = Link::new(100.0 * MBIT, RTT, Duration::from_millis(queue));
        let report = World::new(link, 3).flow(Kind::Own, 0).flow(Kind::Cubic, 1).run(60);
        let (own, cubic) = (report.mbit(0, 20..60), report.mbit(1, 20..60));
        let share = own / (own + cubic);
        assert!((0.15..0.85).contains(&share), "a queue of {queue} ms: {own} beside {cubic}");
        assert!(own + cubic > 80.0, "a queue of {queue} ms: {own} beside {cubic}");
    }
}

#[test]
fn a_router_that_marks_instead_of_dropping_is_heard() {
    for kinds in [&[Kind::Own][..], &[Kind::Own; 4], &[Kind::Own, Kind::Cubic]] {
        let mut link = Link::new(100.0 * MBIT, RTT, Duration::from_millis(200));
        link.marks = Some(Duration::from_millis(10));
        let flows = kinds.iter().zip(0..);
        let world = flows.fold(World::new(link, 3), |world, (kind, n)| world.flow(*kind, n));
        let report = world.run(40);
        let rates: Vec<f64> = (0..kinds.len()).map(|n| report.mbit(n, 10..40)).collect();
        let queue = report.queue_ms(10..40);
        assert!(rates.iter().sum::<f64>() > 80.0, "{kinds:?}: {rates:?}");
        assert!(queue.p99 < 25.0, "{kinds:?}: {queue:?} of 200 ms that there is room for");
    }
}

#[test]
fn what_is_sent_after_a_pause_leaves_at_once() {
    // A megabyte every five seconds: once the path is known it takes little more than a round trip.
    let report = World::new(wan(), 5).bursts(Duration::from_secs(5), 1 << 20).run(30);
    let slowest = report.bursts_ms[2..].iter().copied().fold(0.0, f64::max);
    assert!(slowest < 50.0 + 28.0 + 80.0, "{:?}", report.bursts_ms);
}

#[test]
fn jitter_and_reordering_are_borne() {
    for (jitter, reorder) in [(3000, false), (1000, true)] {
        let jitter = Duration::from_micros(jitter);
        let report = alone(Link { jitter, reorder, loss: 0.01, ..wan() }, 12);
        let share = report.mbit(0, 2..12) / 300.0;
        assert!(share > 0.7, "reordering {reorder}: {share}");
    }
}

#[test]
fn a_bad_path_is_slow_and_alive() {
    // 10 % loss and two seconds of a round trip.
    let link =
        Link { loss: 0.1, ..Link::new(20.0 * MBIT, Duration::from_secs(2), Duration::from_millis(200)) };
    let report = alone(link, 60);
    assert!(report.mbit(0, 40..60) > 1.0, "{}", report.mbit(0, 40..60));
}
