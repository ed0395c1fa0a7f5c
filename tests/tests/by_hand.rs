//! The example of the README, typed as it stands there.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use e2e::backend::Backend;
use e2e::client::{Request, fetch};
use e2e::port::free_port;
use e2e::process::{Process, cli, ringway, root};
use e2e::wait::{SOON, wait_until};

/// The commands before anything runs, as the README has them.
const PKI: [&str; 3] = [
    "ringway pki init --trust-domain acme.example --out pki/ca",
    "ringway pki issue --ca pki/ca --cluster east --gateway gw-1 --peer west --out pki/east",
    "ringway pki issue --ca pki/ca --cluster west --gateway gw-1 --peer east --out pki/west",
];

/// And those that run: two gateways, then the request.
const GATEWAYS: [&str; 2] = ["ringway gateway -f east.yaml", "ringway gateway -f west.yaml"];
const REQUEST: &str = "curl -H 'Host: cart.shop.mesh' http://127.0.0.1:7480/";

fn words(command: &str) -> Vec<&str> {
    command.strip_prefix("ringway ").unwrap().split(' ').collect()
}

/// Copies an example, with its ports moved to free ones so that the test runs beside anything.
fn copy(dir: &Path, ports: &[(&str, u16)]) {
    for file in ["east.yaml", "west.yaml"] {
        let mut text = std::fs::read_to_string(root().join("deploy/examples").join(file)).unwrap();
        for (from, to) in ports {
            text = with_number(&text, from, &to.to_string());
        }
        std::fs::write(dir.join(file), text).unwrap();
    }
}

/// The text with another number in the place of `from`, where that is not a part of a longer one: a port that was put in
/// before may hold its digits.
fn with_number(text: &str, from: &str, to: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |len| at + len);
        replaced += &rest[..at];
        replaced += if &rest[at..end] == from { to } else { &rest[at..end] };
        rest = &rest[end..];
    }
    replaced + rest
}

#[test]
fn the_readme_shows_these_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for command in PKI.iter().chain(&GATEWAYS).chain([&REQUEST]) {
        assert!(readme.contains(command), "the README does not show `{command}`");
    }
}

#[test]
fn two_clusters_made_by_hand_answer_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::start("east/a");
    let mut ports = vec![("9001", backend.address().port())];
    ports.extend(["7443", "7480", "7490", "8443", "8480", "8490"].map(|p| (p, free_port())));
    copy(dir.path(), &ports);
    for command in PKI {
        let said = cli(dir.path(), &words(command));
        assert_eq!(said.code, Some(0), "{command}: {said:?}");
    }
    for file in ["east.yaml", "west.yaml"] {
        let said = cli(dir.path(), &["validate", "-f", file]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let _gateways = GATEWAYS.map(|text| {
        let mut command = Command::new(ringway());
        command.args(words(text)).current_dir(dir.path());
        Process::start(text, command, &dir.path().join(format!("{}.log", text.len())))
    });
    let west = ports.iter().find(|(p, _)| *p == "7480").unwrap().1;
    wait_until("west answers from east", SOON, || {
        let answer = fetch(([127, 0, 0, 1], west).into(), &Request::get("cart.shop.mesh", "/")).ok()?;
        (answer.status == 200 && answer.field("x-served-by") == Some("east/a")).then_some(())
    });
}
