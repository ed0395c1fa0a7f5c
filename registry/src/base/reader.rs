//! Reading from a disk that may hang.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Has disks read on threads that are left behind if that takes too long: one at a time, so that a file system that hangs
/// costs one thread.
#[derive(Clone, Debug)]
pub struct Reader {
    turn: Arc<Semaphore>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Reader {
    /// What `read` gives within `wait`, its turn included; none: it, or an earlier one, is still reading, or panicked.
    pub async fn within<T: Send + 'static>(
        &self,
        wait: Duration,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let reading = async {
            // Never closed.
            let turn = self.turn.clone().acquire_owned().await.ok()?;
            let reading = spawn_blocking(move || {
                let _turn = turn;
                read()
            });
            reading.await.ok()
        };
        timeout(wait, reading).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::mpsc::sync_channel;

    use super::*;

    const WAIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_hangs_is_left_behind_and_nobody_else_starts_meanwhile() {
        let reader = Reader::default();
        let (answer, hangs) = sync_channel::<()>(0);
        assert_eq!(reader.within(WAIT, move || hangs.recv()).await, None);
        assert_eq!(reader.within(WAIT, || unreachable!("the first one is still reading")).await, None::<()>);
        answer.send(()).unwrap();
        assert_eq!(reader.within(Duration::from_secs(60), || 7).await, Some(7));
    }
}
