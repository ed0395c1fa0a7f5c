//! Links between real namespaces: `tests/run` leaves them out, and counts that, where they cannot be made.
#![allow(clippy::unwrap_used)]

mod with_links {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::time::{Duration, Instant};

    use wan::{Direction, End, Namespace, Settings, Wan};

    const WEST: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 1);
    const EAST: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 2);
    const ONE_WAY: Duration = Duration::from_millis(25);

    /// 300 Mbit/s and 25 ms of that.
    const RATE: u64 = 300_000_000;
    const QUEUE: u64 = RATE / 8 / 40;

    struct Bed {
        west: Namespace,
        east: Namespace,
        wan: Wan,
    }

    /// Two namespaces and the link between them.
    fn bed(settings: &Settings) -> Bed {
        assert_eq!(wan::obstacle(), None);
        let (west, east) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let end = |namespace, address| End { namespace, device: "wan1", address };
        let wan = Wan::join([end(&west, WEST), end(&east, EAST)], settings, 1).unwrap();
        Bed { west, east, wan }
    }

    fn socket(namespace: &Namespace, address: Ipv4Addr) -> UdpSocket {
        let socket = namespace.enter(|| UdpSocket::bind((address, 7000))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn a_packet_takes_its_time_both_ways_and_a_cut_stops_it() {
        let bed = bed(&Settings { delay: ONE_WAY, ..Settings::default() });
        let (west, east) = (socket(&bed.west, WEST), socket(&bed.east, EAST));
        let mut buffer = [0; 100];
        let started = Instant::now();
        west.send_to(b"ping", (EAST, 7000)).unwrap();
        assert_eq!(east.recv(&mut buffer).unwrap(), 4);
        assert!(started.elapsed() >= ONE_WAY);
        east.send_to(b"pong!", (WEST, 7000)).unwrap();
        assert_eq!(west.recv(&mut buffer).unwrap(), 5);
        assert!(started.elapsed() >= 2 * ONE_WAY);

        bed.wan.set_way(Direction::Back, |settings| settings.cut = true);
        let before = bed.wan.counters(Direction::Back).cut;
        west.send_to(b"ping", (EAST, 7000)).unwrap();
        assert_eq!(east.recv(&mut buffer).unwrap(), 4);
        east.send_to(b"pong!", (WEST, 7000)).unwrap();
        west.set_read_timeout(Some(4 * ONE_WAY)).unwrap();
        assert!(west.recv(&mut buffer).is_err());
        assert!(bed.wan.counters(Direction::Back).cut > before);
    }

    /// Alone: `cargo test --release -p wan --test links -- --ignored --nocapture`. How many are late depends on the machine: it is
    /// printed.
    #[test]
    #[ignore = "takes both cores for three seconds: tests/run --long"]
    fn three_hundred_megabits_pass_both_ways() {
        let settings = Settings { delay: ONE_WAY, rate: RATE, queue: QUEUE, ..Settings::default() };
        let bed = bed(&settings);
        // Without the headers of UDP and IP.
        let payload = [0; 1450 - 28];
        let rate = RATE as f64 * 0.98 / (1450.0 * 8.0);
        let count = (rate * 3.0) as u64;
        let send = |from: UdpSocket, to: Ipv4Addr| {
            let mut next = Instant::now();
            for _ in 0..count {
                while Instant::now() < next {
                    std::thread::yield_now();
                }
                from.send_to(&payload, (to, 7000)).unwrap();
                // What it had no core for is not made up for in a burst that the link's queue could not hold.
                let soonest = Instant::now().checked_sub(ONE_WAY / 2).unwrap();
                next = next.max(soonest) + Duration::from_secs_f64(1.0 / rate);
            }
        };
        let (west, east) = (socket(&bed.west, WEST), socket(&bed.east, EAST));
        std::thread::scope(|scope| {
            scope.spawn(|| send(west, EAST));
            scope.spawn(|| send(east, WEST));
        });
        for way in [Direction::Forth, Direction::Back] {
            // The last ones may still be on their way into the device.
            let deadline = Instant::now() + Duration::from_secs(10);
            while bed.wan.counters(way).offered < count {
                assert!(Instant::now() < deadline, "the device dropped some: {:?}", bed.wan.counters(way));
                std::thread::yield_now();
            }
            let counters = bed.wan.counters(way);
            println!("{way:?}: {count} sent, real time {}, {counters:?}", bed.wan.is_real_time());
            assert_eq!(counters.dropped, 0);
        }
    }
}
