//! A chain of proxies under load: where it is asked, and what its processes use.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use e2e::client::{Request, fetch};
use e2e::port::free_port;
use e2e::process::Process;
use e2e::wait::{SOON, wait_until};
use wan::Namespace;

/// Threads of each proxy of the peers, and of each of our gateways where nothing else is said.
pub(crate) const THREADS: u8 = 2;
/// The header that carries the key of a keyed chain: what the load tool sends.
pub(crate) const KEY_HEADER: &str = "x-key";
/// Distinct keys of a keyed chain.
pub(crate) const KEYS: u32 = 10_000;

/// One way from the load to the backend.
#[derive(Debug)]
pub(crate) struct Chain {
    /// As in the names of its figures.
    pub(crate) name: &'static str,
    /// Where it is asked.
    pub(crate) address: SocketAddr,
    /// The authority that is asked for.
    pub(crate) host: &'static str,
    /// Distinct keys of the requests; 0: none.
    pub(crate) keys: u32,
    /// Whose CPU and memory count.
    pub(crate) pids: Vec<u32>,
}

/// An address of loopback that nobody uses.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Where the two proxies of a chain are asked, and what the far one asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) near: SocketAddr,
    pub(crate) far: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// Where the near one runs, and the far one; none: where this process does.
    pub(crate) inside: [Option<&'a Namespace>; 2],
}

impl Ends<'_> {
    /// All on loopback.
    pub(crate) fn loopback(backend: SocketAddr) -> Self {
        Self { near: free_address(), far: free_address(), backend, inside: [None; 2] }
    }
}

/// Starts a proxy of `chain`, in a namespace or where this process is.
pub(crate) fn start(
    inside: Option<&Namespace>,
    dir: &Path,
    chain: &str,
    role: &str,
    command: Command,
) -> Process {
    let name = format!("{chain}-{role}");
    let start = || Process::start(&name, command, &dir.join(format!("{name}.log")));
    match inside {
        Some(namespace) => namespace.enter(start),
        None => start(),
    }
}

/// User and system time of every thread that these processes have, by the scheduler's own count.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Result<f64, String> {
    let mut nanoseconds = 0;
    for pid in pids {
        let tasks = format!("/proc/{pid}/task");
        for task in std::fs::read_dir(&tasks).map_err(|e| format!("{tasks}: {e}"))?.flatten() {
            let file = task.path().join("schedstat");
            // A thread may end between the listing and the look.
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let spent = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            nanoseconds += spent.ok_or_else(|| format!("{}: `{text}`", file.display()))?;
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

impl Chain {
    /// Waits until a request gets through.
    ///
    /// # Panics
    /// When none does.
    pub(crate) fn wait(&self) {
        let request = Request::get(self.host, "/").with(KEY_HEADER, "k1");
        wait_until(&format!("{} answers", self.name), SOON, || {
            (fetch(self.address, &request).ok()?.status == 200).then_some(())
        });
    }

    /// Memory of all its processes in MiB: `VmRSS`, what they use now, or `VmHWM`, the most that they ever used.
    pub(crate) fn memory(&self, field: &str) -> Result<Vec<f64>, String> {
        self.pids
            .iter()
            .map(|&pid| e2e::process::memory_kib(pid, field).map(|kib| kib as f64 / 1024.0))
            .collect()
    }
}
