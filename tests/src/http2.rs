//! An HTTP/2 endpoint that behaves as its path asks, and a caller that sees how an answer ends.
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | 200, `ok` |
//! | `/echo` | the body, after all of it came, with the trailer `x-sum` |
//! | `/hint` | 103, then 200 |
//! | `/reset/CODE` | half an answer, then RST_STREAM with that code |
//! | `/goaway` | half an answer, then GOAWAY(NO_ERROR) that takes nothing back, and the end of the connection |
//! | `/die` | half an answer of gRPC, then the connection is closed |
//! | `/stall` | half an answer of gRPC, then nothing |
//! | `/fields/N` | N fields |
//! | `/hang-up` | 200, `ok`; then the connection is closed without a word |
//! | `/early-reset` | a whole answer at once, then RST_STREAM(NO_ERROR) whatever is still to come of the request |

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};

/// How long a caller waits for the end of an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running endpoint; its thread ends with the process.
#[derive(Debug)]
pub struct Http2Endpoint {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Holds one more of itself for each open connection.
    open: Arc<()>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method and path.
    pub what: String,
    /// Its body.
    pub body: Vec<u8>,
    /// Whether it came to its end.
    pub whole: bool,
    /// Its trailers, if any.
    pub trailers: HeaderMap,
}

impl Http2Endpoint {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let journal = seen.clone();
        let open = Arc::new(());
        let opened = open.clone();
        std::thread::spawn(move || {
            runtime().block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a socket of ours");
                while let Ok((stream, _)) = listener.accept().await {
                    let (journal, open) = (journal.clone(), opened.clone());
                    tokio::spawn(async move {
                        serve(stream, journal).await;
                        drop(open);
                    });
                }
            });
        });
        Self { address, seen, open }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open here.
    pub fn open(&self) -> usize {
        // Ours, and the listener's.
        Arc::strong_count(&self.open) - 2
    }

    /// What came, once its end is known.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Serves a connection until its end.
async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let Ok(handle) = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned() else { return };
    exchanges(stream, seen).await;
    // Said, and not left to the closing: a child that has not begun its program yet holds a copy of every handle.
    let _ = std::net::TcpStream::from(handle).shutdown(std::net::Shutdown::Both);
}

async fn exchanges(stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let Ok(mut connection) = h2::server::Builder::new().handshake::<_, Bytes>(stream).await else { return };
    let (stop, mut stopped) = tokio::sync::watch::channel("");
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = stopped.changed() => {
                if *stopped.borrow() == "goaway" {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    let _ = tokio::time::timeout(PATIENCE, connection.accept()).await;
                }
                return;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (seen, stop) = (seen.clone(), stop.clone());
        tokio::spawn(async move { answer(request, respond, &seen, &stop).await });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: &Mutex<Vec<Seen>>,
    stop: &tokio::sync::watch::Sender<&'static str>,
) {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let what = format!("{} {path}", parts.method);
    let mut response = Response::new(());
    let mut half = async |response: Response<()>| {
        let mut stream = respond.send_response(response, false).ok()?;
        stream.send_data(Bytes::from(vec![b'x'; 20_000]), false).ok()?;
        // It must have left: windows are larger than that.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some(stream)
    };
    if let Some(code) = path.strip_prefix("/reset/") {
        let code: u32 = code.parse().unwrap_or(0);
        if let Some(mut stream) = half(response).await {
            stream.send_reset(Reason::from(code));
        }
        return;
    }
    match &*path {
        "/goaway" | "/die" | "/stall" => {
            if path != "/goaway" {
                let grpc = http::HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
            }
            let stream = half(response).await;
            match &*path {
                "/goaway" => stop.send("goaway").unwrap_or_default(),
                "/die" => stop.send("die").unwrap_or_default(),
                _ => tokio::time::sleep(PATIENCE).await,
            }
            drop(stream);
            return;
        }
        "/hint" => {
            let mut hint = Response::new(());
            *hint.status_mut() = StatusCode::EARLY_HINTS;
            hint.headers_mut().insert("link", http::HeaderValue::from_static("</a>"));
            respond.send_informational(hint).expect("before the answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        "/early-reset" => {
            let sent = respond.send_response(response, false);
            if let Ok(mut stream) = sent {
                let _ = stream.send_data(Bytes::from_static(b"ok"), true);
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.send_reset(Reason::NO_ERROR);
            }
            return;
        }
        _ => {}
    }
    if let Some(count) = path.strip_prefix("/fields/") {
        for n in 0..count.parse().unwrap_or(0) {
            response.headers_mut().append("link", http::HeaderValue::from(n));
        }
    }
    let (body, trailers, whole) = read(body).await;
    let echo = path == "/echo";
    if let Ok(mut stream) = respond.send_response(response, false) {
        let data = if echo { Bytes::from(body.clone()) } else { Bytes::from_static(b"ok") };
        let _ = stream.send_data(data, !echo);
        if echo {
            let _ = stream.send_trailers(sum());
        }
    }
    if path == "/hang-up" {
        // It must have left.
        tokio::time::sleep(Duration::from_millis(2)).await;
        stop.send("die").unwrap_or_default();
    }
    let seen = &mut *seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push(Seen { what, body, whole, trailers });
}

fn sum() -> HeaderMap {
    [(http::HeaderName::from_static("x-sum"), http::HeaderValue::from_static("7"))].into_iter().collect()
}

/// The body, its trailers, and whether it came to its end.
async fn read(mut body: RecvStream) -> (Vec<u8>, HeaderMap, bool) {
    let mut data = Vec::new();
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else { return (data, HeaderMap::new(), false) };
        let _ = body.flow_control().release_capacity(piece.len());
        data.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await;
    let whole = trailers.is_ok() && body.is_end_stream();
    (data, trailers.ok().flatten().unwrap_or_default(), whole)
}

/// What an exchange came to.
#[derive(Debug, Default)]
pub struct Answer {
    /// The statuses of the interim answers.
    pub interim: Vec<u16>,
    /// The status; 0: there was none.
    pub status: u16,
    /// The fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: HeaderMap,
    /// Whether it came to its end.
    pub whole: bool,
}

/// How the body of a request is sent.
#[derive(Clone, Copy, Debug)]
pub enum Upload<'a> {
    /// There is none.
    None,
    /// Whole.
    Whole(&'a [u8]),
    /// Some of it, and then nothing more.
    Half(&'a [u8]),
    /// Some of it, and then RST_STREAM with this code.
    Reset(&'a [u8], u32),
}

/// How many streams at once `to` allows a connection; none: it did not say.
pub fn streams_allowed(to: SocketAddr) -> usize {
    let told = async {
        let stream = TcpStream::connect(to).await.ok()?;
        let (sender, connection) = h2::client::handshake(stream).await.ok()?;
        let driving = tokio::spawn(connection);
        // A request waits for nothing but the settings.
        let mut sender: h2::client::SendRequest<Bytes> = sender.ready().await.ok()?;
        let request = Request::builder().uri("http://nowhere.mesh/").body(()).ok()?;
        sender.send_request(request, true).ok()?.0.await.ok()?;
        let allowed = sender.current_max_send_streams();
        driving.abort();
        Some(allowed)
    };
    runtime().block_on(async { tokio::time::timeout(PATIENCE, told).await }).ok().flatten().unwrap_or(0)
}

/// Asks `to`, by prior knowledge, for `path` of `authority`.
pub fn fetch(to: SocketAddr, method: &str, authority: &str, path: &str, upload: Upload<'_>) -> Answer {
    let asked = async {
        let mut answer = Answer::default();
        let Ok(stream) = TcpStream::connect(to).await else { return answer };
        let Ok((sender, connection)) = h2::client::handshake(stream).await else { return answer };
        let driving = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(format!("http://{authority}{path}"))
            .header(
                "content-type",
                if path.starts_with("/grpc") || path == "/die" || path == "/stall" {
                    "application/grpc"
                } else {
                    "text/plain"
                },
            )
            .body(())
            .expect("a request");
        let Ok(mut sender) = sender.ready().await else { return answer };
        let none = matches!(upload, Upload::None);
        let Ok((mut response, stream)) = sender.send_request(request, none) else { return answer };
        let stream = send(stream, upload).await;
        let head = std::future::poll_fn(|cx| {
            while let std::task::Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                answer.interim.push(interim.status().as_u16());
            }
            std::pin::Pin::new(&mut response).poll(cx)
        });
        if let Ok(response) = head.await {
            let (parts, body) = response.into_parts();
            (answer.status, answer.headers) = (parts.status.as_u16(), parts.headers);
            (answer.body, answer.trailers, answer.whole) = read(body).await;
        }
        drop(stream);
        driving.abort();
        answer
    };
    runtime().block_on(async { tokio::time::timeout(PATIENCE, asked).await }).unwrap_or_default()
}

async fn send(mut stream: SendStream<Bytes>, upload: Upload<'_>) -> SendStream<Bytes> {
    match upload {
        Upload::None => {}
        Upload::Whole(body) => drop(stream.send_data(Bytes::copy_from_slice(body), true)),
        Upload::Half(body) => drop(stream.send_data(Bytes::copy_from_slice(body), false)),
        Upload::Reset(body, code) => {
            // The head goes out alone, and is begun with.
            tokio::time::sleep(Duration::from_millis(30)).await;
            let _ = stream.send_data(Bytes::copy_from_slice(body), false);
            stream.send_reset(Reason::from(code));
        }
    }
    stream
}
