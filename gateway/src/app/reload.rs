//! Changes that take effect while the gateway serves: manifests, certificates, keys and bundles in files, and what is
//! applied.
//!
//! A change is taken whole or not at all: everything is read and checked before anything is touched, and what cannot be
//! used is said in the log and in `status` while the old state serves on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::TrustError;
use registry::model::{Condition, Gateway};
use registry::sources::{AppliedObjects, Files as Declared};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tunnel::Local;

use super::change::{self, What};
use super::changes::Files;
use super::load::{Believed, LoadError, Loaded, believe, load};
use crate::audit;
use crate::sync::{Change, Knowledge};
use crate::worker::Shared;
use registry::causes::line;

/// How often tunnels are held against the clock and the certificates of the moment.
const JUDGE: Duration = Duration::from_secs(5);
/// Objects of one change that are named in the log; more are counted.
const NAMED_MAX: usize = 50;

/// Why a change was not taken.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// The files cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A bundle that this change touches cannot be used. One that is gone is no error: it takes the link down.
    #[error("the trust bundle of `{0}` cannot be used")]
    Bundle(String, #[source] TrustError),
    /// It changes what is read at the start only.
    #[error("{0} cannot change while the gateway runs: restart it, or put the old value back")]
    Restart(String),
    /// Reading panicked.
    #[error("reading the files failed")]
    Read(#[from] tokio::task::JoinError),
}

/// What became of a change of what is declared.
struct Changed {
    /// Object by object.
    changes: Vec<String>,
    /// Whether something else is left open than before.
    conditions: bool,
}

/// Leaves an audit line for each of `changes` that was `taken`.
fn say<'a>(taken: &str, changes: impl Iterator<Item = &'a String>, why: &str) {
    let mut more = 0_usize;
    for (n, change) in changes.enumerate() {
        if n < NAMED_MAX {
            audit::change(format_args!("{taken}: {change}"), change, why, "what comes from now on");
        } else {
            more += 1;
        }
    }
    if more > 0 {
        let what = format!("{more} further objects");
        audit::change(format_args!("further changes {taken}"), what, why, "what comes from now on");
    }
}

impl Refused {
    /// CamelCase word for machines.
    fn reason(&self) -> &'static str {
        match self {
            Self::Load(LoadError::Manifests(_)) => "InvalidManifests",
            Self::Load(
                LoadError::Identity(_) | LoadError::WrongIdentity { .. } | LoadError::NoWorkload { .. },
            ) => "InvalidIdentity",
            Self::Load(LoadError::OwnBundle(_)) => "InvalidBundle",
            Self::Bundle(..) => "InvalidBundle",
            Self::Restart(_) => "RestartNeeded",
            Self::Read(_) => "NotRead",
        }
    }
}

/// Takes what changes in the files of a running gateway and what is applied to it.
pub(super) struct Reloader {
    pub(super) manifests: Vec<PathBuf>,
    /// As it is declared since the start.
    pub(super) gateway: Arc<Gateway>,
    pub(super) shared: Arc<Shared>,
    pub(super) knowledge: Arc<Knowledge>,
}

/// Tells `reloader` whenever the files are to be read again (true: a SIGHUP asks for it), until `stop`.
pub(super) async fn watch_files(
    mut files: Files,
    mut hangup: Signal,
    reloader: mpsc::Sender<bool>,
    stop: CancellationToken,
) {
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => return,
            told = files.changed(&mut hangup) => told,
        };
        if reloader.send(told).await.is_err() {
            return;
        }
    }
}

impl Reloader {
    /// Takes every change of the files and of what is applied until `stop`.
    pub(super) async fn run(
        self,
        mut files: mpsc::Receiver<bool>,
        mut applied: watch::Receiver<AppliedObjects>,
        stop: CancellationToken,
    ) {
        loop {
            let taken = tokio::select! {
                () = stop.cancelled() => return,
                Some(told) = files.recv() => match self.read().await {
                    Ok((loaded, believed)) => {
                        self.take(loaded, believed, told);
                        Ok(())
                    }
                    Err(refused) => Err(refused),
                },
                Ok(()) = applied.changed() => {
                    let objects = applied.borrow_and_update().clone();
                    self.apply(objects).await
                }
                else => return,
            };
            if let Err(refused) = taken {
                self.refuse(&refused);
            }
        }
    }

    async fn read(&self) -> Result<(Loaded, Believed), Refused> {
        let files = self.manifests.clone();
        let loaded = spawn_blocking(move || load(&files)).await??;
        let restart = change::needs_restart(&self.gateway, &loaded.gateway);
        if !restart.is_empty() {
            return Err(Refused::Restart(restart.join(", ")));
        }
        let mut believed = self.believe(loaded.files.clone(), self.knowledge.sources().1).await?;
        let known = self.knowledge.untrusted();
        let was_known =
            |problem: &(String, TrustError)| known.iter().any(|c| c.message == problem.1.to_string());
        let fresh = |problem: &(String, TrustError)| {
            !matches!(problem.1, TrustError::Missing { .. }) && !was_known(problem)
        };
        match believed.untrusted.iter().position(fresh) {
            None => Ok((loaded, believed)),
            Some(first) => {
                let (cluster, problem) = believed.untrusted.swap_remove(first);
                Err(Refused::Bundle(cluster, problem))
            }
        }
    }

    async fn believe(&self, files: Arc<Declared>, applied: AppliedObjects) -> Result<Believed, Refused> {
        let (gateway, before) = (self.gateway.clone(), self.shared.local.borrow().trust.clone());
        Ok(spawn_blocking(move || believe(&gateway, &files, &applied, &before)).await?)
    }

    /// Puts files that were read whole in the place of the old ones.
    fn take(&self, loaded: Loaded, believed: Believed, told: bool) {
        let old = self.shared.local.borrow().clone();
        let mut others = Vec::new();
        if old.credentials.chain() != loaded.credentials.chain() {
            others.push(format!("certificate {}", What::Changed));
        }
        let bundles = believed.trust.changed_since(&old.trust);
        others.extend(bundles.map(|cluster| format!("bundle of {cluster} {}", What::Changed)));
        // First what new tunnels are made with, then what they are for. No await in between: nothing on this thread sees
        // one without the other.
        if !others.is_empty() {
            self.shared.local.send_modify(|local| {
                (local.credentials, local.trust) = (loaded.credentials.clone(), believed.trust.clone());
            });
        }
        let applied = self.knowledge.sources().1;
        let changed = self.declare(loaded.files.clone(), applied, &believed);
        self.knowledge.accept();
        if changed.changes.is_empty() && others.is_empty() && !changed.conditions {
            if told {
                info!("Read again: nothing has changed.");
            }
            return;
        }
        loaded.say_warnings();
        believed.say_warnings(&self.gateway);
        let why = if told { "SIGHUP" } else { "the files look changed" };
        say("taken from the files", changed.changes.iter().chain(&others), why);
    }

    /// Puts what is applied now in the place of what was.
    async fn apply(&self, applied: AppliedObjects) -> Result<(), Refused> {
        let files = self.knowledge.sources().0;
        let believed = self.believe(files.clone(), applied.clone()).await?;
        let old = self.shared.local.borrow().trust.clone();
        // As in `take`.
        if believed.trust.changed_since(&old).next().is_some() {
            self.shared.local.send_modify(|local| local.trust = believed.trust.clone());
        }
        let changed = self.declare(files, applied, &believed);
        if changed.conditions {
            believed.say_warnings(&self.gateway);
        }
        say("applied", changed.changes.iter(), "`ringway apply` or `delete`");
        Ok(())
    }

    /// What is declared from now on: links are dialled or left, whatever declares them.
    fn declare(&self, files: Arc<Declared>, applied: AppliedObjects, believed: &Believed) -> Changed {
        let untrusted = believed.conditions(&self.gateway);
        let Change { before, after, conditions } = self.knowledge.declare(files, applied, untrusted);
        self.shared.peers.relink(&after.links);
        for gone in before.links.keys().filter(|cluster| !after.links.contains_key(cluster)) {
            self.shared.metrics.forget_peer(gone.as_str());
        }
        let changes = change::changes(&before, &after);
        let changes = changes.iter().map(|change| format!("{} {}", change.object, change.what)).collect();
        Changed { changes, conditions }
    }

    fn refuse(&self, refused: &Refused) {
        let message = line(refused);
        error!(
            reason = refused.reason(),
            error = message,
            "A change of the files was refused; the old state serves on."
        );
        self.knowledge.refuse(Condition {
            object: format!("Gateway {}", self.gateway.id),
            kind: "Accepted",
            status: false,
            reason: refused.reason(),
            message,
        });
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
        and_others(&now, time);
        tokio::select! {
            () = shared.stop.cancelled() => {}
            // `shared` holds the sender.
            _ = local.changed() => {}
            () = tokio::time::sleep(JUDGE) => {}
        }
    }
}
