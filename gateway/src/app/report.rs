//! What does not hold of the files of a process at the moment: for its conditions, and once for its log.

use std::time::{Duration, SystemTime};

use identity::IdentityError;
use registry::base::causes::line;
use registry::model::{Condition, Reason, Subject};
use tracing::{error, info, warn};

use super::load::Refused;
use super::pace::AGAIN_MAX;
use super::watcher::SLOW;

/// What is not as the files say, or not known.
#[derive(Debug)]
pub(super) struct Report {
    /// The process.
    object: Subject,
    /// The disk does not answer.
    slow: bool,
    refused: Option<Said>,
    waits: Option<Said>,
}

/// A reason for machines, and a sentence for people.
type Said = (Reason, String);

impl Report {
    /// Of the process that is `object`: nothing is wrong yet.
    pub(super) fn new(object: Subject) -> Self {
        Self { object, slow: false, refused: None, waits: None }
    }

    /// The disk has not answered for a while.
    pub(super) fn slow(&mut self) {
        self.slow = true;
        error!("{}; what they held last serves on.", unread());
    }

    /// The disk answers.
    pub(super) fn answers(&mut self) {
        if std::mem::take(&mut self.slow) {
            info!("Configuration files readable again.");
        }
    }

    /// A change was refused.
    pub(super) fn refused(&mut self, refused: &Refused) {
        let reason = refused.reason();
        let why = line(refused);
        let said = (reason, format!("{why} (tried again when a file changes, and every {AGAIN_MAX:?})"));
        if self.refused.as_ref() != Some(&said) {
            error!(%reason, error = why, "Configuration change rejected; keeping the previous configuration.");
        }
        self.refused = Some(said);
    }

    /// A change that removes `missing` of `known` services is held for `left`.
    pub(super) fn held(&mut self, missing: usize, known: usize, left: Duration) {
        if self.refused.as_ref().is_none_or(|(reason, _)| *reason != Reason::Held) {
            warn!(
                missing,
                known,
                ?left,
                "A change of the files takes many services away at once: it is held, in case they are half written. \
                 SIGHUP takes it now."
            );
        }
        let until = identity::utc(SystemTime::now() + left);
        let message = format!(
            "{missing} of {known} services are missing from the files at once: the change is held until {until}, in case \
             they are half written; SIGHUP takes it now"
        );
        self.refused = Some((Reason::Held, message));
    }

    /// All that can be taken is taken, but for our certificate, if it is too early for that.
    pub(super) fn taken(&mut self, early: Option<&IdentityError>) {
        self.refused = None;
        let waits = early.map(|why| {
            let text = format!("{why}; the one before it is in use until then, and this one is taken then");
            (Reason::CertificateNotYetValid, text)
        });
        if let Some((reason, why)) = waits.as_ref().filter(|_| self.waits != waits) {
            warn!(
                %reason,
                why, "Certificate not yet valid; using the previous one until then."
            );
        }
        self.waits = waits;
    }

    /// As conditions.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let slow =
            self.slow.then(|| (Reason::NotRead, format!("{}; what they held last serves on", unread())));
        let said = slow.into_iter().chain(self.refused.clone()).chain(self.waits.clone());
        let condition = |(reason, message)| Condition::new(self.object.clone(), reason, message);
        said.map(condition).collect()
    }
}

fn unread() -> String {
    format!("the files have not been read for {SLOW:?}: does their file system hang?")
}
