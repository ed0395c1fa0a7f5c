//! Network namespaces without names: they live as long as somebody is in them or holds them.

use std::fs::File;
use std::io;
use std::panic::resume_unwind;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// What a namespace is opened by, of the thread that looks.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace of its own, with its loopback up and nothing else.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// When this process may not, or `ip` is missing.
    pub fn new() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut command = Command::new("ip");
            let said = command.args(["link", "set", "lo", "up"]).output();
            let said = said.map_err(|e| io::Error::new(e.kind(), format!("ip: {e}")))?;
            if !said.status.success() {
                return Err(io::Error::other(format!(
                    "ip: {}",
                    String::from_utf8_lossy(&said.stderr).trim()
                )));
            }
            Ok(Self { file: File::open(OWN)? })
        });
        made.join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Does `work` in a thread inside, waits for its end and gives its result. Sockets that it opens and processes that it
    /// starts stay inside.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("it let us in when it was made");
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Sets a variable below `/proc/sys`, such as `net/ipv4/tcp_congestion_control`, for this namespace alone.
    ///
    /// # Errors
    /// When there is no such variable in a namespace, or it may not have this value.
    pub fn set(&self, variable: &str, value: &str) -> io::Result<()> {
        self.enter(|| std::fs::write(format!("/proc/sys/{variable}"), value))
    }
}
