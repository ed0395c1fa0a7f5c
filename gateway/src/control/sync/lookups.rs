//! Tells sidecars what the names mean that they use: at once when one is asked for, and whenever it changes.
//!
//! A name is looked at once, however many use it, and only when there is news; whoever uses it hears of a change, and
//! nothing is done for a stream that none concerns. What one tunnel and one workload may ask for is limited, and how
//! fast: each question has its turn among those of others.
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | streams of a tunnel; of a workload; in all | [`LOOKUPS_EACH_MAX`](crate::peers::sidecars::LOOKUPS_EACH_MAX); [`LOOKUPS_OF_ONE_MAX`](crate::peers::sidecars::LOOKUPS_OF_ONE_MAX); [`STREAMS_MAX`] | refused |
//! | names of a stream; of a workload; in all | [`LOOKUP_NAMES_MAX`]; [`NAMES_OF_ONE_MAX`](crate::peers::sidecars::NAMES_OF_ONE_MAX); [`NAMES_MAX`] | the stream is ended |
//! | questions of a workload | [`Workload::asks`](crate::peers::sidecars::Workload::asks) | wait |

mod book;
mod moment;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proto::limits::{LOOKUP_NAMES_MAX, NAME_BYTES_MAX};
use proto::lookup::{Answer, Ask, ask};
use proto::message::encode_message;
use registry::base::time::Tick;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;
use tracing::debug;
use tunnel::TunnelError;

use self::book::{Book, Inbox, Word};
use self::moment::Moment;
use crate::base::news::Follower;
use crate::peers::sidecars::{NAMES_OF_ONE_MAX, Workload};
use crate::proxy::worker::{LookupStream, Shared};
use crate::telemetry::limited::limited;
use crate::telemetry::metrics::{InProgress, InProgressGuard};

/// Changes are told at most so often: many come best at once.
const PAUSE: Duration = Duration::from_millis(50);
/// Lookup streams at once: one for each sidecar, and the ones that they replace.
const STREAMS_MAX: usize = 8192;
/// Names that all of them use together, each counted as often as it is used: a few dozen for each.
const NAMES_MAX: u64 = 64 * STREAMS_MAX as u64;
/// Names that are said anew in one go: the control plane has other things to do.
const RENEW_BATCH: usize = 16;
/// Bytes of an answer that count as one more question.
const BYTES_OF_A_QUESTION: usize = 1024;

/// What all streams share.
#[derive(Debug)]
struct Desk {
    shared: Arc<Shared>,
    /// Short sections without await, on the control plane only.
    book: Mutex<Book>,
    /// Told when the book is to be looked at sooner than was planned.
    sooner: Notify,
    /// Names that all streams use.
    names: Arc<InProgress>,
}

/// Answers every stream of `lookups` until the process drains.
pub async fn answer_sidecars(shared: Arc<Shared>, mut lookups: mpsc::Receiver<LookupStream>) {
    let news = shared.news.follow();
    let Some(moment) = Moment::of(shared.view.load_full()) else { return };
    let book = Mutex::new(Book::new(shared.domain.clone(), moment));
    let desk = Arc::new(Desk { shared: shared.clone(), book, sooner: Notify::new(), names: Arc::default() });
    let mut following = std::pin::pin!(desk.follow(news));
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            never = &mut following => match never {},
            Some(stream) = lookups.recv() => {
                if streams.len() < STREAMS_MAX {
                    streams.spawn(answer(desk.clone(), stream));
                } else {
                    limited!(
                        WARN, KNOWN, stream.sidecar, "Refused a lookup stream: as many as are allowed are open.",
                        sidecar = stream.sidecar, most = STREAMS_MAX
                    );
                }
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

impl Desk {
    /// Keeps the book as things are.
    async fn follow(&self, mut news: Follower) -> Infallible {
        loop {
            let until = self.book().until();
            let left = until.map(|until| Duration::from_micros(until.since(self.now())));
            tokio::select! {
                () = news.changed() => {}
                () = self.sooner.notified() => continue,
                () = sleep(left.unwrap_or_default()), if left.is_some() => {}
            }
            let changed = self.book().look(self.shared.view.load_full(), self.now());
            for names in changed.chunks(RENEW_BATCH) {
                names.iter().for_each(|name| self.book().renew(name, self.now()));
                yield_now().await;
            }
            sleep(PAUSE).await;
        }
    }

    fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Whoever panicked left a book that is whole, but for the word on a name: that is said anew with the next change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's part of the book; what it uses is given up with it.
struct Following {
    desk: Arc<Desk>,
    workload: Arc<Workload>,
    number: u64,
    inbox: Arc<Inbox>,
    using: HashMap<Arc<str>, Using>,
}

/// A name that a stream uses.
struct Using {
    /// The number of the word that it was told last.
    told: u64,
    rooms: [InProgressGuard; 2],
}

async fn answer(desk: Arc<Desk>, stream: LookupStream) {
    let sidecar = stream.sidecar.clone();
    if let Err(error) = follow(desk, stream).await {
        debug!(sidecar, %error, "Lookup stream ended.");
    }
}

/// Answers one stream until its end.
async fn follow(desk: Arc<Desk>, stream: LookupStream) -> Result<(), TunnelError> {
    let LookupStream { mut reader, mut writer, workload, room: _room, .. } = stream;
    let mut of_it = Following::new(desk, workload);
    let inbox = of_it.inbox.clone();
    loop {
        tokio::select! {
            asked = reader.next::<Ask>() => {
                let Some(asked) = asked? else { return Ok(()) };
                of_it.wait_for_turn().await;
                if let Some(message) = of_it.hear(asked)? {
                    writer.send_encoded(message).await?;
                }
                // However many are here already: it is the turn of others.
                yield_now().await;
            }
            names = inbox.take() => {
                for name in names {
                    if let Some(message) = of_it.news(&name) {
                        writer.send_encoded(message).await?;
                    }
                }
            }
        }
    }
}

impl Following {
    fn new(desk: Arc<Desk>, workload: Arc<Workload>) -> Self {
        let number = desk.book().number();
        Self { desk, workload, number, inbox: Arc::default(), using: HashMap::new() }
    }

    /// Waits until its workload may ask once more.
    async fn wait_for_turn(&self) {
        let wait = self.workload.asks.book(1, self.desk.now());
        // Even the shortest sleep takes a millisecond.
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// What is to be answered.
    fn hear(&mut self, asked: Ask) -> Result<Option<Bytes>, TunnelError> {
        match asked.kind {
            // What is no name means nothing for ever, and is not kept.
            Some(ask::Kind::Use(name)) if name.len() > NAME_BYTES_MAX => {
                Ok(Some(encode_message(&Answer { name, meaning: None }).into()))
            }
            Some(ask::Kind::Use(name)) => self.use_name(name.into()).map(Some),
            Some(ask::Kind::Leave(name)) => {
                if self.using.remove(&*name).is_some() {
                    self.desk.book().leave(&name, self.number);
                }
                Ok(None)
            }
            // A newer sidecar says more.
            None => Ok(None),
        }
    }

    fn use_name(&mut self, name: Arc<str>) -> Result<Bytes, TunnelError> {
        let rooms = match self.using.remove(&name) {
            Some(using) => using.rooms,
            None if self.using.len() >= LOOKUP_NAMES_MAX => {
                return Err(TunnelError::Protocol(format!("more than {LOOKUP_NAMES_MAX} names")));
            }
            None => {
                let of_it = self.workload.names.enter(NAMES_OF_ONE_MAX);
                let (Some(of_it), Some(of_all)) = (of_it, self.desk.names.enter(NAMES_MAX)) else {
                    return Err(TunnelError::Protocol("its workload uses too many names".into()));
                };
                [of_it, of_all]
            }
        };
        let (told, message): Word = {
            let mut book = self.desk.book();
            let before = book.until();
            let word = book.follow(&name, self.number, &self.inbox, self.desk.now());
            if book.until() != before {
                self.desk.sooner.notify_one();
            }
            word
        };
        // What it costs to say counts, too; that is waited for before the next.
        self.workload.asks.book((message.len() / BYTES_OF_A_QUESTION) as u64, self.desk.now());
        self.using.insert(name, Using { told, rooms });
        Ok(message)
    }

    /// What is to be said of a name on which there was another word; it may have heard it meanwhile, or left the name.
    fn news(&mut self, name: &str) -> Option<Bytes> {
        let using = self.using.get_mut(name)?;
        let (number, message) = self.desk.book().word(name)?;
        (std::mem::replace(&mut using.told, number) != number).then_some(message)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut book = self.desk.book();
        self.using.keys().for_each(|name| book.leave(name, self.number));
    }
}
