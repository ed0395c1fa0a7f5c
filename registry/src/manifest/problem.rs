//! What is wrong with a manifest, said so that its author can act on it.

use std::fmt;

use proto::limits::QUOTED_BYTES_MAX;
use proto::text::{clean, is_harmful};
use serde::Serialize;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifests cannot be used.
    Error,
    /// The manifests can be used; the object named is wholly or partly without effect.
    Warning,
}

/// One thing that is wrong, and where. Manifests may be somebody else's, and what is wrong is quoted: in [`Problems`] every
/// text is cut and cleaned.
///
/// `Display` looks like a compiler's message, over several lines:
///
/// ```text
/// east.yaml:12:3: error: MeshService shop/cart: unknown field `endpoint`
///    12 |   endpoint: []
///       |   ^
///       = hint: did you mean `endpoints`?
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file, as it was named by the caller.
    pub file: String,
    /// Line from 1; 0: the file as a whole.
    pub line: u32,
    /// Column in characters from 1; 0: the file as a whole.
    pub column: u32,
    /// The object, `Kind namespace/name`, as far as it could be read.
    pub object: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether it stops anything.
    pub severity: Severity,
    /// The line itself, for `Display`.
    #[serde(skip)]
    pub excerpt: Option<Excerpt>,
}

/// The part of a line that a problem is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The text, without control characters.
    pub text: String,
    /// How many characters of it stand before the place.
    pub caret: usize,
}

/// Bytes of the name of a file that are shown: the longest path that Linux opens.
const PATH_BYTES_MAX: usize = 4096;

/// Longest excerpt in characters: longer lines are cut around the column, so that the caret stays on the screen and
/// a file on one line is not repeated in every problem.
const EXCERPT_CHARS_MAX: usize = 100;

impl Problem {
    /// An error that concerns a file as a whole.
    pub(crate) fn of_file(file: String, message: String, hint: Option<String>) -> Self {
        let severity = Severity::Error;
        Self { file, line: 0, column: 0, object: None, message, hint, severity, excerpt: None }
    }

    /// All but the excerpt, for a log.
    pub fn in_one_line(&self) -> String {
        let whole = Self { excerpt: None, ..self.clone() };
        whole.to_string().replace("\n      = hint:", "; hint:")
    }

    /// The same with every text cut and cleaned.
    fn cleaned(self) -> Self {
        let short = |text: String| clean(&text, QUOTED_BYTES_MAX);
        Self {
            file: clean(&self.file, PATH_BYTES_MAX),
            object: self.object.map(short),
            message: short(self.message),
            hint: self.hint.map(short),
            ..self
        }
    }

    /// `file:line:column`, or the file alone where the problem is the file as a whole.
    pub fn place(&self) -> String {
        if self.line == 0 {
            self.file.clone()
        } else {
            format!("{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

impl Excerpt {
    /// The part of `line` around `column`, counted from 1.
    pub(crate) fn new(line: &str, column: u32) -> Self {
        let before = (column as usize).saturating_sub(1);
        let start = if before < EXCERPT_CHARS_MAX { 0 } else { before - EXCERPT_CHARS_MAX / 2 };
        // Tabs and other control characters would move the caret or the terminal's cursor.
        let visible = line.chars().map(|c| if is_harmful(c) { ' ' } else { c });
        let text: String = visible.skip(start).take(EXCERPT_CHARS_MAX).collect();
        Self { text: text.trim_end().to_owned(), caret: before - start }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {severity}: ", self.place())?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(excerpt) = &self.excerpt {
            write!(f, "\n{:>5} | {}", self.line, excerpt.text)?;
            write!(f, "\n      | {:caret$}^", "", caret = excerpt.caret)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n      = hint: {hint}")?;
        }
        Ok(())
    }
}

/// Why manifests were refused: every problem found, in the order of files and lines. Holds at least one error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts and cleans `found`, and splits off the warnings if nothing worse is among them.
    pub(crate) fn check(mut found: Vec<Problem>, files: &[String]) -> Result<Vec<Problem>, Self> {
        let rank = |p: &Problem| files.iter().position(|f| *f == p.file).unwrap_or(0);
        found.sort_by_key(|p| (rank(p), p.line, p.column, p.severity));
        found.dedup();
        let found: Vec<_> = found.into_iter().map(Problem::cleaned).collect();
        if found.iter().any(|p| p.severity == Severity::Error) { Err(Self(found)) } else { Ok(found) }
    }

    /// All of them, warnings included.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// How many errors and how many warnings there are.
    pub fn count(&self) -> (usize, usize) {
        let errors = self.0.iter().filter(|p| p.severity == Severity::Error).count();
        (errors, self.0.len() - errors)
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem.cleaned()])
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        Problem {
            file: "east.yaml".into(),
            line: 12,
            column: 3,
            object: Some("MeshService shop/cart".into()),
            message: "unknown field `endpoint`".into(),
            hint: Some("did you mean `endpoints`?".into()),
            severity: Severity::Error,
            excerpt: Some(Excerpt::new("\tx endpoint: []\n", 3)),
        }
    }

    #[test]
    fn reads_like_a_compiler_with_the_caret_under_the_column() {
        let text = problem().to_string();
        let expected = "east.yaml:12:3: error: MeshService shop/cart: unknown field `endpoint`\n   \
                        12 |  x endpoint: []\n      |   ^\n      = hint: did you mean `endpoints`?";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let excerpt = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let excerpt = Excerpt::new(&excerpt, 5001);
        let text = Problem { column: 5001, excerpt: Some(excerpt), ..problem() }.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].len() <= EXCERPT_CHARS_MAX + 8, "{}", lines[1].len());
        assert_eq!(lines[1].find('X'), lines[2].find('^'));
    }

    #[test]
    fn what_a_manifest_is_wrong_in_forges_no_line_and_makes_no_long_one() {
        let name = format!("x\n9:9: error: y\u{1b}[2J{}", "z".repeat(1 << 20));
        let foreign = Problem {
            file: name.clone(),
            object: Some(name.clone()),
            message: format!("unknown field `{name}`"),
            hint: Some(name.clone()),
            excerpt: Some(Excerpt::new(&name, 1)),
            ..problem()
        };
        for problems in
            [Problems::from(foreign.clone()), Problems::check(vec![foreign], &[]).expect_err("it")]
        {
            let text = problems.to_string();
            assert_eq!(text.lines().count(), 4, "place, excerpt, caret, hint: {text}");
            assert!(!text.replace('\n', "").contains(is_harmful), "{text}");
            assert!(text.len() < 10_000, "{} bytes", text.len());
            let line = problems.0[0].in_one_line();
            assert!(!line.contains(is_harmful) && line.contains("; hint: x\\n9:9"), "{line}");
        }
    }

    #[test]
    fn warnings_alone_refuse_nothing() {
        let warning = Problem { severity: Severity::Warning, ..problem() };
        let files = ["east.yaml".to_owned()];
        assert_eq!(Problems::check(vec![warning.clone()], &files), Ok(vec![warning.clone()]));
        let refused = Problems::check(vec![warning, problem()], &files).expect_err("one error");
        assert_eq!(refused.count(), (1, 1));
    }
}
