//! A process is killed and started again; the other one hears of it from the new start, over every tunnel.

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tunnel::Tunnel;

use crate::gateway::Gateway;
use crate::pki::Pki;
use crate::{EAST_BOOT, WEST_BOOT, scatter};

const TUNNELS: usize = 100;
/// How often a datagram goes out on each tunnel, whatever else goes on.
const PROBE: Duration = Duration::from_millis(10);
/// The goal is 50 ms; this much is granted to a machine that does other work. With quinn's pause of 20 ms between two
/// resets the last tunnel would need twice as long, and the idle timeout is 3 s.
const NOTICED_WITHIN: Duration = Duration::from_millis(300);
/// And so many attempts, for one of which it must have been free for a moment. What is noticed counts in each.
const ATTEMPTS: usize = 10;
/// Where a child finds what it is to be: directory, address, workers, boot, and whom to dial.
const SPEC: &str = "RINGWAY_TEST_WORKERS_CHILD";

/// A gateway of cluster east in a process of its own. It ends with its standard input.
struct Process {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(dir: &Path, address: SocketAddr, workers: u8, boot: u64, dials: Option<SocketAddr>) -> Self {
        let dials = dials.map(|a| a.to_string()).unwrap_or_default();
        let spec = format!("{} {address} {workers} {boot} {dials}", dir.display());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "restart::child", "--nocapture"])
            .env(SPEC, spec)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    /// What it says after `word`.
    fn says(&mut self, word: &str) -> String {
        let mut lines = self.said.by_ref().map(Result::unwrap);
        lines.find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned())).unwrap()
    }

    /// SIGKILL: it says nothing to anybody.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a test but the process that the others start.
#[test]
fn child() {
    let Ok(spec) = std::env::var(SPEC) else { return };
    let spec: Vec<&str> = spec.split(' ').collect();
    let [dir, address, workers, boot, dials] = spec[..] else { panic!("{spec:?}") };
    println!("\nbinding");
    let (address, workers, boot) =
        (address.parse().unwrap(), workers.parse().unwrap(), boot.parse().unwrap());
    let gateway = Gateway::start_at(Path::new(dir), "east", address, workers, boot);
    println!("bound {}", gateway.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tunnels = runtime.block_on(async {
        let mut tunnels = Vec::new();
        for n in 0..TUNNELS {
            let Ok(address) = dials.parse() else { break };
            tunnels.push(gateway.dial(n % usize::from(workers), address, "west").await);
        }
        tunnels
    });
    println!("dialled {}", tunnels.len());
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// Sends on every tunnel until it has ended; gives back when that was.
fn watch(tunnels: Vec<Tunnel>) -> JoinSet<(Instant, String)> {
    let mut watched = JoinSet::new();
    for tunnel in tunnels {
        watched.spawn(async move {
            let mut tick = tokio::time::interval(PROBE);
            let reason = loop {
                tokio::select! {
                    reason = tunnel.closed() => break reason.text,
                    // Fails only once it has ended.
                    _ = tick.tick() => drop(tunnel.probe(1, 1)),
                }
            };
            (Instant::now(), reason)
        });
    }
    watched
}

/// How long after `since` the last tunnel had ended, each because the peer has said that it has restarted.
async fn all_have_noticed(watched: JoinSet<(Instant, String)>, since: Instant, what: &str) -> Duration {
    let ends = watched.join_all().await;
    assert_eq!(ends.len(), TUNNELS);
    for (_, reason) in &ends {
        assert_eq!(reason, "peer has restarted");
    }
    let after = |(at, _): &(Instant, String)| at.saturating_duration_since(since);
    let (first, last) = (ends.iter().map(after).min().unwrap(), ends.iter().map(after).max().unwrap());
    println!("{what}: the first of {TUNNELS} tunnels noticed after {first:?}, the last after {last:?}");
    last
}

/// The second start has another number of workers: any of them can speak for the dead.
async fn dialled() -> Duration {
    let pki = Pki::new();
    let mut east = Process::start(pki.path(), ([127, 0, 0, 1], 0).into(), 2, EAST_BOOT, None);
    let address = east.says("bound").parse().unwrap();
    // A reset does not say for which worker it is; here each of them comes to the first.
    let west = Gateway::start(&pki, "west", 2, WEST_BOOT);
    scatter::over(west.address, 1);
    let mut tunnels = Vec::new();
    for n in 0..TUNNELS {
        tunnels.push(west.dial(n % 2, address, "east").await);
    }
    let watched = watch(tunnels);
    east.kill();
    let mut east = Process::start(pki.path(), address, 3, EAST_BOOT + 1, None);
    east.says("binding");
    let last = all_have_noticed(watched, Instant::now(), "dialled").await;
    east.kill();
    last
}

async fn accepted() -> Duration {
    let pki = Pki::new();
    let mut west = Gateway::start(&pki, "west", 2, WEST_BOOT);
    let mut east = Process::start(pki.path(), ([127, 0, 0, 1], 0).into(), 2, EAST_BOOT, Some(west.address));
    let address = east.says("bound").parse().unwrap();
    assert_eq!(east.says("dialled"), TUNNELS.to_string());
    let watched = watch(west.accepted_as_many_as(TUNNELS).await);
    east.kill();
    let mut east = Process::start(pki.path(), address, 2, EAST_BOOT + 1, None);
    east.says("binding");
    let last = all_have_noticed(watched, Instant::now(), "accepted").await;
    east.kill();
    last
}

async fn soon_once(mut attempt: impl AsyncFnMut() -> Duration) {
    let mut took = Vec::new();
    while took.last().is_none_or(|last| *last >= NOTICED_WITHIN) {
        assert!(took.len() < ATTEMPTS, "never within {NOTICED_WITHIN:?}: {took:?}");
        took.push(attempt().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_dialled_hears_of_a_restart_on_every_tunnel() {
    soon_once(dialled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_dialled_hears_of_a_restart_on_every_tunnel() {
    soon_once(accepted).await;
}
