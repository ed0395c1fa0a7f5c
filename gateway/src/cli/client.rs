//! A small HTTP/1.1 client that keeps one connection: for the admin listener and for the load of the demo.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use proto::text::clean_bytes;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::output::escaped;

/// Largest answer taken: the status of a gateway with thousands of services fits, a runaway answer does not.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of an answer that is none that are shown.
const SAID_BYTES_MAX: usize = 500;

/// How long a command waits for the admin listener, connecting included.
const ADMIN_PATIENCE: Duration = Duration::from_secs(5);

/// Why a request got no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing accepted the connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke before the answer was whole.
    #[error("the connection to {address} broke before the answer was whole")]
    Cut {
        /// Where to.
        address: String,
        /// What broke it.
        source: hyper::Error,
    },
    /// The answer's body could not be read: it was cut, or longer than [`ANSWER_BYTES_MAX`].
    #[error("the answer of {address} could not be read to its end")]
    Body {
        /// Where from.
        address: String,
        /// What stopped the reading.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No whole answer in time.
    #[error("{address} gave no whole answer within {} ms", waited.as_millis())]
    Timeout {
        /// Where from.
        address: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The request could not be written down.
    #[error("`{target}` at {address} is no request that HTTP can carry")]
    Request {
        /// Where to.
        address: String,
        /// Path and query.
        target: String,
        /// What HTTP refuses about it.
        source: http::Error,
    },
    /// The listener answered with another status than 200.
    #[error("{address} answered {status} to {target}: {body}")]
    Status {
        /// Who answered.
        address: String,
        /// Path and query.
        target: String,
        /// The status.
        status: StatusCode,
        /// The start of the body.
        body: String,
    },
    /// The answer is not the JSON that was asked for.
    #[error("the answer of {address} to {target} is not what this version reads")]
    Json {
        /// Who answered.
        address: String,
        /// Path and query.
        target: String,
        /// Where it differs.
        source: serde_json::Error,
    },
}

/// A client of one address; connects when it must and keeps the connection.
pub(crate) struct Client {
    address: String,
    connection: Option<Connection>,
}

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Drives the connection; dropping it ends the connection.
    _driver: JoinSet<()>,
}

impl Client {
    /// A client of `address` (`host:port`); connects at the first request.
    pub(crate) fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), connection: None }
    }

    /// Sends one request and reads the whole answer. After an error the next request connects anew.
    ///
    /// Cancel safe: a request that is dropped takes its connection with it.
    ///
    /// # Errors
    /// When there is no whole answer within `patience`.
    pub(crate) async fn send(
        &mut self,
        request: Request<Empty<Bytes>>,
        patience: Duration,
    ) -> Result<Response<Bytes>, ClientError> {
        // Taken out, so that neither a cut nor a late answer can meet the next request on this connection.
        let kept = self.connection.take();
        let exchange = async {
            let mut connection = match kept {
                Some(connection) if !connection.sender.is_closed() => connection,
                _ => self.connect().await?,
            };
            let answer = self.exchange(&mut connection, request).await?;
            Ok((answer, connection))
        };
        let ended = tokio::time::timeout(patience, exchange).await;
        let (answer, connection) =
            ended.map_err(|_| ClientError::Timeout { address: self.address.clone(), waited: patience })??;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Reads `target` (path and query) from an admin listener, as bytes that are known to be the JSON of a `T`. In the `T`
    /// no text ends a line or steers a terminal.
    ///
    /// # Errors
    /// When nothing answers, or something else than a `T`.
    pub(crate) async fn get_json<T: DeserializeOwned>(
        &mut self,
        target: &str,
    ) -> Result<(T, Bytes), ClientError> {
        let address = || self.address.clone();
        let request = Request::get(target)
            .header(header::HOST, &self.address)
            .body(Empty::new())
            .map_err(|source| ClientError::Request { address: address(), target: target.into(), source })?;
        let (head, body) = self.send(request, ADMIN_PATIENCE).await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(ClientError::Status {
                address: self.address.clone(),
                target: target.into(),
                status: head.status,
                body: said(&body),
            });
        }
        let read = serde_json::from_slice(&body).and_then(|value| serde_json::from_value(escaped(value)));
        let value = read.map_err(|source| ClientError::Json {
            address: self.address.clone(),
            target: target.into(),
            source,
        })?;
        Ok((value, body))
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let stream = TcpStream::connect(&self.address)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| ClientError::Connect { address: self.address.clone(), source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.cut(e))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // An error shows at the request that meets it; a close between requests is no error.
            let _ended = connection.await;
        });
        Ok(Connection { sender, _driver: driver })
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, ClientError> {
        connection.sender.ready().await.map_err(|e| self.cut(e))?;
        let answer = connection.sender.send_request(request).await.map_err(|e| self.cut(e))?;
        let (head, body) = answer.into_parts();
        let whole = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body =
            whole.map_err(|source| ClientError::Body { address: self.address.clone(), source })?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    fn cut(&self, source: hyper::Error) -> ClientError {
        ClientError::Cut { address: self.address.clone(), source }
    }
}

/// `bytes` as a value in a query (RFC 3986, section 2.3: only unreserved characters stand for themselves).
pub(crate) fn query_value(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// What an answer that is none says: its field `error` if it has one, else how it starts.
fn said(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        error: String,
    }
    match serde_json::from_slice(body) {
        Ok(Problem { error }) => error,
        Err(_) => clean_bytes(body.trim_ascii(), SAID_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every connection's requests, one fixed answer each, and counts connections.
    async fn serve(answers: &'static [&'static str]) -> (String, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, tasks)
    }

    #[tokio::test]
    async fn one_connection_carries_many_requests() {
        const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n41";
        let (address, _server) = serve(&[ANSWER, ANSWER]).await;
        let mut client = Client::new(address);
        for _ in 0..2 {
            assert_eq!(client.get_json::<u32>("/").await.unwrap().0, 41);
        }
    }

    #[tokio::test]
    async fn a_cut_answer_is_an_error_not_a_short_one() {
        let (address, _server) = serve(&["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n41"]).await;
        let refused = Client::new(address).get_json::<u32>("/").await.unwrap_err();
        assert!(matches!(refused, ClientError::Body { .. }), "{refused}");
    }

    #[tokio::test]
    async fn other_statuses_and_other_json_are_told_apart() {
        let (address, _server) = serve(&[
            "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 16\r\n\r\n{\"error\":\"gone\"}",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ])
        .await;
        let mut client = Client::new(address);
        let status = client.get_json::<u32>("/x").await.unwrap_err();
        assert!(status.to_string().ends_with("answered 404 Not Found to /x: none"), "{status}");
        let status = client.get_json::<u32>("/x").await.unwrap_err();
        assert!(status.to_string().ends_with("answered 404 Not Found to /x: gone"), "{status}");
        assert!(matches!(client.get_json::<u32>("/x").await.unwrap_err(), ClientError::Json { .. }));
    }

    #[tokio::test]
    async fn where_nobody_listens_the_address_is_named() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let refused = Client::new(free.clone()).get_json::<u32>("/").await.unwrap_err();
        assert_eq!(refused.to_string(), format!("cannot connect to {free}"));
    }

    #[test]
    fn keys_survive_the_query() {
        assert_eq!(query_value("a b&c=d/é~".as_bytes()), "a%20b%26c%3Dd%2F%C3%A9~");
    }

    #[tokio::test]
    async fn silence_is_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let request = Request::get("/").body(Empty::new()).unwrap();
        let waited = Client::new(address).send(request, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(waited, ClientError::Timeout { .. }), "{waited}");
    }
}
