//! Steady load from threads of its own, with every outcome kept: what "no request is lost" is checked by.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Connection, Request};

/// Time between two requests of one thread, unless told otherwise.
const PACE: Duration = Duration::from_millis(2);

/// What every thread asks for, in turn.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The authority.
    pub host: String,
    /// GET, or POST with a body and an `x-id` of its own each.
    pub method: &'static str,
    /// The target.
    pub target: String,
    /// With `x-user: u<N>`, N counting up to this; 0: no key.
    pub keys: u64,
    /// Time between two requests of one thread.
    pub pace: Duration,
}

impl Ask {
    /// GETs of `/` from `host` without a key.
    pub fn get(host: &str) -> Self {
        Self { host: host.into(), method: "GET", target: "/".into(), keys: 0, pace: PACE }
    }
}

/// One finished request.
#[derive(Clone, Debug)]
pub struct Done {
    /// When it was sent.
    pub sent: Instant,
    /// How long its answer took.
    pub took: Duration,
    /// The key it carried.
    pub key: Option<String>,
    /// Its `x-id`.
    pub id: String,
    /// The status and who served it, or what went wrong.
    pub result: Result<(u16, String), String>,
}

impl Done {
    /// Whether it was answered 200.
    pub fn ok(&self) -> bool {
        matches!(self.result, Ok((200, _)))
    }
}

/// Running load; [`Traffic::stop`] gives what came of it.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    ask: Ask,
    stop: AtomicBool,
    next: AtomicU64,
    /// Short sections; the threads pause between requests.
    done: Mutex<Vec<Done>>,
}

impl Traffic {
    /// Starts `threads` connections to `address` that each ask one thing after the other.
    pub fn start(address: SocketAddr, threads: usize, ask: Ask) -> Self {
        let shared = Arc::new(Shared {
            address,
            ask,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            done: Mutex::default(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || run(&shared))
        };
        let threads = (0..threads).map(spawn).collect();
        Self { shared, threads }
    }

    /// How many requests are finished.
    pub fn count(&self) -> usize {
        self.shared.done.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until `more` further requests are finished.
    pub fn wait_more(&self, more: usize) {
        let goal = self.count() + more;
        crate::wait_until("further requests are answered", crate::wait::SOON, || {
            (self.count() >= goal).then_some(())
        });
    }

    /// Stops and gives every request in the order in which they ended.
    pub fn stop(mut self) -> Report {
        self.join();
        Report { done: std::mem::take(&mut *self.shared.done.lock().unwrap_or_else(PoisonError::into_inner)) }
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(shared: &Shared) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let ask = &shared.ask;
        let id = format!("id-{number}");
        let mut request = match ask.method {
            "POST" => Request::post(&ask.host, &ask.target, b"pay once").with("x-id", &id),
            method => Request::new(method, &ask.host, &ask.target).with("x-id", &id),
        };
        let key = (ask.keys > 0).then(|| format!("u{}", number % ask.keys));
        if let Some(key) = &key {
            request = request.with("x-user", key);
        }
        let sent = Instant::now();
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::open(shared.address),
        };
        let result = open.and_then(|mut open| {
            let answer = open.exchange(&request)?;
            let served_by = answer.field("x-served-by").unwrap_or_default().to_owned();
            if answer.field("connection") != Some("close") {
                connection = Some(open);
            }
            Ok((answer.status, served_by))
        });
        let result = result.map_err(|e| format!("{e:?}"));
        let done = Done { sent, took: sent.elapsed(), key, id, result };
        shared.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        crate::pause(ask.pace);
    }
}

/// What came of a load.
#[derive(Debug)]
pub struct Report {
    /// Every request in the order in which they ended.
    pub done: Vec<Done>,
}

impl Report {
    /// Those that were not answered 200.
    pub fn failed(&self) -> Vec<&Done> {
        self.done.iter().filter(|d| !d.ok()).collect()
    }

    /// # Panics
    /// When any request was not answered 200, or there was none; shows the first few.
    pub fn assert_none_failed(&self) {
        let failed = self.failed();
        let shown: Vec<_> = failed.iter().take(5).collect();
        assert!(failed.is_empty(), "{} of {} failed, such as {shown:#?}", failed.len(), self.done.len());
        assert!(!self.done.is_empty(), "nothing was asked");
    }

    /// How many each backend answered.
    pub fn by_server(&self) -> BTreeMap<&str, usize> {
        let mut servers = BTreeMap::new();
        for (_, server) in self.done.iter().filter_map(|d| d.result.as_ref().ok()) {
            *servers.entry(server.as_str()).or_default() += 1;
        }
        servers
    }

    /// What this share of the answers took at most.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut took: Vec<_> = self.done.iter().map(|d| d.took).collect();
        took.sort_unstable();
        let at = (took.len().saturating_sub(1) as f64 * share) as usize;
        took.get(at).copied().unwrap_or_default()
    }

    /// The slowest answer.
    pub fn slowest(&self) -> Duration {
        self.done.iter().map(|d| d.took).max().unwrap_or_default()
    }
}
