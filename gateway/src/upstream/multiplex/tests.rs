//! Against servers that do what real ones do rarely.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use h2::server::{self, SendResponse};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::{JoinHandle, spawn_local};

use registry::base::time::Tick;
use registry::model::{Algorithm, Protocol};

use super::super::pool::Reuse;
use super::*;
use crate::base::clock::Clock;
use crate::http::body::RequestBody;
use policy::balance::{EndpointSpec, Endpoints, Rule};

type Server = server::Connection<TcpStream, Bytes>;

/// Runs `test` as a worker runs.
fn on_a_worker<F: Future>(test: F) -> F::Output {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap().block_on(test)
}

fn address(at: SocketAddr) -> HostPort {
    HostPort { host: at.ip().to_string().into(), port: at.port() }
}

async fn listen() -> (TcpListener, HostPort) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = address(listener.local_addr().unwrap());
    (listener, address)
}

async fn accept(listener: &TcpListener) -> Server {
    accept_with(listener, &server::Builder::new()).await
}

async fn accept_with(listener: &TcpListener, builder: &server::Builder) -> Server {
    builder.handshake(listener.accept().await.unwrap().0).await.unwrap()
}

/// The next request; none at the end of the connection.
async fn next(server: &mut Server) -> Option<(String, SendResponse<Bytes>)> {
    let (request, respond) = server.accept().await?.unwrap();
    Some((request.uri().to_string(), respond))
}

fn ok(mut respond: SendResponse<Bytes>) {
    respond.send_response(Response::new(()), true).unwrap();
}

/// Goes on with a connection while nothing is to be accepted.
async fn finish(mut server: Server) {
    while server.accept().await.is_some() {}
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = "http://cart.shop.mesh/test.Echo/Unary".parse().unwrap();
    *request.method_mut() = http::Method::POST;
    request
}

fn send(pool: &Rc<Pool>, address: &HostPort) -> JoinHandle<Result<Answered, SendError>> {
    let (pool, address) = (pool.clone(), address.clone());
    spawn_local(async move {
        let spec =
            EndpointSpec { id: "a".into(), address, protocol: Protocol::Grpc, weight: 100, capacity: None };
        let rule = Rule { algorithm: Algorithm::RoundRobin, ring: None, checked: false, fail_open: false };
        let endpoints = Endpoints::new(rule, [spec], None, Tick::ZERO);
        let sending = Sending {
            endpoint: endpoints.get(0),
            clock: Clock::start(),
            reuse: Reuse::Any,
            connect: Duration::from_secs(5),
            connected: &|| {},
            interim: &|_, _| {},
        };
        pool.multiplexed.send(&pool, &sending, request, &RequestBody::empty()).await
    })
}

fn count(pool: &Pool, address: &HostPort) -> usize {
    pool.multiplexed.0.borrow().get(address).map_or(0, |e| e.connections.borrow().len())
}

#[test]
fn requests_share_one_connection_and_it_is_dialled_once() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        let pool = Rc::<Pool>::default();
        let sent: Vec<_> = (0..50).map(|_| send(&pool, &address)).collect();
        let mut server = accept(&listener).await;
        let mut responds = Vec::new();
        while responds.len() < 50 {
            let (uri, respond) = next(&mut server).await.unwrap();
            assert_eq!(uri, "http://cart.shop.mesh/test.Echo/Unary");
            responds.push(respond);
        }
        // All wait at once, so none waited for another.
        responds.into_iter().for_each(ok);
        spawn_local(finish(server));
        for sent in sent {
            assert_eq!(sent.await.unwrap().unwrap().0.status(), StatusCode::OK);
        }
        assert_eq!(count(&pool, &address), 1);
    });
}

#[test]
fn an_endpoint_that_allows_few_streams_gets_more_connections() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        let pool = Rc::<Pool>::default();
        let mut builder = server::Builder::new();
        builder.max_concurrent_streams(2);
        let serving = spawn_local(async move {
            let mut held = Vec::new();
            for _ in 0..3 {
                let mut server = accept_with(&listener, &builder).await;
                held.push(spawn_local(async move {
                    let mut responds = Vec::new();
                    while let Some((_, respond)) = next(&mut server).await {
                        responds.push(respond);
                        if responds.len() == 2 {
                            responds.drain(..).for_each(ok);
                        }
                    }
                }));
            }
        });
        // The first tells how many are allowed.
        let first = (send(&pool, &address), send(&pool, &address));
        let (first, second) = (first.0.await.unwrap().unwrap(), first.1.await.unwrap().unwrap());
        let third = (send(&pool, &address), send(&pool, &address));
        let (third, fourth) = (third.0.await.unwrap().unwrap(), third.1.await.unwrap().unwrap());
        assert_eq!(count(&pool, &address), 2);
        drop((first, second, third, fourth));
        let fifth = (send(&pool, &address), send(&pool, &address));
        let (fifth, sixth) = (fifth.0.await.unwrap().unwrap(), fifth.1.await.unwrap().unwrap());
        assert_eq!(count(&pool, &address), 2, "there was room again");
        drop((fifth, sixth));
        serving.abort();
    });
}

#[test]
fn a_refused_stream_was_not_processed_and_a_reset_one_may_have_been() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        let pool = Rc::<Pool>::default();
        for (reason, expected) in [
            (h2::Reason::REFUSED_STREAM, "Refused"),
            (h2::Reason::INTERNAL_ERROR, "Cut"),
            (h2::Reason::CANCEL, "Cut"),
        ] {
            let sent = send(&pool, &address);
            let mut server = accept(&listener).await;
            next(&mut server).await.unwrap().1.send_reset(reason);
            let server = spawn_local(finish(server));
            let error = sent.await.unwrap().map(drop).unwrap_err();
            assert_eq!(format!("{error:?}"), expected, "{reason:?}");
            server.abort();
            pool.multiplexed.0.borrow_mut().clear();
        }
    });
}

/// Reads frames (RFC 9113, section 4.1) until there were `count` HEADERS.
async fn read_heads(stream: &mut TcpStream, count: usize) {
    let mut seen = 0;
    while seen < count {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        seen += usize::from(header[3] == 1);
    }
}

#[test]
fn what_a_goaway_does_not_accept_was_not_processed_and_the_rest_is_answered() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        let pool = Rc::<Pool>::default();
        let (accepted, late) = (send(&pool, &address), send(&pool, &address));
        let mut stream = listener.accept().await.unwrap().0;
        stream.read_exact(&mut [0; 24]).await.unwrap();
        // SETTINGS, all as it is.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        read_heads(&mut stream, 2).await;
        // GOAWAY: stream 1 was the last, no error. Then `:status: 200` for that one, which ends it.
        stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
        assert!(matches!(late.await.unwrap(), Err(SendError::GoneAway)));
        stream.write_all(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]).await.unwrap();
        assert_eq!(accepted.await.unwrap().unwrap().0.status(), StatusCode::OK);
    });
}

#[test]
fn a_connection_that_goes_away_is_left_for_a_new_one() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        let pool = Rc::<Pool>::default();
        let first = send(&pool, &address);
        let mut server = accept(&listener).await;
        ok(next(&mut server).await.unwrap().1);
        server.graceful_shutdown();
        let ending = spawn_local(finish(server));
        drop(first.await.unwrap().unwrap());
        ending.await.unwrap();
        let second = send(&pool, &address);
        let mut server = accept(&listener).await;
        ok(next(&mut server).await.unwrap().1);
        spawn_local(finish(server));
        assert_eq!(second.await.unwrap().unwrap().0.status(), StatusCode::OK);
        assert_eq!(count(&pool, &address), 1);
    });
}

#[test]
fn who_waits_for_a_dial_fails_with_it() {
    on_a_worker(async {
        let (listener, address) = listen().await;
        drop(listener);
        let pool = Rc::<Pool>::default();
        let sent: Vec<_> = (0..20).map(|_| send(&pool, &address)).collect();
        for sent in sent {
            assert!(matches!(
                sent.await.unwrap(),
                Err(SendError::NotConnected(NotConnected::Failed(ConnectError::Refused(_))))
            ));
        }
        let failures = pool.multiplexed.0.borrow()[&address].failures.get();
        assert_eq!(failures, 1, "one dial told them all");
        pool.multiplexed.sweep();
        assert_eq!(
            pool.multiplexed.0.borrow().len(),
            0,
            "nothing is kept of an endpoint without connections"
        );
    });
}
