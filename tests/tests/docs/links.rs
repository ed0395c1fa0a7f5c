//! Links between documents, and the paths that they name.

use std::fs;
use std::path::Path;

use e2e::process::root;

use super::Problems;
use super::markdown::{Document, anchor, code};

/// Every document, by its path from the root.
fn documents() -> Vec<String> {
    let mut paths = vec!["README.md".to_owned(), "CHANGELOG.md".into(), "tests/README.md".into()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths
}

/// Where the links of a line lead.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components().map(|c| c.as_os_str().to_string_lossy()) {
        match &*part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.into()),
        }
    }
    parts.join("/")
}

#[test]
fn links_and_anchors_lead_somewhere() {
    let mut problems = Problems::default();
    for path in documents() {
        let document = Document::read(&path);
        for (number, line) in document.prose() {
            for target in targets(line).filter(|target| !target.contains("://")) {
                let at = document.at(number);
                let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
                let folder = Path::new(&path).parent().unwrap();
                let file = if file.is_empty() { path.clone() } else { normal(&folder.join(file)) };
                if !root().join(&file).exists() {
                    problems.add(format!("{at}: `{target}` leads to {file}, which does not exist"));
                } else if !fragment.is_empty()
                    && !Document::read(&file).headings().any(|(_, _, text)| anchor(text) == fragment)
                {
                    problems.add(format!("{at}: {file} has no heading with the anchor `#{fragment}`"));
                }
            }
        }
    }
    problems.none();
}

#[test]
fn paths_that_documents_name_exist() {
    let folders = ["deploy/", "docs/", "gateway/", "hashring/", "proto/", "registry/", "tests/"];
    let mut problems = Problems::default();
    for path in documents() {
        let document = Document::read(&path);
        // The history names what was.
        for (number, line) in document.prose().filter(|_| path != "CHANGELOG.md") {
            for name in code(line) {
                let (name, _) = name.split_once(' ').unwrap_or((name, ""));
                let is_path = folders.iter().any(|folder| name.starts_with(folder)) || name.ends_with(".rs");
                let exists = |folder: &str| root().join(folder).join(name).exists();
                if is_path && !exists("") && !exists("gateway/src") {
                    problems.add(format!("{}: `{name}` does not exist; has it moved?", document.at(number)));
                }
            }
        }
    }
    problems.none();
}
