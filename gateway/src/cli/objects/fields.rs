//! Which fields differ between two documents.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// Fields by which the entries of a list are known, so that an entry that moves is no change of all behind it.
const IDS: [&str; 4] = ["id", "name", "cluster", "namespace"];

/// One field that differs.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Field {
    /// Such as `spec.endpoints[a].weight`.
    pub(super) path: String,
    /// None: it was not there.
    pub(super) before: Option<Value>,
    /// None: it is not there any more.
    pub(super) after: Option<Value>,
}

/// What differs between two documents of YAML; nothing where one cannot be read.
pub(super) fn differing(before: &str, after: &str) -> Vec<Field> {
    // As manifests are read: `y` is a word, no boolean.
    let read = |text: &str| {
        let options = serde_saphyr::options! { strict_booleans: true };
        serde_saphyr::from_str_with_options::<Value>(text, options).ok()
    };
    let mut fields = Vec::new();
    if let (Some(mut before), Some(after)) = (read(before), read(after)) {
        if before.is_null() && after.is_object() {
            // A new object: its name and kind are said, its spec is shown field by field.
            before = after.clone();
            before["spec"] = Value::Object(serde_json::Map::new());
        }
        compare(String::new(), Some(&before), Some(&after), &mut fields);
    }
    fields
}

fn compare(path: String, before: Option<&Value>, after: Option<&Value>, fields: &mut Vec<Field>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let dot = if path.is_empty() { "" } else { "." };
                compare(format!("{path}{dot}{key}"), old.get(key), new.get(key), fields);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            let id = IDS.into_iter().find(|id| known_by(old, id) && known_by(new, id));
            let Some(id) = id else {
                for place in 0..old.len().max(new.len()) {
                    compare(format!("{path}[{place}]"), old.get(place), new.get(place), fields);
                }
                return;
            };
            let of = |entry: &Value| entry[id].as_str().unwrap_or_default().to_owned();
            let ids: BTreeSet<String> = old.iter().chain(new).map(of).collect();
            for name in ids {
                let find = |list: &'_ [Value]| list.iter().position(|entry| of(entry) == name);
                let (was, is) = (find(old).map(|n| &old[n]), find(new).map(|n| &new[n]));
                compare(format!("{path}[{name}]"), was, is, fields);
            }
        }
        _ => fields.push(Field { path, before: before.cloned(), after: after.cloned() }),
    }
}

/// Whether each entry of a list has its own text in this field.
fn known_by(list: &[Value], id: &str) -> bool {
    let ids: BTreeSet<&str> = list.iter().filter_map(|entry| entry.get(id)?.as_str()).collect();
    ids.len() == list.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_that_differs_is_named_by_its_path() {
        let before = "spec: { a: 1, endpoints: [{ id: a, w: 1 }, { id: b, w: 1 }], export: { to: [x, y] } }";
        let after = "spec: { c: 2, endpoints: [{ id: b, w: 2 }, { id: a, w: 1 }], export: { to: [x, z] } }";
        let said: Vec<_> = differing(before, after)
            .iter()
            .map(|f| {
                let show = |v: &Option<Value>| v.as_ref().map_or("-".into(), Value::to_string);
                format!("{} {} {}", f.path, show(&f.before), show(&f.after))
            })
            .collect();
        let expected =
            ["spec.a 1 -", "spec.c - 2", "spec.endpoints[b].w 1 2", "spec.export.to[1] \"y\" \"z\""];
        assert_eq!(said, expected);
        let new = differing("", "kind: Link\nspec: { addresses: [a], trustDomain: b }");
        let paths: Vec<_> = new.iter().map(|field| &*field.path).collect();
        assert_eq!(paths, ["spec.addresses", "spec.trustDomain"]);
        assert_eq!(differing(before, &format!("# how it is written\n{before}")), []);
    }
}
