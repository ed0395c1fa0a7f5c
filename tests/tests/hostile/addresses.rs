//! Where a peer says that its gateways are.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::hostile::Carrier;
use e2e::hostile::stage::{Setup, Stage};
use e2e::manifest::object;
use e2e::wait::{SOON, pause};
use e2e::wait_until;
use proto::limits::{TOLD_DIALS_BURST, TOLD_DIALS_PER_SECOND};

/// A host that east has nothing to do with, at every address of 127.0.0.0/8: it counts what comes and answers nothing.
struct Bystander {
    port: u16,
    packets: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Bystander {
    fn start() -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let (packets, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (packets.clone(), connections.clone());
        std::thread::spawn(move || {
            while udp.recv(&mut [0; 2048]).is_ok() {
                counts.0.fetch_add(1, Ordering::Relaxed);
            }
        });
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok(connection) = tcp.accept() {
                counts.1.fetch_add(1, Ordering::Relaxed);
                kept.push(connection);
            }
        });
        Self { port, packets, connections }
    }

    fn packets(&self) -> usize {
        self.packets.load(Ordering::Relaxed)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// West's Link to east with this address.
fn link(address: &str) -> String {
    format!("addresses: [\"{address}\"]")
}

#[test]
fn lists_that_change_all_the_time_make_few_dials_to_anybody() {
    // It names a loopback address, where nobody is, so that loopback addresses may be dialled.
    let named = link(&format!("127.0.0.1:{}", e2e::port::free_port()));
    let mut stage = Stage::set(Setup { link: Some(named), ..Setup::default() });
    let bystander = Bystander::start();
    let east = stage.east(Carrier::Tcp);
    let started = Instant::now();
    let mut rng = fastrand::Rng::with_seed(3);
    while started.elapsed() < Duration::from_secs(10) {
        // Ids that change, addresses that change, and names for them.
        let place = |rng: &mut fastrand::Rng| {
            let host = format!("127.{}.{}.{}", rng.u8(1..), rng.u8(..), rng.u8(1..));
            (format!("gw-{}", rng.u32(..)), format!("{host}:{}", bystander.port))
        };
        let list: Vec<_> = (0..64).map(|_| place(&mut rng)).collect();
        assert!(east.say_gateways(list), "{:?}", east.ended());
    }
    let seconds = started.elapsed().as_secs() as usize + 1;
    wait_until("something is dialled", SOON, || (bystander.packets() > 0).then_some(()));
    let dials = TOLD_DIALS_BURST as usize + TOLD_DIALS_PER_SECOND as usize * seconds;
    let (packets, connections) = (bystander.packets(), bystander.connections());
    println!("{packets} packets and {connections} connections in {seconds} s, of at most {dials} dials");
    assert!(connections <= dials);
    // A dial in vain sends its first packet again and again for five seconds.
    assert!(packets <= dials * 12, "{packets} packets");
    stage.wait_shown("OverBudget", "new addresses");
    stage.assert_unharmed(192);
}

#[test]
fn one_address_keeps_its_pace_under_every_id() {
    let named = link(&format!("127.0.0.1:{}", e2e::port::free_port()));
    let stage = Stage::set(Setup { link: Some(named), ..Setup::default() });
    let bystander = Bystander::start();
    let east = stage.east(Carrier::Quic);
    let started = Instant::now();
    let mut n = 0;
    while started.elapsed() < Duration::from_secs(12) {
        n += 1;
        let place = (format!("gw-{n}"), format!("127.1.1.1:{}", bystander.port));
        assert!(east.say_gateways([place]), "{:?}", east.ended());
        pause(Duration::from_millis(20));
    }
    // Each dial hangs for five seconds; then it waits as it would have under one id.
    let connections = bystander.connections();
    assert!((1..=6).contains(&connections), "{connections} connections");
}

#[test]
fn loopback_is_dialled_where_the_link_names_such_and_nowhere_else() {
    // A name that leads nowhere (RFC 6761, section 6.4).
    let stage = Stage::set(Setup { link: Some(link("gw.east.invalid:7443")), ..Setup::default() });
    let bystander = Bystander::start();
    let east = stage.east(Carrier::Tcp);
    let port = bystander.port;
    let places = ["127.0.0.1", "127.9.9.9", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"];
    let places = places.iter().map(|host| ("gw-2".to_owned(), format!("{host}:{port}")));
    assert!(east.say_gateways(places.collect::<Vec<_>>()));
    stage.wait_shown("OverBudget", "loopback");
    // Several rounds of all of them.
    stage.west.wait_status("they are tried again", SOON, |_| {
        (stage.west.admin("/metrics")?.text().lines().find_map(|line| {
            line.strip_prefix(
                "ringway_peer_over_budget_total{peer=\"east\",budget=\"forbidden_addresses\"} ",
            )?
            .parse::<u32>()
            .ok()
        })? > 20)
            .then_some(())
    });
    assert_eq!((bystander.packets(), bystander.connections()), (0, 0));

    // Its own operator says that they are right.
    let own = [
        object("Link", "east", &link(&format!("127.0.0.1:{}", e2e::port::free_port()))),
        e2e::manifest::link("north", &[]),
        e2e::manifest::service("cart", &[("a", stage.backends[0].address())]),
    ];
    stage.west.site.write(&own);
    stage.west.process.hang_up();
    wait_until("they are dialled", SOON, || {
        (bystander.packets() > 0 && bystander.connections() > 0).then_some(())
    });
}
