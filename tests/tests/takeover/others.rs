//! What else is there when a gateway is taken over: callers of HTTP/2, flows of datagrams, and endpoints that register
//! themselves.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use e2e::backend::Backend;
use e2e::manifest::{exported, link, listener, of_connections};
use e2e::mesh::Mesh;
use e2e::pair::CART;
use e2e::registrar::register;
use e2e::sidecar::SidecarSite;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{SOON, wait_until};
use h2::client::SendRequest;
use http::Request;

use super::{World, address};

/// Connections of HTTP/2.
const CONNECTIONS: usize = 8;

/// Asks over one connection after another until it is told to stop; how many connections it took.
async fn ask_until(stop: &AtomicBool, at: SocketAddr, answered: &AtomicUsize) -> usize {
    let mut connections = 0;
    while !stop.load(Ordering::Relaxed) {
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        connections += 1;
        while !stop.load(Ordering::Relaxed) {
            match ask(&mut sender).await {
                Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
                // Nothing of it was processed: another connection is opened.
                Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => break,
                Err(error) => panic!("a request failed: {error:?}"),
            };
        }
        drop(sender);
        let _ = connection.await;
    }
    connections
}

async fn ask(sender: &mut SendRequest<Bytes>) -> Result<(), h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let request = Request::get(format!("http://{CART}/trickle/2/10")).body(()).unwrap();
    let response = sender.send_request(request, true)?.0.await?;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(())
}

#[test]
fn callers_of_http2_are_told_and_lose_nothing() {
    let mut world = World::new();
    let (at, stop, answered) = (world.west.site.http, AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(ask_until(&stop, at, &answered))
                })
            })
            .collect();
        let more = || {
            let before = answered.load(Ordering::Relaxed);
            wait_until("more is answered", SOON, || {
                (answered.load(Ordering::Relaxed) >= before + 20 * CONNECTIONS).then_some(())
            });
        };
        more();
        for _ in 0..2 {
            for gateway in [&mut world.west, &mut world.east] {
                let mut elder = gateway.take_over();
                more();
                assert!(elder.wait_end().success());
            }
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            assert!(
                caller.join().expect("no request failed") >= 3,
                "each take-over of west took a connection"
            );
        }
    });
}

#[test]
fn flows_of_datagrams_go_on_with_the_new_process() {
    let mesh = Mesh::new();
    let echo = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..count], from);
        }
    });
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let mut east = east.start(&[link("west", &[]), of_connections("dns", "udp", &[("a", endpoint)], "")]);
    let at = address();
    let leads = listener("dns", &at.to_string(), "protocol: udp\n  service: dns");
    let mut west = west.start(&[link("east", &[east.site.tunnel]), leads]);
    west.wait_service("shop/dns", &["east"]);
    let caller = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // From where it asked, and from nowhere else.
    caller.connect(at).unwrap();
    caller.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut number = 0_u32;
    let mut answered = || {
        wait_until("a datagram is answered", SOON, || {
            number += 1;
            caller.send(&number.to_be_bytes()).ok()?;
            let mut said = [0; 4];
            (caller.recv(&mut said).ok()? == 4 && said == number.to_be_bytes()).then_some(())
        });
    };
    answered();
    for _ in 0..2 {
        for gateway in [&mut west, &mut east] {
            let mut elder = gateway.take_over();
            answered();
            assert!(elder.wait_end().success());
            (0..100).for_each(|_| answered());
        }
    }
}

/// An endpoint that lives from its leases serves as if nothing was, and for longer than a lease lasts.
#[test]
fn what_registers_itself_serves_on() {
    let mesh = Mesh::new();
    let services = [exported("web", &[], &[]), exported("side", &[], &[])];
    let mut west = mesh.site("west", &[]).start(&services);
    let [by_hand, beside] = ["by hand", "beside"].map(Backend::start);
    let mut registrar = register(&mesh, &west.site, ("web", "a", by_hand.address()), "10s", &[]);
    let mut site = SidecarSite::new(&mesh, "web-1", "web", &west.site);
    site.more = format!(
        "  register:\n    - service: shop/side\n      ports: {{ web: {} }}\n",
        beside.address().port()
    );
    let _sidecar = site.start_up();
    let traffic = ["web", "side"].map(|name| {
        let host = format!("{name}.shop.mesh");
        wait_until(&format!("{host} serves"), SOON, || (west.get(&host, "/").status == 200).then_some(()));
        Traffic::start(west.site.http, 4, Ask::get(&host))
    });
    for _ in 0..2 {
        let mut elder = west.take_over();
        traffic.iter().for_each(|traffic| traffic.wait_more(50));
        assert!(elder.wait_end().success());
        let began = std::time::Instant::now();
        wait_until("a lease would be over", SOON, || {
            (began.elapsed() > Duration::from_secs(12)).then_some(())
        });
        traffic.iter().for_each(|traffic| traffic.wait_more(50));
    }
    for traffic in traffic {
        traffic.stop().assert_none_failed();
    }
    assert!(registrar.terminate().success());
}
