//! Connections of workloads, through their sidecars.

use std::io::Write;
use std::net::Shutdown;

use e2e::manifest::{listener, of_connections};
use e2e::mesh::Mesh;
use e2e::sidecar::SidecarSite;
use e2e::tcp::{End, Server, connect, end_of, read};
use e2e::wait::SOON;
use e2e::wait_until;

use super::{World, address};

#[test]
fn a_workload_reaches_another_cluster_and_is_counted() {
    let server = Server::echo(b"hello");
    let world = World::new(&server);
    let (sidecar, at) = world.sidecar();
    let mut client = connect(at);
    assert_eq!(read(&mut client, 5), b"hello");
    client.write_all(&[7; 100_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut client), End::Clean(vec![7; 100_000]));
    let shows = |text: &str, line: &str| text.lines().any(|shown| shown == line);
    let labels = |direction| format!("direction=\"{direction}\",service=\"shop/db\"");
    for (at, direction) in [
        (&world.west.site.admin, "outbound"),
        (&world.east.site.admin, "inbound"),
        (&sidecar.site.admin, "outbound"),
    ] {
        wait_until("what has ended is counted", SOON, || {
            let text =
                e2e::client::fetch(*at, &e2e::client::Request::get("localhost", "/metrics")).ok()?.text();
            let labels = labels(direction);
            let all = [
                format!("ringway_connections{{{labels}}} 0"),
                format!("ringway_connection_bytes_total{{{labels},way=\"received\"}} 100000"),
                format!("ringway_connection_bytes_total{{{labels},way=\"sent\"}} 100005"),
                format!("ringway_connection_duration_seconds_count{{{labels}}} 1"),
            ];
            all.iter().all(|line| shows(&text, line)).then_some(())
        });
    }
}

#[test]
fn what_is_local_needs_no_gateway_and_listeners_come_and_go() {
    let server = Server::echo(b"hello");
    let mesh = Mesh::new();
    let mut west =
        mesh.site("west", &[]).start(&[of_connections("db", "tcp", &[("a", server.address())], "")]);
    let (at, more) = (address(), address());
    let mut site = SidecarSite::new(&mesh, "web-1", "web", &west.site);
    let db = |name: &str, at| listener(name, &format!("{at}"), "protocol: tcp\n  service: db");
    site.objects = vec![db("db", at)];
    let sidecar = site.start_up();
    assert_eq!(read(&mut connect(at), 5), b"hello");
    west.process.kill();
    sidecar.wait_gateway("gw-1", "down");
    assert_eq!(read(&mut connect(at), 5), b"hello", "the gateway is not on the way");
    site.objects = vec![db("db", more)];
    site.write();
    sidecar.process.hang_up();
    wait_until("it listens elsewhere", SOON, || std::net::TcpStream::connect(more).ok());
    assert_eq!(read(&mut connect(more), 5), b"hello");
    wait_until("and no longer there", SOON, || std::net::TcpStream::connect(at).err());
}

#[test]
fn a_gateway_that_dies_ends_what_runs_and_the_next_one_takes_over() {
    let server = Server::echo(b"hello");
    let mut world = World::new(&server);
    let (_sidecar, at) = world.sidecar();
    let mut held = connect(at);
    assert_eq!(read(&mut held, 5), b"hello");
    world.west.process.kill();
    assert_eq!(end_of(&mut held), End::Reset);
    // It waits for a gateway rather than fail.
    world.west = world.west.site.spawn();
    let mut client = connect(at);
    wait_until("a connection through the next gateway", SOON, || {
        client = connect(at);
        let mut first = [0];
        (std::io::Read::read(&mut client, &mut first).ok()? == 1).then_some(())
    });
}
