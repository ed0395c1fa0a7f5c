//! A thread of its own for what linked clusters have us read: however much they ask, the process saves its catalog and
//! answers its own operators beside it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;

/// Work that waits, beyond what is under way: one for each that may be asked at once.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// The thread. It ends with the last handle.
#[derive(Clone, Debug)]
pub struct Pool(SyncSender<Job>);

/// Why some work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// As much waits as may.
    #[error("too much of what linked clusters ask waits already; try again")]
    Full,
    /// It broke off, which is a fault of this version.
    #[error("it broke off")]
    Broke,
}

impl Pool {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start() -> io::Result<Self> {
        let (jobs, todo) = sync_channel::<Job>(QUEUE);
        let run = move || todo.into_iter().for_each(|job| drop(catch_unwind(AssertUnwindSafe(job))));
        std::thread::Builder::new().name("remote".into()).spawn(run)?;
        Ok(Self(jobs))
    }

    /// Does `work` after what was given before. Work that nobody waits for any more is not begun; what is begun goes on
    /// to its end, and holds until then whatever `work` does.
    ///
    /// # Errors
    /// [`NotDone`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let (done, result) = oneshot::channel();
        let job = move || {
            if !done.is_closed() {
                // Nobody may be left to hear of it.
                let _ = done.send(work());
            }
        };
        self.0.try_send(Box::new(job)).map_err(|_| NotDone::Full)?;
        result.await.map_err(|_| NotDone::Broke)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    type Work<'p> = Pin<Box<dyn Future<Output = Result<(), NotDone>> + 'p>>;

    #[tokio::test]
    async fn what_is_begun_goes_on_and_holds_its_permit_although_nobody_waits() {
        let pool = Pool::start().unwrap();
        let permit = Arc::new(());
        let (begin, begun) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::sync_channel(1);
        let held = permit.clone();
        let mut first = Box::pin(pool.run(move || {
            begin.send(()).unwrap();
            ended.recv().unwrap();
            drop(held);
        }));
        assert!(polled(&mut first).is_none());
        begun.recv().unwrap();
        drop(first);
        assert_eq!(Arc::strong_count(&permit), 2, "the work is not over");
        // What waits behind it and is not waited for is not begun.
        let held = permit.clone();
        let mut second = Box::pin(pool.run::<()>(move || {
            let _held = held;
            panic!("nobody waits");
        }));
        assert!(polled(&mut second).is_none());
        drop(second);
        end.send(()).unwrap();
        assert_eq!(pool.run(|| 7).await, Ok(7));
        assert_eq!(Arc::strong_count(&permit), 1);
    }

    #[tokio::test]
    async fn it_is_bounded_and_outlives_what_breaks_off() {
        let pool = Pool::start().unwrap();
        assert_eq!(pool.run(|| panic!("for the test")).await, Err::<(), _>(NotDone::Broke));
        let (end, ended) = mpsc::sync_channel::<()>(1);
        let first = pool.run(move || {
            let _ = ended.recv();
        });
        let mut waiting: Vec<Work<'_>> = vec![Box::pin(first)];
        assert!(polled(&mut waiting[0]).is_none());
        let full = loop {
            waiting.push(Box::pin(pool.run(|| ())));
            if let Some(done) = waiting.last_mut().and_then(polled) {
                break done;
            }
        };
        assert!(waiting.len() > QUEUE);
        assert_eq!(full, Err(NotDone::Full));
        end.send(()).unwrap();
    }

    fn polled<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match Pin::new(future).poll(&mut cx) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }
}
