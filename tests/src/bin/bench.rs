//! Benchmarks of the whole. Prints `name value unit` lines, the medians of interleaved rounds; progress goes to
//! standard error.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};

use e2e::manifest::{link, policy, service, sharded};
use e2e::mesh::{Gateway, Mesh};
use e2e::port::free_port;
use e2e::process::{Process, ringway};

const USAGE: &str = "\
usage: tests/bench [NAME] [--quick]

  hop       one request through two gateways on loopback, 64-byte answers: requests a second and CPU at 64
            connections, latency at 1000 requests a second, beside the same without Ringway
  ring      the consistent-hash ring beside binary search and pingora-ketama: lookups, instructions, memory,
            changes, balance
  wan, failover, registry     come with later issues

Without a name: all that there are. --quick takes at most 3 minutes; the figures are rougher.
";

/// Requests a second of the open loop.
const OPEN_RPS: u32 = 1000;
/// Connections of the closed loop.
const CONNECTIONS: u32 = 64;
/// Distinct keys of the keyed runs.
const KEYS: u32 = 10_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--help" | "-h"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        ["hop"] => hop(5, 8),
        ["hop", "--quick"] => hop(3, 3),
        // `ring` is a program of its own, which tests/bench starts: it needs nothing of the gateway.
        ["wan" | "failover" | "registry", ..] => {
            eprintln!("`{}` comes with a later issue", args[0]);
            ExitCode::from(2)
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// What is asked for, and through whom.
#[derive(Clone, Copy)]
struct Way<'a> {
    name: &'static str,
    address: SocketAddr,
    host: &'static str,
    keys: u32,
    /// Whose CPU counts.
    gateways: &'a [&'a Gateway],
}

/// The figures of one way, one value per round.
#[derive(Default)]
struct Figures {
    rps: Vec<f64>,
    cpu: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

fn hop(rounds: u32, seconds: u32) -> ExitCode {
    let tool = ringway().with_file_name("load");
    let mesh = Mesh::new();
    let backend: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mut command = Command::new(&tool);
    command.args(["backend", "--name", "e", "--listen", &backend.to_string()]);
    let process = Process::start("load backend", command, &mesh.dir().join("backend.log"));
    process.wait_log(&["ready"]);

    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let keyed = policy("keyed", &sharded(&["east", "west"]).replace("x-user", "x-key"));
    let endpoint = [("e", backend)];
    let east =
        east.start(&[link("west", &[]), service("cart", &endpoint), service("keyed", &endpoint), keyed]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/cart", &["east"]);
    west.wait_service("shop/keyed", &["east"]);

    let both = [&east, &west];
    let http = west.site.http;
    let ways = [
        Way { name: "direct", address: backend, host: "cart.shop.mesh", keys: 0, gateways: &[] },
        Way { name: "ringway", address: http, host: "cart.shop.mesh", keys: 0, gateways: &both },
        Way { name: "ringway_keyed", address: http, host: "keyed.shop.mesh", keys: KEYS, gateways: &both },
    ];
    let mut figures: [Figures; 3] = Default::default();
    for round in 1..=rounds {
        for (way, figures) in ways.iter().zip(&mut figures) {
            eprintln!("round {round} of {rounds}: {}", way.name);
            if let Err(problem) = measure(&tool, way, seconds, figures) {
                eprintln!("error: {}: {problem}", way.name);
                return ExitCode::FAILURE;
            }
        }
    }
    for (way, figures) in ways.iter().zip(figures) {
        let line = |name: &str, values: Vec<f64>, digits: usize, unit: &str| {
            if let Some(value) = median(values) {
                println!("hop.{}.{name} {value:.digits$} {unit}", way.name);
            }
        };
        line("rps64", figures.rps, 0, "req/s");
        line("cpu_s_per_10k", figures.cpu, 4, "s");
        line("p50_us", figures.p50, 0, "us");
        line("p99_us", figures.p99, 0, "us");
    }
    ExitCode::SUCCESS
}

/// One round of one way: a little warming, the closed loop, the open loop.
fn measure(tool: &Path, way: &Way<'_>, seconds: u32, figures: &mut Figures) -> Result<(), String> {
    let connections = CONNECTIONS.to_string();
    let closed = |seconds: &str| load(tool, way, &["closed", "--conns", &connections, "--secs", seconds]);
    closed("0.5")?;
    let before = cpu_seconds(way.gateways)?;
    let run = closed(&seconds.to_string())?;
    let spent = cpu_seconds(way.gateways)? - before;
    figures.rps.push(run.value("rps")?);
    if !way.gateways.is_empty() {
        figures.cpu.push(spent / run.value("ok")? * 10_000.0);
    }
    let (rps, seconds) = (OPEN_RPS.to_string(), seconds.to_string());
    let run = load(
        tool,
        way,
        &["open", "--rps", &rps, "--conns", &connections, "--warm", "0.5", "--secs", &seconds],
    )?;
    figures.p50.push(run.value("p50")?);
    figures.p99.push(run.value("p99")?);
    Ok(())
}

/// The one line of `name=value` pairs that the load tool prints.
struct Run(String);

impl Run {
    fn value(&self, name: &str) -> Result<f64, String> {
        let found =
            self.0.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        found.ok_or_else(|| format!("no {name} in `{}`", self.0))
    }
}

/// Runs the load tool. A run with failures gives no figures.
fn load(tool: &Path, way: &Way<'_>, args: &[&str]) -> Result<Run, String> {
    let url = format!("http://{}/", way.address);
    let mut command = Command::new(tool);
    command.args(args).args(["--url", &url, "--host", way.host, "--keys", &way.keys.to_string()]);
    let output = command.output().map_err(|e| format!("{}: {e}", tool.display()))?;
    let run = Run(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if !output.status.success() || run.value("fail")? > 0.0 || run.value("ok")? == 0.0 {
        return Err(format!("{args:?}: {} {}", run.0, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(run)
}

/// User and system time of every thread that these processes have, by the scheduler's own count (in ns).
fn cpu_seconds(gateways: &[&Gateway]) -> Result<f64, String> {
    let mut total = 0;
    for gateway in gateways {
        let tasks = format!("/proc/{}/task", gateway.process.pid());
        for task in std::fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))?.flatten() {
            let file = task.path().join("schedstat");
            // A thread may end between the listing and the look.
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let spent = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            total += spent.ok_or_else(|| format!("{}: `{text}`", file.display()))?;
        }
    }
    Ok(total as f64 / 1e9)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
