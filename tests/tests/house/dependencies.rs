//! What the build may contain: licences, one TLS provider, one version of each large library, one source.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences that Apache-2.0 code may be distributed with, without further duties than keeping their notices.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Two versions of one of these would be two of its registries, traits or pools in one process.
const SINGLE: [&str; 13] = [
    "aws-lc-rs",
    "bytes",
    "h2",
    "http",
    "hyper",
    "prost",
    "quinn",
    "quinn-proto",
    "rustls",
    "rustls-webpki",
    "tokio",
    "tonic",
    "tower",
];

/// Never in the build, each with its reason.
const BANNED: [(&str, &str); 3] = [
    ("ring", "aws-lc-rs is the one TLS provider; look which dependency's default features bring ring in"),
    ("openssl-sys", "aws-lc-rs is the one TLS provider"),
    ("native-tls", "aws-lc-rs is the one TLS provider"),
];

/// A package that is built on this machine, tests included.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// Where it comes from, if that is not crates.io.
    source: Option<String>,
}

/// Not from `cargo metadata`: that also lists what optional features would bring in.
fn packages() -> BTreeSet<Package> {
    let args = [
        "tree",
        "--workspace",
        "--locked",
        "-e",
        "normal,build,dev",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ];
    let output = Command::new(env!("CARGO")).args(args).current_dir(e2e::process::root()).output().unwrap();
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().filter_map(package).collect()
}

/// A line such as `time v0.3.41 (proc-macro)|MIT (*)`.
fn package(line: &str) -> Option<Package> {
    let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?.into(), words.next()?.into());
    let source = words.find(|w| *w != "(proc-macro)").map(String::from);
    Some(Package { name, version, licence: licence.into(), source })
}

#[test]
fn every_licence_is_on_the_list() {
    let refused: Vec<_> = packages().into_iter().filter(|p| !allowed(&p.licence)).collect();
    assert!(refused.is_empty(), "licences that are not on the list: {refused:#?}");
}

#[test]
fn large_libraries_come_in_one_version() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().push(package.version);
    }
    versions.retain(|name, versions| SINGLE.contains(&name.as_str()) && versions.len() > 1);
    assert!(versions.is_empty(), "more than one version: {versions:?}; see `cargo tree -d`");
}

#[test]
fn there_is_one_tls_provider() {
    let names: BTreeSet<String> = packages().into_iter().map(|p| p.name).collect();
    for (banned, reason) in BANNED {
        assert!(
            !names.contains(banned),
            "`{banned}` is in the build: {reason}; see `cargo tree -i {banned}`"
        );
    }
    assert!(names.contains("aws-lc-rs"), "no TLS provider at all: is this list what is built?");
}

#[test]
fn everything_comes_from_crates_io_or_stands_here() {
    let root = e2e::process::root();
    for package in packages() {
        let here = package.source.as_ref().is_none_or(|s| s.starts_with(&format!("({}", root.display())));
        assert!(here, "{package:?}");
    }
}

/// Whether an SPDX expression (or its old form with `/`) can be met from the list.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any(&mut words) == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// Whether the expression here can be met; nothing if it is malformed. Likewise below.
fn any(words: &mut Words<'_>) -> Option<bool> {
    let mut met = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= all(words)?;
    }
    Some(met)
}

fn all(words: &mut Words<'_>) -> Option<bool> {
    let mut met = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words)?;
    }
    Some(met)
}

fn one(words: &mut Words<'_>) -> Option<bool> {
    if words.next_if_eq(&"(").is_some() {
        let met = any(words)?;
        return words.next_if_eq(&")").map(|_| met);
    }
    let mut name = words.next()?.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next()?);
    }
    Some(LICENCES.contains(&name.as_str()))
}

#[test]
fn licence_expressions_are_understood() {
    for good in
        ["MIT", "MIT OR GPL-3.0", "GPL-3.0 OR (MIT AND ISC)", "MIT/Apache-2.0", "(MIT OR X) AND Unicode-3.0"]
    {
        assert!(allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT OR", "(MIT", "MIT MIT", "GPL-2.0 WITH LLVM-exception"]
    {
        assert!(!allowed(bad), "{bad}");
    }
}
