//! The arrows of the house: who may know whom. Read from manifests and imports, so that a wall that moves is seen.
//!
//! `hashring <- gateway`, `proto <- registry <- gateway <- tests`; inside the gateway and the registry each group imports
//! from those left of it only, and there are no circles of modules where they were opened. Pure modules see no clock, no
//! socket, no file and no `await`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each package of the house and those of its own house that it may use.
const ROOMS: [(&str, &[&str]); 17] = [
    ("hashring", &[]),
    ("ringway-proto", &[]),
    ("ringway-files", &[]),
    ("ringway-finagle", &[]),
    ("ringway-first", &[]),
    ("ringway-http1", &[]),
    ("ringway-identity", &["ringway-files"]),
    ("ringway-registry", &["ringway-files", "ringway-proto"]),
    ("ringway-admin-api", &["ringway-proto"]),
    ("ringway-policy", &["hashring", "ringway-proto", "ringway-registry"]),
    ("ringway-thrift", &[]),
    ("ringway-tunnel", &["ringway-files", "ringway-identity", "ringway-proto"]),
    (
        "ringway",
        &[
            "hashring",
            "ringway-admin-api",
            "ringway-files",
            "ringway-finagle",
            "ringway-first",
            "ringway-http1",
            "ringway-identity",
            "ringway-policy",
            "ringway-proto",
            "ringway-registry",
            "ringway-thrift",
            "ringway-tunnel",
        ],
    ),
    // The registry for its conformance suite, which runs against a real etcd here.
    ("e2e", &["ringway-identity", "ringway-proto", "ringway-registry", "wan"]),
    ("load", &[]),
    ("ringbench", &["hashring"]),
    ("wan", &[]),
];

/// What a room does without: `hashring` and `proto` any runtime or network, `registry` requests and tunnels, the gateway
/// the types of what keeps its registry.
const FOREIGN: [(&str, &[&str]); 5] = [
    ("hashring", &["tokio", "quinn", "hyper", "http", "rustls"]),
    ("ringway-proto", &["tokio", "quinn", "hyper", "http", "rustls"]),
    ("ringway-registry", &["quinn", "hyper", "http", "rustls"]),
    ("ringway-policy", &["tokio", "quinn", "hyper", "rustls", "tracing"]),
    ("ringway", &["etcd-client", "redb"]),
];

/// The groups of `gateway/src`. A group imports from those left of it only.
const GROUPS: [&str; 12] = [
    "base",
    "telemetry",
    "http",
    "upstream",
    "peers",
    "view",
    "proxy",
    "control",
    "admin",
    "sidecar",
    "app",
    "cli",
];

/// The groups of `registry/src`.
const REGISTRY: [&str; 7] = ["base", "model", "testing", "manifest", "store", "pure", "tasks"];

/// Where modules import from each other in one direction only.
const NO_CIRCLES: [(&str, &str); 2] = [("gateway/tunnel/src", "crate::"), ("gateway/src/admin", "super::")];

/// Pure: no input or output, no await; time and randomness are parameters.
const PURE: [&str; 24] = [
    "gateway/finagle/src",
    "gateway/first/src",
    "gateway/http1/src/chunked",
    "gateway/http1/src/framing",
    "gateway/http1/src/head",
    "gateway/policy/src",
    "gateway/thrift/src",
    "gateway/src/http/message",
    "gateway/src/telemetry/limited/repeats",
    "gateway/src/peers/resets",
    "gateway/src/base/places/slots",
    "hashring/src",
    "proto/src",
    "registry/src/pure/export",
    "registry/src/pure/mirror",
    "registry/src/model",
    "registry/src/pure/probation",
    "registry/src/base/rate",
    "registry/src/model/record",
    "registry/src/pure/registration",
    "registry/src/base/shared_map",
    "registry/src/pure/sources",
    "registry/src/pure/union",
    "tests/wan/src/link",
];

/// What purity forbids.
const IMPURE: [&str; 16] = [
    "tokio",
    "quinn",
    "hyper",
    "socket2",
    "async fn",
    "async move",
    ".await",
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "TcpStream",
    "UdpSocket",
    "fastrand::Rng::new",
];

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn rooms_depend_on_rooms_below_them_only() {
    let args = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(e2e::process::root()).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let found: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(found, ROOMS.iter().map(|r| r.0).collect(), "a package without a place in the house");
    for (room, allowed) in ROOMS {
        let package = packages.iter().find(|p| p["name"] == room).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            let own = dependency["path"].is_string();
            assert!(!own || allowed.contains(&name), "`{room}` must not know `{name}`");
            let foreign = FOREIGN.iter().any(|(r, names)| *r == room && names.contains(&name));
            // Tests may bring a runtime along.
            assert!(!foreign || dependency["kind"] == "dev", "`{room}` must do without `{name}`");
        }
    }
}

#[test]
fn groups_import_from_those_left_of_them_only() {
    for (room, groups) in [("gateway/src", &GROUPS[..]), ("registry/src", &REGISTRY)] {
        let src = e2e::process::root().join(room);
        let lib = code(&read(&src.join("lib.rs")));
        let found: BTreeSet<&str> = lib
            .lines()
            .filter_map(|l| l.trim().trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
            .collect();
        let known = groups.iter().copied().collect();
        assert_eq!(
            found, known,
            "a group of {room} without a place among those of tests/tests/house/arrows.rs"
        );
        for group in groups {
            for file in sources(&src.join(group)) {
                if let Err(wrong) = judge(groups, group, &read(&file)) {
                    panic!("{}: {wrong}", file.display());
                }
            }
        }
    }
}

/// Whether a file of `group` imports only what it may.
fn judge(groups: &[&str], group: &str, text: &str) -> Result<(), String> {
    let place = |group: &str| groups.iter().position(|g| *g == group);
    for import in imports("crate::", &code(text)) {
        let of = place(&import).ok_or_else(|| format!("`crate::{import}` is no group"))?;
        if Some(of) > place(group) {
            return Err(format!("`{group}` must not import `{import}`"));
        }
    }
    Ok(())
}

#[test]
fn no_modules_import_from_each_other() {
    for (folder, prefix) in NO_CIRCLES {
        let src = e2e::process::root().join(folder);
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let name = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap();
        for module in fs::read_dir(&src).unwrap().map(|entry| name(&entry.unwrap().path())) {
            let files = sources(&src.join(&module));
            // Below a module `super` is the module itself, or its parent.
            let of = |file: &PathBuf| {
                let deep = file.parent() != Some(&src) && prefix == "super::";
                if deep { BTreeSet::new() } else { imports(prefix, &code(&read(file))) }
            };
            arrows.insert(module, files.iter().flat_map(of).collect());
        }
        arrows.remove("lib");
        assert_eq!(circle(&arrows), None, "modules of {folder} import from each other");
    }
}

/// Modules that cannot be put in an order; none: they can.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<&str>> {
    let mut left: BTreeSet<&str> = arrows.keys().map(String::as_str).collect();
    loop {
        let leaf =
            |module: &&str| arrows[*module].iter().all(|to| to == module || !left.contains(to.as_str()));
        let Some(leaf) = left.iter().copied().find(|module| leaf(module)) else {
            return (!left.is_empty()).then(|| left.into_iter().collect());
        };
        left.remove(leaf);
    }
}

#[test]
fn a_circle_is_found() {
    let arrows = |list: &[(&str, &str)]| {
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in list {
            arrows.entry((*from).into()).or_default().insert((*to).into());
            arrows.entry((*to).into()).or_default();
        }
        arrows
    };
    assert_eq!(circle(&arrows(&[("a", "b"), ("b", "c"), ("a", "c"), ("c", "c")])), None);
    assert_eq!(circle(&arrows(&[("a", "b"), ("b", "c"), ("c", "b")])), Some(vec!["a", "b", "c"]));
}

#[test]
fn a_planted_violation_is_found_wherever_it_stands() {
    let fine = "#[cfg(test)]\nmod tests;\nmod other;\nuse crate::base::clock::Clock;\n";
    assert_eq!(judge(&GROUPS, "peers", fine), Ok(()));
    for planted in [
        "use crate::proxy::worker::Worker;\n",
        "use crate::{base::clock, view};\n",
        "fn f() { crate::admin::serve() }\n",
        "use crate::nowhere::X;\n",
    ] {
        assert!(judge(&GROUPS, "peers", &format!("{fine}{planted}")).is_err(), "{planted}");
    }
    let in_tests = "#[cfg(test)]\nmod tests {\n    use crate::proxy::worker::Worker;\n}\n";
    assert_eq!(judge(&GROUPS, "peers", &format!("{fine}{in_tests}")), Ok(()));
}

#[test]
fn pure_modules_have_no_clock_no_socket_and_no_await() {
    let root = e2e::process::root();
    let mut read_files = 0;
    for module in PURE {
        for file in sources(&root.join(module)) {
            read_files += 1;
            let code = code(&read(&file));
            for impure in IMPURE {
                assert!(!code.contains(impure), "{}: `{impure}` in a pure module", file.display());
            }
        }
    }
    assert!(read_files > 20, "only {read_files} files were read: has a module moved?");
}

/// The files of a module `path`: `path.rs` and all below `path/`, without those of tests.
fn sources(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let file = path.with_extension("rs");
    if file.is_file() {
        files.push(file);
    }
    for entry in fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            files.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    files.sort();
    files.dedup();
    files
}

/// The code of a file: without comments and without the tests at its end. Tests in a file of their own are declared
/// anywhere, and end nothing.
fn code(text: &str) -> String {
    let tests = text.match_indices("#[cfg(test)]\nmod ").find(|(at, _)| {
        let line = text[*at..].lines().nth(1).unwrap_or_default();
        line.contains('{')
    });
    let product = &text[..tests.map_or(text.len(), |(at, _)| at)];
    let lines = product.lines().map(|l| l.split("//").next().unwrap());
    lines.fold(String::new(), |code, line| code + line + "\n")
}

/// The modules behind `prefix` that `code` names: `crate::a::B`, `use crate::{a, b::{C, D}}`.
fn imports(prefix: &str, code: &str) -> BTreeSet<String> {
    let ident = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(ident(rest));
            continue;
        };
        let (mut depth, mut start) = (1, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if start && !c.is_whitespace() => {
                    found.insert(ident(&group[i..]));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::a::B;\nuse crate::{c, d::{E, f}, g::H}; // crate::no\nfn x() { crate::i::j() }\n\
                #[cfg(test)]\nmod tests { use crate::k; }\n";
    let found = imports("crate::", &code(text));
    assert_eq!(found, ["a", "c", "d", "g", "i"].map(String::from).into());
}
