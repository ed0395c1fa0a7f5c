//! Cuts a file into its YAML documents, so that each is read on its own and an error in one hides none of the others.

/// One document's text, from its `---` (and the comments before it) to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    /// Number of its first line in the file, from 1.
    pub(super) first_line: u32,
    /// Its text, unchanged.
    pub(super) text: &'a str,
}

/// Cuts `text` at its document markers; documents without content are left out.
///
/// `---` and `...` at the start of a line mark documents whatever construct they stand in: no YAML scalar can hold
/// such a line (YAML 1.2.2, production 206, c-forbidden).
pub(super) fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut open = Open::at(0, 1);
    let mut offset = 0;
    let mut line_number = 0_u32;
    for line in lines(text) {
        line_number = line_number.saturating_add(1);
        let rest = after_marker(line, "---");
        if rest.is_some() && (open.marked || open.content) {
            chunks.extend(open.close(text, offset));
            open = Open::at(offset, line_number);
        }
        open.marked |= rest.is_some();
        let end = after_marker(line, "...").is_some();
        open.content |= !end && has_content(rest.unwrap_or(line), open.marked);
        offset += line.len();
        if end {
            chunks.extend(open.close(text, offset));
            open = Open::at(offset, line_number.saturating_add(1));
        }
    }
    chunks.extend(open.close(text, offset));
    chunks
}

/// The lines of `text` with their ends: line feed, carriage return, or both (YAML 1.2.2, section 5.4).
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.find(['\n', '\r']) {
            Some(at) if rest[at..].starts_with("\r\n") => at + 2,
            Some(at) => at + 1,
            None if rest.is_empty() => return None,
            None => rest.len(),
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(line)
    })
}

/// Index of the first line of a document that says something, for what has no better place.
pub(super) fn first_content_line(text: &str) -> usize {
    lines(text).position(|line| has_content(after_marker(line, "---").unwrap_or(line), false)).unwrap_or(0)
}

/// The document being collected.
struct Open {
    start: usize,
    first_line: u32,
    /// Its `---` was seen.
    marked: bool,
    /// Something other than comments was seen.
    content: bool,
}

impl Open {
    fn at(start: usize, first_line: u32) -> Self {
        Self { start, first_line, marked: false, content: false }
    }

    fn close<'a>(&self, text: &'a str, end: usize) -> Option<Chunk<'a>> {
        self.content.then(|| Chunk { first_line: self.first_line, text: &text[self.start..end] })
    }
}

/// What follows a document marker on its line, if the line starts with one.
fn after_marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.trim_start_matches('\u{feff}').strip_prefix(marker)?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(rest)
}

/// Whether a line is more than a comment, or a directive before the document's marker.
fn has_content(line: &str, marked: bool) -> bool {
    let line = line.trim_start_matches('\u{feff}').trim();
    !(line.is_empty() || line.starts_with('#') || line.starts_with('%') && !marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(u32, &str)> {
        split(text).into_iter().map(|c| (c.first_line, c.text)).collect()
    }

    #[test]
    fn documents_are_cut_at_their_markers_and_keep_their_comments() {
        let text = "# west\na: 1\n---\n# cart\nb: 2\n--- # last\nc: |\n  ---\n";
        let expected = [(1, "# west\na: 1\n"), (3, "---\n# cart\nb: 2\n"), (6, "--- # last\nc: |\n  ---\n")];
        assert_eq!(texts(text), expected);
    }

    #[test]
    fn empty_documents_vanish_and_directives_stay_with_theirs() {
        assert_eq!(texts(""), []);
        assert_eq!(texts("---\n---\n# nothing\n---\r\n"), []);
        assert_eq!(
            texts("%YAML 1.2\n---\na: 1\n...\nb: 2"),
            [(1, "%YAML 1.2\n---\na: 1\n...\n"), (5, "b: 2")]
        );
        assert_eq!(
            texts("a: 1\r---\rb: 2\r\n---\r\nc: 3"),
            [(1, "a: 1\r"), (2, "---\rb: 2\r\n"), (4, "---\r\nc: 3")]
        );
        assert_eq!(texts("--- {a: 1}\n---b: 1\n"), [(1, "--- {a: 1}\n---b: 1\n")]);
    }
}
