//! One connection that moves as much as it can, down or up.
use crate::client::Opts;
use crate::sys::now_ns;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// After so many failures of its connection a transfer gives up.
const FAILURES_MAX: u32 = 20;

/// What an upload announces: more than it will ever send.
const ENDLESS: u64 = 1 << 50;

/// What was moved, and when it counts.
struct Meter {
    from: u64,
    /// 0: there is no end but that of the body
    end: u64,
    bytes: u64,
    failed: u32,
}

impl Meter {
    fn new(o: &Opts) -> Self {
        let from = now_ns() + (o.warm * 1e9) as u64;
        let end = if o.secs > 0.0 { from + (o.secs * 1e9) as u64 } else { 0 };
        Meter { from, end, bytes: 0, failed: 0 }
    }
    fn add(&mut self, n: u64) {
        if now_ns() >= self.from {
            self.bytes += n;
        }
    }
    fn over(&self) -> bool {
        self.end > 0 && now_ns() >= self.end
    }
    /// A connection with patience; none: no more attempts.
    fn connect(&mut self, o: &Opts) -> Option<TcpStream> {
        while self.failed <= FAILURES_MAX && !self.over() {
            if let Ok(s) = TcpStream::connect(o.addr) {
                // with an end, it is looked at that often
                let wait = Some(Duration::from_millis(if self.end > 0 { 100 } else { 10_000 }));
                let _ = s.set_read_timeout(wait);
                let _ = s.set_write_timeout(wait);
                return Some(s);
            }
            self.failed += 1;
            pause();
        }
        None
    }
    fn report(&self) {
        let dt = now_ns().saturating_sub(self.from) as f64 / 1e9;
        let (bytes, failed) = (self.bytes, self.failed);
        println!("bytes={bytes} secs={dt:.3} mbit={:.2} failed={failed}", bytes as f64 * 8.0 / dt / 1e6);
    }
}

/// Waits a little before the next attempt to connect.
#[allow(clippy::disallowed_methods)] // This loop asks a server, not a condition of ours.
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

/// Downloads, and asks again at the end of each body.
pub fn bulk(o: Opts) {
    let mut m = Meter::new(&o);
    let mut buf = vec![0u8; 1 << 18];
    let head = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", o.path, o.host_header());
    while let Some(mut s) = m.connect(&o) {
        let mut whole = true;
        while whole && !m.over() {
            whole = s.write_all(head.as_bytes()).is_ok() && body(&mut s, &mut buf, &mut m);
            if whole && m.end == 0 {
                return m.report();
            }
        }
        if m.over() {
            break;
        }
        m.failed += 1;
    }
    m.report();
}

/// Reads one answer; false: it broke off or the time is up.
fn body(s: &mut TcpStream, buf: &mut [u8], m: &mut Meter) -> bool {
    let mut head = Vec::new();
    let mut left = None::<u64>;
    while left != Some(0) {
        if m.over() {
            return false;
        }
        let n = match s.read(buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if m.end > 0 && e.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let Some(l) = left else {
            head.extend_from_slice(&buf[..n]);
            let Some(p) = head.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let h = String::from_utf8_lossy(&head[..p]).to_ascii_lowercase();
            let field = h.split("\r\n").find_map(|l| l.strip_prefix("content-length:"));
            let Some(l) = field.and_then(|v| v.trim().parse::<u64>().ok()) else { break };
            let got = (head.len() - p - 4) as u64;
            m.add(got);
            left = Some(l.saturating_sub(got));
            continue;
        };
        m.add(n as u64);
        left = Some(l.saturating_sub(n as u64));
    }
    left == Some(0)
}

/// Sends one body without end.
pub fn upload(o: Opts) {
    let mut m = Meter::new(&o);
    let zero = vec![0u8; 1 << 16];
    let head =
        format!("POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {ENDLESS}\r\n\r\n", o.path, o.host_header());
    while let Some(mut s) = m.connect(&o) {
        let mut sound = s.write_all(head.as_bytes()).is_ok();
        while sound && !m.over() {
            match s.write(&zero) {
                Ok(n) => m.add(n as u64),
                Err(e) => sound = e.kind() == ErrorKind::WouldBlock,
            }
        }
        if !sound {
            m.failed += 1;
            pause();
        }
    }
    m.report();
}
