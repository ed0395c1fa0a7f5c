//! What a connection begins with: names of TLS, PROXY headers, and bytes that tell what they are.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Request, fetch};
use e2e::manifest::{link, listener, object, of_connections, policy, service};
use e2e::mesh::Mesh;
use e2e::tcp::{End, Server, connect, end_of, read};
use e2e::wait::SOON;
use e2e::wait_until;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::{World, address};

/// A certificate for some names, with its key.
fn certificate(names: &[&str]) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.der().clone(), PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap())
}

/// A server of TLS that says its name to whoever comes.
fn tls_server(name: &'static str, names: &[&str]) -> (Server, CertificateDer<'static>) {
    let (certificate, key) = certificate(names);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
    let config = Arc::new(config);
    let server = Server::start(move |stream| {
        let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        // Whoever is not satisfied with our certificate leaves.
        if tls.write_all(name.as_bytes()).is_ok() {
            tls.conn.send_close_notify();
            let _ = tls.flush();
            let _ = tls.read(&mut [0]);
        }
    });
    (server, certificate)
}

/// What the server behind `name` says; an error is that of the handshake.
fn ask_tls(
    at: std::net::SocketAddr,
    name: &str,
    roots: &[&CertificateDer<'static>],
) -> std::io::Result<String> {
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add((*root).clone()).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(store).with_no_client_auth());
    let client = ClientConnection::new(config, name.to_owned().try_into().unwrap()).unwrap();
    let mut said = String::new();
    StreamOwned::new(client, connect(at)).read_to_string(&mut said)?;
    Ok(said)
}

#[test]
fn tls_is_led_by_its_name_and_never_opened() {
    let (db, db_root) = tls_server("db", &["db.shop.mesh", "db.shop.east.mesh"]);
    let (web, web_root) = tls_server("web", &["www.example.com", "a.b.example.org", "else.example.net"]);
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[
        link("west", &[]),
        of_connections("db", "tls", &[("a", db.address())], ""),
        of_connections("web", "tls", &[("a", web.address())], ""),
    ]);
    let (named, default) = (address(), address());
    let names = "{ www.example.com: { service: web }, \"*.example.org\": { service: web, cluster: east } }";
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        listener("tls", &named.to_string(), &format!("protocol: tls\n  names: {names}")),
        listener("any", &default.to_string(), "protocol: detect\n  service: web"),
    ]);
    west.wait_service("shop/db", &["east"]);
    west.wait_service("shop/web", &["east"]);
    let roots = [&db_root, &web_root];
    for (name, server) in [
        ("db.shop.mesh", "db"),
        ("DB.shop.east.mesh", "db"),
        ("www.example.com", "web"),
        ("a.b.example.org", "web"),
    ] {
        assert_eq!(ask_tls(named, name, &roots).unwrap(), server, "{name}");
    }
    let refused = ask_tls(named, "else.example.net", &roots).unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    let nowhere = ask_tls(named, "nobody.shop.mesh", &roots).unwrap_err();
    assert_eq!(nowhere.kind(), std::io::ErrorKind::ConnectionReset, "{nowhere}");
    assert_eq!(ask_tls(default, "else.example.net", &roots).unwrap(), "web", "where nothing is named");
    let mut plain = connect(named);
    plain.write_all(b"GET / HTTP/1.1\r\nhost: db.shop.mesh\r\n\r\n").unwrap();
    assert_eq!(end_of(&mut plain), End::Reset);
}

#[test]
fn the_first_bytes_decide_where_nothing_is_declared() {
    let greets = Server::echo(b"220 ready\r\n");
    let backend = Backend::start("east/a");
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[
        link("west", &[]),
        of_connections("db", "tcp", &[("a", greets.address())], ""),
        service("cart", &[("a", backend.address())]),
    ]);
    let at = address();
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        listener("any", &at.to_string(), "protocol: detect\n  service: db"),
    ]);
    west.wait_service("shop/db", &["east"]);
    west.wait_service("shop/cart", &["east"]);
    assert_eq!(fetch(at, &Request::get("cart.shop.mesh", "/")).unwrap().status, 200);
    let asked = Instant::now();
    assert_eq!(read(&mut connect(at), 11), b"220 ready\r\n", "nobody said a word before");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let mut speaks = connect(at);
    speaks.write_all(b"GETTY").unwrap();
    assert_eq!(read(&mut speaks, 16), b"220 ready\r\nGETTY");
    drop(west);
}

/// A server that says what it was told of its caller before the first byte: the header, as text.
fn told() -> Server {
    Server::start(|mut stream| {
        let mut header = [0; 16];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        let mut rest = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
        stream.read_exact(&mut rest).unwrap();
        let (source, port) = (&rest[..4], u16::from_be_bytes([rest[8], rest[9]]));
        let mut line = format!("{:?} {port}", source);
        let mut tlvs = &rest[12..];
        while let [kind, high, low, more @ ..] = tlvs {
            let (value, behind) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            line += &format!(" {kind}={}", String::from_utf8_lossy(value));
            tlvs = behind;
        }
        stream.write_all(line.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn endpoints_that_ask_for_it_are_told_who_calls() {
    let server = told();
    let world = World::with(&[("a", server.address())], ", proxyHeader: v2", "");
    let (_sidecar, at_sidecar) = world.sidecar();
    let text = |stream: &mut TcpStream| match end_of(stream) {
        End::Clean(bytes) => String::from_utf8(bytes).unwrap(),
        End::Reset => panic!("reset"),
    };
    let mut client = connect(world.at);
    let port = client.local_addr().unwrap().port();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(text(&mut client), format!("[127, 0, 0, 1] {port} 230=\x02"), "two gateways");
    let mut client = connect(at_sidecar);
    let port = client.local_addr().unwrap().port();
    client.shutdown(Shutdown::Write).unwrap();
    let caller = "spiffe://acme.example/cluster/west/ns/shop/sa/web";
    assert_eq!(text(&mut client), format!("[127, 0, 0, 1] {port} 229={caller} 230=\x03"));
}

#[test]
fn a_load_balancer_that_is_trusted_says_who_calls_and_where_to_it_goes() {
    let server = told();
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[
        link("west", &[]),
        of_connections("db", "tcp", &[("a", server.address())], ", proxyHeader: v2"),
        policy("db", "placement: { hash: [{ proxyTlv: 224 }, { sourceIp: {} }] }"),
    ]);
    let (trusted, strict) = (address(), address());
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        listener(
            "db",
            &trusted.to_string(),
            "protocol: tcp\n  service: db\n  proxyHeader: { from: [127.0.0.0/8] }",
        ),
        listener(
            "far",
            &strict.to_string(),
            "protocol: tcp\n  service: db\n  proxyHeader: { from: [192.0.2.0/24] }",
        ),
    ]);
    west.wait_service("shop/db", &["east"]);
    let mut client = connect(trusted);
    client.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 5432\r\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut client), End::Clean(b"[198, 51, 100, 7] 4711 230=\x02".to_vec()));
    let mut client = connect(trusted);
    client.write_all(b"SELECT 1").unwrap();
    assert_eq!(end_of(&mut client), End::Reset, "without a header");
    // From anywhere else these are bytes like any other.
    let mut client = connect(strict);
    client.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 5432\r\n").unwrap();
    let port = client.local_addr().unwrap().port();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut client), End::Clean(format!("[127, 0, 0, 1] {port} 230=\x02").into_bytes()));
    drop(west);
}

#[test]
fn unix_sockets_are_listened_on_and_lead_to_endpoints() {
    let mesh = Mesh::new();
    let (db, web) = (mesh.dir().join("db.sock"), mesh.dir().join("web.sock"));
    let listens = UnixListener::bind(&db).unwrap();
    std::thread::spawn(move || {
        for mut stream in listens.incoming().flatten() {
            std::thread::spawn(move || {
                let mut line = [0; 4];
                stream.read_exact(&mut line).unwrap();
                stream.write_all(&[&line[..], b"pong"].concat()).unwrap();
            });
        }
    });
    let answers = UnixListener::bind(&web).unwrap();
    std::thread::spawn(move || {
        for mut stream in answers.incoming().flatten() {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nunix");
        }
    });
    let unix = |name: &str, protocol: &str, path: &std::path::Path| {
        let spec = format!(
            "ports: [{{ name: main, port: 80, protocol: {protocol} }}]\n  endpoints: [{{ id: a, host: {} }}]\n  \
             export: {{ to: [\"*\"] }}",
            path.display()
        );
        object("MeshService", &format!("{name}, namespace: shop"), &spec)
    };
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[link("west", &[]), unix("db", "tcp", &db), unix("web", "http", &web)]);
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        listener("db", "unix:db-here.sock", "protocol: tcp\n  service: db"),
        listener("web", "unix:web-here.sock", "protocol: http"),
    ]);
    west.wait_service("shop/db", &["east"]);
    west.wait_service("shop/web", &["east"]);
    let folder = west.site.dir.clone();
    let here = |file: &str| {
        let stream = UnixStream::connect(folder.join(file)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let mut client = here("db-here.sock");
    client.write_all(b"ping").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!(said, "pingpong");
    let mut client = here("web-here.sock");
    client.write_all(b"GET / HTTP/1.1\r\nhost: web.shop.mesh\r\nconnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nunix"), "{said}");
    // What a dead process left behind is replaced; the file goes with the listener.
    let mut west = west;
    west.restart();
    west.wait_service("shop/db", &["east"]);
    here("db-here.sock").write_all(b"ping").unwrap();
    west.site.write(&[link("east", &[east.site.tunnel])]);
    west.process.hang_up();
    let file = west.site.dir.join("db-here.sock");
    wait_until("the file is gone", SOON, || (!file.exists()).then_some(()));
}

/// West listens for a service whose only endpoint is that listener.
#[test]
fn a_connection_that_goes_in_circles_ends() {
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let at = address();
    let east =
        east.start(&[link("west", &[]), of_connections("db", "tcp", &[("a", at)], ", proxyHeader: v2")]);
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        listener(
            "db",
            &at.to_string(),
            "protocol: tcp\n  service: db\n  proxyHeader: { from: [127.0.0.0/8] }",
        ),
    ]);
    west.wait_service("shop/db", &["east"]);
    let mut client = connect(at);
    client.write_all(b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 5432\r\n").unwrap();
    assert_eq!(end_of(&mut client), End::Reset);
    // Each time through west and through east.
    let opened = || {
        let said = west.admin("/metrics")?.text();
        let count = said.lines().filter_map(|line| {
            let count = line.strip_prefix("ringway_connection_duration_seconds_count{")?.rsplit_once(' ')?.1;
            count.parse::<f64>().ok()
        });
        Some(count.sum::<f64>()).filter(|opened| *opened >= 1.0)
    };
    let opened = wait_until("the connections are counted", SOON, opened);
    assert!(opened <= 8.0, "{opened}");
}
