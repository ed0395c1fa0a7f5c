//! docs/manifests.md against the fields that the reader of manifests accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use e2e::process::root;

use super::markdown::{Document, code};
use super::{Problems, between, quoted, source};

const DOCUMENT: &str = "docs/manifests.md";
const READER: &str = "registry/src/manifest";

/// Each section with the module and the struct that is read into.
const SECTIONS: [(&str, &str, &str); 8] = [
    ("metadata", "raw", "Strict"),
    ("Gateway", "raw", "GatewaySpec"),
    ("Sidecar", "sidecar", "SidecarSpec"),
    ("Link", "raw", "LinkSpec"),
    ("Listener", "listener", "ListenerSpec"),
    ("HTTP rules", "http_rules", "Http"),
    ("MeshService", "raw", "ServiceSpec"),
    ("TrafficPolicy", "raw", "PolicySpec"),
];

/// The names of fields as they are written, with their types.
type Fields = Vec<(String, String)>;

/// The structs of one module, and what it imports from its neighbours.
struct Module {
    /// By name.
    structs: BTreeMap<String, Fields>,
    /// From which module a name comes.
    imports: BTreeMap<String, String>,
}

impl Module {
    fn read(text: &str) -> Self {
        let mut structs = BTreeMap::new();
        let (mut camel, mut open): (bool, Option<(String, Fields)>) = (false, None);
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[serde(") {
                camel = line.contains("rename_all = \"camelCase\"");
            } else if let Some((name, end)) = struct_head(line) {
                if end == "{" {
                    open = Some((name, Vec::new()));
                } else {
                    structs.insert(name, Vec::new());
                }
            } else if line == "}" {
                structs.extend(open.take());
                camel = false;
            } else if let (Some((_, fields)), Some((name, of))) = (&mut open, line.split_once(": ")) {
                let name = name.rsplit(' ').next().unwrap_or(name);
                let name = if camel { camel_case(name) } else { name.to_owned() };
                if !line.starts_with("//") {
                    fields.push((name, of.trim_end_matches(',').to_owned()));
                }
            }
        }
        let mut imports = BTreeMap::new();
        for import in text.split("use super::").skip(1) {
            let import = import.split(';').next().unwrap_or_default();
            let Some((module, names)) = import.split_once("::") else { continue };
            let names = names.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            imports.extend(names.map(|name| (name.to_owned(), module.to_owned())));
        }
        Self { structs, imports }
    }
}

/// The name of the struct that a line begins, and what follows its name.
fn struct_head(line: &str) -> Option<(String, &str)> {
    let line =
        ["pub(super) ", "pub(crate) ", "pub "].iter().find_map(|p| line.strip_prefix(p)).unwrap_or(line);
    let rest = line.strip_prefix("struct ")?;
    let (head, end) = rest.split_once(' ')?;
    Some((head.split('<').next()?.to_owned(), end))
}

fn camel_case(name: &str) -> String {
    let mut upper = false;
    let mut written = String::new();
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if std::mem::take(&mut upper) => written.extend(c.to_uppercase()),
            c => written.push(c),
        }
    }
    written
}

/// The type within what every field is wrapped in, and whether it is a list of them.
fn unwrapped(of: &str) -> (&str, bool) {
    let (mut of, mut list) = (of, false);
    loop {
        let inner = ["Field<", "List<", "Option<", "Vec<", "Spanned<"].iter().find_map(|wrapper| {
            let inner = of.strip_prefix(wrapper)?.strip_suffix('>')?;
            list |= matches!(*wrapper, "List<" | "Vec<");
            Some(inner)
        });
        match inner {
            Some(inner) => of = inner,
            None => return (of, list),
        }
    }
}

/// Every field below a struct that has none below itself, as `a.b[].c`, or is what another section is about.
fn fields(
    modules: &BTreeMap<String, Module>,
    module: &str,
    name: &str,
    prefix: &str,
    found: &mut BTreeSet<String>,
) {
    for (field, of) in &modules[module].structs[name] {
        let (of, list) = unwrapped(of);
        let path = format!("{prefix}{field}");
        let own = &modules[module];
        let place =
            if own.structs.contains_key(of) { Some(module) } else { own.imports.get(of).map(String::as_str) };
        let place = place.filter(|place| modules.get(*place).is_some_and(|m| m.structs.contains_key(of)));
        match place {
            Some(place)
                if !modules[place].structs[of].is_empty()
                    && !SECTIONS.iter().any(|section| (section.1, section.2) == (place, of)) =>
            {
                let prefix = format!("{path}{}.", if list { "[]" } else { "" });
                fields(modules, place, of, &prefix, found);
            }
            _ => {
                found.insert(path);
            }
        }
    }
}

fn modules() -> BTreeMap<String, Module> {
    let entries = fs::read_dir(root().join(READER)).unwrap().map(|entry| entry.unwrap().path());
    let sources = entries.filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let read = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, Module::read(&fs::read_to_string(path).unwrap()))
    };
    sources.map(read).collect()
}

#[test]
fn every_field_of_a_manifest_is_documented_and_accepted() {
    let document = Document::read(DOCUMENT);
    let modules = modules();
    let mut problems = Problems::default();
    for (section, module, name) in SECTIONS {
        let known = modules.get(module).is_some_and(|m| m.structs.contains_key(name));
        assert!(
            known,
            "{READER}/{module}.rs has no struct {name}: name in SECTIONS what is read for {section}"
        );
        let mut accepted = BTreeSet::new();
        fields(&modules, module, name, "", &mut accepted);
        let rows = document.rows(section);
        let listed: Vec<(String, String)> = rows
            .iter()
            .flat_map(|row| code(&row.cells[0]).map(|field| (row.at.clone(), field.to_owned())))
            .collect();
        problems.compare(&format!("field of {section}"), &document.place(section), &listed, &accepted);
    }
    problems.none();
}

#[test]
fn every_kind_has_a_section() {
    let path = format!("{READER}/read.rs");
    let text = source(&path);
    for kind in quoted(between(&path, &text, "const KINDS:", ";\n\n").split_once('=').unwrap().1) {
        assert!(
            SECTIONS.iter().any(|s| s.0 == kind),
            "add a section `{kind}` to {DOCUMENT}, and to SECTIONS"
        );
    }
}

#[test]
fn fields_are_found_in_structs() {
    let a = "use super::b::{self, Entry};\n#[serde(rename_all = \"camelCase\")]\npub(super) struct Top {\n    \
             pub(super) one_two: Field<String>,\n    /// Why: that.\n    list: List<Entry>,\n    \
             ports: Field<BTreeMap<String, Spanned<Number>>>,\n    none: Field<Empty>,\n}\nstruct Empty {}\n";
    let b = "#[serde(deny_unknown_fields)]\nstruct Entry {\n    snake_case: Option<bool>,\n}\n";
    let modules = [("a".to_owned(), Module::read(a)), ("b".to_owned(), Module::read(b))].into();
    let mut found = BTreeSet::new();
    fields(&modules, "a", "Top", "", &mut found);
    assert_eq!(found, ["list[].snake_case", "none", "oneTwo", "ports"].map(String::from).into());
}
