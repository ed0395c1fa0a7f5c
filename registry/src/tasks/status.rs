//! How an object is: one condition of each kind, in the terms of the Gateway API.
//!
//! Of slow facts only: what endpoints and tunnels do at the moment changes no status, so that one that flaps writes
//! nothing. Of applied objects the elected gateway keeps it in the store, under a key of its own.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use prost::Message;
use proto::store::{self, Status};

use crate::model::{Condition, ConditionKind, Declared, Kind, Object, ObjectName, Service, Stored};
use crate::store::{Entry, Store, StoreError, keys};

/// Bytes of the message of one condition; what is beyond is left out. Five conditions make a status of a few KiB.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// How objects are, by name.
pub type Statuses = BTreeMap<ObjectName, Status>;

/// The key of an object's status.
pub fn key(name: &ObjectName) -> String {
    keys::status(name.kind().as_str(), name.namespace(), name.name())
}

/// The object whose status stands under `key`; none: of a kind that this version does not know.
pub fn name(key: &str) -> Option<ObjectName> {
    let (kind, namespace, name) = keys::status_of(key)?;
    Some(ObjectName::new(Kind::of(kind)?, namespace, name))
}

/// What `entry` holds; none: of a kind that this version does not know.
pub(crate) fn decode(entry: &Entry) -> Option<(ObjectName, Status)> {
    // What cannot be read is written anew.
    Some((name(&entry.key)?, Status::decode(entry.value.clone()).unwrap_or_default()))
}

/// Every status that `store` has.
///
/// # Errors
/// The store's.
pub async fn range<S: Store>(store: &S) -> Result<Statuses, StoreError> {
    Ok(store.range(&keys::statuses()).await?.entries.iter().filter_map(decode).collect())
}

/// The conditions of an object of which this is `said`; `in_use`: requests are placed by what it says. Since when they
/// are so is left open.
pub fn conditions(said: &[&Condition], in_use: bool) -> Vec<store::Condition> {
    let stated = |kind| stated(kind, said).unwrap_or_else(|| holds(kind));
    let accepted = stated(ConditionKind::Accepted);
    let resolved = stated(ConditionKind::ResolvedRefs);
    let mut programmed = stated(ConditionKind::Programmed);
    if !accepted.status {
        programmed = follows(ConditionKind::Programmed, &accepted);
    } else if programmed.status && !in_use {
        programmed.status = false;
        programmed.reason = "Pending".into();
        programmed.message = "no request is placed by it yet".into();
    }
    let bad = [&accepted, &resolved, &programmed].into_iter().find(|condition| !condition.status);
    let ready = bad.map_or_else(|| holds(ConditionKind::Ready), |bad| follows(ConditionKind::Ready, bad));
    let conflict = self::stated(ConditionKind::Conflict, said);
    [accepted, resolved, programmed, ready].into_iter().chain(conflict).collect()
}

/// Whether `object` counts as it stands: in `declared` as it was written, but for endpoints that registered themselves.
pub fn counts(object: &Object, declared: &Declared) -> bool {
    match object {
        Object::Link(link) => declared.links.get(&link.cluster) == Some(link),
        Object::Listener(listener) => declared.listeners.get(&listener.object()) == Some(listener),
        Object::Policy(policy) => declared.policies.get(&policy.service) == Some(policy),
        Object::Service(service) => declared.services.get(&service.name).is_some_and(|known| {
            let written = service.endpoints.len();
            known == service
                || (known.endpoints.starts_with(&service.endpoints)
                    && Service { endpoints: known.endpoints[..written].to_vec(), ..(**known).clone() }
                        == **service)
        }),
    }
}

/// Whether both say the same, whenever that began.
pub fn same(one: &Status, other: &Status) -> bool {
    let timeless = |condition: &store::Condition| store::Condition { since_unix_ms: 0, ..condition.clone() };
    one.observed_generation == other.observed_generation
        && one.conditions.iter().map(timeless).eq(other.conditions.iter().map(timeless))
}

/// `status`, which follows on `before` now: what held then and still does keeps its time.
pub fn follow(before: Option<&Status>, mut status: Status, now_unix_ms: u64) -> Status {
    for condition in &mut status.conditions {
        let known = before.and_then(|before| before.conditions.iter().find(|c| c.kind == condition.kind));
        let known = known.filter(|known| known.status == condition.status);
        condition.since_unix_ms = known.map_or(now_unix_ms, |known| known.since_unix_ms);
    }
    status
}

/// A status in a line for people.
pub fn describe(status: &Status) -> String {
    let words: Vec<_> = status.conditions.iter().map(|c| word(&c.kind, c.status, &c.reason)).collect();
    format!("{}; observed generation {}", words.join(", "), status.observed_generation)
}

/// A condition in a word or two: `Ready=True`, `Ready=False (LinkNotFound)`.
pub fn word(kind: &str, status: bool, reason: &str) -> String {
    let value = if status { "True" } else { "False" };
    if kind == reason { format!("{kind}={value}") } else { format!("{kind}={value} ({reason})") }
}

fn holds(kind: ConditionKind) -> store::Condition {
    let (kind, reason) = (kind.to_string(), kind.to_string());
    store::Condition { kind, status: true, reason, ..store::Condition::default() }
}

/// What does not hold because `cause` does not.
fn follows(kind: ConditionKind, cause: &store::Condition) -> store::Condition {
    let message = format!("see {}", cause.kind);
    let (kind, reason) = (kind.to_string(), cause.reason.clone());
    store::Condition { kind, status: false, reason, message, since_unix_ms: 0 }
}

/// Everything that is said of one kind, joined.
fn stated(kind: ConditionKind, said: &[&Condition]) -> Option<store::Condition> {
    let mut of_kind = said.iter().filter(|condition| condition.kind() == kind);
    let first = of_kind.next()?;
    let mut message = first.message.clone();
    for more in of_kind {
        message.push_str("; ");
        message.push_str(&more.message);
    }
    if message.len() > MESSAGE_BYTES_MAX {
        const CUT: &str = " ...";
        let end = message.floor_char_boundary(MESSAGE_BYTES_MAX - CUT.len());
        message.truncate(end);
        message.push_str(CUT);
    }
    let (kind, reason) = (kind.to_string(), first.reason.to_string());
    Some(store::Condition { kind, status: first.status(), reason, message, since_unix_ms: 0 })
}

/// The status of an applied object of this generation, of which this is `said`.
pub fn of(applied: &Stored, said: &[&Condition], in_use: bool) -> Status {
    Status { observed_generation: applied.generation, conditions: conditions(said, in_use) }
}
