//! Changes that take effect while the gateway serves: manifests, certificates, keys and bundles in files, and what is
//! applied.
//!
//! A change is taken whole or not at all: everything is read and checked before anything is touched, and what cannot be
//! used is said in the log and in `status` while the old state serves on. Only a certificate whose time has not come holds
//! nothing else up: it is taken when it comes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry::base::reader::Reader;
use registry::model::{Gateway, Subject};
use registry::pure::mirror;
use registry::pure::sources::{AppliedObjects, Files as Declared};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tunnel::Local;

use super::believe::{Believed, Linked, believe, linked};
use super::change::{self, What};
use super::load::{Certificate, Loaded, Refused, load};
use super::pace::{Outcome, Why};
use super::report::Report;
use super::watcher::{SLOW, Told, Watcher};
use crate::control::sync::{Change, Knowledge};
use crate::proxy::worker::Shared;
use crate::telemetry::audit;

/// How often tunnels are held against the clock and the certificates of the moment.
const JUDGE: Duration = Duration::from_secs(5);
/// Objects of one change that are named in the log; more are counted.
const NAMED_MAX: usize = 50;

/// Files that were read, and can be taken.
pub(super) type Read = (Loaded, Believed);

/// What became of a change of what is declared.
struct Changed {
    /// Object by object.
    changes: Vec<String>,
    /// Whether something else is left open than before.
    conditions: bool,
}

/// Takes what changes in the files of a running gateway and what is applied to it.
pub(super) struct Reloader {
    manifests: Vec<PathBuf>,
    /// As it is declared since the start.
    gateway: Arc<Gateway>,
    shared: Arc<Shared>,
    knowledge: Arc<Knowledge>,
    /// Whom we believe.
    believed: Believed,
    /// Of bundles for what is applied.
    reader: Reader,
    report: Report,
    /// Since when a change is held that removes many services.
    held_since: Option<Instant>,
}

impl Reloader {
    /// For the gateway that was started with `manifests` and believes the `believed`.
    pub(super) fn new(
        manifests: Vec<PathBuf>,
        gateway: Arc<Gateway>,
        shared: Arc<Shared>,
        knowledge: Arc<Knowledge>,
        believed: Believed,
    ) -> Self {
        let report = Report::new(Subject::Gateway(gateway.id.as_str().into()));
        let reader = Reader::default();
        Self { manifests, gateway, shared, knowledge, believed, reader, report, held_since: None }
    }

    /// Takes every change of the files and of what is applied until `stop`, whatever the disk does.
    pub(super) async fn run(
        mut self,
        mut files: Watcher<Result<Read, Refused>>,
        mut applied: watch::Receiver<AppliedObjects>,
        stop: CancellationToken,
    ) {
        if self.believed.is_waiting() {
            files.came(Why::Changed, Outcome::Refused(None));
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                told = files.next(|| self.reading()) => match told {
                    Told::Slow => self.report.slow(),
                    Told::Answers => self.report.answers(),
                    Told::Read(why, read) => {
                        self.report.answers();
                        let outcome = self.judge(why, read.map_err(Refused::from).flatten()).await;
                        files.came(why, outcome);
                    }
                },
                Ok(()) = applied.changed() => {
                    let objects = applied.borrow_and_update().clone();
                    if !self.apply(objects).await {
                        files.came(Why::Changed, Outcome::Refused(None));
                    }
                }
            }
            self.knowledge.show_files(self.report.conditions());
        }
    }

    /// What reads the files as they count for what is known now.
    fn reading(&self) -> impl FnOnce() -> Result<Read, Refused> + Send + use<> {
        let (manifests, gateway, before) =
            (self.manifests.clone(), self.gateway.clone(), self.believed.clone());
        let (_, applied) = self.knowledge.sources();
        move || {
            let loaded = load(&manifests)?;
            let restart = change::needs_restart(&gateway, &loaded.gateway);
            if !restart.is_empty() {
                return Err(Refused::Restart(restart.join(", ")));
            }
            let believed = believe(&gateway, &linked(&gateway, &loaded.files, &applied), &before.trust);
            let fresh = believed.untrusted.iter().find(|u| !u.missing && !before.untrusted.contains(u));
            match fresh {
                None => Ok((loaded, believed)),
                Some(untrusted) => Err(Refused::Bundle(untrusted.cluster.clone(), untrusted.why.clone())),
            }
        }
    }

    /// Takes what was read for `why`, or says why not.
    async fn judge(&mut self, why: Why, read: Result<Read, Refused>) -> Outcome {
        let (loaded, believed) = match read {
            Ok(read) => read,
            Err(refused) => {
                self.held_since = None;
                self.report.refused(&refused);
                return Outcome::Refused(None);
            }
        };
        let (before, after) = (self.knowledge.sources().0, &loaded.files.declared.services);
        let before = &before.declared.services;
        let missing = before.keys().filter(|name| !after.contains_key(name)).count();
        let now = Instant::now();
        if why == Why::Told || !mirror::is_in_a_mass(missing, before.len()) {
            self.held_since = None;
        } else {
            let since = *self.held_since.get_or_insert(now);
            let left = (since + mirror::HOLD).saturating_duration_since(now);
            if !left.is_zero() {
                self.report.held(missing, before.len(), left);
                return Outcome::Held(left);
            }
            self.held_since = None;
        }
        let early = match &loaded.certificate {
            Certificate::NotBefore { at, .. } => Some(*at),
            Certificate::Valid(_) => None,
        };
        // A bundle that could not be used when the process started may be right some time.
        let waiting = believed.is_waiting();
        let all = self.take(loaded, believed, why).await;
        match early {
            _ if waiting || !all => Outcome::Refused(early),
            Some(at) => Outcome::NotBefore(at),
            None => Outcome::Taken,
        }
    }

    /// Puts files that were read whole in the place of the old ones. Gives whether all was read for that.
    async fn take(&mut self, loaded: Loaded, believed: Believed, why: Why) -> bool {
        // Something may have been applied while the files were read.
        let applied = self.knowledge.sources().1;
        let links = linked(&self.gateway, &loaded.files, &applied);
        let (believed, all) = self.believed_of(&links, believed).await;
        let old = self.shared.local.borrow().clone();
        let (credentials, early) = match &loaded.certificate {
            Certificate::Valid(credentials) => (credentials.clone(), None),
            Certificate::NotBefore { why, .. } => (old.credentials.clone(), Some(why)),
        };
        let mut others = Vec::new();
        if old.credentials.chain() != credentials.chain() {
            others.push(format!("certificate {}", What::Changed));
        }
        let bundles = believed.trust.changed_since(&old.trust);
        others.extend(bundles.map(|cluster| format!("bundle of {cluster} {}", What::Changed)));
        // First what new tunnels are made with, then what they are for. No await in between: nothing on this thread sees
        // one without the other.
        if !others.is_empty() {
            let trust = believed.trust.clone();
            self.shared.local.send_modify(|local| (local.credentials, local.trust) = (credentials, trust));
        }
        self.believed = believed;
        let changed = self.declare(loaded.files.clone(), applied);
        self.report.taken(early);
        if changed.changes.is_empty() && others.is_empty() && !changed.conditions {
            if why == Why::Told {
                info!("Configuration reloaded: nothing changed.");
            }
            return all;
        }
        loaded.say_warnings();
        self.believed.say_warnings(&self.gateway);
        say("taken from the files", changed.changes.iter().chain(&others), why.said());
        all
    }

    /// Puts what is applied now in the place of what was. Gives whether all was read for that.
    async fn apply(&mut self, applied: AppliedObjects) -> bool {
        let files = self.knowledge.sources().0;
        let links = linked(&self.gateway, &files, &applied);
        let (believed, all) = self.believed_of(&links, self.believed.clone()).await;
        let old = self.shared.local.borrow().trust.clone();
        // As in `take`.
        if believed.trust.changed_since(&old).next().is_some() {
            self.shared.local.send_modify(|local| local.trust = believed.trust.clone());
        }
        self.believed = believed;
        let changed = self.declare(files, applied);
        if changed.conditions {
            self.believed.say_warnings(&self.gateway);
        }
        say("applied", changed.changes.iter(), "`ringway apply` or `delete`");
        all
    }

    /// Whom to believe of `links`, if `known` are believed: bundles of links that are new are read, unless the disk hangs.
    /// Gives whether they were.
    async fn believed_of(&self, links: &Linked, known: Believed) -> (Believed, bool) {
        let unread = format!("its trust bundle was not read within {SLOW:?}: does the file system hang?");
        let (narrowed, fresh) = known.narrowed(links, &unread);
        if !fresh {
            return (narrowed, true);
        }
        let (gateway, links) = (self.gateway.clone(), links.clone());
        let read = self.reader.within(SLOW, move || believe(&gateway, &links, &known.trust)).await;
        read.map_or((narrowed, false), |believed| (believed, true))
    }

    /// What is declared from now on: links are dialled or left, whatever declares them.
    fn declare(&self, files: Arc<Declared>, applied: AppliedObjects) -> Changed {
        let untrusted = self.believed.conditions(&self.gateway);
        let Change { before, after, conditions } = self.knowledge.declare(files, applied, untrusted);
        self.shared.peers.relink(&after.links);
        for gone in before.links.keys().filter(|cluster| !after.links.contains_key(cluster)) {
            self.shared.metrics.forget_peer(gone.as_str());
        }
        let changes = change::changes(&before, &after);
        let changes = changes.iter().map(|change| format!("{} {}", change.object, change.what)).collect();
        Changed { changes, conditions }
    }
}

/// Leaves an audit line for each of `changes` that was `taken`.
fn say<'a>(taken: &str, changes: impl Iterator<Item = &'a String>, why: &str) {
    let mut more = 0_usize;
    for (n, change) in changes.enumerate() {
        if n < NAMED_MAX {
            audit::change(format_args!("{taken}: {change}"), change, why, "subsequent requests");
        } else {
            more += 1;
        }
    }
    if more > 0 {
        let what = format!("{more} further objects");
        audit::change(format_args!("further changes {taken}"), what, why, "subsequent requests");
    }
}

/// Ends tunnels whose peers are not believed any more, and has those replaced that were made with an older certificate
/// of ours: at every change of certificates and bundles, and as time goes on. `and_others` does so with what are no peers.
pub(super) async fn judge_tunnels(shared: Arc<Shared>, and_others: impl Fn(&Local, SystemTime)) {
    let mut local = shared.local.subscribe();
    while !shared.stop.is_cancelled() {
        let now = local.borrow_and_update().clone();
        let time = SystemTime::now();
        shared.peers.judge(&now.trust, &now.credentials, time);
        shared.peers.forget_gone();
        and_others(&now, time);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            // `shared` holds the sender.
            _ = local.changed() => {}
            () = tokio::time::sleep(JUDGE) => {}
        }
    }
}
