//! The commands that the project keeps: the demo from one command, and how the scripts behave.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use e2e::process::root;
use serde_json::Value;

fn run(dir: &Path, script: &str, args: &[&str]) -> Output {
    Command::new(root().join(script)).args(args).current_dir(dir).output().unwrap()
}

#[test]
fn the_quickstart_shows_three_clusters_and_loses_nothing() {
    // What is to be built is there, with the features of the tests: to build it without them is a step of `tests/run`.
    let dir = tempfile::tempdir().unwrap();
    let (cargo, asked) = (dir.path().join("cargo"), dir.path().join("asked"));
    std::fs::write(&cargo, format!("#!/bin/sh\necho \"$@\" > {}\n", asked.display())).unwrap();
    std::fs::set_permissions(&cargo, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut quickstart = Command::new(root().join("deploy/quickstart"));
    // From another folder, as people do.
    let output = quickstart.args(["-o", "json"]).current_dir("/").env("PATH", path).output().unwrap();
    assert_eq!(std::fs::read_to_string(asked).unwrap().trim(), "build --release --locked -p ringway");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let summary: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: not one object: {out}"));
    assert_eq!(
        (&summary["clusters"], &summary["failed"], &summary["keys_misplaced"]),
        (&3.into(), &0.into(), &0.into())
    );
    assert!(summary["requests"].as_u64() > Some(1_000), "{summary}");
    assert!(summary["keys_checked"].as_u64() > Some(500), "{summary}");
    assert!(summary["detect_ms"].as_f64().unwrap() < 3_000.0, "{summary}");
    assert!(summary["reroute_ms"].as_f64().unwrap() < 3_000.0, "{summary}");
}

#[test]
fn the_quickstart_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    // A PATH that holds the shell's own needs, and neither cargo nor a compiler.
    for program in ["bash", "dirname", "env"] {
        let found = ["/usr/bin", "/bin"].map(|d| Path::new(d).join(program));
        std::os::unix::fs::symlink(found.iter().find(|p| p.exists()).unwrap(), dir.path().join(program))
            .unwrap();
    }
    let output = Command::new(root().join("deploy/quickstart"))
        .env("PATH", dir.path())
        .env("CARGO_HOME", dir.path().join("none"))
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(err.contains("cargo") && err.contains("hint:"), "{err}");
}

#[test]
fn the_protobuf_compiler_is_the_machines_or_the_hint_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    for program in ["bash", "dirname", "env"] {
        let found = ["/usr/bin", "/bin"].map(|d| Path::new(d).join(program));
        std::os::unix::fs::symlink(found.iter().find(|p| p.exists()).unwrap(), dir.path().join(program))
            .unwrap();
    }
    let compile = || {
        let mut command = Command::new(root().join("deploy/protoc"));
        command.args(["--include_imports", "-I", "a folder", "a.proto"]).env("PATH", dir.path());
        // What a build script is told: here a target folder without tools, and a cargo that builds nothing.
        command.env("OUT_DIR", dir.path().join("target/debug/build/some-package/out"));
        command.env("CARGO", "false").output().unwrap()
    };
    let output = compile();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(err.contains("protobuf-compiler") && err.contains("hint:"), "{err}");

    let protoc = dir.path().join("protoc");
    std::fs::write(&protoc, "#!/usr/bin/env bash\nprintf '%s,' \"$@\"\n").unwrap();
    std::fs::set_permissions(&protoc, PermissionsExt::from_mode(0o755)).unwrap();
    let output = compile();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "--include_imports,-I,a folder,a.proto,");
}

#[test]
fn the_checks_refuse_what_they_do_not_know() {
    for args in [&["--fast"][..], &["--seed"], &["--seed", "x"], &["--long", "--seeds", "-1"]] {
        let output = run(Path::new("/"), "tests/run", args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: tests/run"), "{args:?}");
    }
}

#[test]
fn the_bench_names_what_it_has_and_refuses_the_rest() {
    let bench = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_bench")).args(args).output().unwrap();
    let help = bench(&["--help"]);
    assert!(help.status.success());
    for name in ["hop", "ring", "wan", "failover", "registry", "--quick"] {
        assert!(String::from_utf8_lossy(&help.stdout).contains(name), "{name}");
    }
    for args in [&[][..], &["nonsense"], &["hop", "--fast"], &["wan", "--fast"], &["failover", "fast"]] {
        assert_eq!(bench(args).status.code(), Some(2), "{args:?}");
    }
}
