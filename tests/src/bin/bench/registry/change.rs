//! From an endpoint's failed or passed check in one cluster to the placement of its peer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::client::{Connection, Request};
use e2e::manifest::{link, service};
use e2e::mesh::Mesh;
use e2e::pause;

use super::{LIMIT, Size, print};

/// Services that change beside each other, each with one endpoint.
const SERVICES: usize = 20;

/// An endpoint that passes its checks or does not, and remembers when it first said so.
#[derive(Debug)]
struct Checked {
    address: SocketAddr,
    passes: AtomicBool,
    said: Mutex<Option<Instant>>,
}

impl Checked {
    fn start() -> Result<Arc<Self>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let checked = Arc::new(Self { address, passes: AtomicBool::new(true), said: Mutex::new(None) });
        let answering = checked.clone();
        // Ends with the process: nothing tells a listener to stop.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answering = answering.clone();
                std::thread::spawn(move || answering.answer(stream));
            }
        });
        Ok(checked)
    }

    /// Answers the requests of one connection.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
            head.extend_from_slice(&buffer[..n]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let check = head.starts_with(b"GET /healthz ");
            let passes = self.passes.load(Relaxed);
            let status = if passes || !check { "200 OK" } else { "503 Service Unavailable" };
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()?;
            if check && passes == self.passes.load(Relaxed) {
                self.said.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
            }
            head.clear();
        }
    }

    fn turn(&self) {
        self.passes.fetch_xor(true, Relaxed);
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn said(&self) -> Option<Instant> {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn run(size: &Size) -> Result<(), String> {
    let mesh = Mesh::new();
    let checked: Vec<_> = (0..SERVICES).map(|_| Checked::start()).collect::<Result<_, _>>()?;
    let (west, east) = (mesh.site("west", &["east"]), mesh.site("east", &["west"]));
    let mut objects = vec![link("west", &[])];
    objects.extend(checked.iter().enumerate().map(|(n, endpoint)| {
        let check = "healthCheck: { http: { path: /healthz }, interval: 100ms, rise: 1, fall: 1 }";
        service(&format!("s{n}"), &[("e", endpoint.address)]) + "  " + check + "\n"
    }));
    let east = east.start(&objects);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    (0..SERVICES).for_each(|n| west.wait_service(&format!("shop/s{n}"), &["east"]));

    let mut asking = Connection::open(west.site.http).map_err(|e| format!("{e:?}"))?;
    let requests: Vec<_> = (0..SERVICES).map(|n| Request::get(&format!("s{n}.shop.mesh"), "/")).collect();
    let mut times = Vec::new();
    let started = Instant::now();
    checked.iter().for_each(|endpoint| endpoint.turn());
    while times.len() < size.changes {
        if started.elapsed() > LIMIT {
            return Err(format!("{} of {} changes after {LIMIT:?}", times.len(), size.changes));
        }
        for (endpoint, request) in checked.iter().zip(&requests) {
            let Some(said) = endpoint.said() else { continue };
            let answer = asking.exchange(request).map_err(|e| format!("{e:?}"))?;
            // What west knows by itself, whatever east answers when it is asked behind all others.
            let known_down = answer.status == 503 && answer.text().contains("east is unready");
            if if endpoint.passes.load(Relaxed) { answer.status == 200 } else { known_down } {
                times.push(said.elapsed());
                endpoint.turn();
            }
        }
        pause(Duration::from_millis(1));
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
    print("change_p50_ms", at(50), 1, "ms");
    print("change_p99_ms", at(99), 1, "ms");
    Ok(())
}
