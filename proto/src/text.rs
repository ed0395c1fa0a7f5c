//! Text that others wrote, made fit to be shown: in a log line, in a table, on a terminal.
//!
//! What a peer says of itself, why it closes, what it calls a thing: all of that ends before people, and none of it may
//! pass for something else there. A line end would forge a line, an escape sequence would reach the terminal, a
//! bidirectional control would turn the rest of the line around, and four megabytes would bury everything else.
//! So text is [cleaned](clean) where it enters, which cuts it as well, and [escaped](escape) once more by whatever
//! writes lines.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether `c` moves more than the cursor to the next column: C0, DEL and C1 controls, and what Unicode has to end lines
/// (U+2028, U+2029) and to turn the direction of text around (UAX #9, table 4, and the marks of section 2.6).
pub fn is_harmful(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `text` in one line that a terminal shows as it is: what is [harmful](is_harmful) stands there as `\n`, `\r`, `\t` or
/// `\u001b`. JSON reads it back, so JSON may be passed through it as well. Escaped again it stays as it is.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push(&mut escaped, c));
    Cow::Owned(escaped)
}

/// The same of lines: their ends, `\n` or `\r\n`, and tabs stay.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => escaped.push(c),
            '\r' if rest.peek() == Some(&'\n') => escaped.push(c),
            _ => push(&mut escaped, c),
        }
    }
    if escaped == text { Cow::Borrowed(text) } else { Cow::Owned(escaped) }
}

/// What is shown of `text`: escaped, and at most `max` bytes of that. What is longer ends with its own length.
pub fn clean(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max));
    // Where it is cut if it turns out to be too long.
    let mark = Mark(text.len());
    let room = max.saturating_sub(mark.to_string().len());
    let mut cut = 0;
    for c in text.chars() {
        push(&mut shown, c);
        if shown.len() <= room {
            cut = shown.len();
        }
        if shown.len() > max {
            shown.truncate(cut);
            let _infallible = write!(shown, "{mark}");
            // Only where there is no room for the mark itself.
            shown.truncate(max);
            break;
        }
    }
    shown
}

/// The same of bytes that should be text; what is no UTF-8 in them is shown as U+FFFD.
pub fn clean_bytes(bytes: &[u8], max: usize) -> String {
    clean(&String::from_utf8_lossy(bytes), max)
}

/// Stands where a text of so many bytes was cut.
struct Mark(usize);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "... ({} bytes)", self.0)
    }
}

fn push(to: &mut String, c: char) {
    let written = match c {
        '\n' => to.write_str("\\n"),
        '\r' => to.write_str("\\r"),
        '\t' => to.write_str("\\t"),
        // All of them are in the basic plane: four digits do.
        c if is_harmful(c) => write!(to, "\\u{:04x}", u32::from(c)),
        c => to.write_char(c),
    };
    // A string takes everything.
    let _infallible = written;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_ends_a_line_or_steers_a_terminal_is_left() {
        for (text, shown) in [
            ("peer closed: shutdown", "peer closed: shutdown"),
            ("x\n2026-01-01 INFO audit: Audit: y", "x\\n2026-01-01 INFO audit: Audit: y"),
            ("\u{1b}[2J\u{9b}31m\u{7f}", "\\u001b[2J\\u009b31m\\u007f"),
            ("a\r\tb\0", "a\\r\\tb\\u0000"),
            ("a\u{2028}b\u{2029}c\u{85}", "a\\u2028b\\u2029c\\u0085"),
            ("\u{202e}evil\u{2066}\u{200f}", "\\u202eevil\\u2066\\u200f"),
            ("Grüße, 東京 \\n", "Grüße, 東京 \\n"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }

    #[test]
    fn lines_keep_their_ends_and_nothing_else() {
        assert_eq!(escape_lines("a: 1\r\n\tb\n\u{1b}[2J\rx"), "a: 1\r\n\tb\n\\u001b[2J\\rx");
        assert!(matches!(escape_lines("a\nb\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_how_long_it_was() {
        assert_eq!(clean("0123456789", 10), "0123456789");
        assert_eq!(clean(&"a".repeat(1000), 20), "aaaa... (1000 bytes)");
        let long = clean(&"n".repeat(3_900_000), 64);
        assert_eq!(long, format!("{}... (3900000 bytes)", "n".repeat(64 - 19)));
        // Between characters, and not within an escape.
        assert_eq!(clean(&"ä".repeat(50), 32), format!("{}... (100 bytes)", "ä".repeat(8)));
        assert_eq!(clean(&"\u{1b}".repeat(50), 32), "\\u001b\\u001b\\u001b... (50 bytes)");
        assert_eq!(clean(&"\u{1b}".repeat(50), 31), "\\u001b\\u001b... (50 bytes)");
        assert_eq!(clean("0123456789", 3), "...");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_all_the_same() {
        assert_eq!(clean_bytes(b"a\xff\n", 64), "a\u{fffd}\\n");
    }
}
