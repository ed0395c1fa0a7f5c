//! As much of Markdown as the documents use: headings, tables, fenced blocks, code in backticks.

use std::ops::Range;

use super::source;

/// A document.
pub(crate) struct Document {
    path: String,
    lines: Vec<String>,
    /// Of each line, whether it stands in a fenced block, or is a fence.
    fenced: Vec<bool>,
}

/// A line of a table, without its head.
pub(crate) struct Row {
    /// Where it stands.
    pub(crate) at: String,
    /// Its cells, trimmed.
    pub(crate) cells: Vec<String>,
}

impl Document {
    pub(crate) fn read(path: &str) -> Self {
        let lines: Vec<String> = source(path).lines().map(Into::into).collect();
        let mut inside = false;
        let fenced = lines.iter().map(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            inside || fence
        });
        let fenced = fenced.collect();
        Self { path: path.into(), lines, fenced }
    }

    /// The place of a line, counted from zero.
    pub(crate) fn at(&self, line: usize) -> String {
        format!("{}:{}", self.path, line + 1)
    }

    /// The place of a heading.
    pub(crate) fn place(&self, heading: &str) -> String {
        self.at(self.section(heading).start - 1)
    }

    /// Lines outside of fenced blocks, with their numbers.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.lines.iter().map(String::as_str).enumerate();
        lines.filter(|(number, _)| !self.fenced[*number])
    }

    /// Every heading: its line, its level, its text.
    pub(crate) fn headings(&self) -> impl Iterator<Item = (usize, usize, &str)> {
        self.prose().filter_map(|(number, line)| {
            let level = line.bytes().take_while(|b| *b == b'#').count();
            let text = line[level..].strip_prefix(' ')?;
            (level > 0).then_some((number, level, text.trim()))
        })
    }

    /// The lines below a heading, up to the next of its level or above.
    pub(crate) fn section(&self, heading: &str) -> Range<usize> {
        let found = self.headings().find(|(_, _, text)| *text == heading);
        let (start, level, _) = found.unwrap_or_else(|| panic!("{}: add a section `{heading}`", self.path));
        let next = self.headings().find(|(line, l, _)| *line > start && *l <= level);
        start + 1..next.map_or(self.lines.len(), |(line, ..)| line)
    }

    /// The tables of some lines, one after the other, without their heads.
    pub(crate) fn tables(&self, lines: Range<usize>) -> Vec<Vec<Row>> {
        let mut tables: Vec<Vec<Row>> = Vec::new();
        let mut inside = false;
        for number in lines {
            let line = &self.lines[number];
            let is_row = line.starts_with('|') && !self.fenced[number];
            if line.starts_with("|---") {
                // What stands above is the head.
                tables.push(Vec::new());
                inside = true;
            } else if is_row && inside {
                let row = Row { at: self.at(number), cells: cells(line) };
                tables.last_mut().unwrap().push(row);
            }
            inside &= is_row;
        }
        tables
    }

    /// The rows of all tables of a section.
    pub(crate) fn rows(&self, heading: &str) -> Vec<Row> {
        self.tables(self.section(heading)).into_iter().flatten().collect()
    }

    /// The lines of the fenced blocks among some lines, block by block, without the fences.
    pub(crate) fn blocks(&self, lines: Range<usize>) -> Vec<Vec<&str>> {
        let mut blocks = Vec::new();
        let mut open = false;
        for number in lines.filter(|number| self.fenced[*number]) {
            let line = &self.lines[number];
            if line.starts_with("```") {
                open = !open;
                if open {
                    blocks.push(Vec::new());
                }
            } else if let Some(block) = blocks.last_mut() {
                block.push(line.as_str());
            }
        }
        blocks
    }
}

/// The cells of a line: a bar within backticks separates nothing.
fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|');
    let (mut cells, mut cell, mut code) = (Vec::new(), String::new(), false);
    for c in inner.chars() {
        match c {
            '|' if !code => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            _ => {
                code ^= c == '`';
                cell.push(c);
            }
        }
    }
    cells
}

/// Everything in backticks.
pub(crate) fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The anchor of a heading, as GitHub makes it.
pub(crate) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn cells_and_anchors_are_read_as_they_are_shown() {
    assert_eq!(cells("| `a|b` | c |"), ["`a|b`", "c"]);
    assert_eq!(code("x `a`, `b` y").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(anchor("`ringway pki init`, What?"), "ringway-pki-init-what");
}
