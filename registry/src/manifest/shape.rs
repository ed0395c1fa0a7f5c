//! YAML to the types of [`raw`](super::raw), and the parser's errors to problems.

use serde::de::DeserializeOwned;
use serde_saphyr::{DefaultMessageFormatter, Error, Location, MessageFormatter};

use super::problem::Severity;
use super::raw;
use super::scope::{Findings, Origin};
use super::suggest;
use super::units::Wrong;

/// Most anchors and aliases of one document, each.
const ALIASES_MAX: usize = 1_000;

/// Most parser events that the aliases of one document may expand to, beside one for each of its bytes: stops "billion
/// laughs", in one document and in many small ones.
const REPLAYED_EVENTS_MAX: usize = 1_000;

/// Bytes of text that aliases may repeat, beside as many as the document has.
const REPLAYED_BYTES_MAX: usize = 4 * 1024;

/// Fields that are known, but not to be offered: of DESIGN 6 those that are not available yet, and what only
/// `ringway get` writes.
const UNOFFERED: [&str; 5] = ["limits", "cookie", "path", "metadata", "resourceVersion"];

/// Reads one document as a `T`, or reports its first error of shape.
pub(super) fn read<'a, T: DeserializeOwned>(origin: &Origin<'a>, findings: &mut Findings<'a>) -> Option<T> {
    let length = origin.text.len();
    let replayed = REPLAYED_EVENTS_MAX.saturating_add(length);
    let scalars = REPLAYED_BYTES_MAX.saturating_add(length.saturating_mul(2));
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_depth: 32,
            max_total_scalar_bytes: scalars,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: replayed },
        strict_booleans: true,
        reject_unsupported_tags: true,
        emit_comments: false,
        with_snippet: false,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
    };
    serde_saphyr::from_str_with_options(origin.text, options)
        .map_err(|error| {
            let at = error.location().unwrap_or(Location::UNKNOWN);
            findings.report(origin, at, Severity::Error, explain(&error));
        })
        .ok()
}

/// Reads a document of a known kind.
pub(super) fn document<'a, S>(origin: &Origin<'a>, findings: &mut Findings<'a>) -> Option<raw::Document<S>>
where
    raw::Document<S>: DeserializeOwned,
{
    read(origin, findings)
}

/// The parser's error in the words of someone who writes manifests.
fn explain(error: &Error) -> Wrong {
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let hint = match suggest::suggest(field, expected.iter().copied()) {
                Some(word) => format!("did you mean `{word}`?"),
                None if expected.contains(&"spec") => {
                    "the fields of the object itself stand under `spec`".into()
                }
                None => {
                    let now: Vec<&str> =
                        expected.iter().copied().filter(|f| !UNOFFERED.contains(f)).collect();
                    format!("the fields here are {}", suggest::list(&now))
                }
            };
            Wrong::new(format!("unknown field `{field}`"), hint)
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("this key");
            Wrong::new(format!("`{key}` stands here twice"), "keep one of the two")
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            Wrong::new("expected fields (`name: value`)", "write `{}` where there are none")
        }
        Error::Unexpected { expected: "sequence start", .. } => {
            Wrong::new("expected a list", "write `[...]`, or lines that start with `- `")
        }
        Error::Unexpected { expected: "string scalar", .. } => {
            Wrong::new("expected a single value", "neither a list nor fields belong here")
        }
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            Wrong { message: format!("expected {expected}, found {unexpected}"), hint: None }
        }
        Error::InvalidBooleanStrict { .. } => Wrong::new("expected a boolean", "write `true` or `false`"),
        Error::UnknownAnchor { .. } => Wrong::new(
            "this alias names no anchor",
            "a text that starts with `*` needs quotes, such as `\"*\"`",
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => Wrong::new(
            "this document is nested too deeply, or too large once its aliases are expanded",
            format!(
                "at most 32 levels and {ALIASES_MAX} aliases are allowed, which repeat no more than stands there"
            ),
        ),
        other => {
            let message = DefaultMessageFormatter.format_message(other).into_owned();
            if message.contains("anchor or alias") {
                let hint = "a text that starts with `*` or `&` needs quotes, such as `\"*\"`";
                return Wrong::new("no name follows this `*` or `&`", hint);
            }
            let hint = message.starts_with("tabs ").then(|| "indent with spaces".to_owned());
            Wrong { message, hint }
        }
    }
}
