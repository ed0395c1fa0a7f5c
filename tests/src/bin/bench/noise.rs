//! What else the machine did while something was measured.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::chain::cpu_seconds;

/// Ticks of a second in `/proc/stat`: a constant of Linux on every architecture that Rust's standard library knows.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds up to one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// That all cores spent on anything.
    busy: f64,
    /// That all cores had.
    all: f64,
    /// That were ours: those of the processes looked at, and of every load tool that has ended.
    ours: f64,
}

impl Moment {
    /// Now, with what these processes of ours have used.
    pub(crate) fn now(pids: &[u32]) -> Result<Self, String> {
        let text = std::fs::read_to_string("/proc/stat").map_err(|e| format!("/proc/stat: {e}"))?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of user and nice.
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        let [_, _, _, idle, waiting, ..] = ticks[..] else { return Err(format!("/proc/stat: `{line}`")) };
        let all: f64 = ticks.iter().sum();
        let ended = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| format!("the load tool's CPU: {e}"))?;
        let tool = (ended.user_time() + ended.system_time()).num_microseconds() as f64 / 1e6;
        Ok(Self {
            busy: (all - idle - waiting) / TICKS_PER_SECOND,
            all: all / TICKS_PER_SECOND,
            ours: cpu_seconds(pids)? + tool,
        })
    }

    /// The share of the machine, in per cent, that others had since `before`.
    pub(crate) fn others_since(&self, before: &Self) -> f64 {
        let (busy, all, ours) = (self.busy - before.busy, self.all - before.all, self.ours - before.ours);
        ((busy - ours) / all * 100.0).max(0.0)
    }
}
