//! The processes under test: started with their output in a file, ended by their id whatever happens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::wait::{SOON, wait_until};

/// Lines of a process's output that a failed test shows.
const SHOWN_LINES: usize = 60;

/// The binary under test: `$RINGWAY_BIN`, else the release build of this workspace.
///
/// # Panics
/// When it is not there, saying how to build it.
pub fn ringway() -> PathBuf {
    if let Some(path) = std::env::var_os("RINGWAY_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "RINGWAY_BIN names {}, which is no file", path.display());
        return path;
    }
    let path = target().join("release/ringway");
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release -p ringway` first, or set RINGWAY_BIN",
        path.display()
    );
    path
}

/// Where cargo builds, and where tools that only tests need are put.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    room.parent().expect("the package `e2e` stands in a folder of the workspace").to_path_buf()
}

/// What a command that ran to its end said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code, none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `ringway ARGS` in `dir` to its end.
///
/// # Panics
/// When it cannot be started.
pub fn cli<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: &[S]) -> Said {
    let mut command = Command::new(ringway());
    command.args(args).current_dir(dir).stdin(Stdio::null()).env_remove("RINGWAY_ADMIN");
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Memory of the process `pid` in KiB, by its name in `/proc/PID/status`: `VmRSS`, what it uses now, or `VmHWM`, the
/// most that it ever used.
///
/// # Errors
/// When there is no such process or field.
pub fn memory_kib(pid: u32, field: &str) -> Result<u64, String> {
    let file = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("{file}: no {field}"))
}

/// Lets this process, and those that it starts from now on, open so many files.
///
/// # Panics
/// When it may not.
pub fn allow_files(count: u64) {
    let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of open files can be asked for");
    if now >= count {
        return;
    }
    // Beyond the hard limit it takes root.
    let raised = setrlimit(Resource::RLIMIT_NOFILE, count, most.max(count));
    assert!(
        raised.is_ok(),
        "this test opens {count} files and may open {most}: `ulimit -Hn {count}` as root"
    );
}

/// A running child process. Dropping it kills it, and shows its last lines if the test is failing.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both outputs are appended to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log);
        let out = out.unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let err = out.try_clone().expect("a file that was just opened can be cloned");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { child, name: name.into(), log: log.into() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has said since the first start with this log file.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for a line of its output that holds every one of `parts`, and gives it.
    pub fn wait_log(&self, parts: &[&str]) -> String {
        wait_until(&format!("a line of {} with {parts:?}", self.name), SOON, || {
            let log = self.log();
            log.lines().find(|l| parts.iter().all(|p| l.contains(p))).map(String::from)
        })
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours and was not waited for elsewhere")
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        wait_until(&format!("the end of {}", self.name), SOON, || self.ended())
    }

    /// SIGTERM, and does not wait.
    pub fn ask_to_end(&self) {
        self.signal("TERM");
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    /// SIGSTOP: it lives and does nothing.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill`: no `unsafe`, and there where procps is not.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(sent.is_ok_and(|s| s.success()), "SIG{name} to {} ({})", self.name, self.pid());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("--- {}: the last lines of {} ---", self.name, lines.len());
            for line in &lines[from..] {
                eprintln!("{line}");
            }
        }
    }
}
