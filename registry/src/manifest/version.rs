//! `metadata.resourceVersion`: the revision of an applied object that somebody has seen. It is put into what is shown
//! and taken out of what is kept, so that the rest stays as it was written.

use serde_saphyr::Location;

use super::document;
use super::raw::Head;
use super::scope::{Findings, Origin};
use super::shape;
use super::units::Wrong;

const KEY: &str = "resourceVersion";

/// Reads a revision.
pub(super) fn revision(text: &str) -> Result<u64, Wrong> {
    text.parse().map_err(|_| {
        Wrong::new(format!("`{text}` is no revision"), "leave it as `ringway get -o yaml` shows it")
    })
}

/// `text`, one document without a revision, with this one; as it is, where it has no `metadata`.
pub fn with_revision(text: &str, revision: u64) -> String {
    let origin = Origin { file: "", text, first_line: 1, object: None, name: None };
    let head: Option<Head> = shape::read(&origin, &mut Findings::default());
    let Some(at) = head.and_then(|head| head.metadata).and_then(|metadata| offset(text, metadata.referenced))
    else {
        return text.into();
    };
    let (before, after) = text.split_at(at);
    match after.strip_prefix('{') {
        Some(rest) => format!("{before}{{ {KEY}: \"{revision}\",{rest}"),
        None => {
            let indent: String = before.chars().rev().take_while(|c| *c == ' ').collect();
            format!("{before}{KEY}: \"{revision}\"\n{indent}{after}")
        }
    }
}

/// `text` without its revision, whose value stands at `at`.
pub(super) fn without(text: &str, at: Location) -> String {
    let Some(value) = offset(text, at) else { return text.into() };
    let Some(key) = text[..value].rfind(KEY) else { return text.into() };
    let key = if text[..key].ends_with(['"', '\'']) { key - 1 } else { key };
    let rest = &text[value..];
    let end = match rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        Some(quote) => rest[1..].find(quote).map_or(rest.len(), |end| end + 2),
        None => rest.find([',', '}', ' ', '\r', '\n']).unwrap_or(rest.len()),
    };
    let (before, after) = (&text[..key], &rest[end..]);
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    if before[line..].trim().is_empty() && after.trim_start_matches(' ').starts_with(['\r', '\n']) {
        let next = after.find('\n').map_or(after.len(), |end| end + 1);
        return format!("{}{}", &before[..line], &after[next..]);
    }
    match after.trim_start_matches(' ').strip_prefix(',') {
        Some(after) => format!("{}{after}", before.trim_end_matches(' ')),
        None => format!("{}{after}", before.trim_end_matches([' ', ','])),
    }
}

/// Where `at` is in `text`, in bytes.
fn offset(text: &str, at: Location) -> Option<usize> {
    let line = usize::try_from(at.line()).ok()?.checked_sub(1)?;
    let column = usize::try_from(at.column()).ok()?.checked_sub(1)?;
    let mut lines = document::lines(text);
    let before: usize = lines.by_ref().take(line).map(str::len).sum();
    let within = lines.next()?;
    let column = within.char_indices().nth(column).map_or(within.len(), |(at, _)| at);
    Some(before + column)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Source, parse, parse_for};
    use super::*;
    use crate::model::Gateway;

    fn west() -> Gateway {
        let text = "
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec: { cluster: west, region: w, trustDomain: a.example, identity: { directory: p }, state: { directory: s } }
";
        parse(&[Source { name: "west.yaml".into(), text: text.into() }]).unwrap().gateway.unwrap()
    }

    const FLOW: &str = "apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: { name: east }\nspec: {}\n";
    const BLOCK: &str = "# Ost\napiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata:\n  # the peer\n  name: east\n  \
                         namespace: default\nspec: {}\n";

    fn read(text: &str) -> (String, Option<u64>) {
        let source = Source { name: "east.yaml".into(), text: text.into() };
        let document = parse_for(&west(), &[source]).unwrap().documents.remove(0);
        (document.bytes, document.revision)
    }

    #[test]
    fn what_is_put_in_comes_out_again_and_the_rest_stays() {
        for text in [FLOW, BLOCK] {
            assert_eq!(read(text), (text.into(), None));
            let shown = with_revision(text, 17);
            assert!(shown.contains("resourceVersion: \"17\""), "{shown}");
            assert_eq!(read(&shown), (text.into(), Some(17)), "{shown}");
        }
    }

    #[test]
    fn it_may_stand_anywhere_in_the_metadata() {
        let last = FLOW.replace("name: east", "name: east, resourceVersion: 5");
        assert_eq!(read(&last), (FLOW.into(), Some(5)));
        let last = BLOCK.replace("  namespace: default\n", "  namespace: default\n  resourceVersion: '5'\n");
        assert_eq!(read(&last), (BLOCK.into(), Some(5)));
    }

    #[test]
    fn a_file_has_none_and_a_word_is_none() {
        let wrong = |text: String| {
            let source = Source { name: "east.yaml".into(), text };
            (parse(std::slice::from_ref(&source)).unwrap_err(), parse_for(&west(), &[source]))
        };
        let (of_file, applied) = wrong(with_revision(FLOW, 17));
        assert!(of_file.to_string().contains("only what is applied has one"), "{of_file}");
        assert!(applied.is_ok());
        let (_, applied) = wrong(FLOW.replace("name: east", "name: east, resourceVersion: new"));
        assert!(applied.unwrap_err().to_string().contains("`new` is no revision"));
    }
}
