//! Active health checks: asks every endpoint whose service declares one, on each of its ports, and tells
//! [`EndpointState::checked`] what came of it. What that means is decided there. Runs on the control plane.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use registry::model::{HealthCheck, HostPort, Probe, Protocol};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::proxy::worker::Shared;
use crate::upstream;
use crate::view::View;
use policy::balance::EndpointState;

/// Checks at once: bounds sockets, and what thousands of endpoints that hang could hold.
const CHECKS_MAX: usize = 256;
/// While nothing is known of an endpoint its checks follow each other so much faster, so that a start is short.
const HURRY: u32 = 10;
/// A check comes up to a tenth of its interval earlier or later, so that checks do not fall into step.
const JITTER: f64 = 0.1;
/// Of an answer so much is read, so that the endpoint is not cut off while it writes; more is its own fault.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    /// Host and path make no request.
    #[error("host and path make no request")]
    Request(#[source] http::Error),
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] upstream::ConnectError),
    /// No answer, or none that is HTTP.
    #[error("no answer")]
    Answer(#[source] hyper::Error),
    /// Another status than expected.
    #[error("answered {0}")]
    Status(StatusCode),
    /// Not done in time.
    #[error("not done within {0:?}")]
    TooSlow(Duration),
}

/// The checks of one endpoint, for as long as this lives.
#[derive(Debug)]
struct Job {
    /// Keeps the address unique by which the job is found.
    _endpoint: Arc<EndpointState>,
    check: Arc<HealthCheck>,
    task: AbortHandle,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps one checker at each endpoint of the current view that is to be checked, until the process drains: then
/// endpoints stay as they are.
pub async fn run(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(CHECKS_MAX));
    let mut tasks = JoinSet::new();
    let mut jobs = HashMap::new();
    let mut seen: Option<Arc<View>> = None;
    let mut news = shared.news.follow();
    loop {
        let view = shared.view.load_full();
        if !seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &view)) {
            let start = |endpoint: &Arc<EndpointState>, check: &Arc<HealthCheck>| {
                let (endpoint, check) = (endpoint.clone(), check.clone());
                tasks.spawn(keep_checking(endpoint, check, shared.clone(), permits.clone()))
            };
            jobs = reconcile(jobs, &view, start);
            seen = Some(view);
        }
        // Only those that were aborted end.
        while tasks.try_join_next().is_some() {}
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = news.changed() => {}
        }
    }
}

/// The jobs of `view`: those of before whose endpoint and check stayed, others started; the rest ends.
fn reconcile(
    mut before: HashMap<usize, Job>,
    view: &View,
    mut start: impl FnMut(&Arc<EndpointState>, &Arc<HealthCheck>) -> AbortHandle,
) -> HashMap<usize, Job> {
    let mut jobs = HashMap::new();
    for service in view.locals() {
        let Some(check) = &service.health_check else { continue };
        for (port, endpoints) in &service.ports {
            let check = on_port(check, port.protocol);
            for endpoint in endpoints.iter() {
                let address = Arc::as_ptr(endpoint) as usize;
                let job = before.remove(&address).filter(|job| job.check == check);
                let job = job.unwrap_or_else(|| Job {
                    _endpoint: endpoint.clone(),
                    check: check.clone(),
                    task: start(endpoint, &check),
                });
                jobs.insert(address, job);
            }
        }
    }
    jobs
}

/// The check of a port: where HTTP/1.1 is not spoken, whether a connection is accepted is all that can be asked.
fn on_port(check: &Arc<HealthCheck>, protocol: Protocol) -> Arc<HealthCheck> {
    if protocol == Protocol::Http {
        return check.clone();
    }
    Arc::new(HealthCheck { probe: Probe::Tcp, ..(**check).clone() })
}

/// Checks one endpoint for ever.
async fn keep_checking(
    endpoint: Arc<EndpointState>,
    check: Arc<HealthCheck>,
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
) {
    let mut rng = fastrand::Rng::new();
    // Many that begin at once are spread at once.
    tokio::time::sleep(check.interval.mul_f64(JITTER * rng.f64())).await;
    // Never closed.
    while let Ok(permit) = permits.acquire().await {
        let started = Instant::now();
        let asked = ask(endpoint.address(), &check.probe, check.timeout);
        let result = tokio::time::timeout(check.timeout, asked).await;
        let result = result.unwrap_or(Err(CheckError::TooSlow(check.timeout)));
        drop(permit);
        let failed = endpoint.fails_checks();
        let change = endpoint.checked(result.is_ok(), check.rise, check.fall, shared.clock.now());
        if change.is_some() || endpoint.fails_checks() != failed {
            shared.news.tell();
        }
        if let Err(error) = &result {
            let (id, address) = (endpoint.id(), endpoint.address());
            let error: &dyn std::error::Error = error;
            if change.is_some() {
                info!(endpoint = id, %address, error, "Health check failed; endpoint marked unhealthy.");
            } else {
                debug!(endpoint = id, %address, error, "Health check attempt failed.");
            }
        }
        upstream::tell(&endpoint, change);
        let pause = if endpoint.is_waiting() { check.interval / HURRY } else { check.interval };
        tokio::time::sleep_until(started + pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64())).await;
    }
}

/// One check, on a connection of its own: that one can be had is part of the question.
async fn ask(address: &HostPort, probe: &Probe, wait: Duration) -> Result<(), CheckError> {
    // At whichever address of the name a request would be; it is the caller's timeout that bounds it.
    let stream = upstream::connect(address, wait).await.map_err(CheckError::Connect)?;
    let Probe::Http { path, expected_status } = probe else { return Ok(()) };
    let request = Request::get(path)
        .header(HOST, address.authority())
        .header(USER_AGENT, concat!("ringway-check/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(CheckError::Request)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(CheckError::Answer)?;
    // Ends with this set, at the latest.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answer = sender.send_request(request).await.map_err(CheckError::Answer)?;
    let status = answer.status();
    let mut body = answer.into_body();
    let mut read = 0;
    // The verdict is in the head; a body that breaks off is none of its business.
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > BODY_BYTES_MAX {
            break;
        }
    }
    let passes = match expected_status {
        Some(expected) => status == *expected,
        None => status.is_success() || status.is_redirection(),
    };
    if passes { Ok(()) } else { Err(CheckError::Status(status)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The outcome of a check by `probe` at a server that answers with `answer`, and what it was asked.
    async fn check(probe: Probe, answer: &'static str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = HostPort { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let n = if matches!(probe, Probe::Tcp) { 0 } else { stream.read(&mut asked).await.unwrap() };
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..n]).into_owned()
        };
        let (result, asked) = tokio::join!(ask(&address, &probe, Duration::from_secs(5)), server);
        (result.map_err(|e| e.to_string()), asked)
    }

    fn http(expected_status: Option<u16>) -> Probe {
        Probe::Http { path: "/up?deep=1".into(), expected_status }
    }

    #[tokio::test]
    async fn an_answer_from_200_to_399_passes_unless_one_is_expected() {
        for (status, expected, passes) in [
            ("200 OK", None, true),
            ("204 No Content", None, true),
            ("302 Found", None, true),
            ("404 Not Found", None, false),
            ("503 Service Unavailable", None, false),
            ("503 Service Unavailable", Some(503), true),
            ("200 OK", Some(204), false),
        ] {
            let answer: &'static str = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").leak();
            let (result, asked) = check(http(expected), answer).await;
            let said = if passes { Ok(()) } else { Err(format!("answered {status}")) };
            assert_eq!(result, said, "{expected:?}");
            assert!(asked.starts_with("GET /up?deep=1 HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        }
    }

    #[tokio::test]
    async fn what_is_no_http_is_no_answer_and_a_connection_is_enough_for_tcp() {
        assert_eq!(check(http(None), "+OK ready\r\n").await.0, Err("no answer".into()));
        assert_eq!(check(http(None), "").await.0, Err("no answer".into()));
        assert_eq!(check(Probe::Tcp, "").await.0, Ok(()));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_does_not_fail_a_check() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort";
        assert_eq!(check(http(None), answer).await.0, Ok(()));
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_fails() {
        // One that is never given to whoever asks for any.
        let address = HostPort { host: "127.0.0.1".into(), port: 1 };
        for probe in [Probe::Tcp, http(None)] {
            assert_eq!(
                ask(&address, &probe, Duration::from_secs(5)).await.map_err(|e| e.to_string()),
                Err("cannot connect".into())
            );
        }
    }
}
