//! Names that programs and people read in outputs: metrics, errors, states; and the groups of the gateway.

use std::collections::BTreeSet;
use std::fs;

use e2e::process::root;

use super::markdown::{Document, Row, code};
use super::{Problems, between, quoted, source};

const OPERATIONS: &str = "docs/operations.md";
const FAILURES: &str = "docs/failures.md";

/// What stands in backticks in a column.
fn column(rows: &[Row], index: usize) -> Vec<(String, String)> {
    let cells = rows.iter().filter_map(|row| Some((&row.at, row.cells.get(index)?)));
    cells.flat_map(|(at, cell)| code(cell).map(|name| (at.clone(), name.to_owned()))).collect()
}

/// The name in the first quotes after `call(`, and all arguments, for each call.
fn calls<'a>(text: &'a str, call: &str) -> Vec<(&'a str, &'a str)> {
    let calls = text.split(call).skip(1);
    let named =
        calls.filter_map(|rest| Some((rest.trim_start().strip_prefix('"')?.split('"').next()?, rest)));
    named.map(|(name, rest)| (name, rest.split(';').next().unwrap_or(rest))).collect()
}

/// Every metric of a process, as it is shown.
fn metrics() -> BTreeSet<String> {
    let mut text = source("gateway/src/telemetry/metrics.rs");
    for entry in fs::read_dir(root().join("gateway/src/telemetry/metrics")).unwrap() {
        text += &fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    let mut found = BTreeSet::new();
    for (name, arguments) in calls(&text, ".register(") {
        // A counter is known by the type of the field that is registered.
        let field = arguments.rsplit_once(".clone()").and_then(|(before, _)| before.rsplit(' ').next());
        let is_counter = field.is_some_and(|field| {
            text.lines().any(|l| l.trim().starts_with(&format!("{field}: ")) && l.contains("Counter>"))
        });
        found.insert(format!("ringway_{name}{}", if is_counter { "_total" } else { "" }));
    }
    for (name, arguments) in calls(&text, ".register_with_unit(") {
        assert!(arguments.contains("Unit::Seconds"), "`{name}` has a unit that this test does not know");
        found.insert(format!("ringway_{name}_seconds"));
    }
    for (name, arguments) in calls(&text, ".encode_descriptor(") {
        let unit = [(", unit,", "_seconds"), (", bytes,", "_bytes")];
        let unit = unit.iter().find(|(argument, _)| arguments.contains(argument)).map_or("", |unit| unit.1);
        let kind = if arguments.contains("MetricType::Counter") { "_total" } else { "" };
        found.insert(format!("ringway_{name}{unit}{kind}"));
    }
    found
}

/// The words after `=>` in a part of a source.
fn results(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| line.contains("=> \""));
    lines.filter_map(|line| quoted(line).last()).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_and_exists() {
    let document = Document::read(OPERATIONS);
    let tables = document.tables(document.section("Metrics"));
    let [metrics_table, labels, outcomes] = &tables[..] else {
        panic!("{OPERATIONS}: the section `Metrics` has the tables of metrics, labels and outcomes");
    };
    let mut problems = Problems::default();
    let place = document.place("Metrics");
    problems.compare("metric", &place, &column(metrics_table, 0), &metrics());

    let traffic = "gateway/src/telemetry/metrics/traffic.rs";
    let text = source(traffic);
    let part = |of: &str| results(between(traffic, &text, &format!("impl {of} {{"), "\n}\n"));
    problems.compare("outcome", &place, &column(outcomes, 0), &part("Outcome"));
    for (label, of) in [("direction", "Direction"), ("kind", "AttemptKind")] {
        let row = labels.iter().position(|row| row.cells[0] == format!("`{label}`"));
        let row = row.unwrap_or_else(|| panic!("{OPERATIONS}: add a line for the label `{label}`"));
        problems.compare(&format!("value of `{label}`"), &place, &column(&labels[row..=row], 1), &part(of));
    }
    problems.none();
}

#[test]
fn every_error_is_documented_and_exists() {
    let path = "gateway/src/proxy/error.rs";
    let text = source(path);
    let wire = between(path, &text, "pub fn wire(self)", "\n    }\n");
    let exists = quoted(wire).map(str::to_owned).collect();
    let document = Document::read(FAILURES);
    let listed = column(&document.rows("Error responses"), 1);
    let mut problems = Problems::default();
    problems.compare("error", &document.place("Error responses"), &listed, &exists);
    problems.none();
}

#[test]
fn every_state_is_documented_and_exists() {
    let document = Document::read(FAILURES);
    let mut problems = Problems::default();

    let path = "gateway/policy/src/health.rs";
    let text = source(path);
    let peers = results(between(path, &text, "impl State {", "\n}\n"));
    let listed = column(&document.rows("Peers"), 0);
    problems.compare("state of a peer", &document.place("Peers"), &listed, &peers);

    let path = "gateway/policy/src/balance/endpoint.rs";
    let text = source(path);
    let states = format!("=> \"checking\"{}", between(path, &text, "=> \"checking\"", "\n        }\n"));
    let mut endpoints = results(&states);
    // It needs no explanation.
    assert!(endpoints.remove("ready"), "no state `ready` in {path}");
    let listed = column(&document.rows("Endpoints"), 0);
    problems.compare("state of an endpoint", &document.place("Endpoints"), &listed, &endpoints);
    problems.none();
}

#[test]
fn the_groups_are_those_that_are_checked() {
    let path = "tests/tests/house/arrows.rs";
    let text = source(path);
    let groups = between(path, &text, "const GROUPS:", "\n];\n").split_once('=').unwrap().1;
    let groups: Vec<&str> = quoted(groups).collect();
    let document = Document::read("docs/architecture.md");
    let blocks = document.blocks(document.section("The gateway"));
    let shown: Vec<&str> = blocks[0].iter().flat_map(|line| line.split_whitespace()).collect();
    assert_eq!(shown, groups, "docs/architecture.md, The gateway: write the groups as {path} has them");
}
