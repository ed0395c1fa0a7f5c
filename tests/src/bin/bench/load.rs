//! The load tool: a process of its own, as is the backend.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::mesh::Mesh;
use e2e::process::{Process, ringway};

use crate::chain::{Chain, free_address};

/// Where the load tool is.
#[derive(Debug)]
pub(crate) struct Tool(PathBuf);

/// Bytes of a download that does not end while it is looked at.
const ENDLESS: u64 = 1 << 50;

/// How long a steady request is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests on a schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steady<'a> {
    /// A second.
    pub(crate) rate: f64,
    /// Seconds at the beginning that do not count.
    pub(crate) warm: f64,
    /// Seconds that do.
    pub(crate) seconds: f64,
    /// Where each request is written down.
    pub(crate) dump: Option<&'a Path>,
}

/// Which way much is moved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Down,
    Up,
}

/// A load tool that runs. It ends by itself, or when this is dropped.
#[derive(Debug)]
pub(crate) struct Running(Option<Child>);

/// The one line of `name=value` pairs that it prints.
#[derive(Debug)]
pub(crate) struct Run(String);

impl Tool {
    /// Beside the binary that is measured.
    pub(crate) fn find() -> Self {
        Self(ringway().with_file_name("load"))
    }

    /// Starts a backend that says it is `name`.
    pub(crate) fn backend(&self, mesh: &Mesh, name: &str) -> (Process, SocketAddr) {
        let address = free_address();
        let mut command = Command::new(&self.0);
        command.args(["backend", "--name", name, "--listen", &address.to_string()]);
        let process =
            Process::start("load backend", command, &mesh.dir().join(format!("backend-{name}.log")));
        process.wait_log(&["ready"]);
        (process, address)
    }

    /// `connections` that each ask again as soon as they are answered.
    pub(crate) fn closed(&self, chain: &Chain, connections: u32, seconds: f64) -> Result<Run, String> {
        let (connections, seconds) = (connections.to_string(), seconds.to_string());
        self.run(chain, "/", &["closed", "--conns", &connections, "--secs", &seconds])?.sound()
    }

    /// Requests that leave on a schedule, latency counted from it.
    pub(crate) fn open(&self, chain: &Chain, rate: u32, seconds: f64) -> Result<Run, String> {
        let (rate, seconds) = (rate.to_string(), seconds.to_string());
        let args = ["open", "--rps", &rate, "--conns", "64", "--warm", "0.5", "--secs", &seconds];
        self.run(chain, "/", &args)?.sound()
    }

    /// One answer of so many bytes.
    pub(crate) fn bulk(&self, chain: &Chain, bytes: u64) -> Result<Run, String> {
        let run = self.run(chain, &format!("/bulk/{bytes}"), &["bulk", "--secs", "0"])?;
        match run.value("failed")? == 0.0 && run.value("bytes")? == bytes as f64 {
            true => Ok(run),
            false => Err(format!("the download broke off: {}", run.0)),
        }
    }

    /// Starts requests that leave on a schedule, on as many connections as they need. None is said to be unsound: that
    /// some fail is a finding.
    pub(crate) fn steady(&self, chain: &Chain, steady: &Steady<'_>) -> Result<Running, String> {
        let [rate, warm, seconds] = [steady.rate, steady.warm, steady.seconds].map(|n| n.to_string());
        let patience = PATIENCE.as_millis().to_string();
        let mut args = vec!["open", "--rps", &rate, "--warm", &warm, "--secs", &seconds];
        args.extend(["--conns", "2000", "--timeout-ms", &patience]);
        let dump = steady.dump.map(|file| file.to_string_lossy());
        args.extend(dump.iter().flat_map(|file| ["--dump", file]));
        self.spawn(chain, "/", &args)
    }

    /// Starts one connection that moves as much as it can; what it moves in the first `warm` seconds does not count.
    pub(crate) fn transfer(
        &self,
        chain: &Chain,
        way: Way,
        warm: f64,
        seconds: f64,
    ) -> Result<Running, String> {
        let (command, path) = match way {
            Way::Down => ("bulk", format!("/bulk/{ENDLESS}")),
            Way::Up => ("upload", "/".to_owned()),
        };
        let [warm, seconds] = [warm, seconds].map(|n| n.to_string());
        self.spawn(chain, &path, &[command, "--warm", &warm, "--secs", &seconds])
    }

    fn run(&self, chain: &Chain, path: &str, args: &[&str]) -> Result<Run, String> {
        self.spawn(chain, path, args)?.end()
    }

    fn spawn(&self, chain: &Chain, path: &str, args: &[&str]) -> Result<Running, String> {
        let url = format!("http://{}{path}", chain.address);
        let mut command = Command::new(&self.0);
        command.args(args).args(["--url", &url, "--host", chain.host, "--keys", &chain.keys.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map(|child| Running(Some(child))).map_err(|e| format!("{}: {e}", self.0.display()))
    }
}

impl Running {
    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<Run, String> {
        let child = self.0.take().ok_or("the load tool has ended")?;
        let output = child.wait_with_output().map_err(|e| format!("the load tool: {e}"))?;
        match output.status.success() {
            true => Ok(Run(String::from_utf8_lossy(&output.stdout).trim().to_owned())),
            false => Err(format!("the load tool: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Run {
    /// What the tool said of `name`.
    pub(crate) fn value(&self, name: &str) -> Result<f64, String> {
        let found =
            self.0.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        found.ok_or_else(|| format!("no {name} in `{}`", self.0))
    }

    /// A run with failures gives no figures.
    fn sound(self) -> Result<Self, String> {
        match self.value("fail")? > 0.0 || self.value("ok")? == 0.0 {
            true => Err(format!("requests failed: {}", self.0)),
            false => Ok(self),
        }
    }
}
