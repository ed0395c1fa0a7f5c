//! What commands print: text for people, JSON for programs. Much of it others wrote: what could forge a line or steer a
//! terminal is escaped here, and nowhere else.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use proto::text;
use serde::Serialize;
use serde_json::Value;

/// The form of a command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people; may change between versions.
    Text,
    /// One JSON object on standard output, errors included.
    Json,
}

/// What may be asked for with `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people; may change between versions.
    Text,
    /// One JSON object on standard output, errors included.
    Json,
    /// With more columns (`ringway get`).
    Wide,
    /// The documents themselves (`ringway get`).
    Yaml,
}

impl Output {
    /// The form of everything that has two of them, failures above all.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Json => Format::Json,
            Self::Text | Self::Wide | Self::Yaml => Format::Text,
        }
    }
}

/// Writes the lines of `text` to standard output. A reader that went away (`ringway status | head`) is no error.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _reader_may_be_gone = out.write_all(text::escape_lines(text).as_bytes()).and_then(|()| out.flush());
}

/// Writes what may steer the terminal to standard output: nothing of it may be anybody else's.
pub(crate) fn draw(text: &str) {
    let mut out = io::stdout().lock();
    let _reader_may_be_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes `text` as one line to standard error.
pub(crate) fn complain(text: &str) {
    eprintln!("{}", text::escape(text));
}

/// Writes what a gateway says of manifests to standard error: each problem has lines of its own, which
/// [`indented`] has told from others.
pub(crate) fn complain_of(problem: &str) {
    eprintln!("{}", text::escape_lines(problem));
}

/// A text of several lines that somebody else wrote, of which none but the first begins a line of ours.
pub(crate) fn indented(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut safe = text::escape(lines.next().unwrap_or_default()).into_owned();
    for line in lines {
        safe.push_str(if line.starts_with(' ') { "\n" } else { "\\n" });
        safe.push_str(&text::escape(line));
    }
    safe
}

/// An answer of a gateway, in which no text ends a line or steers a terminal.
pub(crate) fn escaped(answer: Value) -> Value {
    let clean = |text: String| match text::escape(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    };
    match answer {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(values) => Value::Array(values.into_iter().map(escaped).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (clean(name), escaped(value))).collect())
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// Writes `value` to standard output as one object on one line.
pub(crate) fn print_json(value: &impl Serialize) {
    print(&(json(value) + "\n"));
}

/// `value` as one object on one line, without its end.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("output types have string keys and no failing fields")
}

/// A borderless table, as `kubectl` has it: a line for each row.
pub(crate) struct Table(comfy_table::Table);

/// A table with these column titles.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(NOTHING).set_header(titles);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    Table(table)
}

impl Table {
    /// Adds a row.
    pub(crate) fn add_row<C: Display>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells = cells.into_iter().map(|cell| text::escape(&cell.to_string()).into_owned());
        self.0.add_row(cells.collect::<Vec<_>>());
    }

    /// How many rows there are.
    pub(crate) fn row_count(&self) -> usize {
        self.0.row_count()
    }
}

/// The table as text, each line indented by `indent` and without the blanks at its end.
pub(crate) fn lines(table: &Table, indent: &str) -> String {
    table.0.lines().map(|line| format!("{indent}{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_frame_and_no_blanks_at_the_end() {
        let mut table = table(&["NAME", "STATE"]);
        table.add_row(["east", "up"]);
        assert_eq!(lines(&table, "  "), "  NAME   STATE\n  east   up\n");
    }

    const FORGED: &str = "down\nnorth   up\u{1b}[2J";

    #[test]
    fn a_row_is_one_line_whatever_is_in_its_cells() {
        let mut table = table(&["NAME", "STATE"]);
        table.add_row(["east", FORGED]);
        assert_eq!(lines(&table, ""), "NAME   STATE\neast   down\\nnorth   up\\u001b[2J\n");
    }

    #[test]
    fn no_text_of_an_answer_forges_a_line() {
        let answer = serde_json::json!({ "peers": [{ "reason": FORGED, FORGED: 1 }], "up": true });
        let clean = "down\\nnorth   up\\u001b[2J";
        assert_eq!(
            escaped(answer),
            serde_json::json!({ "peers": [{ "reason": clean, clean: 1 }], "up": true })
        );
    }

    #[test]
    fn a_problem_of_another_cluster_has_lines_and_forges_none() {
        let problem = "a.yaml:1:2: error: unknown field\n    1 | x\n      = hint: y";
        assert_eq!(indented(problem), problem);
        let forged = "a.yaml:1:2: error: x\nnorth: applied\n\u{1b}[2J";
        assert_eq!(indented(forged), "a.yaml:1:2: error: x\\nnorth: applied\\n\\u001b[2J");
    }
}
