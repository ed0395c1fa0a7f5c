use std::time::{Duration, Instant};

use super::{Counters, Link, Settings};

const MS: Duration = Duration::from_millis(1);

/// Sends packets of `bytes`, numbered, `gap` apart, and gives each that arrives with its time since the first was sent.
fn carried(link: &mut Link<u32>, count: u32, bytes: usize, gap: Duration) -> Vec<(Duration, u32)> {
    let start = Instant::now();
    for number in 0..count {
        link.send(start + gap * number, bytes, number);
    }
    let mut all = Vec::new();
    while let Some(at) = link.next() {
        let packet = link.arrive(at);
        all.extend(packet.map(|packet| (at - start, packet)));
    }
    all
}

#[test]
fn a_link_without_settings_changes_nothing() {
    let mut link = Link::new(Settings::default(), 1);
    let all = carried(&mut link, 3, 1450, MS);
    assert_eq!(all, [(Duration::ZERO, 0), (MS, 1), (MS * 2, 2)]);
    let counters = Counters { offered: 3, arrived: 3, bytes: 3 * 1450, ..Counters::default() };
    assert_eq!(link.counters(), counters);
}

#[test]
fn a_packet_arrives_after_the_delay_and_not_before() {
    let mut link = Link::new(Settings { delay: 25 * MS, ..Settings::default() }, 1);
    let now = Instant::now();
    link.send(now, 100, "a");
    assert_eq!(link.next(), Some(now + 25 * MS));
    assert_eq!(link.arrive(now + 25 * MS - Duration::from_nanos(1)), None);
    assert_eq!(link.arrive(now + 25 * MS), Some("a"));
    assert_eq!((link.next(), link.arrive(now + 30 * MS)), (None, None));
}

#[test]
fn a_rate_spaces_packets_and_its_queue_drops_the_tail() {
    // 1000 bytes at 8 Mbit/s take one millisecond.
    let settings = Settings { rate: 8_000_000, queue: 3_000, delay: 10 * MS, ..Settings::default() };
    let mut link = Link::new(settings, 1);
    let all = carried(&mut link, 5, 1_000, Duration::ZERO);
    assert_eq!(all, [(11 * MS, 0), (12 * MS, 1), (13 * MS, 2)]);
    assert_eq!(link.counters().dropped, 2);
}

#[test]
fn the_queue_has_room_again_as_it_is_sent() {
    let settings = Settings { rate: 8_000_000, queue: 2_000, ..Settings::default() };
    let mut link = Link::new(settings, 1);
    let all = carried(&mut link, 100, 1_000, MS);
    assert_eq!((all.len(), link.counters().dropped), (100, 0));
}

#[test]
fn loss_is_random_and_follows_from_the_seed() {
    let lost = |seed| {
        let mut link = Link::new(Settings { loss: 0.02, ..Settings::default() }, seed);
        let all = carried(&mut link, 10_000, 100, MS);
        assert_eq!(link.counters().lost + all.len() as u64, 10_000);
        all
    };
    let share = 1.0 - lost(7).len() as f64 / 10_000.0;
    assert!((0.015..0.025).contains(&share), "{share}");
    assert_eq!(lost(7), lost(7));
    assert_ne!(lost(7), lost(8));
}

#[test]
fn jitter_keeps_the_order_unless_it_may_not() {
    for reorder in [false, true] {
        let settings = Settings { delay: 25 * MS, jitter: 5 * MS, reorder, ..Settings::default() };
        let mut link = Link::new(settings, 1);
        let all = carried(&mut link, 1_000, 100, MS);
        assert_eq!(all.len(), 1_000);
        let in_order = all.windows(2).all(|pair| pair[0].1 < pair[1].1);
        assert_eq!(in_order, !reorder);
        for (at, number) in all {
            let took = at - MS * number;
            assert!((25 * MS..=30 * MS).contains(&took), "{number} took {took:?}");
        }
    }
}

#[test]
fn a_duplicate_arrives_right_after_its_original() {
    let mut link = Link::new(Settings { duplicate: 1.0, delay: MS, ..Settings::default() }, 1);
    let all = carried(&mut link, 2, 100, MS);
    assert_eq!(all, [(MS, 0), (MS, 0), (2 * MS, 1), (2 * MS, 1)]);
}

#[test]
fn a_cut_takes_what_is_under_way_and_ends() {
    let mut link = Link::new(Settings { delay: 10 * MS, ..Settings::default() }, 1);
    let now = Instant::now();
    link.send(now, 100, "under way");
    link.settings().cut = true;
    link.send(now, 100, "sent meanwhile");
    assert_eq!(link.arrive(now + 10 * MS), None);
    assert_eq!(link.counters().cut, 2);
    link.settings().cut = false;
    link.send(now + 11 * MS, 100, "after");
    assert_eq!(link.arrive(now + 21 * MS), Some("after"));
}

#[test]
fn what_arrives_late_is_counted() {
    let mut link = Link::new(Settings::default(), 1);
    let now = Instant::now();
    for late in [0, 199, 200] {
        link.send(now, 100, late);
        assert!(link.arrive(now + Duration::from_micros(late)).is_some());
    }
    assert_eq!(link.counters().late, 1);
}
