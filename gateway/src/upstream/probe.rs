//! Background probes: they look after endpoints that outlier detection has taken out, so that one comes back as soon as it
//! answers, and no request has to find out.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use registry::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::Watch;
use super::connect::connect;
use policy::balance::{EndpointState, Probe};

/// The pause before the first probe; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, jitter left aside.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// Of a pause, so much is added or taken at random.
const JITTER: f64 = 0.2;
/// How long one probe may take.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// Probes that this process sends a second, all together: with thousands of endpoints out, each is asked more rarely.
const PROBES_A_SECOND: u32 = 1_000;

/// Endpoints that are being looked after.
static PROBED: AtomicU32 = AtomicU32::new(0);

/// One more of them, while this lives.
struct Counted;

impl Counted {
    fn begin() -> Self {
        PROBED.fetch_add(1, Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        PROBED.fetch_sub(1, Relaxed);
    }
}

/// Begins to look after an endpoint on this thread, if it is out and nobody does.
pub(super) fn look_after(endpoint: &Arc<EndpointState>, watch: &Rc<Watch>) {
    if endpoint.claim_probe(watch.clock.now()) {
        tokio::task::spawn_local(probe(endpoint.clone(), watch.clone()));
    }
}

/// Probes until there is nothing more to find out, or nobody needs the endpoint any more.
async fn probe(endpoint: Arc<EndpointState>, watch: Rc<Watch>) {
    let _counted = Counted::begin();
    let mut rng = fastrand::Rng::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let Some((asked, wait)) = endpoint.probe(watch.clock.now()) else {
            endpoint.unprobed();
            // It may have gone out again between the two.
            if endpoint.claim_probe(watch.clock.now()) {
                pause = FIRST_PAUSE;
                continue;
            }
            return;
        };
        let least = Duration::from_secs(1) * PROBED.load(Relaxed) / PROBES_A_SECOND;
        let jittered = pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64());
        sleep(jittered.max(least).max(Duration::from_micros(wait))).await;
        if Arc::strong_count(&endpoint) == 1 {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        match asked {
            Probe::Connect => {
                if connect(endpoint.address(), PROBE_WAIT).await.is_ok() {
                    watch.tell(&endpoint, endpoint.connected(watch.clock.now()));
                }
            }
            Probe::Answer => {
                if timeout(PROBE_WAIT, lives(&endpoint)).await.unwrap_or(false) {
                    endpoint.lives(watch.clock.now());
                    // A request may ask it: it is eligible again, although not in use yet.
                    watch.news.tell();
                }
            }
        }
    }
}

/// Whether an endpoint gives any sign of life on a connection of its own.
async fn lives(endpoint: &EndpointState) -> bool {
    if endpoint.protocol() == Protocol::Udp {
        // Nobody knows what it would answer to: the next datagram shows.
        return true;
    }
    let Ok(mut stream) = connect(endpoint.address(), PROBE_WAIT).await else { return false };
    let question = match endpoint.protocol() {
        // RFC 9110, section 9.3.7: a ping of the server as a whole, about nothing in it.
        Protocol::Http => format!(
            "OPTIONS * HTTP/1.1\r\nhost: {}\r\nuser-agent: ringway-probe/{}\r\nconnection: close\r\n\r\n",
            endpoint.address().authority(),
            env!("CARGO_PKG_VERSION"),
        )
        .into_bytes(),
        // A preface with empty settings (RFC 9113, section 3.4): the server must answer with its own.
        // Nobody knows what it would have to be asked: that it takes the connection is all that it can show.
        Protocol::Tcp | Protocol::Tls | Protocol::Udp | Protocol::Thrift | Protocol::Mux => return true,
        Protocol::Grpc => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
    };
    if stream.write_all(&question).await.is_err() {
        return true;
    }
    // Whatever it says, it is somebody who says it; a connection that it ends is an answer, too.
    let _ = stream.read(&mut [0; 64]).await;
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use registry::base::time::Tick;
    use registry::model::{Algorithm, HostPort};
    use tokio::net::TcpListener;

    use super::*;
    use crate::base::clock::Clock;
    use crate::base::news::News;
    use policy::balance::{Eligibility, EndpointSpec, Endpoints, Rule};

    fn endpoints(port: u16) -> Endpoints {
        let address = HostPort { host: "127.0.0.1".into(), port };
        let spec =
            EndpointSpec { id: "a".into(), address, protocol: Protocol::Http, weight: 100, capacity: None };
        let rule = Rule { algorithm: Algorithm::RoundRobin, ring: None, checked: false, fail_open: false };
        Endpoints::new(rule, [spec], None, Tick::ZERO)
    }

    async fn is(set: &Endpoints, eligibility: Eligibility, clock: Clock) {
        while set.get(0).eligibility(clock.now()) != eligibility {
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "local")]
    async fn an_endpoint_that_listens_again_is_found_without_a_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let (set, clock) = (endpoints(at.port()), Clock::start());
        let taken = set.take(clock.now(), &mut fastrand::Rng::new(), None, &[], |_, _| {});
        crate::upstream::tell(set.get(0), taken.unwrap().1.refused(clock.now()));
        assert_eq!(set.get(0).eligibility(clock.now()), Eligibility::Ejected);
        look_after(set.get(0), &Watch::new(clock, News::default()));
        let _listener = TcpListener::bind(at).await.unwrap();
        timeout(Duration::from_secs(10), is(&set, Eligibility::Eligible, clock)).await.unwrap();
    }

    #[tokio::test(flavor = "local")]
    async fn one_that_accepts_and_says_nothing_does_not_live() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let set = endpoints(listener.local_addr().unwrap().port());
        assert!(timeout(Duration::from_millis(100), lives(set.get(0))).await.is_err());
        let answered = async {
            // The first one that was accepted is the probe above.
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(b"HTTP/1.1 501 No\r\n\r\n").await;
            }
        };
        let (lives, ()) = tokio::join!(lives(set.get(0)), answered);
        assert!(lives);
    }
}
