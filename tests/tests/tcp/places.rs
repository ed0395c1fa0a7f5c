//! Where a connection goes, and where it goes next.

use std::collections::BTreeSet;
use std::io::Write;

use e2e::manifest::{link, listener, of_connections, policy};
use e2e::mesh::Mesh;
use e2e::tcp::{End, Server, connect, end_of, read};
use e2e::wait::SOON;
use e2e::wait_until;

use super::{World, address};

#[test]
fn the_next_endpoint_is_tried_where_one_refuses_and_nobody_hears_of_it() {
    let server = Server::echo(b"hello");
    let world = World::with(&[("a", address()), ("b", address()), ("c", server.address())], "", "");
    for _ in 0..20 {
        assert_eq!(read(&mut connect(world.at), 5), b"hello");
    }
    assert_eq!(server.accepted(), 20);
}

#[test]
fn another_cluster_takes_what_the_first_has_nobody_for() {
    let (of_east, of_north) = (Server::echo(b"east "), Server::echo(b"north"));
    let mesh = Mesh::new();
    let sites = ["east", "north", "west"].map(|c| mesh.site(c, &["east", "north", "west"]));
    let [east, north, west] = sites;
    let db = |server: &Server| of_connections("db", "tcp", &[("a", server.address())], "");
    let first_east = policy("db", "placement: { mode: local-first, tiers: [[east], [north]] }");
    let mut east = east.start(&[link("west", &[]), db(&of_east), first_east.clone()]);
    let north = north.start(&[link("west", &[]), db(&of_north)]);
    let at = address();
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        link("north", &[north.site.tunnel]),
        listener("db", &at.to_string(), "protocol: tcp\n  service: db"),
    ]);
    west.wait_service("shop/db", &["east", "north"]);
    let first = |n: usize| {
        let greeted: BTreeSet<_> = (0..n).map(|_| read(&mut connect(at), 5)).collect();
        greeted.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(first(10), ["east "]);
    // Its only endpoint is gone, and east does not know yet.
    east.site.write(&[
        link("west", &[]),
        of_connections("db", "tcp", &[("a", address())], ""),
        first_east.clone(),
    ]);
    east.process.hang_up();
    wait_until("north serves", SOON, || (first(1) == ["north"]).then_some(()));
    assert_eq!(first(10), ["north"]);
    east.site.write(&[link("west", &[]), db(&of_east), first_east]);
    east.process.hang_up();
    wait_until("east serves again", SOON, || (first(1) == ["east "]).then_some(()));
    // One that runs stays where it is; it ends with its gateway, and the next one is placed elsewhere.
    let mut held = connect(at);
    assert_eq!(read(&mut held, 5), b"east ");
    east.process.kill();
    assert_eq!(end_of(&mut held), End::Reset);
    assert_eq!(first(10), ["north"]);
}

#[test]
fn nobody_is_asked_twice_for_what_has_begun() {
    let server = Server::start(drop);
    let world = World::new(&server);
    let mut client = connect(world.at);
    // It may be reset before that, by an endpoint that is gone.
    let _ = client.write_all(b"x");
    assert!(matches!(end_of(&mut client), End::Reset | End::Clean(_)));
    assert_eq!(server.accepted(), 1);
}

/// A PROXY header of version 2 whose TLV 224 is `key`.
fn keyed(key: &str) -> Vec<u8> {
    let addresses = [198, 51, 100, 7, 203, 0, 113, 1, 0x12, 0x67, 0x15, 0x38];
    let other = [0x04, 0, 3, 1, 2, 3];
    let tlv = [&[224, 0, u8::try_from(key.len()).unwrap()], key.as_bytes()].concat();
    let rest = [&addresses[..], &other, &tlv].concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11", &length[..], &rest].concat()
}

#[test]
fn the_key_of_a_proxy_header_decides_which_cluster_has_it() {
    let (of_east, of_north) = (Server::echo(b"east "), Server::echo(b"north"));
    let mesh = Mesh::new();
    let [east, north, west] = ["east", "north", "west"].map(|c| mesh.site(c, &["east", "north", "west"]));
    let members = "[{ cluster: east, region: e, weight: 100 }, { cluster: north, region: n, weight: 100 }]";
    let contract = format!(
        "placement: {{ mode: sharded, generation: 1, members: {members}, hash: [{{ proxyTlv: 224 }}] }}"
    );
    let serves = |server: &Server| {
        let db = of_connections("db", "tcp", &[("a", server.address())], "");
        [link("west", &[]), db, policy("db", &contract)]
    };
    let (east, north) = (east.start(&serves(&of_east)), north.start(&serves(&of_north)));
    let at = address();
    let listens = "protocol: tcp\n  service: db\n  proxyHeader: { from: [127.0.0.0/8] }";
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        link("north", &[north.site.tunnel]),
        listener("db", &at.to_string(), listens),
    ]);
    west.wait_service("shop/db", &["east", "north"]);
    let owner = |key: &str| {
        let mut client = connect(at);
        client.write_all(&keyed(key)).unwrap();
        read(&mut client, 5)
    };
    let owners: Vec<_> = (0..24).map(|key| owner(&format!("tenant-{key}"))).collect();
    assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), 2, "both have some: {owners:?}");
    for (key, first) in owners.iter().enumerate() {
        assert_eq!(owner(&format!("tenant-{key}")), *first, "each has one, whatever the connection");
    }
}
