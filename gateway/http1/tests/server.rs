//! What callers see of a server, byte by byte.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use http1::server::{self, Body, Interim, Options, Refused, Reply, Service};
use http1::{Limits, Timers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio_util::sync::CancellationToken;

/// Pieces of an answer's body; the last may be an error.
#[derive(Default)]
struct Pieces(Vec<Result<Frame<Bytes>, Broken>>);

#[derive(Debug, thiserror::Error)]
#[error("broken")]
struct Broken;

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        Poll::Ready(if self.0.is_empty() { None } else { Some(self.0.remove(0)) })
    }
}

fn data(text: &'static str) -> Result<Frame<Bytes>, Broken> {
    Ok(Frame::data(text.into()))
}

/// Answers by path, and keeps what it saw.
#[derive(Default)]
struct Echo {
    seen: RefCell<Vec<String>>,
    left: RefCell<Vec<Body>>,
}

impl Service for Echo {
    type Body = Pieces;

    async fn call(&self, request: Request<Body>, interim: Interim) -> Reply<Pieces> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let mut pieces = Vec::new();
        let mut response = Response::new(());
        match &*path {
            "/chunks" => pieces = vec![data("hel"), data("lo")],
            "/broken" => pieces = vec![data("hel"), Err(Broken)],
            "/short" => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
                pieces = vec![data("hello")];
            }
            "/hints" => {
                for _ in 0..20 {
                    let mut headers = HeaderMap::new();
                    headers.insert("link", HeaderValue::from_static("</a>"));
                    interim.send(StatusCode::EARLY_HINTS, &headers);
                }
                pieces = vec![data("x")];
            }
            "/early" => {
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                return response.map(|()| Pieces::default()).into();
            }
            "/early-and-on" => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                self.left.borrow_mut().push(body);
                return response.map(|()| Pieces::default()).into();
            }
            "/never" => std::future::pending().await,
            "/none" => *response.status_mut() = StatusCode::NO_CONTENT,
            "/odd" => *response.status_mut() = StatusCode::from_u16(299).unwrap(),
            _ => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0")).map_or((), drop)
            }
        }
        let collected = body.collect().await;
        let (text, trailers) = match collected {
            Ok(whole) => {
                let trailers = whole.trailers().map_or(0, HeaderMap::len);
                (String::from_utf8_lossy(&whole.to_bytes()).into_owned(), trailers)
            }
            Err(error) => (format!("<{error}>"), 0),
        };
        self.seen.borrow_mut().push(format!("{} {path} {text} {trailers}", parts.method));
        response.map(|()| Pieces(pieces)).into()
    }

    fn refuse(&self, refused: Refused) -> Reply<Pieces> {
        let mut response = Response::new(Pieces(vec![Ok(Frame::data(refused.to_string().into()))]));
        *response.status_mut() = refused.status();
        response.into()
    }
}

struct Rig {
    service: Rc<Echo>,
    stop: CancellationToken,
    leave: CancellationToken,
    timers: Rc<Timers>,
    caller: TcpStream,
    serving: JoinHandle<bool>,
}

async fn rig() -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (service, stop, timers) = (Rc::<Echo>::default(), CancellationToken::new(), Rc::<Timers>::default());
    let leave = CancellationToken::new();
    let options = Options {
        limits: Limits { bytes: 4096, fields: 16 },
        idle: Duration::from_secs(3),
        timers: timers.clone(),
        leave: leave.clone(),
    };
    let (serves, stops) = (service.clone(), stop.clone());
    let serving =
        spawn_local(
            async move { server::serve(stream, Bytes::new(), &*serves, &options, &stops).await.is_ok() },
        );
    Rig { service, stop, leave, timers, caller, serving }
}

/// All that is answered to `text`, without the date, once our half has nothing more to say.
async fn ask(text: &str) -> (String, Rig) {
    let mut rig = rig().await;
    rig.caller.write_all(text.as_bytes()).await.unwrap();
    let answered = rig.all().await;
    (answered, rig)
}

impl Rig {
    /// As a process that drains.
    fn drain(&self) {
        self.stop.cancel();
        self.leave.cancel();
    }

    async fn all(&mut self) -> String {
        let mut answered = Vec::new();
        // A reset counts as an end here.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.caller.read_to_end(&mut answered)).await;
        undated(&answered)
    }

    async fn some(&mut self) -> String {
        let mut answered = vec![0; 4096];
        let count = self.caller.read(&mut answered).await.unwrap();
        undated(&answered[..count])
    }
}

fn undated(answered: &[u8]) -> String {
    let text = String::from_utf8_lossy(answered);
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

type Local = Result<(), Infallible>;

#[tokio::test(flavor = "local")]
async fn requests_follow_each_other_on_one_connection() -> Local {
    let two = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
               POST /b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n\
               GET /chunks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (answered, rig) = ask(two).await;
    assert_eq!(
        answered,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\
         HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
    );
    assert_eq!(*rig.service.seen.borrow(), ["POST /a hello 0", "POST /b abc 1", "GET /chunks  0"]);
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_caller_of_http_1_0_gets_no_chunks_and_its_connection_ends() -> Local {
    let (answered, _) = ask("GET /chunks HTTP/1.0\r\n\r\n").await;
    assert_eq!(answered, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello");
    let (answered, _) = ask("GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(
        answered,
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_broken_answer_never_looks_whole() -> Local {
    let (answered, rig) = ask("GET /broken HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answered.ends_with("\r\n\r\n") || answered.is_empty(), "{answered}");
    assert!(!answered.contains("\r\n0\r\n"), "{answered}");
    assert!(!rig.serving.await.unwrap());
    let (answered, rig) = ask("GET /short HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!answered.contains("hello") || answered.contains("content-length: 9"), "{answered}");
    assert!(!rig.serving.await.unwrap());
    // Its end would be the connection's.
    let mut rig = rig_with("GET /broken HTTP/1.0\r\n\r\n").await;
    let ended = rig.caller.read_to_end(&mut Vec::new()).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    Ok(())
}

async fn rig_with(text: &str) -> Rig {
    let mut rig = rig().await;
    rig.caller.write_all(text.as_bytes()).await.unwrap();
    rig
}

#[tokio::test(flavor = "local")]
async fn what_is_no_request_is_answered_and_the_connection_closed() -> Local {
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(16));
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "b".repeat(5000));
    for (text, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/3.1\r\nhost: x\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", 400),
        ("GET http://x/ HTTP/1.1\r\n\r\n", 400),
        ("GET http://x/ HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("CONNECT / HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5, 6\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (&*many, 431),
        (&*large, 431),
    ] {
        let (answered, rig) = ask(text).await;
        assert!(answered.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {answered}");
        assert!(answered.contains("connection: close"), "{answered}");
        assert!(rig.service.seen.borrow().is_empty(), "{text:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_caller_that_waits_to_be_told_is_told_and_gets_hints_but_no_flood() -> Local {
    let mut rig =
        rig_with("POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(rig.some().await, "HTTP/1.1 100 Continue\r\n\r\n");
    rig.caller.write_all(b"ok").await.unwrap();
    assert_eq!(rig.some().await, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(*rig.service.seen.borrow(), ["POST /a ok 0"]);
    let (answered, _) = ask("GET /hints HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answered.matches("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").count(), 16);
    assert!(answered.ends_with("1\r\nx\r\n0\r\n\r\n"));
    let (answered, _) = ask("GET /hints HTTP/1.0\r\n\r\n").await;
    assert!(!answered.contains("103"), "{answered}");
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn an_early_answer_reaches_a_caller_that_still_sends() -> Local {
    let mut rig = rig_with("POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n").await;
    // More than the sockets hold, all of it after the answer was written.
    let (read, mut write) = rig.caller.split();
    let sent = async { while write.write_all(&[b'x'; 10_000]).await.is_ok() {} };
    let mut read = read;
    let mut answered = vec![0; 4096];
    let count = tokio::select! {
        count = read.read(&mut answered) => count.unwrap(),
        () = sent => unreachable!("it is read until it ends"),
    };
    assert!(undated(&answered[..count]).starts_with("HTTP/1.1 413 "));
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn whoever_takes_the_rest_of_a_request_behind_its_answer_gets_it() -> Local {
    let mut rig = rig_with("POST /early-and-on HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(rig.some().await, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    rig.caller.write_all(b"helloGET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let body = rig.service.left.borrow_mut().pop().unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(rig.some().await, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_caller_that_leaves_ends_what_it_asked_for() -> Local {
    let rig = rig_with("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::task::yield_now().await;
    drop(rig.caller);
    assert!(!rig.serving.await.unwrap());
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_body_that_breaks_off_is_an_error() -> Local {
    let mut rig = rig_with("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhello").await;
    rig.caller.shutdown().await.unwrap();
    rig.all().await;
    assert_eq!(*rig.service.seen.borrow(), ["POST /a <the connection ended in the middle of the message> 0"]);
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn statuses_without_a_body_or_a_reason_are_written_as_such() -> Local {
    let (answered, _) = ask("GET /none HTTP/1.1\r\nhost: x\r\n\r\nGET /odd HTTP/1.1\r\nhost: x\r\n\r\n\
         HEAD /short HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    .await;
    assert_eq!(
        answered,
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 299 \r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n"
    );
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_drain_ends_idle_connections_at_once_and_others_after_their_answer() -> Local {
    let rig1 = rig().await;
    rig1.drain();
    assert!(rig1.serving.await.unwrap());
    let mut rig2 = rig_with("POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n").await;
    tokio::task::yield_now().await;
    rig2.drain();
    rig2.caller.write_all(b"ok").await.unwrap();
    assert!(rig2.all().await.contains("connection: close"));
    assert!(rig2.serving.await.unwrap());
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn what_is_on_its_way_to_an_idle_connection_is_still_answered_as_its_last() -> Local {
    let mut rig = rig().await;
    rig.stop.cancel();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!rig.serving.is_finished(), "it idles");
    rig.caller.write_all(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(rig.all().await.contains("connection: close"));
    assert!(rig.serving.await.unwrap());
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_idles_or_dribbles_a_head_ends_in_time() -> Local {
    for (text, answered) in [("", ""), ("GET / HTTP/1.1\r\nhost:", "HTTP/1.1 408 ")] {
        let mut rig = rig_with(text).await;
        while !rig.serving.is_finished() {
            rig.timers.sweep(tokio::time::Instant::now() + Duration::from_secs(3));
            if tokio::time::timeout(Duration::from_millis(5), rig.caller.readable()).await.is_ok() {
                break;
            }
        }
        let all = rig.all().await;
        assert!(all.starts_with(answered), "{all}");
    }
    Ok(())
}

#[tokio::test(flavor = "local")]
async fn bodies_know_their_length() -> Local {
    let rig = rig_with("POST /early-and-on HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe").await;
    while rig.service.left.borrow().is_empty() {
        tokio::task::yield_now().await;
    }
    let body = rig.service.left.borrow_mut().pop().unwrap();
    assert_eq!(body.size_hint().exact(), Some(5));
    Ok(())
}
