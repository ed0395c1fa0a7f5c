//! The admin port as a server: who is answered, how many at once, and for how long. The routes are [`super`]'s, or a
//! sidecar's.
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | connections | 64 | the oldest that we wait for is closed: for what it asks, or for it to take the answer; else the new one waits |
//! | answers that take work, until they are taken | 8 | the same |
//! | until the request's head is there | 5 s | closed |
//! | a connection in all, which is one request | 30 s | closed |
//!
//! Bodies of requests are not read. What is asked under a name that a web page could own is refused: a browser on this
//! host would ask for it, and hand the answer to that page (DNS rebinding).

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::net::{self, IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::debug;

use super::problem;
use crate::base::accept::ACCEPT_PAUSE;
use crate::base::descriptors;
use crate::base::places::{Limits, Place, Places, Source};
use crate::telemetry::limited::limited;

/// Connections at once: some dozen of probes, scrapers and operators, and room.
const CONNECTIONS: Limits = Limits { all: 64, each: 64, grace: GRACE };
/// Answers at once that take work and memory: each may be as large as all that is known.
const ANSWERS: Limits = Limits { all: 8, each: 8, grace: GRACE };
/// How long an answer may be worked on before others may take its place.
const GRACE: Duration = Duration::from_secs(5);
/// The head of a request must be there by then.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// The answer must be taken by then.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a head: a request to be explained may be as long as callers' are.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long answers under way may take once the process has drained.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// What answers at once, from nothing but what is at hand.
const LIGHT: [&str; 2] = ["/live", "/ready"];

/// Under which names the port may be asked, beside those that no web page can own.
#[derive(Clone, Debug)]
pub struct Hosts {
    names: Arc<[String]>,
    /// Where more may be named.
    of: &'static str,
}

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    /// RFC 9112, section 3.2.
    #[error("exactly one Host field belongs into a request")]
    Malformed,
    /// RFC 9110, section 15.5.20.
    #[error(
        "`{name}` is no name of this admin port: ask by IP address, by `localhost` or a name without a dot, or name it in \
         `spec.listen.adminHosts` of the {of}"
    )]
    Misdirected {
        /// What was asked for.
        name: String,
        /// Whose manifest would have to name it.
        of: &'static str,
    },
}

impl Hosts {
    /// `names` are those that the manifest of the kind `of` allows.
    pub fn new(names: &[String], of: &'static str) -> Self {
        Self { names: names.iter().map(|name| name.to_ascii_lowercase()).collect(), of }
    }

    /// Whether a request with this target and these fields may be answered: both name a host that may be asked for.
    fn judge(&self, version: Version, target: &Uri, fields: &HeaderMap) -> Result<(), Refused> {
        let mut hosts = fields.get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().map_err(|_| Refused::Malformed)?,
            // Older than the field; no browser leaves it out.
            (None, None) if version < Version::HTTP_11 => return Ok(()),
            _ => return Err(Refused::Malformed),
        };
        let named = target.authority().map(http::uri::Authority::as_str);
        for authority in [Some(host), named].into_iter().flatten() {
            let name = name(authority);
            if !self.allow(name) {
                let name = proto::text::clean(name, proto::limits::NAME_BYTES_MAX);
                return Err(Refused::Misdirected { name, of: self.of });
            }
        }
        Ok(())
    }

    fn allow(&self, name: &str) -> bool {
        let literal = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
            None => name.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4()),
        };
        let local =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        literal || local || self.names.iter().any(|allowed| name.eq_ignore_ascii_case(allowed))
    }
}

/// An authority without its port.
fn name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    }
}

impl Refused {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Misdirected { .. } => StatusCode::MISDIRECTED_REQUEST,
        };
        problem(status, self.to_string())
    }
}

/// Serves `routes` to whoever asks under one of `hosts`, until the process has `drained`. `listener` does not block.
///
/// # Errors
/// When the runtime cannot wait for the listener.
pub async fn serve(
    routes: Router,
    listener: net::TcpListener,
    hosts: Hosts,
    drained: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let (places, answers) = (Places::new(CONNECTIONS), Places::new(ANSWERS));
    let mut connections = JoinSet::new();
    loop {
        // An operator is waited for with a place in hand: whoever waits does so in the kernel's queue.
        let accepted = tokio::select! {
            () = drained.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                limited!(WARN, STRANGERS, "", "Cannot accept a connection on the admin port.", %error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            () = drained.cancelled() => break,
            place = places.enter(Source::Host) => place,
        };
        // All are of one source, which may have all of them.
        let Some(place) = place else { continue };
        connections.spawn(connection(stream, routes.clone(), hosts.clone(), place, answers.clone()));
    }
    drop(listener);
    let under_way = async { while connections.join_next().await.is_some() {} };
    // What is not taken by then ends with the set.
    let _ = tokio::time::timeout(CLOSE_WAIT, under_way).await;
    Ok(())
}

/// The next connection, where nothing else is left with one of the descriptors that are held back for this. Cancel safe.
async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    poll_fn(|cx| {
        // At the limit the kernel says so before it looks whether anybody has connected: that nobody has is found out with
        // what is held back, and then waited for as ever.
        let polled = descriptors::for_operators(|| Ok(listener.poll_accept(cx)?.map(|(stream, _)| stream)));
        polled.map_or_else(|error| Poll::Ready(Err(error)), |polled| polled.map(Ok))
    })
    .await
}

/// One connection, which is one request and its answer.
async fn connection(stream: TcpStream, routes: Router, hosts: Hosts, place: Place, answers: Arc<Places>) {
    let (answering, answers_now) = oneshot::channel::<Place>();
    let answering = Mutex::new(Some(answering));
    let place = &place;
    let service = service_fn(|request: http::Request<Incoming>| {
        let (routes, hosts, answers) = (routes.clone(), hosts.clone(), answers.clone());
        // There is no second request on a connection.
        let answering = answering.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            if let Err(refused) = hosts.judge(request.version(), request.uri(), request.headers()) {
                return Ok::<_, Infallible>(refused.into_response());
            }
            let heavy = !LIGHT.contains(&request.uri().path());
            let answer = if heavy { answers.enter(Source::Host).await } else { None };
            place.heard();
            answer.iter().for_each(Place::heard);
            let answered = routes.oneshot(request.map(Body::new)).await;
            answer.iter().for_each(Place::waits);
            place.waits();
            // Held until the answer is taken. Nobody takes it: the connection has ended meanwhile.
            let _ = answering.zip(answer).map(|(answering, answer)| answering.send(answer));
            answered
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let answer_gives_way = async {
        match answers_now.await {
            Ok(answer) => answer.gives_way().await,
            Err(_) => pending().await,
        }
    };
    tokio::select! {
        ended = tokio::time::timeout(ANSWER_WAIT, serving) => match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "A connection of the admin port ended."),
            Err(_) => debug!("An answer of the admin port was not taken in time."),
        },
        () = place.gives_way() => debug!("A connection of the admin port gave way to another."),
        () = answer_gives_way => debug!("Admin connection closed to make room for another."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn judge(version: Version, target: &str, hosts: &[&str]) -> Result<(), Refused> {
        let configured = ["Gw.West.Example".to_owned()];
        let fields = hosts.iter().map(|host| (header::HOST, host.parse().unwrap())).collect();
        Hosts::new(&configured, "Gateway").judge(version, &target.parse().unwrap(), &fields)
    }

    fn host(host: &str) -> Result<(), Refused> {
        judge(Version::HTTP_11, "/live", &[host])
    }

    #[test]
    fn names_that_no_web_page_can_own_are_answered_and_those_that_are_configured() {
        for good in [
            "127.0.0.1:7490",
            "127.0.0.1",
            "[::1]:7490",
            "[2001:db8::1]",
            "localhost",
            "LocalHost:7490",
            "ringway-west:7490",
            "gw.west.example",
            "GW.west.example:7490",
        ] {
            assert_eq!(host(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn any_other_name_is_misdirected_and_the_remedy_is_named() {
        for bad in [
            "rebind.attacker.test",
            "rebind.attacker.test:7490",
            "localhost.attacker.test",
            "localhost.",
            "127.0.0.1.attacker.test",
            "127.1.attacker.test:80",
            "west.example",
            "a.gw.west.example",
            "gw.west.example.",
            "[::1].attacker.test",
            "[localhost]",
            "::1",
            "user@127.0.0.1",
            "user@localhost",
            "",
            ":7490",
        ] {
            let refused = host(bad).unwrap_err();
            assert!(matches!(refused, Refused::Misdirected { .. }), "{bad}: {refused:?}");
            assert!(refused.to_string().contains("`spec.listen.adminHosts` of the Gateway"), "{refused}");
        }
        let shown = host(&"x.".repeat(2_000)).unwrap_err().to_string();
        assert!(shown.len() < 600, "{shown}");
    }

    #[test]
    fn what_the_target_names_counts_as_well() {
        let host = ["localhost"];
        assert_eq!(judge(Version::HTTP_11, "http://127.0.0.1:7490/live", &host), Ok(()));
        let refused = judge(Version::HTTP_11, "http://rebind.attacker.test/live", &host).unwrap_err();
        assert!(matches!(refused, Refused::Misdirected { .. }));
    }

    #[test]
    fn a_request_has_one_host_and_an_old_one_may_have_none() {
        assert_eq!(judge(Version::HTTP_11, "/live", &[]), Err(Refused::Malformed));
        assert_eq!(judge(Version::HTTP_11, "/live", &["localhost", "localhost"]), Err(Refused::Malformed));
        assert_eq!(judge(Version::HTTP_10, "/live", &[]), Ok(()));
        assert!(judge(Version::HTTP_10, "/live", &["rebind.attacker.test"]).is_err());
    }
}
