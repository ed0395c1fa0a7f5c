//! Did you mean?

/// Longer words are nobody's typing error; bounds the work below.
const WORD_CHARS_MAX: usize = 64;

/// The known word that `typed` was most likely meant to be.
pub(crate) fn suggest<'k>(typed: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let typed = fold(typed);
    if typed.is_empty() || typed.len() > WORD_CHARS_MAX {
        return None;
    }
    let allowed = (typed.len() / 3).max(1);
    let score = |word: &'k str| {
        let folded = fold(word);
        // `Service` for `MeshService`: what is missing is a whole word, not a slip.
        let part = typed.len() >= 4
            && folded.iter().collect::<String>().ends_with(&typed.iter().collect::<String>());
        let distance = if part { 1 } else { distance(&typed, &folded) };
        (distance <= allowed).then_some((distance, part, word))
    };
    known
        .into_iter()
        .filter_map(score)
        .min_by_key(|(distance, part, _)| (*distance, *part))
        .map(|(.., word)| word)
}

/// `did you mean ...?`, else what there is to choose from.
pub(crate) fn hint(typed: &str, known: &[&str], otherwise: &str) -> String {
    match suggest(typed, known.iter().copied()) {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("{otherwise} {}", list(known)),
    }
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "none".into(),
    }
}

/// Case and word separators are spelling, not meaning: `health_check` and `healthCheck` are one.
fn fold(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known = ["healthCheck", "endpoints", "export", "ports"];
        for (typed, meant) in [
            ("helathCheck", Some("healthCheck")),
            ("health_check", Some("healthCheck")),
            ("Endpoint", Some("endpoints")),
            ("port", Some("ports")),
            ("replicas", None),
            ("", None),
        ] {
            assert_eq!(suggest(typed, known), meant, "{typed}");
        }
        assert_eq!(suggest("Service", ["Link", "MeshService"]), Some("MeshService"));
        assert_eq!(suggest(&"x".repeat(100_000), known), None);
    }

    #[test]
    fn without_a_likely_word_all_are_listed() {
        assert_eq!(hint("q", &["a1", "b2", "c3"], "known are"), "known are `a1`, `b2` and `c3`");
        assert_eq!(list(&["a"]), "`a`");
    }
}
