//! This test program once more, as a process of its own that can be frozen and killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

/// Says what the child does, and where.
const TASK: &str = "RINGWAY_STORE_TASK";
const DIRECTORY: &str = "RINGWAY_STORE_DIRECTORY";

/// A running child; killed when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
}

impl Child {
    /// Starts the child on a task. `wrapper`: a command and its arguments that run it.
    pub(crate) fn spawn(task: &str, directory: &Path, wrapper: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut words = wrapper.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).args(["--exact", "child::what_a_child_does", "--nocapture"]);
        command.env(TASK, task).env(DIRECTORY, directory).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (sender, lines) = sync_channel(1024);
        let output = BufReader::new(process.stdout.take().unwrap());
        // A line cut short by a kill has no end, so the last word of each is a dot.
        let whole = |line: String| line.strip_suffix(" .").map(String::from);
        thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok).filter_map(whole);
            lines.map_while(|line| sender.send(line).ok()).for_each(drop);
        });
        Self { process, lines }
    }

    /// What it says next; none: nothing within `wait`, or it ended.
    pub(crate) fn line(&self, wait: Duration) -> Option<String> {
        self.lines.recv_timeout(wait).ok()
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&mut self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Kills it at once, and returns all that it said and nobody asked for.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.lines.iter().collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says something to the parent.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write;
        // One write for the whole line; a parent that is gone kills us anyway.
        let _ = std::io::stdout().write_all(format!("{} .\n", format_args!($($what)*)).as_bytes());
    }};
}
pub(crate) use say;

#[tokio::test]
async fn what_a_child_does() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let directory = Path::new(&directory);
    match std::env::var(TASK).as_deref() {
        Ok("frozen") => crate::embedded::frozen(directory).await,
        Ok("killed") => crate::killed::write_for_ever(directory).await,
        Ok("refused") => crate::refused::write_until_refused(directory).await,
        other => panic!("no such task: {other:?}"),
    }
}
