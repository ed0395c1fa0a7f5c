//! Callers that speak Thrift: each call on a connection goes where it is placed, some of them at once; answers come in the
//! order of their calls, which is right for every client, whether it matches their numbers or not. A one-way call is not
//! waited for.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::rc::Rc;

use ::thrift::{Decoder, ExceptionKind, Kind};
use bytes::{Bytes, BytesMut};
use registry::model::Timeout;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::Front;
use super::calls::{self, Answer, BYTE_WAIT, Broken, Held, Kept, READ_BYTES, To};
use crate::http::join::End;
use crate::proxy::connection::Opened;
use crate::upstream::Message;

/// Calls of one connection under way at once; more are read once some are answered.
const CALLS_MAX: usize = 32;
/// By which clients of Finagle ask whether all that follows may be in a form of their own. It is a property of one
/// connection, and calls of one go to many: they are told that nobody knows it.
const FINAGLE_UPGRADE: &str = "__can__finagle__trace__v3__";

/// A call under way.
type Calling = AbortOnDropHandle<Answer>;

/// Serves the calls of a connection, which lead to what `authority` names, until its caller has left, it idles for too long,
/// or the process drains.
pub(super) async fn serve(front: impl Front, mut stream: TcpStream, authority: String, opened: Opened) {
    let to = Rc::new(To { front, authority, opened });
    match calls(&to, &mut stream).await {
        Ok(()) => calls::end(stream).await,
        Err(Broken) => drop(End::socket(stream, Bytes::new())),
    }
}

async fn calls<F: Front>(to: &Rc<To<F>>, stream: &mut TcpStream) -> Result<(), Broken> {
    let worker = to.front.worker().clone();
    let shared = &worker.shared;
    let (mut read, mut write) = stream.split();
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(READ_BYTES));
    let mut held = Held::of(shared.budget.reservation());
    let mut under_way: VecDeque<Calling> = VecDeque::new();
    // Of them nobody waits for an answer, and they go on without their connection.
    let (oneway, ended) = (TaskTracker::new(), Rc::new(Notify::new()));
    let (mut over, mut moved) = (false, Instant::now());
    let idle = worker.timers.timer();
    loop {
        while under_way.len() + oneway.len() < CALLS_MAX {
            let message = decoder.next(&mut buf).map_err(|error| to.misspoke(&error))?;
            let Some(message) = message else { break };
            let oneway_call = message.head.kind == Kind::Oneway;
            let refusal = refusal(&message, &shared.name);
            let message = Message::Thrift(message).detached();
            // What was kept of it counts for it from now on.
            held.count(&buf);
            let kept = Kept::of(&message, shared.budget.reservation());
            if oneway_call {
                let (to, ended) = (to.clone(), ended.clone());
                oneway.spawn_local(async move {
                    // Whether that worked nobody is told; its record says it.
                    let _ = calls::serve(&to, &message, kept).await;
                    ended.notify_one();
                });
            } else {
                let to = to.clone();
                under_way.push_back(AbortOnDropHandle::new(spawn_local(async move {
                    match refusal {
                        Some(refusal) => Answer::ours(refusal),
                        None => calls::answer(&to, &message, kept).await,
                    }
                })));
            }
        }
        // Nothing more is read then.
        // A call that has begun may still come: what bounds it is how long its bytes, and the drain, may take.
        over |= shared.leave.is_cancelled() && buf.is_empty();
        let quiet = under_way.is_empty() && oneway.is_empty();
        if over && quiet {
            // In the middle of a message it was cut.
            return if buf.is_empty() { Ok(()) } else { Err(Broken) };
        }
        let room = under_way.len() + oneway.len() < CALLS_MAX && held.count(&buf);
        if quiet && !room {
            return Err(to.has_no_room());
        }
        let reads = !over && room;
        if reads {
            calls::make_room(&mut buf);
        }
        if quiet && buf.is_empty() {
            idle.set(Timeout::default().idle_of_connection());
        } else {
            idle.clear();
        }
        tokio::select! {
            answered = next(&mut under_way) => {
                calls::put(&mut write, &answered?.bytes, &shared.cut).await?;
            }
            came = read.read_buf(&mut buf), if reads => over |= came.map_err(|_| Broken)? == 0,
            () = ended.notified(), if !oneway.is_empty() => {}
            () = shared.leave.cancelled(), if !over && buf.is_empty() => {}
            () = shared.cut.cancelled() => return Err(Broken),
            () = sleep_until(moved + BYTE_WAIT), if reads && !buf.is_empty() => return Err(Broken),
            () = poll_fn(|cx| idle.poll_due(cx)), if quiet => return Ok(()),
        }
        moved = Instant::now();
    }
}

/// The answer to the oldest call, once it is there. Cancel safe.
async fn next(under_way: &mut VecDeque<Calling>) -> Result<Answer, Broken> {
    let Some(oldest) = under_way.front_mut() else { return pending().await };
    let answered = oldest.await;
    under_way.pop_front();
    // One that panicked has said so, and its caller would take the next answer for its own.
    answered.map_err(|_| Broken)
}

/// What `gateway` answers to a message that is for nobody.
fn refusal(message: &::thrift::Message, gateway: &str) -> Option<Bytes> {
    let (kind, text) = if !matches!(message.head.kind, Kind::Call | Kind::Oneway) {
        (ExceptionKind::InvalidMessageType, "that is no call")
    } else if &*message.head.method == FINAGLE_UPGRADE {
        (ExceptionKind::UnknownMethod, "calls of one connection go to many servers")
    } else {
        return None;
    };
    Some(message.exception(kind, &format!("{gateway}: {text}")).bytes)
}
