//! What the registry costs and how soon it tells: thousands of services, endpoints and changes, many peers, many
//! sidecars.
//!
//! Gateways are real processes; where the figure is about one of them, its peers are simulated
//! ([`e2e::exporter::Exporter`]).

mod change;
mod endpoints;
mod large;
mod peers;
mod sidecars;
mod takeover;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use e2e::client::{Connection, Request};
use e2e::mesh::Gateway;
use e2e::pause;
use e2e::process::memory_kib;

use crate::chain::cpu_seconds;

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Size {
    /// Changes of a ready count whose time is taken.
    changes: usize,
    /// How long a process at rest is looked at.
    rest: Duration,
    /// Turns of the load, with changes and without, and seconds of each.
    rounds: u32,
    seconds: f64,
    /// Elected gateways that are killed.
    deaths: u32,
}

/// Ten minutes.
pub(crate) const FULL: Size =
    Size { changes: 1000, rest: Duration::from_secs(20), rounds: 15, seconds: 3.0, deaths: 5 };
/// At most three minutes.
pub(crate) const QUICK: Size =
    Size { changes: 200, rest: Duration::from_secs(5), rounds: 6, seconds: 1.5, deaths: 3 };

/// Longest wait for anything: a figure that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// Measures one after the other, and prints each figure as soon as it is there.
pub(crate) fn run(size: &Size) -> Result<(), String> {
    eprintln!("changes of a ready count");
    change::run(size)?;
    eprintln!("10,000 services");
    large::run(size)?;
    eprintln!("100,000 endpoints");
    endpoints::run()?;
    eprintln!("100 peers");
    peers::run(size, 100)?;
    eprintln!("1,000 peers");
    peers::run(size, 1000)?;
    eprintln!("1,000 sidecars");
    sidecars::run(size)?;
    eprintln!("an elected gateway dies");
    takeover::run(size)
}

fn print(name: &str, value: f64, digits: usize, unit: &str) {
    println!("registry.{name} {value:.digits$} {unit}");
}

/// `VmRSS` of a gateway in bytes, once it has stopped growing or shrinking.
fn resident(gateway: &Gateway) -> Result<f64, String> {
    let now = || memory_kib(gateway.process.pid(), "VmRSS").map(|kib| kib as f64 * 1024.0);
    let started = Instant::now();
    let (mut last, mut still) = (now()?, 0);
    while still < 4 && started.elapsed() < LIMIT {
        pause(Duration::from_millis(500));
        let next = now()?;
        // A hundredth is the coming and going of a process at rest.
        still = if (next - last).abs() < last / 100.0 { still + 1 } else { 0 };
        last = next;
    }
    Ok(last)
}

/// The share of one core that a gateway uses while nothing happens, in per cent.
fn at_rest(gateway: &Gateway, time: Duration) -> Result<f64, String> {
    let pids = [gateway.process.pid()];
    let (started, before) = (Instant::now(), cpu_seconds(&pids)?);
    pause(time);
    Ok((cpu_seconds(&pids)? - before) / started.elapsed().as_secs_f64() * 100.0)
}

/// Asks `address` for `host` until an answer's status is so; gives the seconds that it took.
fn until(address: SocketAddr, host: &str, is: impl Fn(u16) -> bool) -> Result<f64, String> {
    let started = Instant::now();
    let request = Request::get(host, "/");
    while started.elapsed() < LIMIT {
        // One connection as long as it holds: a new one for each look would fill the machine with closed ones.
        if let Ok(mut connection) = Connection::open(address) {
            while let Ok(answer) = connection.exchange(&request)
                && started.elapsed() < LIMIT
            {
                if is(answer.status) {
                    return Ok(started.elapsed().as_secs_f64());
                }
                pause(Duration::from_millis(5));
            }
        }
        pause(Duration::from_millis(5));
    }
    Err(format!("{host} at {address}: not as it should be after {LIMIT:?}"))
}
