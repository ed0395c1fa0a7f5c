//! Changes of what is applied: planned whole against what is there, then compared and written.
//!
//! [`plan`] and [`plan_delete`] are pure and refuse everything that is wrong at once. [`Plan::commit`] writes what
//! they found necessary, if nobody changed any of it meanwhile: of two operators the second hears of the first.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::manifest::{self, Document, Problem, Problems, Severity, Source, parse_for};
use crate::model::{ApplyRule, Condition, ConditionKind, Gateway, Object, ObjectName, Stored, Subject};
use crate::pure::sources::{Applied, AppliedObjects, Files, Sources};
use crate::store::{
    Expect, Op, Outcome as Written, Store, StoreError, TRANSACTION_OPS_MAX, Transaction, VALUE_BYTES_MAX,
};
use crate::tasks::applied::{self, StoredObjects};

/// Most objects of one change.
pub const OBJECTS_MAX: usize = 10_000;

/// What is there before a change.
#[derive(Clone, Copy, Debug)]
pub struct There<'a> {
    /// The gateway that reads the documents.
    pub gateway: &'a Gateway,
    /// What its files declare.
    pub files: &'a Arc<Files>,
    /// What is applied.
    pub applied: &'a AppliedObjects,
}

/// Who changes something, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// Who, for people.
    pub by: String,
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// What a linked cluster is granted; none: whoever may change everything here.
    pub granted: Option<Vec<ApplyRule>>,
}

impl Author {
    /// Whether it may see and change an object.
    pub fn may(&self, object: &ObjectName) -> bool {
        self.granted.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.allows(object)))
    }

    /// # Errors
    /// [`Refused::Denied`], with the first of `objects` that it may not change.
    fn check<'a>(&self, mut objects: impl Iterator<Item = &'a ObjectName>) -> Result<(), Refused> {
        let denied = objects.find(|object| !self.may(object));
        denied.map_or(Ok(()), |object| Err(Refused::Denied(object.clone())))
    }
}

/// A change that may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Object by object, by name.
    pub steps: Vec<Step>,
    /// What will have no effect, or not the one meant.
    pub warnings: Vec<Problem>,
    /// All that is applied once it is made.
    pub applied: AppliedObjects,
    /// How many of the steps that change something were made for certain, the first ones.
    done: usize,
}

/// What becomes of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The object.
    pub name: ObjectName,
    /// What is done.
    pub outcome: Outcome,
    /// As it is.
    pub before: Option<Arc<Stored>>,
    /// As it will be; its revision is known once it is written.
    pub after: Option<Stored>,
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It says something else, or is written in another way.
    Changed,
    /// It is as it was; nothing is written.
    Unchanged,
    /// It goes.
    Deleted,
}

/// Why nothing was changed, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Something is wrong with the documents, each with its place.
    #[error("the manifests have errors")]
    Invalid(Problems),
    /// There are too many.
    #[error("{0} objects at once, {OBJECTS_MAX} are allowed; split them")]
    TooMany(usize),
    /// It is not granted to whoever asks; nothing else was looked at.
    #[error("{0} is not granted (`spec.allow.apply` of the Link to whoever asks)")]
    Denied(ObjectName),
    /// An object is not applied.
    #[error("{0} is not applied")]
    NotApplied(ObjectName),
    /// A file declares it.
    #[error("{0} is declared in {1}; change it there")]
    DeclaredInFile(ObjectName, String),
    /// Somebody else changed an object.
    #[error("{name} {}; look at it with `ringway get`, and apply again", .now.as_ref().map_or_else(
        || "was deleted meanwhile".to_owned(),
        |now| format!("was changed by {} meanwhile, to revision {}", now.by, now.revision)
    ))]
    Conflict {
        /// The object.
        name: ObjectName,
        /// As it is now; none: it is gone.
        now: Option<Arc<Stored>>,
    },
    /// Too large for one transaction, it was made in parts, and a later part failed.
    #[error("{done} of {of} objects were changed for certain; apply again what is left")]
    Partly {
        /// Objects that were written.
        done: usize,
        /// Objects that were to be written.
        of: usize,
        /// Why it went no further.
        source: Box<Refused>,
    },
    /// The store refused.
    #[error("the registry does not take the change")]
    Store(#[from] StoreError),
}

/// What must be done so that `sources` are applied as well as what is there.
///
/// # Errors
/// [`Refused`]: everything that is wrong with them, by themselves and beside what is there.
pub fn plan(there: There<'_>, sources: &[Source], author: &Author) -> Result<Plan, Refused> {
    let count = manifest::count(sources);
    if count > OBJECTS_MAX {
        return Err(Refused::TooMany(count));
    }
    // Before more is read of a document than what it is of.
    if author.granted.is_some() {
        manifest::names(sources).try_for_each(|name| author.check(std::iter::once(&name)))?;
    }
    let manifests = parse_for(there.gateway, sources).map_err(Refused::Invalid)?;
    let objects: BTreeMap<_, _> = manifests.declared.objects().map(|o| (o.name(), o)).collect();
    let mut documents = BTreeMap::new();
    for document in manifests.documents {
        documents.extend(document.object().map(|name| (name, document)));
    }
    // Before anything is said of what is there.
    author.check(objects.keys().chain(documents.keys()))?;
    let (mut steps, mut found) = (Vec::new(), manifests.warnings);
    let mut after = there.applied.clone();
    for (name, object) in objects {
        let Some(document) = documents.get(&name) else { continue };
        let step = step(there.applied.get(&name), name, &object, document, author)?;
        found.extend(too_large(&step, document));
        if let Some(stored) = &step.after {
            let applied = Applied { stored: Arc::new(stored.clone()), object: Ok(object) };
            after.insert(step.name.clone(), Arc::new(applied));
        }
        steps.push(step);
    }
    let files: Vec<String> = sources.iter().map(|source| source.name.display().to_string()).collect();
    found.extend(beside(there, after.clone(), &documents));
    let warnings = Problems::check(found, &files).map_err(Refused::Invalid)?;
    Ok(Plan { steps, warnings, applied: after, done: 0 })
}

/// What must be done so that the objects of these names are applied no more.
///
/// # Errors
/// [`Refused`]: one of them is not applied, or not granted to whoever asks.
pub fn plan_delete(there: There<'_>, names: &[ObjectName], author: &Author) -> Result<Plan, Refused> {
    author.check(names.iter())?;
    let sources = Sources { files: there.files.clone(), ..Sources::default() };
    let step = |name: &ObjectName| match (there.applied.get(name), sources.place(name)) {
        (Some(applied), _) => Ok(Step {
            name: name.clone(),
            outcome: Outcome::Deleted,
            before: Some(applied.stored.clone()),
            after: None,
        }),
        (None, Some(place)) => Err(Refused::DeclaredInFile(name.clone(), place)),
        (None, None) => Err(Refused::NotApplied(name.clone())),
    };
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    let steps = names.iter().map(step).collect::<Result<_, _>>()?;
    let mut applied = there.applied.clone();
    applied.retain(|name, _| !names.contains(name));
    Ok(Plan { steps, warnings: Vec::new(), applied, done: 0 })
}

/// What becomes of one object that is to be applied.
fn step(
    known: Option<&Arc<Applied>>,
    name: ObjectName,
    object: &Object,
    document: &Document,
    author: &Author,
) -> Result<Step, Refused> {
    let before = known.map(|known| known.stored.clone());
    // The answer to the first try may have been lost.
    let ours = before.as_ref().is_some_and(|now| now.text == document.bytes && now.by == author.by);
    if let Some(seen) = document.revision
        && !ours
        && before.as_ref().map(|before| before.revision) != Some(seen)
    {
        return Err(Refused::Conflict { name, now: before });
    }
    let generation = before.as_ref().map_or(0, |before| before.generation);
    let same = known.is_some_and(|known| known.object.as_ref() == Ok(object));
    let outcome = match &before {
        None => Outcome::Created,
        Some(before) if before.text == document.bytes => Outcome::Unchanged,
        Some(_) => Outcome::Changed,
    };
    let after = match (&before, outcome) {
        (Some(before), Outcome::Unchanged) => (**before).clone(),
        _ => Stored {
            text: document.bytes.clone(),
            generation: if same { generation } else { generation + 1 },
            by: author.by.clone(),
            unix_ms: author.unix_ms,
            revision: 0,
        },
    };
    Ok(Step { name, outcome, before, after: Some(after) })
}

/// What is said of a document that the registry cannot hold.
fn too_large(step: &Step, document: &Document) -> Option<Problem> {
    let bytes = step.after.as_ref()?.encode().len();
    (bytes > VALUE_BYTES_MAX).then(|| Problem {
        file: document.file.display().to_string(),
        line: document.line,
        column: 1,
        object: Some(step.name.to_string()),
        message: format!("takes {bytes} bytes in the registry, {VALUE_BYTES_MAX} are allowed"),
        hint: Some("declare it in a file of each gateway, or leave out what it can do without".into()),
        severity: Severity::Error,
        excerpt: None,
    })
}

/// What is wrong with the documents beside what is there: an object that would not count, or would make another one of
/// no effect, is an error; a reference to nothing is a warning.
fn beside(
    there: There<'_>,
    after: AppliedObjects,
    documents: &BTreeMap<ObjectName, Document>,
) -> Vec<Problem> {
    let own = &there.gateway.cluster;
    let conditions = |applied: AppliedObjects| {
        let merged = Sources { files: there.files.clone(), applied, ..Sources::default() }.merge(own);
        merged.conditions().cloned().collect::<Vec<_>>()
    };
    let before = conditions(there.applied.clone());
    let any = documents.values().next();
    let problem = |condition: &Condition| {
        let Subject::Object(object) = &condition.object else { return None };
        let of_its_own = documents.get(object);
        let refused = condition.kind() == ConditionKind::Accepted;
        let severity = match (of_its_own, refused) {
            (Some(_), true) => Severity::Error,
            (None, true) if !before.contains(condition) => Severity::Error,
            (Some(_), false) => Severity::Warning,
            (None, _) => return None,
        };
        let document = of_its_own.or(any)?;
        Some(Problem {
            file: document.file.display().to_string(),
            line: document.line,
            column: 1,
            object: Some(object.to_string()),
            message: condition.message.clone(),
            hint: None,
            severity,
            excerpt: None,
        })
    };
    conditions(after).iter().filter_map(problem).collect()
}

impl Plan {
    /// How many objects are to be written.
    pub fn writes(&self) -> usize {
        self.steps.iter().filter(|step| step.outcome != Outcome::Unchanged).count()
    }

    /// The steps that changed something for certain, also after [`Plan::commit`] failed or was dropped.
    pub fn made(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| step.outcome != Outcome::Unchanged).take(self.done)
    }

    /// Writes what is to be written, in one transaction if it fits into one, and fills in the revisions.
    ///
    /// # Errors
    /// [`Refused`]: beyond [`Plan::made`] nothing was changed; of a [`Refused::Store`] that does not know what became of
    /// its write ([`StoreError::Unavailable`], [`StoreError::Unkept`]) the part under way may have been.
    pub async fn commit<S: Store>(&mut self, store: &S) -> Result<(), Refused> {
        let of = self.writes();
        let done = &mut self.done;
        let mut rest: &mut [Step] = &mut self.steps;
        while !rest.is_empty() {
            let part = part(rest);
            let (now, later) = rest.split_at_mut(part);
            match commit(store, now).await {
                Ok(written) => *done += written,
                Err(source) if *done == 0 => return Err(source),
                Err(source) => return Err(Refused::Partly { done: *done, of, source: Box::new(source) }),
            }
            rest = later;
        }
        Ok(())
    }
}

/// How many of `steps` go into one transaction.
fn part(steps: &[Step]) -> usize {
    let (mut ops, mut bytes) = (0, 0);
    for (n, step) in steps.iter().enumerate() {
        if step.outcome == Outcome::Unchanged {
            continue;
        }
        ops += 1;
        bytes += step.after.as_ref().map_or(0, |after| after.text.len() + 1024);
        // One condition is left for the UID of the cluster.
        if n > 0 && (ops >= TRANSACTION_OPS_MAX || bytes > VALUE_BYTES_MAX) {
            return n;
        }
    }
    steps.len()
}

/// Writes `steps` together.
async fn commit<S: Store>(store: &S, steps: &mut [Step]) -> Result<usize, Refused> {
    let mut transaction = Transaction::default();
    for step in steps.iter().filter(|step| step.outcome != Outcome::Unchanged) {
        let key = applied::key(&step.name);
        transaction.expect.push(match &step.before {
            Some(before) => Expect::Modified(key.clone(), before.revision),
            None => Expect::Absent(key.clone()),
        });
        transaction.ops.push(match &step.after {
            Some(after) => Op::Put { key, value: after.encode(), lease: None },
            None => Op::Delete(key),
        });
    }
    let written = transaction.ops.len();
    if written == 0 {
        return Ok(0);
    }
    match store.commit(transaction).await? {
        Written::Committed(revision) => {
            let changed = steps.iter_mut().filter(|step| step.outcome != Outcome::Unchanged);
            changed.filter_map(|step| step.after.as_mut()).for_each(|after| after.revision = revision);
            Ok(written)
        }
        Written::Conflict => {
            let (_, now) = applied::range(store).await?;
            Err(conflict(steps, &now))
        }
    }
}

/// The first of `steps` that is not any more as it was read.
fn conflict(steps: &[Step], now: &StoredObjects) -> Refused {
    let revision = |stored: Option<&Arc<Stored>>| stored.map(|stored| stored.revision);
    let moved = steps.iter().find(|step| revision(step.before.as_ref()) != revision(now.get(&step.name)));
    match moved {
        Some(step) => Refused::Conflict { name: step.name.clone(), now: now.get(&step.name).cloned() },
        // It is again as it was: to the second try it looks so too.
        None => Refused::Store(StoreError::Busy),
    }
}

#[cfg(test)]
mod tests;
