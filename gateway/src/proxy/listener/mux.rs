//! Callers that speak Mux: each call on a connection goes where it is placed, many of them at once; an answer goes back as
//! soon as it is there, by the tag of its call. What is about the connection is answered here.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finagle::{CONTROL_TAG, INIT_CHECK, Kind, Status};
use registry::model::Timeout;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Front;
use super::calls::{self, BYTE_WAIT, Broken, Held, Kept, READ_BYTES, To};
use crate::base::budget::Reservation;
use crate::http::join::End;
use crate::proxy::connection::Opened;
use crate::telemetry::limited::limited;
use crate::upstream::Message;

/// Calls of one connection under way at once; of more nothing is done, which their caller is told.
const CALLS_MAX: usize = 1024;
/// A caller that was asked to send no more calls has so long to say that it will not.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

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
    /// Calls, each with its tag and its answer, and what that counts on.
    under_way: JoinSet<(u32, Bytes, Option<Reservation>)>,
    tags: HashMap<u32, AbortHandle>,
    drain: Drain,
}

/// Whether calls are to come.
enum Drain {
    Open,
    /// Its caller was asked to send no more.
    Asked(Pin<Box<Sleep>>),
    /// None come.
    Over,
}

impl<F: Front> Session<F> {
    async fn run(mut self, stream: &mut TcpStream) -> Result<(), Broken> {
        let worker = self.to.front.worker().clone();
        let shared = &worker.shared;
        let (mut read, mut write) = stream.split();
        let mut buf = BytesMut::with_capacity(READ_BYTES);
        let mut held = Held::of(shared.budget.reservation());
        let (mut ended, mut moved) = (false, Instant::now());
        let idle = worker.timers.timer();
        loop {
            while let Some(message) = self.next(&mut buf)? {
                // What was kept of it counts for it from now on.
                held.count(&buf);
                if let Some(reply) = self.take(message)? {
                    calls::put(&mut write, &reply, &shared.cut).await?;
                }
            }
            let quiet = self.under_way.is_empty();
            if quiet && (ended || matches!(self.drain, Drain::Over)) {
                // In the middle of a message it was cut.
                return if buf.is_empty() { Ok(()) } else { Err(Broken) };
            }
            let room = held.count(&buf);
            if quiet && !room {
                limited!(
                    WARN,
                    KNOWN,
                    &self.to.authority,
                    "A call was not read: too much is held already.",
                    service = self.to.authority
                );
                return Err(Broken);
            }
            let reads = !ended && room;
            if reads {
                calls::make_room(&mut buf);
            }
            if quiet && buf.is_empty() {
                idle.set(Timeout::default().idle_of_connection());
            } else {
                idle.clear();
            }
            let open = matches!(self.drain, Drain::Open);
            tokio::select! {
                Some(answered) = self.under_way.join_next_with_id() => match answered {
                    Ok((id, (tag, bytes, _held))) => {
                        // Its caller may have given the tag to another call since it gave up this one.
                        if self.tags.get(&tag).is_some_and(|task| task.id() == id) {
                            self.tags.remove(&tag);
                            calls::put(&mut write, &bytes, &shared.cut).await?;
                        }
                    }
                    // It was not waited for.
                    Err(error) if error.is_cancelled() => {}
                    // One that panicked has said so, and its caller would wait for it.
                    Err(_) => return Err(Broken),
                },
                came = read.read_buf(&mut buf), if reads => ended |= came.map_err(|_| Broken)? == 0,
                () = shared.leave.cancelled(), if open => {
                    self.drain = Drain::Asked(Box::pin(sleep(DRAIN_WAIT)));
                    let drain = finagle::Message::new(Kind::Drain, CONTROL_TAG, "");
                    calls::put(&mut write, &drain.bytes, &shared.cut).await?;
                }
                () = self.drain.over() => self.drain = Drain::Over,
                () = shared.cut.cancelled() => return Err(Broken),
                () = sleep_until(moved + BYTE_WAIT), if reads && !buf.is_empty() => return Err(Broken),
                () = poll_fn(|cx| idle.poll_due(cx)), if quiet => return Ok(()),
            }
            moved = Instant::now();
        }
    }

    /// The next message that has come.
    fn next(&self, buf: &mut BytesMut) -> Result<Option<finagle::Message>, Broken> {
        finagle::next(buf).map_err(|error| {
            let source = self.to.opened.source.map(|source| source.ip());
            limited!(WARN, STRANGERS, format_args!("{source:?}"), "What came is no message of Mux.", ?source, %error);
            Broken
        })
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
                    self.drain = Drain::Over;
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
            let source = self.to.opened.source.map(|source| source.ip());
            limited!(
                WARN,
                STRANGERS,
                format_args!("{source:?}"),
                "Two calls of Mux have one tag, or one has none.",
                ?source,
                tag
            );
            return Err(Broken);
        }
        if self.under_way.len() >= CALLS_MAX {
            let text = format!("{}: {CALLS_MAX} calls of this connection are under way", shared.name);
            return Ok(Some(message.answer(Status::Nack, &text).bytes));
        }
        let message = Message::mux(message);
        let kept = Kept::of(&message, shared.budget.reservation());
        let to = self.to.clone();
        let task = self.under_way.spawn_local(async move {
            let (answer, held) = calls::answer(&to, &message, kept).await;
            (tag, answer.bytes().clone(), held)
        });
        self.tags.insert(tag, task);
        Ok(None)
    }
}

impl Drain {
    /// Waits until no call comes any more. Cancel safe.
    async fn over(&mut self) {
        match self {
            Self::Asked(wait) => pin!(wait).await,
            Self::Open | Self::Over => std::future::pending().await,
        }
    }
}
