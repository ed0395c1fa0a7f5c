//! Applied objects as the store keeps them: the original document, its generation, who applied it and when.
//!
//! What a document means is read again by every gateway: one that is older than the document shows it as inert, and
//! never loses it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::store;

use crate::manifest::{Problems, Source, parse_for};
use crate::model::{Gateway, Kind, Object, ObjectName, Stored};
use crate::pure::sources::{Applied, AppliedObjects};
use crate::store::{Entry, Event, Store, StoreError, keys};

/// Objects as they are kept, by name.
pub type StoredObjects = BTreeMap<ObjectName, Arc<Stored>>;

impl Stored {
    /// The record under the object's key.
    pub fn encode(&self) -> Bytes {
        self.record().encode_to_vec().into()
    }

    pub(crate) fn record(&self) -> store::Applied {
        let Self { text, generation, by, unix_ms, .. } = self;
        store::Applied { text: text.clone(), generation: *generation, by: by.clone(), unix_ms: *unix_ms }
    }

    pub(crate) fn of(record: store::Applied, revision: u64) -> Self {
        let store::Applied { text, generation, by, unix_ms } = record;
        Self { text, generation, by, unix_ms, revision }
    }
}

/// The key of an object.
pub fn key(name: &ObjectName) -> String {
    keys::config(name.kind().as_str(), name.namespace(), name.name())
}

/// The object under `key`; none: of a kind that this version does not know.
pub fn name(key: &str) -> Option<ObjectName> {
    let (kind, namespace, name) = keys::config_of(key)?;
    Some(ObjectName::new(Kind::of(kind)?, namespace, name))
}

/// What `entry` holds; none: of a kind that this version does not know.
pub fn decode(entry: &Entry) -> Option<(ObjectName, Arc<Stored>)> {
    let name = name(&entry.key)?;
    let unknown = Stored { revision: entry.modified, ..Stored::default() };
    let stored = store::Applied::decode(entry.value.clone())
        .map_or(unknown, |record| Stored::of(record, entry.modified));
    Some((name, Arc::new(stored)))
}

/// Everything that is applied, and the revision of the store that this is.
///
/// # Errors
/// The store's.
pub async fn range<S: Store>(store: &S) -> Result<(u64, StoredObjects), StoreError> {
    let range = store.range(&keys::configs()).await?;
    Ok((range.revision, range.entries.iter().filter_map(decode).collect()))
}

/// Takes a change of the store into `objects`.
pub fn follow(objects: &mut StoredObjects, event: &Event) {
    match event {
        Event::Put(entry) => objects.extend(decode(entry)),
        Event::Deleted(key) => {
            name(key).and_then(|name| objects.remove(&name));
        }
    }
}

/// What `stored` means to the gateway `of`; what did not change since `known` is not read again.
pub fn read_all(of: &Gateway, stored: &StoredObjects, known: &AppliedObjects) -> AppliedObjects {
    let read = |(name, stored): (&ObjectName, &Arc<Stored>)| {
        let known = known.get(name).filter(|known| known.stored == *stored);
        let applied = known.cloned().unwrap_or_else(|| Arc::new(read(of, name, stored.clone())));
        (name.clone(), applied)
    };
    stored.iter().map(read).collect()
}

/// What one object means.
fn read(of: &Gateway, name: &ObjectName, stored: Arc<Stored>) -> Applied {
    let object = match stored.generation {
        0 => Err("its record is of another version of Ringway".into()),
        _ => meaning(of, name, &stored.text),
    };
    Applied { stored, object }
}

fn meaning(of: &Gateway, name: &ObjectName, text: &str) -> Result<Object, String> {
    let source = Source { name: PathBuf::from(format!("applied {name}")), text: text.into() };
    let manifests = parse_for(of, &[source]).map_err(|problems| in_line(&problems))?;
    let mut objects = manifests.declared.objects();
    match (objects.next(), objects.next()) {
        (Some(object), None) if object.name() == *name => Ok(object),
        _ => Err(format!("its document declares something else than {name}")),
    }
}

/// Every error of `problems`, in one line.
fn in_line(problems: &Problems) -> String {
    let errors = problems.iter().filter(|p| p.severity == crate::manifest::Severity::Error);
    let said = errors.map(|p| match p.line {
        0 => p.message.clone(),
        line => format!("line {line}, column {}: {}", p.column, p.message),
    });
    said.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::manifest::parse;
    use crate::store::memory::MemoryStore;
    use crate::store::{Op, Transaction, Watch};

    const EAST: &str = "
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: { addresses: [127.0.0.1:8443] }
";

    fn west() -> Gateway {
        let text = "
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
";
        parse(&[Source { name: "west.yaml".into(), text: text.into() }]).unwrap().gateway.unwrap()
    }

    fn stored(text: &str) -> Stored {
        Stored { text: text.into(), generation: 3, by: "uid 1000".into(), unix_ms: 7, revision: 0 }
    }

    fn east() -> ObjectName {
        ObjectName::new(Kind::Link, "default", "east")
    }

    async fn put(store: &MemoryStore, key: String, value: Bytes) {
        let ops = vec![Op::Put { key, value, lease: None }];
        store.commit(Transaction { expect: Vec::new(), ops }).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_is_read_again_and_followed() {
        let store = MemoryStore::default();
        put(&store, key(&east()), stored(EAST).encode()).await;
        put(&store, keys::config("Later", "shop", "cart"), Bytes::new()).await;
        let (revision, mut objects) = range(&store).await.unwrap();
        let found = &objects[&east()];
        assert_eq!(**found, Stored { revision: found.revision, ..stored(EAST) });
        assert_eq!(objects.len(), 1, "a kind of a later version is left alone");

        let mut watch = store.watch(&keys::configs(), revision + 1).await.unwrap();
        put(&store, key(&east()), stored("other").encode()).await;
        let ops = vec![Op::Delete(key(&east()))];
        store.commit(Transaction { expect: Vec::new(), ops }).await.unwrap();
        for text in [Some("other"), None] {
            watch.next().await.unwrap().events.iter().for_each(|event| follow(&mut objects, event));
            assert_eq!(objects.get(&east()).map(|stored| &*stored.text), text);
        }
    }

    #[test]
    fn an_object_means_what_it_means_to_its_gateway() {
        let read = |text: &str| read(&west(), &east(), Arc::new(stored(text))).object;
        let Ok(Object::Link(link)) = read(EAST) else { panic!("{:?}", read(EAST)) };
        assert_eq!(link.trust_domain, "acme.example", "left out, it is the gateway's own");
        let newer = EAST.replace("spec: {", "spec: { magic: 1,");
        assert!(
            read(&newer).unwrap_err().contains("line 5, column 9: unknown field `magic`"),
            "{:?}",
            read(&newer)
        );
        assert!(read(&EAST.replace("east", "north")).unwrap_err().contains("something else than Link east"));
        assert!(read("").is_err());
    }

    #[test]
    fn what_cannot_be_decoded_is_kept_and_says_so() {
        let entry = Entry { key: key(&east()), value: "\u{7}".into(), created: 1, modified: 2, lease: None };
        let objects = StoredObjects::from([decode(&entry).unwrap()]);
        let read = read_all(&west(), &objects, &AppliedObjects::new());
        assert!(read[&east()].object.as_ref().unwrap_err().contains("another version"));
    }
}
