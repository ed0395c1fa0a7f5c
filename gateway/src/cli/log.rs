//! The one writer of log lines: one event, one line, whatever others have put into it.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use proto::text;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};

use super::output::Format;

/// What is logged, as `tracing_subscriber::EnvFilter` reads it.
const LOG_VARIABLE: &str = "RINGWAY_LOG";
/// Bytes of message and fields of a line for people. Foreign text is cut where it enters; this is for what nobody thought
/// of, and as much as container runtimes keep as one line.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Sends log lines to standard error: standard output is for what a command answers.
pub(super) fn start(format: Format) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(LOG_VARIABLE)
        .from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal());
    match format {
        Format::Text => lines.fmt_fields(OneLine).with_writer(io::stderr).init(),
        Format::Json => lines.json().flatten_event(true).with_writer(|| JsonLines(io::stderr())).init(),
    }
}

/// Message and fields as the library writes them, escaped: only what is around them may steer a terminal.
struct OneLine;

impl<'w> FormatFields<'w> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut plain = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut plain), fields)?;
        writer.write_str(&text::clean(&plain, LINE_BYTES_MAX))
    }
}

/// Takes one line of JSON at a time. JSON has escaped what ends a line; what else may steer a terminal stands in strings,
/// and is escaped there.
struct JsonLines<W>(W);

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(text::escape_lines(text).as_bytes()),
            // Never: JSON is text.
            Err(_) => self.0.write_all(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// What a stranger would like to see in a log.
    const FORGED: &str =
        "x\n2026-01-01T00:00:00Z  INFO audit: Audit: link removed.\u{1b}[2J\u{9b}1m\u{202e}\u{2028}y";

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn events() {
        let error: &dyn std::error::Error = &io::Error::other(FORGED);
        tracing::warn!(from = FORGED, reason = %FORGED, debug = ?Some(FORGED), error, "Refused: {FORGED}");
        tracing::info!(name = %"n".repeat(1 << 22), "Long.");
        let span = tracing::error_span!("span", within = %FORGED);
        span.in_scope(|| tracing::info!("In a span."));
    }

    #[test]
    fn one_event_is_one_line_of_text_whatever_is_in_it() {
        for ansi in [false, true] {
            let kept = Kept::default();
            let lines = tracing_subscriber::fmt().fmt_fields(OneLine).with_ansi(ansi);
            tracing::subscriber::with_default(lines.with_writer(kept.clone()).finish(), events);
            let text = kept.text();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines[0].matches("x\\n2026-01-01T00:00:00Z").count() >= 5, "{text}");
            assert!(lines[1].len() < LINE_BYTES_MAX + 256, "{} bytes", lines[1].len());
            let ours = |line: &str| line.replace("\u{1b}[", "");
            let clean = lines.iter().all(|line| match ansi {
                // Colours of the level and the time, and nothing else.
                true => !line.contains("\u{1b}[2J") && !ours(line).contains(text::is_harmful),
                false => !line.contains(text::is_harmful),
            });
            assert!(clean, "{text:?}");
        }
    }

    #[test]
    fn one_event_is_one_line_of_json_that_says_what_was_said() {
        let kept = Kept::default();
        let made = kept.clone();
        let lines = tracing_subscriber::fmt().json().flatten_event(true);
        let lines = lines.with_writer(move || JsonLines(made.clone())).finish();
        tracing::subscriber::with_default(lines, events);
        let text = kept.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(!lines.iter().any(|line| line.contains(text::is_harmful)), "{}", lines[0]);
        let event: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((event["from"].as_str(), event["reason"].as_str()), (Some(FORGED), Some(FORGED)));
    }
}
