//! One request through two gateways, beside the same through others.

mod carried;

use e2e::mesh::Mesh;
use e2e::process::Process;

use crate::chain::{Chain, Ends, THREADS, cpu_seconds};
use crate::envoy;
use crate::figures::{BULK, BULK_CPU, CPU, CPU256, Figures, Kind, NOISE, P50, P99, RPS64, RPS256, RSS};
use crate::haproxy;
use crate::identity::Identity;
use crate::load::Tool;
use crate::noise::Moment;
use crate::ours::Gateways;
use crate::programs::{ENVOY, HAPROXY, find};

/// Requests a second of the open loop.
const OPEN_RATE: u32 = 1000;
const GIB: u64 = 1 << 30;

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Size {
    rounds: u32,
    /// Of each loop in each round.
    seconds: f64,
    bulk_bytes: u64,
}

/// A quarter of an hour.
pub(crate) const FULL: Size = Size { rounds: 5, seconds: 5.0, bulk_bytes: GIB };
/// At most three minutes.
pub(crate) const QUICK: Size = Size { rounds: 2, seconds: 1.2, bulk_bytes: GIB / 4 };

/// The chain that stands for us: as many workers as the peers have threads.
const OURS: &str = "ringway";

/// Measures all chains in turn, round after round, and prints what came of it.
pub(crate) fn run(size: &Size) -> Result<(), String> {
    let tool = Tool::find();
    let mesh = Mesh::new();
    let (backend_process, backend) = tool.backend(&mesh, "e");
    let (gateways, one_worker) = (Gateways::start(THREADS, backend), Gateways::start(1, backend));
    let mut chains = vec![
        Chain { name: "direct", address: backend, host: "cart.shop.mesh", keys: 0, pids: Vec::new() },
        gateways.plain(OURS),
        gateways.keyed("ringway_keyed"),
        one_worker.plain("ringway_one_worker"),
    ];
    // Before anything was asked of them.
    let rest = chains[1].memory("VmRSS")?;
    let (beside, _sidecar) = gateways.with_sidecar("ringway_sidecar");
    chains.push(beside);
    let mut processes: Vec<Process> = Vec::new();
    let mut add = |(chain, started): (Chain, Vec<Process>)| {
        chains.push(chain);
        processes.extend(started);
    };
    let identity = Identity::issue(&mesh).map_err(|e| format!("the peers' identity: {e}"))?;
    if let Some(program) = find(&ENVOY) {
        add(envoy::two(&program, &identity, &Ends::loopback(backend)));
        add(envoy::ring_hash(&program, &identity, backend));
        add(envoy::four(&program, &identity, backend));
    }
    if let Some(program) = find(&HAPROXY) {
        add(haproxy::two(&program, &identity, &Ends::loopback(backend)));
    }
    chains.iter().for_each(Chain::wait);

    let mut figures = Figures::default();
    for round in 1..=size.rounds {
        for chain in &chains {
            eprintln!("round {round} of {}: {}", size.rounds, chain.name);
            let pids = [&chain.pids[..], &[backend_process.pid()]].concat();
            let before = Moment::now(&pids)?;
            measure(&tool, chain, size, &mut figures).map_err(|e| format!("{}: {e}", chain.name))?;
            figures.add(chain.name, NOISE, Moment::now(&pids)?.others_since(&before));
        }
    }

    chains.iter().for_each(|chain| figures.print(chain.name));
    let larger = |values: Vec<f64>| values.into_iter().fold(0.0, f64::max);
    println!("hop.ringway.rss_at_rest {:.1} MiB", larger(rest));
    println!("hop.ringway.rss_peak {:.1} MiB", larger(chains[1].memory("VmHWM")?));
    for other in ["envoy_h2", "haproxy_h2"] {
        let named: [(&str, Kind); 9] = [
            ("cpu", CPU),
            ("cpu256", CPU256),
            ("rps64", RPS64),
            ("rps256", RPS256),
            ("p50", P50),
            ("p99", P99),
            ("bulk", BULK),
            ("bulk_cpu", BULK_CPU),
            ("rss", RSS),
        ];
        named.into_iter().for_each(|(name, kind)| figures.compare(name, kind, OURS, other));
    }
    for other in ["envoy_h2", "haproxy_h2"] {
        figures.compare("cpu_one_worker", CPU, "ringway_one_worker", other);
        figures.compare("rps64_one_worker", RPS64, "ringway_one_worker", other);
    }
    figures.compare("cpu_keyed", CPU, "ringway_keyed", "envoy_ring_hash");
    figures.compare("cpu_keyed", CPU, "ringway_keyed", "ringway");
    figures.compare("cpu_sidecar", CPU, "ringway_sidecar", "envoy_four");
    figures.compare("rps64_sidecar", RPS64, "ringway_sidecar", "envoy_four");
    // What has been measured is not there any more when the next is.
    drop((chains, processes, gateways, one_worker));
    carried::run(&tool, size)
}

/// One round of one chain: a little warming, the closed loops, the open loop, one large answer.
fn measure(tool: &Tool, chain: &Chain, size: &Size, figures: &mut Figures) -> Result<(), String> {
    let proxied = !chain.pids.is_empty();
    tool.closed(chain, 64, 0.3)?;
    for (connections, rps, cpu) in [(64, RPS64, CPU), (256, RPS256, CPU256)] {
        let before = cpu_seconds(&chain.pids)?;
        let run = tool.closed(chain, connections, size.seconds)?;
        let spent = cpu_seconds(&chain.pids)? - before;
        figures.add(chain.name, rps, run.value("rps")?);
        if proxied {
            figures.add(chain.name, cpu, spent / run.value("ok")? * 10_000.0);
        }
    }
    let run = tool.open(chain, OPEN_RATE, size.seconds)?;
    figures.add(chain.name, P50, run.value("p50")?);
    figures.add(chain.name, P99, run.value("p99")?);
    let before = cpu_seconds(&chain.pids)?;
    let run = tool.bulk(chain, size.bulk_bytes)?;
    let spent = cpu_seconds(&chain.pids)? - before;
    figures.add(chain.name, BULK, run.value("mbit")?);
    if proxied {
        figures.add(chain.name, BULK_CPU, spent * GIB as f64 / size.bulk_bytes as f64);
        figures.add(chain.name, RSS, chain.memory("VmRSS")?.iter().sum());
    }
    Ok(())
}
