//! Extended CONNECT of HTTP/2 (RFC 8441) on either side, and CONNECT.

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::manifest::{link, of_connections, service};
use e2e::mesh::Mesh;
use e2e::tcp::{Server, connect, read};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, Uri};
use std::io::Write;

use super::{CART, World, endpoint, head};

/// Runs `test` on a runtime of its own.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        tokio::time::timeout(e2e::wait::SOON, test).await.expect("in time");
    });
}

/// Opens a tunnel: with a protocol an extended one.
async fn tunnel(
    at: SocketAddr,
    authority: &str,
    protocol: Option<&'static str>,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    match protocol {
        None => *request.uri_mut() = authority.parse().unwrap(),
        Some(protocol) => {
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            *request.uri_mut() = format!("http://{authority}/chat?x=1").parse::<Uri>().unwrap();
            request.extensions_mut().insert(Protocol::from_static(protocol));
            request.headers_mut().insert("x-caller", "me".parse().unwrap());
        }
    }
    let (response, send) = sender.send_request(request, false).unwrap();
    (response.await.unwrap(), send)
}

/// Reads so many bytes.
async fn take(stream: &mut RecvStream, bytes: usize) -> Vec<u8> {
    let mut taken = Vec::new();
    while taken.len() < bytes {
        let data = stream.data().await.expect("not at its end").unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        taken.extend_from_slice(&data);
    }
    taken
}

#[test]
fn a_caller_of_http2_reaches_an_endpoint_that_upgrades() {
    let endpoint = endpoint();
    let world = World::new(endpoint.address(), "");
    let sidecar = world.sidecar();
    // One that is no service of the mesh, too.
    let outside = endpoint.address().to_string();
    let ways = [(world.west.site.http, CART), (world.east.site.http, CART), (sidecar.site.proxy, CART)];
    for (at, authority) in ways.into_iter().chain([(sidecar.site.proxy, outside.as_str())]) {
        run(async move {
            let (response, mut send) = tunnel(at, authority, Some("echo")).await;
            assert_eq!(
                (response.status(), &response.headers()["x-mine"]),
                (StatusCode::OK, &"1".parse().unwrap())
            );
            assert!(!response.headers().contains_key("upgrade"));
            let mut receive = response.into_body();
            assert_eq!(take(&mut receive, 5).await, b"hello");
            send.send_data(Bytes::from_static(b"ping"), true).unwrap();
            assert_eq!(take(&mut receive, 4).await, b"ping");
            while let Some(last) = receive.data().await {
                assert!(last.unwrap().is_empty(), "an end without a byte");
            }
        });
    }
}

/// An endpoint of HTTP/2 that takes tunnels of `echo`, and refuses others.
fn http2_endpoint() -> Server {
    Server::start(|stream| {
        stream.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut builder = h2::server::Builder::new();
            let Ok(mut connection) = builder.enable_connect_protocol().handshake::<_, Bytes>(stream).await
            else {
                return;
            };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let asked = request.extensions().get::<Protocol>().map(|p| p.as_str().to_owned());
                    let mut response = Response::new(());
                    if request.method() != Method::CONNECT || asked.as_deref() == Some("never") {
                        *response.status_mut() = StatusCode::FORBIDDEN;
                        return drop(respond.send_response(response, true));
                    }
                    assert!(!request.headers().contains_key("sec-websocket-key"));
                    let path = request.uri().path_and_query().unwrap().to_string();
                    let mut send = respond.send_response(response, false).unwrap();
                    send.send_data(path.into(), false).unwrap();
                    let mut receive = request.into_body();
                    while let Some(Ok(data)) = receive.data().await {
                        let _ = receive.flow_control().release_capacity(data.len());
                        if send.send_data(data, false).is_err() {
                            return;
                        }
                    }
                    let _ = send.send_data(Bytes::new(), true);
                });
            }
        });
    })
}

#[test]
fn an_endpoint_of_http2_is_reached_by_callers_of_both_versions() {
    let endpoint = http2_endpoint();
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let cart = service("cart", &[("a", endpoint.address())]).replace("protocol: http", "protocol: grpc");
    let east = east.start(&[link("west", &[]), cart]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/cart", &["east"]);
    for at in [west.site.http, east.site.http] {
        run(async move {
            let (response, mut send) = tunnel(at, CART, Some("echo")).await;
            assert_eq!(response.status(), StatusCode::OK);
            let mut receive = response.into_body();
            assert_eq!(take(&mut receive, 9).await, b"/chat?x=1");
            send.send_data(Bytes::from_static(b"ping"), true).unwrap();
            assert_eq!(take(&mut receive, 4).await, b"ping");
            let (response, _) = tunnel(at, CART, Some("never")).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
        });
        let mut stream = connect(at);
        // RFC 6455, section 1.3: the key of the example, and its answer.
        let asks = format!(
            "GET /chat HTTP/1.1\r\nhost: {CART}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
        );
        stream.write_all(asks.as_bytes()).unwrap();
        let answer = head(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert_eq!(read(&mut stream, 5), b"/chat");
        stream.write_all(b"ping").unwrap();
        assert_eq!(read(&mut stream, 4), b"ping");
    }
}

#[test]
fn connect_of_http2_leads_to_ports_of_the_mesh() {
    let db = Server::echo(b"hello");
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[link("west", &[]), of_connections("db", "tcp", &[("a", db.address())], "")]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/db", &["east"]);
    let at = west.site.http;
    run(async move {
        let (response, mut send) = tunnel(at, "db.shop.mesh:5432", None).await;
        assert_eq!(response.status(), StatusCode::OK);
        let mut receive = response.into_body();
        assert_eq!(take(&mut receive, 5).await, b"hello");
        send.send_data(Bytes::from_static(b"ping"), false).unwrap();
        assert_eq!(take(&mut receive, 4).await, b"ping");
        // A caller that resets its stream is a caller that is gone.
        send.send_reset(h2::Reason::CANCEL);
        let (response, _) = tunnel(at, "nobody.shop.mesh:5432", None).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    });
}
