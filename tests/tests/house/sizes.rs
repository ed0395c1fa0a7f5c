//! How long files and functions may be, so that each is read in one go.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 80;
/// Of all lines of `gateway/src` the largest group has less than one in so many.
const GROUPS_LEAST: usize = 3;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// The functions of a formatted file: name, and lines from the first to the closing brace.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe "];
        let mut rest = code;
        while let Some(next) = words.iter().find_map(|word| rest.strip_prefix(word)) {
            rest = next;
        }
        let Some(rest) = rest.strip_prefix("fn ") else { continue };
        let name = rest.split(['(', '<']).next().unwrap_or_default();
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let one_line = line.ends_with('}') || line.ends_with(';');
        let length = lines[at..].iter().position(|line| **line == end).map_or(0, |length| length + 1);
        found.push((name, if one_line { 1 } else { length }));
    }
    found
}

#[test]
fn files_and_functions_are_read_in_one_go() {
    let root = e2e::process::root();
    let mut all = Vec::new();
    files(&root, &mut all);
    assert!(all.len() > 400, "only {} files were found", all.len());
    let mut long = Vec::new();
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&root).unwrap().display().to_string();
        if text.lines().count() > FILE_LINES_MAX {
            long.push(format!("{path}: {} lines", text.lines().count()));
        }
        for (name, lines) in functions(&text).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX) {
            long.push(format!("{path}: {lines} lines of `{name}`"));
        }
    }
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn no_group_of_the_gateway_is_most_of_it() {
    let src = e2e::process::root().join("gateway/src");
    let lines = |folder: &Path| {
        let mut all = Vec::new();
        files(folder, &mut all);
        all.iter().map(|path| fs::read_to_string(path).unwrap().lines().count()).sum::<usize>()
    };
    let whole = lines(&src);
    for entry in fs::read_dir(&src).unwrap() {
        let group = entry.unwrap().path();
        if group.is_dir() {
            let part = lines(&group);
            assert!(part * GROUPS_LEAST < whole, "{}: {part} of {whole} lines", group.display());
        }
    }
}

#[test]
fn a_long_function_is_seen() {
    let long =
        format!("impl X {{\n    pub(super) async fn long<T>(\n{}    }}\n}}\n", "        x();\n".repeat(100));
    assert_eq!(functions(&long), [("long", 102)]);
    assert_eq!(functions("fn short() {}\nfn two() {\n}\n"), [("short", 1), ("two", 2)]);
}
