//! Listeners come and go while the process runs, and say what is wrong with them.

use std::io::Write;
use std::net::TcpStream;

use e2e::manifest::{link, listener, of_connections};
use e2e::tcp::{End, Server, connect, end_of, read};
use e2e::wait::SOON;
use e2e::wait_until;

use super::{World, address};

#[test]
fn listeners_come_and_go_and_what_they_accepted_goes_on() {
    let (server, other) = (Server::echo(b"first"), Server::echo(b"other"));
    let world = World::new(&server);
    let World { west, east, at, .. } = &world;
    let mut held = connect(*at);
    assert_eq!(read(&mut held, 5), b"first");
    let more = address();
    let objects = |listeners: &[String]| [&[link("east", &[east.site.tunnel])], listeners].concat();
    let db = |name: &str, at| listener(name, &format!("{at}"), "protocol: tcp\n  service: db");
    west.site.write(&objects(&[db("db", *at), db("more", more)]));
    west.process.hang_up();
    wait_until("the second listens", SOON, || TcpStream::connect(more).ok());
    assert_eq!(read(&mut connect(more), 5), b"first");
    // The same one leads elsewhere from now on, on the socket that it has.
    east.site.write(&[
        link("west", &[]),
        of_connections("db", "tcp", &[("a", server.address())], ""),
        of_connections("other", "tcp", &[("a", other.address())], ""),
    ]);
    east.process.hang_up();
    west.wait_service("shop/other", &["east"]);
    west.site.write(&objects(&[listener("db", &at.to_string(), "protocol: tcp\n  service: other")]));
    west.process.hang_up();
    wait_until("it leads elsewhere", SOON, || (read(&mut connect(*at), 5) == b"other").then_some(()));
    wait_until("the second is closed", SOON, || TcpStream::connect(more).err());
    west.site.write(&objects(&[]));
    west.process.hang_up();
    wait_until("the first is closed", SOON, || TcpStream::connect(*at).err());
    held.write_all(b"still here").unwrap();
    assert_eq!(read(&mut held, 10), b"still here");
}

#[test]
fn what_cannot_listen_or_leads_nowhere_is_said_and_harms_no_other() {
    let server = Server::echo(b"hello");
    let world = World::new(&server);
    let World { west, east, at, .. } = &world;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = address();
    west.site.write(&[
        link("east", &[east.site.tunnel]),
        listener("db", &at.to_string(), "protocol: tcp\n  service: db"),
        listener("taken", &taken.local_addr().unwrap().to_string(), "protocol: tcp\n  service: db"),
        listener("nowhere", &nowhere.to_string(), "protocol: tcp\n  service: dbs"),
    ]);
    west.process.hang_up();
    let complaint = |name: &str, word: &str| {
        wait_until(&format!("{name}: {word}"), SOON, || {
            let said = west.complaints(&format!("Listener shop/{name}"));
            said.iter().any(|said| said.contains(word)).then_some(())
        });
    };
    complaint("taken", "Programmed NotBound: spec.address: cannot listen on 127.0.0.1:");
    complaint("nowhere", "ResolvedRefs BackendNotFound: no service `dbs.shop.mesh`");
    assert_eq!(end_of(&mut connect(nowhere)), End::Reset);
    assert_eq!(read(&mut connect(*at), 5), b"hello");
    // It is tried again.
    let address = taken.local_addr().unwrap();
    // Said, and not left to the closing: a child that has not begun its program yet holds a copy.
    socket2::SockRef::from(&taken).shutdown(std::net::Shutdown::Both).unwrap();
    drop(taken);
    wait_until("it listens", SOON, || TcpStream::connect(address).ok());
    assert_eq!(read(&mut connect(address), 5), b"hello");
    wait_until("all is well", SOON, || west.complaints("Listener shop/taken").is_empty().then_some(()));
}

#[test]
fn a_listener_that_is_applied_listens_at_the_gateways_that_it_names() {
    let server = Server::echo(b"hello");
    let world = World::new(&server);
    let (mesh, west) = (&world.mesh, &world.west);
    let (more, elsewhere) = (address(), address());
    let leads = "protocol: tcp\n  service: db\n  gateways:";
    let file = mesh.dir().join("listeners.yaml");
    let objects = [
        listener("more", &more.to_string(), &format!("{leads} [gw-1]")),
        listener("elsewhere", &elsewhere.to_string(), &format!("{leads} [gw-2]")),
    ];
    std::fs::write(&file, objects.join("---\n")).unwrap();
    let applied = mesh.cli_at(west, &["apply", "-f", &file.to_string_lossy()]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    wait_until("it listens", SOON, || TcpStream::connect(more).ok());
    let mut held = connect(more);
    assert_eq!(read(&mut held, 5), b"hello");
    assert!(TcpStream::connect(elsewhere).is_err(), "that is another gateway's");
    let shown = mesh.cli_at(west, &["get", "Listener"]);
    assert!(shown.out.contains("more") && shown.out.contains("elsewhere"), "{shown:?}");
    let deleted = mesh.cli_at(west, &["delete", "Listener", "more", "-n", "shop"]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    wait_until("it is closed", SOON, || TcpStream::connect(more).err());
    held.write_all(b"still here").unwrap();
    assert_eq!(read(&mut held, 10), b"still here");
}
