//! Callers that speak Mux: each call on a connection goes where it is placed, many of them at once; an answer goes back as
//! soon as it is there, by the tag of its call. What is about the connection is answered here.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finagle::{CONTROL_TAG, INIT_CHECK, Kind, Status};
use registry::model::Timeout;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Front;
use super::calls::{self, Answer, BYTE_WAIT, Broken, Held, Kept, READ_BYTES, To};
use crate::http::join::End;
use crate::proxy::connection::Opened;
use crate::upstream::Message;

/// Calls of one connection under way at once; of more nothing is done, which their caller is told.
const CALLS_MAX: usize = 1024;
/// A caller that was asked to send no more calls has so long to say that it will not.
const DRAIN_WAIT: Duration = Duration::from_secs(1);
/// Calls that come all the same are told for so long that nothing is done of them; then the connection ends.
const OVER_WAIT: Duration = Duration::from_millis(500);

/// Serves the calls of a connection, which lead to what `authority` names, until its caller has left, it idles for too long,
/// or the process drains.
pub(super) async fn serve(front: impl Front, mut stream: TcpStream, authority: String, opened: Opened) {
    let to = Rc::new(To { front, authority, opened });
    let session = Session { to, under_way: JoinSet::new(), tags: HashMap::new(), drain: Drain::Open };
    match session.run(&mut stream).await {
        Ok(()) => calls::end(stream).await,
        Err(Broken) => drop(End::socket(stream, Bytes::new())),
    }
}

/// One connection.
struct Session<F> {
    to: Rc<To<F>>,
    /// Calls, each with its tag and its answer.
    under_way: JoinSet<(u32, Answer)>,
    /// Those that are waited for.
    tags: HashMap<u32, AbortHandle>,
    drain: Drain,
}

/// Whether calls are to come.
enum Drain {
    Open,
    /// Its caller was asked to send no more, and has so long to say that it will not.
    Asked(Pin<Box<Sleep>>),
    /// None are served any more, which those that come are told for so long.
    Over(Pin<Box<Sleep>>),
    Ended,
}

impl<F: Front> Session<F> {
    async fn run(mut self, stream: &mut TcpStream) -> Result<(), Broken> {
        let worker = self.to.front.worker().clone();
        let shared = &worker.shared;
        let (mut read, mut write) = stream.split();
        let mut buf = BytesMut::with_capacity(READ_BYTES);
        let mut held = Held::of(shared.budget.reservation());
        let (mut moved, mut rests) = (Instant::now(), false);
        let idle = worker.timers.timer();
        loop {
            while let Some(message) = finagle::next(&mut buf).map_err(|error| self.to.misspoke(&error))? {
                // What was kept of it counts for it from now on.
                held.count(&buf);
                if let Some(reply) = self.take(message)? {
                    calls::put(&mut write, &reply, &shared.cut).await?;
                }
            }
            while let Some(finished) = self.under_way.try_join_next_with_id() {
                if let Some(answer) = self.finished(finished)? {
                    calls::put(&mut write, &answer.bytes, &shared.cut).await?;
                }
            }
            let quiet = self.under_way.is_empty();
            if quiet && matches!(self.drain, Drain::Ended) {
                // In the middle of a message it was cut.
                return if buf.is_empty() { Ok(()) } else { Err(Broken) };
            }
            let reads = held.count(&buf);
            if quiet && !reads {
                return Err(self.to.has_no_room());
            }
            if reads {
                calls::make_room(&mut buf);
            }
            // What is said about the connection is no use of it.
            match quiet && buf.is_empty() {
                true if !rests => idle.set(Timeout::default().idle_of_connection()),
                true => {}
                false => idle.clear(),
            }
            rests = quiet && buf.is_empty();
            let open = matches!(self.drain, Drain::Open);
            tokio::select! {
                Some(finished) = self.under_way.join_next_with_id() => {
                    if let Some(answer) = self.finished(finished)? {
                        calls::put(&mut write, &answer.bytes, &shared.cut).await?;
                    }
                }
                came = read.read_buf(&mut buf), if reads => {
                    if came.map_err(|_| Broken)? == 0 {
                        // There is no half of a connection: nobody waits for an answer.
                        return if quiet && buf.is_empty() { Ok(()) } else { Err(Broken) };
                    }
                }
                () = async {
                    tokio::select! {
                        () = shared.leave.cancelled() => {}
                        () = poll_fn(|cx| idle.poll_due(cx)), if rests => {}
                    }
                }, if open => {
                    self.drain = Drain::Asked(Box::pin(sleep(DRAIN_WAIT)));
                    let drain = finagle::Message::new(Kind::Drain, CONTROL_TAG, "");
                    calls::put(&mut write, &drain.bytes, &shared.cut).await?;
                }
                () = self.drain.waited() => self.drain.go_on(),
                () = shared.cut.cancelled() => return Err(Broken),
                () = sleep_until(moved + BYTE_WAIT), if reads && !buf.is_empty() => return Err(Broken),
            }
            moved = Instant::now();
        }
    }

    /// The answer of a call that is over, if it is waited for.
    fn finished(
        &mut self,
        finished: Result<(Id, (u32, Answer)), JoinError>,
    ) -> Result<Option<Answer>, Broken> {
        match finished {
            Ok((id, (tag, answer))) => {
                // Its caller may have given the tag to another call since it gave up this one.
                let waits = self.tags.get(&tag).is_some_and(|task| task.id() == id);
                Ok(waits.then(|| self.tags.remove(&tag)).map(|_| answer))
            }
            Err(error) if error.is_cancelled() => Ok(None),
            // One that panicked has said so, and its caller would wait for it.
            Err(_) => Err(Broken),
        }
    }

    /// Begins what a caller asks for; gives what it is told at once.
    fn take(&mut self, message: finagle::Message) -> Result<Option<Bytes>, Broken> {
        let reply = |kind, text: &str| Ok(Some(finagle::Message::new(kind, message.tag, text).bytes));
        match message.kind {
            Kind::Request | Kind::Dispatch => self.call(message),
            Kind::Ping => reply(Kind::Pong, ""),
            Kind::Discard => {
                let discarded = message.discards().filter(|tag| self.tags.contains_key(tag));
                if let Some(task) = discarded.and_then(|tag| self.tags.remove(&tag)) {
                    task.abort();
                }
                // One that is answered already is not unknown: the two have met on their way.
                Ok(discarded.map(|tag| finagle::Message::new(Kind::Discarded, tag, "").bytes))
            }
            Kind::Drained => {
                if matches!(self.drain, Drain::Asked(_)) {
                    self.drain.go_on();
                }
                Ok(None)
            }
            // Who asks so goes on without, where it does not hear the same.
            Kind::Error if message.body() == INIT_CHECK => reply(Kind::Error, "nothing is agreed on here"),
            Kind::Init => reply(Kind::Error, "nothing is agreed on here"),
            // A lease is given by those who serve; an answer is to something that was not asked.
            kind if kind.asks() => reply(Kind::Error, "that is for a server to ask"),
            _ => Ok(None),
        }
    }

    /// Begins a call.
    fn call(&mut self, message: finagle::Message) -> Result<Option<Bytes>, Broken> {
        let shared = &self.to.front.worker().shared;
        let tag = message.tag;
        if tag == 0 || self.tags.contains_key(&tag) {
            return Err(self.to.misspoke(&"two calls have one tag, or one has none"));
        }
        let nack =
            |why: &str| Ok(Some(message.answer(Status::Nack, &format!("{}: {why}", shared.name)).bytes));
        if matches!(self.drain, Drain::Over(_) | Drain::Ended) {
            return nack("this connection is drained");
        }
        if self.tags.len() >= CALLS_MAX {
            return nack(&format!("{CALLS_MAX} calls of this connection are under way"));
        }
        let message = Message::mux(message).detached();
        let kept = Kept::of(&message, shared.budget.reservation());
        let to = self.to.clone();
        let task = self.under_way.spawn_local(async move { (tag, calls::answer(&to, &message, kept).await) });
        self.tags.insert(tag, task);
        Ok(None)
    }
}

impl Drain {
    /// Waits until this state is over. Cancel safe.
    async fn waited(&mut self) {
        match self {
            Self::Asked(wait) | Self::Over(wait) => wait.as_mut().await,
            Self::Open | Self::Ended => std::future::pending().await,
        }
    }

    fn go_on(&mut self) {
        *self = match self {
            Self::Open | Self::Asked(_) => Self::Over(Box::pin(sleep(OVER_WAIT))),
            Self::Over(_) | Self::Ended => Self::Ended,
        };
    }
}
