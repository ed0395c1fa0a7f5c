//! Instructions of a lookup: the same on every machine and in every run.

use std::path::Path;
use std::process::Command;

use crate::figure;

pub(crate) fn measure() {
    // What only the start takes is in both and cancels out.
    let (few, many) = (40_960, 245_760);
    for nodes in [10, 100, 1000] {
        let (less, more) = match (count(nodes, few), count(nodes, many)) {
            (Ok(less), Ok(more)) => (less, more),
            (Err(why), _) | (_, Err(why)) => {
                eprintln!("SKIPPED: ring.instructions_24b.*: {why}");
                return;
            }
        };
        figure(&format!("instructions_24b.n{nodes}"), (more - less) / f64::from(many - few), "instructions");
    }
}

/// The instructions of a whole run of the driver.
fn count(nodes: u32, lookups: u32) -> Result<f64, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let driver = me.parent().unwrap_or(Path::new(".")).join("ringbench-lookups");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(driver)
        .args([nodes.to_string(), lookups.to_string()])
        .output()
        .map_err(|error| format!("valgrind (Debian: apt-get install valgrind) does not start: {error}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let collected = log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.ok_or_else(|| format!("valgrind counted nothing ({}):\n{log}", output.status))
}
