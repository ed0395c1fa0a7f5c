//! What a client makes of what endpoints send, byte by byte.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Channel, Full};
use http1::client::{Answer, Asking, Connection, SendError};
use http1::framing::BadFraming;
use http1::{BodyError, HeadError, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMITS: Limits = Limits { bytes: 4096, fields: 16 };

async fn pair() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Connection::new(stream), listener.accept().await.unwrap().0)
}

fn fields() -> HeaderMap {
    [
        (http::header::ACCEPT, HeaderValue::from_static("*/*")),
        (http::header::HOST, HeaderValue::from_static("x")),
    ]
    .into_iter()
    .collect()
}

async fn send(
    connection: Connection,
    method: Method,
    body: &'static str,
) -> Result<Answer<Full<Bytes>>, SendError> {
    let headers = fields();
    let asking = Asking { method: &method, target: "/a?b", headers: &headers };
    connection.send(asking, Full::new(body.into()), &LIMITS, |_, _| {}).await
}

/// The body of what an endpoint answers that sends `text` and closes, and whether its connection could be used again.
async fn answered(method: Method, text: &str) -> Result<(u16, Result<String, BodyError>, bool), SendError> {
    let (connection, mut endpoint) = pair().await;
    endpoint.write_all(text.as_bytes()).await.unwrap();
    endpoint.shutdown().await.unwrap();
    let mut answer = send(connection, method, "").await?;
    let mut data = Vec::new();
    while let Some(frame) = answer.body.frame().await {
        match frame {
            Ok(frame) => data.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) => return Ok((answer.head.status.as_u16(), Err(error), false)),
        }
    }
    let again = answer.body.into_connection().is_some();
    Ok((answer.head.status.as_u16(), Ok(String::from_utf8(data).unwrap()), again))
}

#[tokio::test(flavor = "local")]
async fn a_request_is_written_whole_and_its_connection_used_again() {
    let (connection, mut endpoint) = pair().await;
    let served = async {
        let mut seen = vec![0; 1000];
        let count = endpoint.read(&mut seen).await.unwrap();
        endpoint.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        String::from_utf8(seen[..count].to_vec()).unwrap()
    };
    let (answer, seen) = tokio::join!(send(connection, Method::POST, "hello"), served);
    assert_eq!(seen, "POST /a?b HTTP/1.1\r\nhost: x\r\naccept: */*\r\ncontent-length: 5\r\n\r\nhello");
    let mut answer = answer.unwrap();
    assert_eq!(answer.body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
    let connection = answer.body.into_connection().unwrap();
    assert!(connection.is_quiet());
    let served = async {
        let mut seen = vec![0; 1000];
        let count = endpoint.read(&mut seen).await.unwrap();
        endpoint.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(seen[..count].to_vec()).unwrap()
    };
    let (answer, seen) = tokio::join!(send(connection, Method::PUT, ""), served);
    assert_eq!(seen, "PUT /a?b HTTP/1.1\r\nhost: x\r\naccept: */*\r\ncontent-length: 0\r\n\r\n");
    let connection = answer.unwrap().body.into_connection().unwrap();
    drop(endpoint);
    while connection.is_quiet() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "local")]
async fn an_answer_is_whole_only_if_all_of_it_came() {
    let of = async |text: &str| answered(Method::GET, text).await.unwrap();
    let ok = "HTTP/1.1 200 OK\r\n";
    let whole = of(&format!("{ok}content-length: 2\r\n\r\nok")).await;
    assert!(matches!(&whole, (200, Ok(text), true) if text == "ok"), "{whole:?}");
    let short = of(&format!("{ok}content-length: 3\r\n\r\nok")).await;
    assert!(matches!(short, (200, Err(BodyError::Truncated), _)), "{short:?}");
    let chunked = of(&format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")).await;
    assert!(matches!(&chunked, (200, Ok(text), true) if text == "ok"), "{chunked:?}");
    let cut = of(&format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n")).await;
    assert!(matches!(cut, (200, Err(BodyError::Truncated), _)), "{cut:?}");
    let until_close = of(&format!("{ok}\r\nok")).await;
    assert!(matches!(&until_close, (200, Ok(text), false) if text == "ok"), "{until_close:?}");
    let more = of(&format!("{ok}content-length: 2\r\n\r\nok!")).await;
    assert!(matches!(&more, (200, Ok(_), false)), "{more:?}");
    let head = answered(Method::HEAD, &format!("{ok}content-length: 2\r\n\r\n")).await.unwrap();
    assert!(matches!(&head, (200, Ok(text), true) if text.is_empty()), "{head:?}");
}

#[tokio::test(flavor = "local")]
async fn what_is_no_answer_is_told_apart() {
    let of = async |text: &str| answered(Method::GET, text).await.unwrap_err();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(17));
    assert!(matches!(of("").await, SendError::Cut(_)));
    assert!(matches!(of("HTTP/1.1 200 OK\r\n").await, SendError::Cut(_)));
    assert!(matches!(
        of("+OK ready\r\n\r\n").await,
        SendError::Head(HeadError::Version | HeadError::Malformed(_))
    ));
    assert!(matches!(of(&many).await, SendError::Head(HeadError::TooManyFields(16))));
    assert!(matches!(of(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(65)).await, SendError::Interim));
    let coded = of("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n").await;
    assert!(matches!(coded, SendError::Framing(BadFraming::Coding)));
}

#[tokio::test(flavor = "local")]
async fn hints_are_handed_on_and_continue_is_not() {
    let (connection, mut endpoint) = pair().await;
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    endpoint.write_all(text.as_bytes()).await.unwrap();
    let (headers, mut hints) = (fields(), Vec::new());
    let asking = Asking { method: &Method::GET, target: "/", headers: &headers };
    let answer = connection.send(asking, Full::<Bytes>::default(), &LIMITS, |s, h| hints.push((s, h))).await;
    assert_eq!(answer.unwrap().head.status, StatusCode::OK);
    assert_eq!(hints.len(), 1);
    assert_eq!(
        (hints[0].0, &hints[0].1["link"]),
        (StatusCode::EARLY_HINTS, &HeaderValue::from_static("</a>"))
    );
}

/// Whoever refuses a long body often closes with most of it unread, which resets the connection under the answer.
#[tokio::test(flavor = "local")]
async fn an_answer_to_a_body_that_is_not_read_is_read_all_the_same() {
    for _ in 0..50 {
        let (connection, mut endpoint) = pair().await;
        let served = async move {
            endpoint.read_exact(&mut [0; 100]).await.unwrap();
            endpoint.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        };
        let headers = fields();
        let body = Full::<Bytes>::new(vec![b'x'; 3_000_000].into());
        let asking = Asking { method: &Method::POST, target: "/", headers: &headers };
        let (answer, ()) = tokio::join!(connection.send(asking, body, &LIMITS, |_, _| {}), served);
        let mut answer = answer.unwrap();
        assert_eq!(answer.head.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.body.frame().await.unwrap().unwrap().into_data().unwrap(), "no");
    }
}

#[tokio::test(flavor = "local")]
async fn the_rest_of_a_request_goes_on_beside_its_early_answer() {
    let (connection, mut endpoint) = pair().await;
    endpoint.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    let (mut more, body) = Channel::<Bytes, Infallible>::new(1);
    let headers = fields();
    let asking = Asking { method: &Method::POST, target: "/", headers: &headers };
    let mut answer = connection.send(asking, body, &LIMITS, |_, _| {}).await.unwrap();
    let upload = tokio::task::spawn_local(answer.upload.take().unwrap().run());
    assert_eq!(answer.body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
    more.send_data("hello".into()).await.unwrap();
    drop(more);
    upload.await.unwrap();
    let mut seen = vec![0; 1000];
    let mut count = 0;
    while !seen[..count].ends_with(b"0\r\n\r\n") {
        count += endpoint.read(&mut seen[count..]).await.unwrap();
    }
    assert!(seen[..count].ends_with(b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    assert!(answer.body.into_connection().is_some());
}

#[tokio::test(flavor = "local")]
async fn a_request_whose_body_breaks_off_or_lies_is_never_whole() {
    let (connection, mut endpoint) = pair().await;
    let mut headers = fields();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("9"));
    let asking = Asking { method: &Method::POST, target: "/", headers: &headers };
    let sent = connection.send(asking, Full::<Bytes>::new("hello".into()), &LIMITS, |_, _| {}).await;
    assert!(matches!(sent, Err(SendError::Body)));
    let mut seen = Vec::new();
    endpoint.read_to_end(&mut seen).await.unwrap();
    let (connection, mut endpoint) = pair().await;
    let (more, body) = Channel::<Bytes, std::io::Error>::new(1);
    more.abort(std::io::ErrorKind::Other.into());
    let headers = fields();
    let asking = Asking { method: &Method::POST, target: "/", headers: &headers };
    assert!(matches!(connection.send(asking, body, &LIMITS, |_, _| {}).await, Err(SendError::Body)));
    let mut seen = Vec::new();
    endpoint.read_to_end(&mut seen).await.unwrap();
    assert!(!seen.ends_with(b"0\r\n\r\n"));
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_had_ended_takes_nothing() {
    let (connection, endpoint) = pair().await;
    let gone = socket2::SockRef::from(&endpoint).set_linger(Some(std::time::Duration::ZERO));
    gone.unwrap();
    drop(endpoint);
    while connection.is_quiet() {
        tokio::task::yield_now().await;
    }
    assert!(matches!(send(connection, Method::GET, "").await, Err(SendError::Unsent(_) | SendError::Cut(_))));
}
