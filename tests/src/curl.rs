//! The real curl: what a user sees, exit codes included.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::process::Said;

/// curl's exit code for a transfer that ended too early (`CURLE_PARTIAL_FILE`).
pub const PARTIAL_FILE: i32 = 18;
/// curl's exit code for a failure while receiving (`CURLE_RECV_ERROR`).
pub const RECV_ERROR: i32 = 56;

/// Runs `curl --silent --show-error --max-time 60 ARGS`, without the user's settings and proxies.
///
/// # Panics
/// When curl is not installed: `tests/run` installs it or names it.
pub fn curl<S: AsRef<OsStr>>(args: &[S]) -> Said {
    let mut command = command(args);
    let output = command.output().unwrap_or_else(|e| panic!("curl, which `tests/run` installs: {e}"));
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The command that [`curl`] runs.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-q", "--noproxy", "*", "--silent", "--show-error", "--max-time", "60"]).args(args);
    command.stdin(Stdio::null());
    command
}
