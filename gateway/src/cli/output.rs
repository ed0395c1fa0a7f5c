//! What commands print: text for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

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

/// Writes `text` to standard output. A reader that went away (`ringway status | head`) is no error.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _reader_may_be_gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes `value` to standard output as one object on one line.
pub(crate) fn print_json(value: &impl Serialize) {
    print(&(json(value) + "\n"));
}

/// `value` as one object on one line, without its end.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("output types have string keys and no failing fields")
}

/// A borderless table with these column titles, as `kubectl` has it.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(titles);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

/// The table as text, each line indented by `indent` and without the blanks at its end.
pub(crate) fn lines(table: &Table, indent: &str) -> String {
    table.lines().map(|line| format!("{indent}{}\n", line.trim_end())).collect()
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
}
