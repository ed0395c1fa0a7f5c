//! docs/limits.md against the constants that it names.

use std::fmt;

use super::markdown::{Document, Row, code};
use super::{Problems, source};

const DOCUMENT: &str = "docs/limits.md";
/// Where the limits of the wire stand: `limits::NAME`.
const WIRE: &str = "proto/src/limits.rs";

/// A number, of bytes or of anything else, or a time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Number(i128),
    Micros(i128),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Micros(n) => write!(f, "{n} us"),
        }
    }
}

/// The value of a constant, `NAME` or `NAME.field`, of a file.
fn constant(path: &str, name: &str) -> Result<Value, String> {
    let text =
        std::fs::read_to_string(e2e::process::root().join(path)).map_err(|e| format!("{path}: {e}"))?;
    let (name, field) = name.split_once('.').map_or((name, None), |(name, field)| (name, Some(field)));
    let value = value_of(&text, name, field).map_err(|why| format!("{name} of {path}: {why}"))?;
    Ok(match value {
        Value::Number(n) if name.contains("_MICROS") => Value::Micros(n),
        Value::Number(n) if name.contains("_KIB") => Value::Number(n * 1024),
        value => value,
    })
}

fn value_of(text: &str, name: &str, field: Option<&str>) -> Result<Value, String> {
    let declared = text.split_once(&format!("const {name}:")).ok_or("there is no such constant")?.1;
    let (_, rest) = declared.split_once('=').ok_or("it has no value")?;
    let expression = rest.split_once(';').ok_or("it has no end")?.0;
    let expression = match field {
        None => expression,
        Some(field) => {
            let (_, rest) = expression.split_once(&format!("{field}: ")).ok_or("it has no such field")?;
            rest.split([',', '}']).next().unwrap_or(rest)
        }
    };
    let mut reader = Reader { rest: expression, text };
    let value = reader.shifts()?;
    if reader.rest.trim().is_empty() { Ok(value) } else { Err(format!("cannot evaluate `{}`", reader.rest)) }
}

/// Evaluates what constants are made of: products, sums, shifts, casts, times, other constants.
struct Reader<'a> {
    rest: &'a str,
    /// The file, for the constants that it names.
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn shifts(&mut self) -> Result<Value, String> {
        let mut value = self.sum()?;
        while self.eat("<<") {
            let by = self.sum()?;
            value = combine(value, by, |a, b| a.checked_shl(u32::try_from(b).ok()?))?;
        }
        Ok(value)
    }

    fn sum(&mut self) -> Result<Value, String> {
        let mut value = self.product()?;
        loop {
            if self.eat("+") {
                value = combine(value, self.product()?, i128::checked_add)?;
            } else if self.eat("-") {
                value = combine(value, self.product()?, i128::checked_sub)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<Value, String> {
        let mut value = self.single()?;
        loop {
            if self.eat("*") {
                value = combine(value, self.single()?, i128::checked_mul)?;
            } else if self.eat("/") {
                value = combine(value, self.single()?, i128::checked_div)?;
            } else {
                return Ok(value);
            }
        }
    }

    /// A number, a name, a call or what stands in parentheses; then its casts.
    fn single(&mut self) -> Result<Value, String> {
        let mut value = if self.eat("(") { self.inner()? } else { self.named()? };
        loop {
            if self.eat("as ") {
                self.word();
            } else if self.eat(".as_secs()") {
                value = Value::Number(micros(value)? / 1_000_000);
            } else if self.eat(".as_millis()") {
                value = Value::Number(micros(value)? / 1_000);
            } else {
                return Ok(value);
            }
        }
    }

    /// What follows an opening parenthesis, with the closing one.
    fn inner(&mut self) -> Result<Value, String> {
        let value = self.shifts()?;
        if self.eat(")") { Ok(value) } else { Err(format!("no `)` before `{}`", self.rest)) }
    }

    fn named(&mut self) -> Result<Value, String> {
        let word = self.word();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let digits: String = word.chars().filter(|c| *c != '_').collect();
            return digits.parse().map(Value::Number).map_err(|_| format!("`{word}` is no number"));
        }
        let unit = match word {
            "Duration::from_secs" => 1_000_000,
            "Duration::from_millis" => 1_000,
            "Duration::from_micros" => 1,
            _ => return self.constant(word),
        };
        if !self.eat("(") {
            return Err(format!("`{word}` without `(`"));
        }
        match self.inner()? {
            Value::Number(n) => Ok(Value::Micros(n * unit)),
            Value::Micros(_) => Err(format!("`{word}` of a time")),
        }
    }

    /// Another constant: of the same file, else one of the wire.
    fn constant(&self, path: &str) -> Result<Value, String> {
        let name = path.rsplit("::").next().unwrap_or(path);
        value_of(self.text, name, None).or_else(|_| {
            value_of(&source(WIRE), name, None).map_err(|why| format!("cannot evaluate `{path}`: {why}"))
        })
    }
}

/// A time times or by a number is a time; anything else must be of one kind.
fn combine(a: Value, b: Value, with: impl Fn(i128, i128) -> Option<i128>) -> Result<Value, String> {
    let overflow = || format!("cannot compute with {a} and {b}");
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => with(a, b).map(Value::Number),
        (Value::Micros(a) | Value::Number(a), Value::Micros(b) | Value::Number(b)) => {
            with(a, b).map(Value::Micros)
        }
    }
    .ok_or_else(overflow)
}

fn micros(value: Value) -> Result<i128, String> {
    match value {
        Value::Micros(n) => Ok(n),
        Value::Number(n) => Err(format!("{n} is no time")),
    }
}

/// A value as the table has it: `32,768`, `64 KiB`, `5 s`.
fn shown(text: &str) -> Option<Value> {
    let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: i128 = digits.replace(',', "").parse().ok()?;
    Some(match unit {
        "" | "bytes" | "%" => Value::Number(number),
        "KiB" => Value::Number(number << 10),
        "MiB" => Value::Number(number << 20),
        "ms" => Value::Micros(number * 1_000),
        "s" => Value::Micros(number * 1_000_000),
        "min" => Value::Micros(number * 60_000_000),
        "h" => Value::Micros(number * 3_600_000_000),
        _ => return None,
    })
}

/// What is wrong with a row.
fn check(row: &Row, problems: &mut Problems) {
    let at = &row.at;
    let [_, value, constants, _] = &row.cells[..] else {
        return problems.add(format!("{at}: write four cells: limit, value, constant, when it is reached"));
    };
    let Some(shown) = shown(value) else {
        return problems.add(format!(
            "{at}: `{value}` is no value; write a number, with bytes, KiB, MiB, %, ms, s, min or h if it has a unit"
        ));
    };
    let mut named = false;
    for name in code(constants) {
        named = true;
        let place = name.strip_prefix("limits::").map(|name| (WIRE, name)).or_else(|| name.split_once(' '));
        let Some((path, name)) = place else {
            problems.add(format!("{at}: `{name}` is no constant; write `limits::NAME`, or `FILE NAME`"));
            continue;
        };
        match constant(path, name) {
            Ok(is) if is == shown => {}
            Ok(is) => {
                problems.add(format!("{at}: `{value}` is {shown}, but {name} of {path} is {is}; write that"))
            }
            Err(why) => problems.add(format!("{at}: {why}; name the constant that holds this limit now")),
        }
    }
    if !named {
        problems.add(format!("{at}: name the constant that holds this limit"));
    }
}

#[test]
fn every_limit_has_the_value_of_its_constant() {
    let document = Document::read(DOCUMENT);
    let sections: Vec<String> =
        document.headings().filter(|h| h.1 == 2).map(|(_, _, text)| text.to_owned()).collect();
    let rows: Vec<Row> = sections.iter().flat_map(|section| document.rows(section)).collect();
    assert!(rows.len() > 50, "only {} rows were read of {DOCUMENT}: has its form changed?", rows.len());
    let mut problems = Problems::default();
    rows.iter().for_each(|row| check(row, &mut problems));
    problems.none();
}

#[test]
fn constants_are_evaluated_as_the_compiler_does() {
    let text = "const A: usize = 4 * 1_024 * (2 + 1);\nconst B: u64 = A as u64 / 4;\nconst C: usize = 4 << 20;\n\
                const D: Duration = Duration::from_millis(E.as_millis() as u64 / 3);\n\
                pub const E: Duration = Duration::from_secs(5 * 60);\n\
                const F: Pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(5) };\n\
                const G: u32 = more(3);\n";
    let value = |name, field| value_of(text, name, field);
    assert_eq!(value("A", None), Ok(Value::Number(12_288)));
    assert_eq!(value("B", None), Ok(Value::Number(3_072)));
    assert_eq!(value("C", None), Ok(Value::Number(4_194_304)));
    assert_eq!(value("D", None), Ok(Value::Micros(100_000_000)));
    assert_eq!(value("F", Some("longest")), Ok(Value::Micros(5_000_000)));
    assert!(value("G", None).is_err() && value("H", None).is_err());
    assert_eq!(shown("4 MiB"), value("C", None).ok());
    assert_eq!(shown("12,288"), value("A", None).ok());
    assert_eq!(shown("soon"), None);
}
