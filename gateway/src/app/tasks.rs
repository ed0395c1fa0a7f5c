//! The tasks of a process, each with a name: which of them do not end is told.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};
use tracing::error;

/// Those that a process has started; they end with it.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts one.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Starts one on this thread.
    pub(super) fn spawn_local(&mut self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let id = self.set.spawn_local(task).id();
        self.names.insert(id, name);
    }

    /// Waits until all have ended. Cancel safe.
    pub(super) async fn ended(&mut self) {
        while let Some(ended) = self.set.join_next_with_id().await {
            self.end(ended);
        }
    }

    /// The names of those that have not ended.
    pub(super) fn left(&mut self) -> Vec<&'static str> {
        while let Some(ended) = self.set.try_join_next_with_id() {
            self.end(ended);
        }
        let mut left: Vec<_> = self.names.values().copied().collect();
        left.sort_unstable();
        left
    }

    fn end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let task = self.names.remove(&id);
        if let Err(failed) = ended {
            error!(task, error = %failed, "A task failed.");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_that_do_not_end_are_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("checks", std::future::pending());
        tasks.spawn("digests", async {});
        tasks.spawn("audit", std::future::pending());
        tokio::task::yield_now().await;
        assert_eq!(tasks.left(), ["audit", "checks"]);
        assert!(timeout(Duration::from_secs(1), tasks.ended()).await.is_err());
        assert_eq!(tasks.left(), ["audit", "checks"]);
    }
}
