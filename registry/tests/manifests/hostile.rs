//! Whatever is fed in: no panic, no endless work, and places that exist.

use proptest::prelude::*;
use registry::manifest;

use super::right::EXAMPLE;
use super::source;

/// Parses, and checks that every problem points into the text.
fn survives(text: &str) {
    let result = manifest::parse(&[source("m.yaml", text)]);
    // YAML ends lines with CR, too.
    let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count();
    let problems = match &result {
        Ok(manifests) => manifests.warnings.iter().collect::<Vec<_>>(),
        Err(problems) => problems.iter().collect(),
    };
    for problem in problems {
        assert!(problem.line as usize <= lines, "{problem}");
        assert!(!problem.message.is_empty() && problem.to_string().contains(&problem.message));
    }
}

/// What a typing error may put in.
fn scrap() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "- ",
            "\n",
            "\n---\n",
            "\n...\n",
            "\t",
            "&a ",
            "*a",
            "!x ",
            "<<: *a\n",
            "\"",
            "'",
            "|\n",
            "#",
            "null",
            "~",
            "-1",
            "1e999",
            ".nan",
            "99999999999999999999999999999999999999999",
            "\u{feff}",
            "é",
            "\0",
            "%",
            "? ",
            "0x",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

proptest! {
    #[test]
    fn bytes_without_sense_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn scraps_of_yaml_never_panic(parts in prop::collection::vec(scrap(), 0..64)) {
        survives(&parts.concat());
    }

    #[test]
    fn manifests_with_typing_errors_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, scrap()), 1..6),
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, removed, put) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, put.chars());
        }
        survives(&text.into_iter().collect::<String>());
    }
}

/// One document whose aliases repeat a list of `length` words `times` times.
fn repeated(word: &str, length: usize, times: usize) -> String {
    let list = vec![word; length].join(", ");
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: {{ name: east }}\nx: &x [{list}]\ny: [{}]\n",
        vec!["*x"; times].join(", ")
    )
}

#[test]
fn aliases_repeat_about_as_much_as_the_document_says_itself() {
    let said = |text: &str| manifest::parse(&[source("m.yaml", text)]).unwrap_err().to_string();
    for (what, text) in [
        ("events", repeated("a", 900, 900)),
        ("bytes", repeated(&"x".repeat(100_000), 1, 900)),
        // Each is little, and there are many of them.
        ("small ones", vec![repeated("a", 40, 100); 1_000].join("---\n")),
    ] {
        let said = said(&text);
        assert!(said.contains("too large once its aliases are expanded"), "{what}: {said}");
    }
    // As people use them.
    let said = said(&repeated("a", 10, 20));
    assert!(said.contains("unknown field `x`"), "{said}");
}

#[test]
fn a_document_of_nothing_but_errors_is_read_no_further_than_what_is_shown() {
    let wrong: String =
        (0..10_000).map(|n| format!("  - {{ host: '/{n}', weight: 0, ports: {{ wbe: 1 }} }}\n")).collect();
    let text = format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: {{ name: cart }}\nspec:\n  \
         ports: [{{ name: web, port: 80, protocol: http }}]\n  endpoints:\n{wrong}"
    );
    let problems = manifest::parse(&[source("m.yaml", &text)]).unwrap_err();
    let (errors, _) = problems.count();
    assert!((200..=201).contains(&errors), "{errors}");
    assert!(problems.to_string().contains("more than 200 problems; the rest is not shown"));
}

#[test]
fn what_is_built_to_exhaust_is_refused() {
    let mut bombs =
        vec!["[".repeat(1 << 20), "- ".repeat(1 << 19), "{a: ".repeat(1 << 18), "---\n".repeat(1 << 18)];
    bombs.push(format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), "*a, ".repeat(1 << 16)));
    bombs.push("&a [".repeat(1 << 18));
    bombs.push(format!("apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: {{ name: east }}\nspec: {{ addresses: [{}] }}", "x, ".repeat(64)));
    bombs.push("kind: Link\n---\n".repeat(1 << 14));
    for bomb in bombs {
        survives(&bomb);
    }
}
