//! The promise: no request fails and no stream is reset, ten times in a row.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use e2e::pair::CART;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{SOON, wait_until};

use super::{World, echoes, ends_well, greeted};

const CALLERS: usize = 64;
const STREAMS: usize = 100;
const TIMES: usize = 10;

/// What the new process must wait for: a peer that dials it, and checks that its endpoints pass.
#[test]
fn it_serves_when_it_has_what_the_old_one_had() {
    for (both_dial, check) in [(false, ""), (true, "{ tcp: {}, interval: 2s, rise: 2 }")] {
        let mut world = World::with(both_dial, check);
        let ask = Ask { target: "/trickle/2/10".into(), ..Ask::get(CART) };
        let traffic = [&world.west, &world.east]
            .map(|gateway| Traffic::start(gateway.site.http, CALLERS / 4, ask.clone()));
        let mut stream = greeted(world.at);
        for _ in 0..2 {
            for gateway in [&mut world.east, &mut world.west] {
                let drained = gateway.process.log().matches("Draining.").count();
                let mut elder = gateway.take_over();
                echoes(&mut stream, b"on its way");
                traffic.iter().for_each(|traffic| traffic.wait_more(CALLERS));
                // What is opened before it says so may still be its own, and ends with its grace.
                wait_until("the old one drains", SOON, || {
                    (elder.log().matches("Draining.").count() > drained).then_some(())
                });
                ends_well(std::mem::replace(&mut stream, greeted(world.at)));
                assert!(elder.wait_end().success());
                let log = gateway.process.log();
                assert!(!log.contains("taking over all the same"), "{both_dial} {check}");
            }
        }
        for traffic in traffic {
            traffic.stop().assert_none_failed();
        }
    }
}

#[test]
fn nobody_notices_ten_upgrades_in_a_row() {
    let mut world = World::new();
    let (sidecar, beside) = world.sidecar();
    let ask = Ask { target: "/trickle/2/10".into(), keys: 100, ..Ask::get(CART) };
    let traffic = [
        Traffic::start(world.west.site.http, CALLERS, ask.clone()),
        Traffic::start(sidecar.site.proxy, CALLERS / 8, ask),
    ];
    for round in 0..TIMES {
        let at = |n: usize| if n.is_multiple_of(4) { beside } else { world.at };
        let mut streams: Vec<_> = (0..STREAMS).map(|n| greeted(at(n))).collect();
        // Where callers are, and where endpoints are.
        let gateway = if round.is_multiple_of(2) { &mut world.west } else { &mut world.east };
        let mut elder = gateway.take_over();
        streams.iter_mut().for_each(|stream| echoes(stream, b"from the old one"));
        let drains = |log: &str| log.matches("Draining.").count() > round / 2;
        wait_until("the old one drains", SOON, || drains(&elder.log()).then_some(()));
        traffic.iter().for_each(|traffic| traffic.wait_more(CALLERS));
        streams.iter_mut().for_each(|stream| echoes(stream, b"as it drains"));
        ends_well(greeted(world.at));
        let mut local = UnixStream::connect(&world.unix).unwrap();
        local.write_all(b"!").unwrap();
        let mut said = [0; 3];
        local.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hi!", "the file of the socket stays");
        drop(local);
        streams.into_iter().for_each(ends_well);
        assert!(elder.wait_end().success());
    }
    let mut requests = 0;
    for traffic in traffic {
        let report = traffic.stop();
        report.assert_none_failed();
        requests += report.done.len();
    }
    for gateway in [&world.west, &world.east] {
        assert_eq!(gateway.process.log().matches("Drain grace period over").count(), 0);
    }
    println!("{requests} requests and {} streams", STREAMS * TIMES);
}
