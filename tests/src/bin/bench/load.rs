//! The load tool: a process of its own, as is the backend.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use e2e::mesh::Mesh;
use e2e::process::{Process, ringway};

use crate::chain::{Chain, free_address};

/// Where the load tool is.
#[derive(Debug)]
pub(crate) struct Tool(PathBuf);

/// The one line of `name=value` pairs that it prints.
#[derive(Debug)]
pub(crate) struct Run(String);

impl Tool {
    /// Beside the binary that is measured.
    pub(crate) fn find() -> Self {
        Self(ringway().with_file_name("load"))
    }

    /// Starts the backend of every chain.
    pub(crate) fn backend(&self, mesh: &Mesh) -> (Process, SocketAddr) {
        let address = free_address();
        let mut command = Command::new(&self.0);
        command.args(["backend", "--name", "e", "--listen", &address.to_string()]);
        let process = Process::start("load backend", command, &mesh.dir().join("backend.log"));
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

    fn run(&self, chain: &Chain, path: &str, args: &[&str]) -> Result<Run, String> {
        let url = format!("http://{}{path}", chain.address);
        let mut command = Command::new(&self.0);
        command.args(args).args(["--url", &url, "--host", chain.host, "--keys", &chain.keys.to_string()]);
        let output = command.output().map_err(|e| format!("{}: {e}", self.0.display()))?;
        match output.status.success() {
            true => Ok(Run(String::from_utf8_lossy(&output.stdout).trim().to_owned())),
            false => Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr))),
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
