//! docs/command-line.md against what `--help` shows.

use std::collections::BTreeSet;
use std::process::Command;

use e2e::process::ringway;

use super::Problems;
use super::markdown::{Document, code};

const DOCUMENT: &str = "docs/command-line.md";
/// Where the options stand that every command has.
const OF_ALL: &str = "Options of all commands";

/// What the help of one command shows.
struct Help {
    commands: Vec<String>,
    options: BTreeSet<String>,
}

impl Help {
    fn of(command: &[String]) -> Self {
        let output = Command::new(ringway()).args(command).arg("--help").output().unwrap();
        Self::read(&String::from_utf8(output.stdout).unwrap())
    }

    fn read(text: &str) -> Self {
        let (mut commands, mut options, mut part) = (Vec::new(), BTreeSet::new(), "");
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let entry = line.trim_start();
            let indent = line.len() - entry.len();
            match part {
                _ if indent == 0 => part = line,
                "Commands:" if indent == 2 => commands.extend(entry.split(' ').next().map(str::to_owned)),
                "Options:" if indent <= 6 && entry.starts_with('-') => options.extend(long(entry).take(1)),
                _ => {}
            }
        }
        commands.retain(|command| command != "help");
        Self { commands, options }
    }
}

/// The long options that a text names.
fn long(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned)
}

/// Every command that does something, with its options.
fn commands(path: &[String], found: &mut Vec<(String, BTreeSet<String>)>) {
    let help = Help::of(path);
    if help.commands.is_empty() {
        found.push((path.join(" "), help.options));
        return;
    }
    for command in help.commands {
        commands(&[path, &[command]].concat(), found);
    }
}

#[test]
fn every_command_and_option_is_documented_and_exists() {
    let document = Document::read(DOCUMENT);
    let mut found = Vec::new();
    commands(&[], &mut found);
    assert!(found.len() > 10, "only {} commands were found: has the form of --help changed?", found.len());

    let mut problems = Problems::default();
    let rows = document.tables(document.section(OF_ALL)).into_iter().next().unwrap_or_default();
    let of_all: Vec<(String, String)> =
        rows.iter().flat_map(|row| long(&row.cells[0]).map(|option| (row.at.clone(), option))).collect();
    let common = found.iter().map(|(_, options)| options.clone()).reduce(|a, b| &a & &b).unwrap();
    problems.compare("option of every command", &document.place(OF_ALL), &of_all, &common);

    let mut documented = Vec::new();
    for (line, _, heading) in document.headings() {
        let Some(command) = code(heading).next().and_then(|text| text.strip_prefix("ringway ")) else {
            continue;
        };
        let at = document.at(line);
        documented.push((at.clone(), command.to_owned()));
        let Some((_, options)) = found.iter().find(|(known, _)| known == command) else { continue };
        let blocks = document.blocks(document.section(heading));
        let synopsis = blocks.first().map(|block| block.join("\n")).unwrap_or_default();
        let listed: Vec<(String, String)> = long(&synopsis).map(|option| (at.clone(), option)).collect();
        let own = options.difference(&common).cloned().collect();
        problems.compare(&format!("option of `ringway {command}`"), &at, &listed, &own);
    }
    let commands = found.into_iter().map(|(command, _)| command).collect();
    problems.compare("command", &document.at(0), &documented, &commands);
    problems.none();
}

#[test]
fn commands_and_options_are_found_in_help() {
    let help = Help::read(
        "Does it\n\nUsage: x\n\nCommands:\n  init   Make one\n         --not-this\n  help   Print\n\nOptions:\n  -f, --file <FILE>\n          \
         As --other says\n      --dry-run\n\nExamples:\n  x --no\n",
    );
    assert_eq!(help.commands, ["init"]);
    assert_eq!(help.options, ["--dry-run", "--file"].map(String::from).into());
    assert_eq!(long("a -f|--file F [--x1 N] [-- C] -x").collect::<Vec<_>>(), ["--file", "--x1"]);
}
