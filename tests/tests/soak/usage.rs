//! What processes hold, over time.

use e2e::process::memory_kib;

/// What may come on top of memory at the start, beside a fifth of it: allocators return pages late.
const SPARE_KIB: u64 = 8 * 1024;
/// Connections that are idle now and then.
const SPARE_FILES: u64 = 16;
/// Threads for the disk that end when idle.
const SPARE_THREADS: u64 = 4;

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug)]
struct Usage {
    memory_kib: u64,
    files: u64,
    threads: u64,
}

impl Usage {
    fn of(pid: u32) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count() as u64;
        Self { memory_kib: memory_kib(pid, "VmRSS").unwrap(), files: count("fd"), threads: count("task") }
    }
}

/// Looks at processes, each since it was first looked at.
#[derive(Debug)]
pub(crate) struct History(Vec<(u32, Vec<Usage>)>);

impl History {
    /// Of these processes, without a look yet.
    pub(crate) fn of(pids: &[u32]) -> Self {
        Self(pids.iter().map(|pid| (*pid, Vec::new())).collect())
    }

    /// Looks at each.
    pub(crate) fn look(&mut self) {
        for (pid, seen) in &mut self.0 {
            seen.push(Usage::of(*pid));
        }
    }

    /// What they held in the last third of the looks is not more than in the first.
    ///
    /// # Panics
    /// When it is, or when there were too few looks to tell.
    pub(crate) fn assert_flat(&self) {
        for (pid, seen) in &self.0 {
            let third = seen.len() / 3;
            assert!(third > 0, "only {} looks at {pid}: let it run longer", seen.len());
            let (first, last) = (&seen[..third], &seen[seen.len() - third..]);
            let held = |of: fn(&Usage) -> u64| (median(first, of), median(last, of));
            let (memory, files, threads) = (held(|u| u.memory_kib), held(|u| u.files), held(|u| u.threads));
            println!("{pid}: first and last: {memory:?} KiB, {files:?} files, {threads:?} threads");
            assert!(memory.1 <= memory.0 + memory.0 / 5 + SPARE_KIB, "memory grows: {seen:#?}");
            assert!(files.1 <= files.0 + SPARE_FILES, "open files grow: {seen:#?}");
            assert!(threads.1 <= threads.0 + SPARE_THREADS, "threads grow: {seen:#?}");
        }
    }
}

fn median(seen: &[Usage], of: fn(&Usage) -> u64) -> u64 {
    let mut values: Vec<_> = seen.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}
