//! The names that sidecars use: each is looked at once, however many use it, and whoever uses it hears of a change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use registry::base::time::Tick;
use tokio::sync::Notify;

use super::moment::{Found, Moment, Pulse};
use crate::view::View;

/// What a name means, with the number of the word on it: the same number is the same word.
pub(super) type Word = (u64, Bytes);

/// The names in use.
#[derive(Debug)]
pub(super) struct Book {
    /// The mesh's domain.
    domain: String,
    /// What was looked at last.
    moment: Moment,
    names: HashMap<Arc<str>, Name>,
    /// When to look again although nobody has told of anything, in microseconds; the largest number: never.
    until: Tick,
    /// The number of the last stream.
    last: u64,
}

#[derive(Debug)]
struct Name {
    /// None: there is no such name.
    found: Option<Found>,
    pulse: Pulse,
    word: Word,
    /// By the number of their stream.
    followers: BTreeMap<u64, Arc<Inbox>>,
}

/// The names of one stream on which there is another word.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Short sections without await.
    names: Mutex<BTreeSet<Arc<str>>>,
    told: Notify,
}

impl Book {
    /// Nobody uses anything yet.
    pub(super) fn new(domain: String, moment: Moment) -> Self {
        Self { domain, moment, names: HashMap::new(), until: Tick::MAX, last: 0 }
    }

    /// A number for another stream.
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The stream `number` uses `name` from now on, and hears of every other word on it in `inbox`.
    pub(super) fn follow(&mut self, name: &Arc<str>, number: u64, inbox: &Arc<Inbox>, now: Tick) -> Word {
        let Self { domain, moment, names, until, .. } = self;
        let known = names.entry(name.clone()).or_insert_with(|| {
            let found = moment.find(name, domain);
            let pulse = found.as_ref().map_or_else(Pulse::default, |found| found.pulse(now));
            *until = (*until).min(pulse.until.unwrap_or(Tick::MAX));
            let word = (1, moment.answer(name, found.as_ref(), now));
            Name { found, pulse, word, followers: BTreeMap::new() }
        });
        known.followers.entry(number).or_insert_with(|| inbox.clone());
        known.word.clone()
    }

    /// The stream `number` uses `name` no more. What nobody uses is not kept.
    pub(super) fn leave(&mut self, name: &str, number: u64) {
        if let Some(known) = self.names.get_mut(name) {
            known.followers.remove(&number);
            if known.followers.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// The last word on a name that is in use.
    pub(super) fn word(&self, name: &str) -> Option<Word> {
        self.names.get(name).map(|known| known.word.clone())
    }

    /// When to look again although nobody has told of anything, in microseconds.
    pub(super) fn until(&self) -> Option<Tick> {
        (self.until < Tick::MAX).then_some(self.until)
    }

    /// Looks at every name once, as it is in `view` at `now`. Gives those of which something has changed: each has to be
    /// [renewed](Self::renew).
    pub(super) fn look(&mut self, view: Arc<View>, now: Tick) -> Vec<Arc<str>> {
        let another = !Arc::ptr_eq(&view, &self.moment.view);
        if another && let Some(moment) = Moment::of(view) {
            self.moment = moment;
        }
        self.until = Tick::MAX;
        let mut changed = Vec::new();
        for (name, known) in &mut self.names {
            if another {
                let found = self.moment.find(name, &self.domain);
                let same = match (&found, &known.found) {
                    (None, None) => true,
                    (Some(now), Some(before)) => now.is(before),
                    _ => false,
                };
                known.found = found;
                if !same {
                    changed.push(name.clone());
                    continue;
                }
            }
            let Some(found) = &known.found else { continue };
            let pulse = found.pulse(now);
            if pulse.beat == known.pulse.beat {
                self.until = self.until.min(pulse.until.unwrap_or(Tick::MAX));
            } else {
                changed.push(name.clone());
            }
        }
        changed
    }

    /// Says anew what `name` means, and tells those who use it if that is another word than before.
    pub(super) fn renew(&mut self, name: &Arc<str>, now: Tick) {
        // Nobody uses it any more.
        let Some(known) = self.names.get_mut(name) else { return };
        known.pulse = known.found.as_ref().map_or_else(Pulse::default, |found| found.pulse(now));
        self.until = self.until.min(known.pulse.until.unwrap_or(Tick::MAX));
        let answer = self.moment.answer(name, known.found.as_ref(), now);
        if answer != known.word.1 {
            known.word = (known.word.0 + 1, answer);
            known.followers.values().for_each(|inbox| inbox.put(name.clone()));
        }
    }
}

impl Inbox {
    fn put(&self, name: Arc<str>) {
        self.lock().insert(name);
        self.told.notify_one();
    }

    /// Waits until there is something, and takes it. Cancel safe.
    pub(super) async fn take(&self) -> BTreeSet<Arc<str>> {
        loop {
            let names = std::mem::take(&mut *self.lock());
            if !names.is_empty() {
                return names;
            }
            self.told.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        // Whoever panicked left a set that is whole: every change is one call.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
