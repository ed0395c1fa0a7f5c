//! The rest of a request's body, sent beside its answer.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::RequestBody;

/// A task of an exchange that must not outlive it.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is still to be sent of a request whose answer has begun. It ends with the answer, if that ends early; behind a
/// whole answer it goes on for as long as it moves: whoever answered may still want the rest.
#[derive(Debug)]
pub struct Upload {
    task: AbortOnDrop,
    body: RequestBody,
    /// Cancelled when the process drains.
    stop: CancellationToken,
}

impl Upload {
    /// `sending` sends `body`, until `stop` is cancelled if that comes after the answer.
    pub fn begin(
        sending: impl Future<Output = ()> + 'static,
        body: RequestBody,
        stop: CancellationToken,
    ) -> Self {
        Self { task: AbortOnDrop(tokio::task::spawn_local(sending)), body, stop }
    }

    /// Ready when whoever makes the request has broken it off: nobody waits for its answer any more.
    pub fn poll_failed(&self, cx: &Context<'_>) -> Poll<()> {
        self.body.poll_failed(cx)
    }

    /// The answer is through: from now on it ends when nothing moves for `idle`.
    pub fn go_on(self, idle: Duration) {
        let Self { mut task, body, stop } = self;
        if !task.0.is_finished() {
            tokio::task::spawn_local(async move {
                tokio::select! {
                    _ = &mut task.0 => {}
                    () = body.until_idle(idle, &stop) => {}
                }
            });
        }
    }
}
