//! The real curl: what a user sees, exit codes included.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{Said, run};

/// curl's exit code for a transfer that ended too early (`CURLE_PARTIAL_FILE`).
pub const PARTIAL_FILE: i32 = 18;
/// curl's exit code for a failure while receiving (`CURLE_RECV_ERROR`).
pub const RECV_ERROR: i32 = 56;

/// More than curl gives itself.
const CURL_MAX: Duration = Duration::from_secs(300);

/// Runs `curl --silent --show-error --max-time 240 ARGS`, without the user's settings and proxies.
///
/// # Panics
/// When curl is not installed (`tests/run` installs it or names it), or does not end.
pub fn curl<S: AsRef<OsStr>>(args: &[S]) -> Said {
    run(command(args), CURL_MAX)
}

/// The command that [`curl`] runs.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-q", "--noproxy", "*", "--silent", "--show-error", "--max-time", "240"]).args(args);
    command.stdin(Stdio::null());
    command
}
