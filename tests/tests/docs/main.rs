//! The documents against the code: what a table of docs/ names exists, and what exists stands in its table.
//!
//! Sources are read as text, so that a constant or a field may stay private. A failure names the document, the line, and
//! what to change there.
#![allow(clippy::unwrap_used)]

mod commands;
mod limits;
mod links;
mod manifests;
mod markdown;
mod words;

use std::collections::BTreeSet;
use std::fs;

use e2e::process::root;

/// A file of the repository, by its path from the root.
fn source(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}; has it moved?"))
}

/// The text between the first `from` and the next `to` after it.
///
/// # Panics
/// When one of them is missing: then `path` was rewritten, and the test must follow.
fn between<'a>(path: &str, text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no `{from}` in {path}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no `{to}` after `{from}` in {path}")).0
}

/// Everything in double quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// What is wrong in documents; all of it is shown together.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    /// Compares what a document lists, each with its place, with what the code has.
    fn compare(&mut self, what: &str, place: &str, listed: &[(String, String)], exists: &BTreeSet<String>) {
        for (at, name) in listed {
            if !exists.contains(name) {
                self.add(format!(
                    "{at}: there is no {what} `{name}`; remove it, or write the name that it has now"
                ));
            }
        }
        let listed: BTreeSet<&String> = listed.iter().map(|(_, name)| name).collect();
        for name in exists.iter().filter(|name| !listed.contains(name)) {
            self.add(format!("{place}: the {what} `{name}` is missing; add a line for it"));
        }
    }

    fn none(self) {
        assert!(self.0.is_empty(), "\n{}\n", self.0.join("\n"));
    }
}
