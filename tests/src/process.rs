//! The processes under test: started with their output in a file, ended by their id whatever happens.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::wait::{SOON, pause, wait_until};

/// Lines of a process's output that a failed test shows.
const SHOWN_LINES: usize = 100;

/// The longest that a command of ours may take that does something and ends.
const COMMAND_MAX: Duration = Duration::from_secs(120);

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
/// When it cannot be started, or does not end.
pub fn cli<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: &[S]) -> Said {
    let mut command = Command::new(ringway());
    command.args(args).current_dir(dir).env_remove("RINGWAY_ADMIN");
    run(command, COMMAND_MAX)
}

/// Runs a command without input to its end, at most for `limit`.
///
/// # Panics
/// When it cannot be started, or does not end: it is killed then, and what it said is shown.
pub fn run(mut command: Command, limit: Duration) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    end(child, limit).unwrap_or_else(|said| panic!("{command:?} has not ended after {limit:?}: {said:?}"))
}

/// Waits for the end of a child whose outputs are pipes, at most for `limit`, and gives what it said.
///
/// # Errors
/// What it said until then, when it has not ended: it is killed.
pub fn end(mut child: Child, limit: Duration) -> Result<Said, Said> {
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    // Whoever reads until now hears that nothing more comes.
    drop(child.stdin.take());
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if started.elapsed() < limit => pause(Duration::from_millis(2)),
            _ => break None,
        }
    };
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let [out, err] = [out, err].map(|reader| reader.join().unwrap_or_default());
    let said = Said { code: status.and_then(|s| s.code()), out, err };
    if status.is_some() { Ok(said) } else { Err(said) }
}

/// Reads an output as it comes: a pipe that nobody reads would stop its writer.
fn collect(output: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error still counts.
        let _ = output.map(|mut output| output.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
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

    /// # Panics
    /// When it has ended by itself: nothing more is to be expected of it.
    pub fn assert_running(&self) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state stands behind the name, which is in brackets: a child that has ended and was not waited for is a
        // zombie.
        let state = stat.rsplit(") ").next().unwrap_or_default();
        assert!(!state.starts_with('Z'), "{} ({}) has ended", self.name, self.pid());
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, then waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_end()
    }

    /// Waits for its end.
    pub fn wait_end(&mut self) -> ExitStatus {
        wait_until(&format!("the end of {}", self.name), SOON, || self.ended())
    }

    /// SIGTERM, and does not wait.
    pub fn ask_to_end(&self) {
        self.signal("TERM");
    }

    /// SIGINT to its whole process group, as a terminal sends it; started with a group of its own.
    pub fn interrupt_group(&self) {
        self.signal_to("INT", &format!("-{}", self.pid()));
    }

    /// SIGUSR2.
    pub fn ask_for_heir(&self) {
        self.signal("USR2");
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    /// SIGSTOP: it lives and does nothing. Returns when each of its threads has stopped.
    pub fn freeze(&self) {
        self.signal("STOP");
        let threads = format!("/proc/{}/task", self.pid());
        // Field 3, after the name in brackets, which may hold anything: T is stopped.
        let has_stopped = |thread: &Path| {
            let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('T'))
        };
        wait_until(&format!("{} to stop", self.name), SOON, || {
            let mut threads = std::fs::read_dir(&threads).ok()?.filter_map(Result::ok);
            threads.all(|thread| has_stopped(&thread.path())).then_some(())
        });
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        self.signal_to(name, &self.pid().to_string());
    }

    fn signal_to(&self, name: &str, whom: &str) {
        // The shell's own `kill`: no `unsafe`, and there where procps is not.
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {whom}")]).status();
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
