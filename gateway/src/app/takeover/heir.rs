//! The process that takes over.

use std::io;
use std::num::NonZeroU8;
use std::time::Duration;

use registry::model::Gateway;
use tokio::net::UnixStream;
use tracing::{info, warn};

use super::wire::{Line, Word};
use super::{FILE, TakeOverError, VERSION};
use crate::base::given::Given;

/// The elder answers within that.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// It saves its last catalog within that, on a disk that may be slow.
const LEND_WAIT: Duration = Duration::from_secs(30);
/// The process before it, which it waits for, drains for less than that.
const DRAIN_WAIT: Duration = Duration::from_secs(60);

/// An elder that hands over.
#[derive(Debug)]
pub(in crate::app) struct Heir {
    line: Line,
    /// The elder's start.
    pub(in crate::app) boot: u64,
    /// The threads of its data plane: there is a socket for each.
    pub(in crate::app) workers: NonZeroU8,
}

impl Heir {
    /// Asks the process that works with the state directory of `gateway` for its sockets, which are `given` then. None: there
    /// is no such process.
    ///
    /// # Errors
    /// [`TakeOverError`]: it goes on as if nobody had asked.
    pub(in crate::app) async fn ask(gateway: &Gateway, given: &Given) -> Result<Option<Self>, TakeOverError> {
        let path = gateway.state_dir.join(FILE);
        let stream = match UnixStream::connect(&path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                warn!(path = %path.display(), "No gateway runs here to take over from; starting as usual.");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let mut line = Line::new(stream);
        let (cluster, id) = (gateway.cluster.to_string(), gateway.id.clone());
        line.say(&Word::Ask { version: VERSION, cluster, gateway: id }).await?;
        let mut wait = ANSWER_WAIT;
        let (boot, workers, process) = loop {
            match line.hear(wait).await?.0 {
                Word::Offer { boot, workers, process } => break (boot, workers, process),
                Word::Wait => {
                    info!("Waiting: the process that the running gateway has taken over from still drains.");
                    wait = DRAIN_WAIT;
                }
                Word::Refused { why } => return Err(TakeOverError::Refused(why)),
                _ => return Err(TakeOverError::Unexpected),
            }
        };
        let mut sockets = 0_usize;
        loop {
            match line.hear(ANSWER_WAIT).await? {
                (Word::Socket { file }, Some(socket)) => given.add(socket, file),
                (Word::All, None) => break,
                _ => return Err(TakeOverError::Unexpected),
            }
            sockets += 1;
        }
        info!(process, sockets, "Taking over.");
        Ok(Some(Self { line, boot, workers }))
    }

    /// Returns once state directory, registry and id are free for this process.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::app) async fn borrow(&mut self) -> Result<(), TakeOverError> {
        self.ask_for(&Word::Lend, &Word::Lent, LEND_WAIT).await
    }

    /// From when this returns the elder does not read the port of the tunnels any more; gives the stream on which it takes
    /// what is its tunnels'. Unless this process `reads` that port, nothing changes.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::app) async fn switch(&mut self, reads: bool) -> Result<Option<UnixStream>, TakeOverError> {
        self.line.say(&Word::Switch { reads }).await?;
        match self.line.hear(ANSWER_WAIT).await? {
            (Word::Switched, Some(stream)) if reads => {
                let stream = std::os::unix::net::UnixStream::from(stream);
                stream.set_nonblocking(true)?;
                Ok(Some(UnixStream::from_std(stream)?))
            }
            (Word::Switched, None) if !reads => Ok(None),
            _ => Err(TakeOverError::Unexpected),
        }
    }

    /// The tunnels that this process dials are up. From when this returns those that others dial come to it.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::app) async fn up(&mut self) -> Result<(), TakeOverError> {
        self.ask_for(&Word::Up, &Word::Moved, ANSWER_WAIT).await
    }

    /// From when this returns the elder drains.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(in crate::app) async fn ready(&mut self) -> Result<(), TakeOverError> {
        self.ask_for(&Word::Ready, &Word::Yours, ANSWER_WAIT).await
    }

    async fn ask_for(&mut self, said: &Word, answer: &Word, wait: Duration) -> Result<(), TakeOverError> {
        self.line.say(said).await?;
        match self.line.hear(wait).await? {
            (heard, None) if heard == *answer => Ok(()),
            _ => Err(TakeOverError::Unexpected),
        }
    }

    /// Waits until the elder has ended.
    pub(in crate::app) async fn elder_ended(mut self) {
        self.line.ended().await;
        info!("The process that was taken over has ended.");
    }
}
