//! What is carried as it is: connections, beside HAProxy's (mutual TLS between its two), on QUIC and where UDP is blocked
//! on TCP; and datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::mesh::Mesh;
use wan::Namespace;

use super::{GIB, OPEN_RATE, Size};
use crate::chain::{Chain, Ends, THREADS, cpu_seconds, free_address};
use crate::figures::{BULK, BULK_CPU, CPU, Figures, P50, P99, RPS64, median};
use crate::haproxy;
use crate::identity::Identity;
use crate::load::Tool;
use crate::ours::Carried;
use crate::programs::{HAPROXY, find};

/// Datagrams that are under way at once.
const WINDOW: usize = 64;
/// Bytes of each.
const DATAGRAM_BYTES: usize = 200;
/// How long a datagram is waited for before its place is taken by another.
const LOST: Duration = Duration::from_millis(50);

/// Measures connections and datagrams, and prints what came of it.
pub(super) fn run(tool: &Tool, size: &Size) -> Result<(), String> {
    let mut figures = Figures::default();
    on_quic(tool, size, &mut figures)?;
    match blocked() {
        Ok(namespace) => namespace.enter(|| on_tcp(tool, size, &mut figures))?,
        Err(why) => eprintln!("no connections over TCP's carrier: {why}"),
    }
    for chain in ["ringway_tcp_quic", "ringway_tcp", "haproxy_tcp_alone", "haproxy_tcp"] {
        figures.print(chain);
    }
    for (name, ours, theirs) in
        [("tcp", "ringway_tcp", "haproxy_tcp"), ("tcp_quic", "ringway_tcp_quic", "haproxy_tcp_alone")]
    {
        figures.compare(&format!("{name}.cpu"), BULK_CPU, ours, theirs);
        figures.compare(&format!("{name}.bulk"), BULK, ours, theirs);
        figures.compare(&format!("{name}.p50"), P50, ours, theirs);
        figures.compare(&format!("{name}.p99"), P99, ours, theirs);
        figures.compare(&format!("{name}.cpu_small"), CPU, ours, theirs);
    }
    datagrams(size)
}

/// A namespace in which there is no UDP.
fn blocked() -> Result<Namespace, String> {
    let namespace = Namespace::new().map_err(|e| e.to_string())?;
    // Routes to this host come after one that UDP has none by.
    for rule in ["add pref 100 lookup local", "del pref 0", "add pref 10 ipproto udp prohibit"] {
        let ip = || Command::new("ip").arg("rule").args(rule.split(' ')).output();
        let said = namespace.enter(ip).map_err(|e| format!("ip: {e}"))?;
        if !said.status.success() {
            return Err(format!("ip rule {rule}: {}", String::from_utf8_lossy(&said.stderr).trim()));
        }
    }
    Ok(namespace)
}

fn on_quic(tool: &Tool, size: &Size, figures: &mut Figures) -> Result<(), String> {
    rounds(tool, size, figures, ["ringway_tcp_quic", "haproxy_tcp_alone"])
}

fn on_tcp(tool: &Tool, size: &Size, figures: &mut Figures) -> Result<(), String> {
    rounds(tool, size, figures, ["ringway_tcp", "haproxy_tcp"])
}

/// Our chain and HAProxy's, in turn.
fn rounds(
    tool: &Tool,
    size: &Size,
    figures: &mut Figures,
    [ours, theirs]: [&'static str; 2],
) -> Result<(), String> {
    let mesh = Mesh::new();
    let (_backend, backend) = tool.backend(&mesh, "e");
    let carried = Carried::start(THREADS, backend, free_address());
    let mut chains = vec![carried.chain(ours)];
    let identity = Identity::issue(&mesh).map_err(|e| format!("the peers' identity: {e}"))?;
    let mut processes = Vec::new();
    if let Some(program) = find(&HAPROXY) {
        let (chain, started) = haproxy::connections(theirs, &program, &identity, &Ends::loopback(backend));
        chains.push(chain);
        processes = started;
    }
    chains.iter().for_each(Chain::wait);
    for round in 1..=size.rounds {
        for chain in &chains {
            eprintln!("round {round} of {}: {}", size.rounds, chain.name);
            measure(tool, chain, size, figures).map_err(|e| format!("{}: {e}", chain.name))?;
        }
    }
    drop(processes);
    Ok(())
}

fn measure(tool: &Tool, chain: &Chain, size: &Size, figures: &mut Figures) -> Result<(), String> {
    tool.closed(chain, 64, 0.3)?;
    let before = cpu_seconds(&chain.pids)?;
    let run = tool.closed(chain, 64, size.seconds)?;
    let spent = cpu_seconds(&chain.pids)? - before;
    figures.add(chain.name, RPS64, run.value("rps")?);
    figures.add(chain.name, CPU, spent / run.value("ok")? * 10_000.0);
    let run = tool.open(chain, OPEN_RATE, size.seconds)?;
    figures.add(chain.name, P50, run.value("p50")?);
    figures.add(chain.name, P99, run.value("p99")?);
    let before = cpu_seconds(&chain.pids)?;
    let run = tool.bulk(chain, size.bulk_bytes)?;
    let spent = cpu_seconds(&chain.pids)? - before;
    figures.add(chain.name, BULK, run.value("mbit")?);
    figures.add(chain.name, BULK_CPU, spent * GIB as f64 / size.bulk_bytes as f64);
    Ok(())
}

/// Datagrams to an echo and back, as many at once as the window has.
fn datagrams(size: &Size) -> Result<(), String> {
    let echo = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = echo.local_addr().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = echo.recv_from(&mut buffer) {
            // One that finds no room is lost.
            let _ = echo.send_to(&buffer[..count], from);
        }
    });
    let carried = Carried::start(THREADS, free_address(), address);
    let pids = carried.chain("ringway_udp").pids;
    bounce(carried.udp, Duration::from_millis(300))?;
    let (mut rates, mut costs, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=size.rounds {
        eprintln!("round {round} of {}: ringway_udp", size.rounds);
        let before = cpu_seconds(&pids)?;
        let (back, lost) = bounce(carried.udp, Duration::from_secs_f64(size.seconds))?;
        let spent = cpu_seconds(&pids)? - before;
        // Each goes there and back.
        rates.push(2.0 * back as f64 / size.seconds);
        costs.push(spent * 1e6 / (2.0 * back as f64));
        losses.push(lost as f64 / (back + lost) as f64 * 100.0);
    }
    for (name, values, digits, unit) in
        [("pps", rates, 0, "packets/s"), ("cpu_us_per_packet", costs, 2, "us"), ("lost", losses, 3, "%")]
    {
        if let Some(value) = median(&values) {
            println!("hop.udp.{name} {value:.digits$} {unit}");
        }
    }
    Ok(())
}

/// How many datagrams came back in this time, and how many did not.
fn bounce(to: SocketAddr, time: Duration) -> Result<(u64, u64), String> {
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| {
        socket.connect(to)?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(socket)
    });
    let socket = socket.map_err(|e| e.to_string())?;
    let (datagram, mut buffer) = ([7; DATAGRAM_BYTES], [0; 2048]);
    let (mut back, mut lost, mut under_way) = (0, 0, 0);
    let began = Instant::now();
    while began.elapsed() < time {
        while under_way < WINDOW {
            socket.send(&datagram).map_err(|e| e.to_string())?;
            under_way += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {
                back += 1;
                under_way -= 1;
            }
            Err(_) => {
                lost += under_way as u64;
                under_way = 0;
            }
        }
    }
    match back {
        0 => Err("no datagram came back".into()),
        back => Ok((back, lost)),
    }
}
