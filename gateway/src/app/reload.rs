//! Changes that take effect while the gateway serves: manifests, certificates, keys and bundles.
//!
//! A change is taken whole or not at all: everything is read and checked before anything is touched, and what cannot be
//! used is said in the log and in `status` while the old state serves on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::TrustError;
use registry::model::{Condition, Gateway};
use tokio::signal::unix::Signal;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tunnel::Local;

use super::change::{self, What};
use super::changes::Files;
use super::load::{LoadError, Loaded, load};
use crate::audit;
use crate::sync::Knowledge;
use crate::worker::Shared;

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

    /// Everything that is known of it, in one line.
    fn text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text.lines().map(str::trim).collect::<Vec<_>>().join("; ")
    }
}

/// Watches the files of a running gateway and takes what changes.
pub(super) struct Reloader {
    pub(super) files: Files,
    /// As it is declared since the start.
    pub(super) gateway: Arc<Gateway>,
    pub(super) shared: Arc<Shared>,
    pub(super) knowledge: Arc<Knowledge>,
}

impl Reloader {
    /// Takes every change, and reads everything again at each `hangup`, until `stop`.
    pub(super) async fn run(mut self, mut hangup: Signal, stop: CancellationToken) {
        loop {
            let told = tokio::select! {
                () = stop.cancelled() => return,
                told = self.files.changed(&mut hangup) => told,
            };
            match self.read().await {
                Ok(loaded) => self.take(loaded, told),
                Err(refused) => self.refuse(&refused),
            }
        }
    }

    async fn read(&self) -> Result<Loaded, Refused> {
        let files = self.files.manifests().to_vec();
        let mut loaded = spawn_blocking(move || load(&files)).await??;
        let restart = change::needs_restart(&self.gateway, &loaded.gateway);
        if !restart.is_empty() {
            return Err(Refused::Restart(restart.join(", ")));
        }
        let known = self.knowledge.declared().1;
        let was_known = |problem: &(String, TrustError)| {
            known.iter().any(|c| c.reason == super::load::BUNDLE && c.message == problem.1.to_string())
        };
        let fresh = |problem: &(String, TrustError)| {
            !matches!(problem.1, TrustError::Missing { .. }) && !was_known(problem)
        };
        match loaded.untrusted.iter().position(fresh) {
            None => Ok(loaded),
            Some(first) => {
                let (cluster, problem) = loaded.untrusted.swap_remove(first);
                Err(Refused::Bundle(cluster, problem))
            }
        }
    }

    /// Puts a state that was read whole in the place of the old one.
    fn take(&self, loaded: Loaded, told: bool) {
        let (before, known) = self.knowledge.declared();
        let conditions = loaded.conditions();
        let old = self.shared.local.borrow().clone();
        let mut changes: Vec<String> = change::changes(&before, &loaded.declared)
            .iter()
            .map(|change| format!("{} {}", change.object, change.what))
            .collect();
        if old.credentials.chain() != loaded.credentials.chain() {
            changes.push(format!("certificate {}", What::Changed));
        }
        let bundles = loaded.trust.changed_since(&old.trust);
        changes.extend(bundles.map(|cluster| format!("bundle of {cluster} {}", What::Changed)));
        if changes.is_empty() && conditions == known {
            if told {
                info!("Read again: nothing has changed.");
            }
            // What was refused before may have been taken back.
            self.knowledge.accept();
            return;
        }
        loaded.say_warnings();
        let why = if told { "SIGHUP" } else { "the files look changed" };
        for change in changes.iter().take(NAMED_MAX) {
            audit::change(
                format_args!("taken from the files: {change}"),
                change,
                why,
                "what comes from now on",
            );
        }
        if let Some(more) = changes.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            let what = format!("{more} further objects");
            audit::change("further changes taken from the files", what, why, "what comes from now on");
        }
        // First what new tunnels are made with, then what they are for. No await in between: nothing on this thread sees
        // one without the other.
        self.shared.local.send_modify(|local| {
            local.credentials = loaded.credentials;
            local.trust = loaded.trust;
        });
        let links = loaded.declared.links.clone();
        self.knowledge.declare(loaded.declared, conditions);
        self.shared.peers.relink(&links);
        for gone in before.links.keys().filter(|cluster| !links.contains_key(cluster)) {
            self.shared.metrics.forget_peer(gone.as_str());
        }
    }

    fn refuse(&self, refused: &Refused) {
        let message = refused.text();
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
