//! What both sides know of a connection's streams, and what is to be written: no I/O, and no waiting but by wakers.

mod held;
mod receive;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use proto::code::Code;
use proto::limits::{MUX_PAYLOAD_BYTES_MAX, STREAM_UNREAD_BYTES_MAX, STREAMS_MAX, TUNNEL_UNREAD_BYTES_MAX};
use proto::mux::{self, Frame, StreamId};

use self::held::Held;
use self::stream::{Send, Stream, Window};
use crate::account::Account;

/// Read and not yet granted anew: a part of the window large enough that grants are rare, small enough that the sender
/// is not held up.
const STREAM_GRANT_BYTES: usize = STREAM_UNREAD_BYTES_MAX / 4;
const CONNECTION_GRANT_BYTES: usize = TUNNEL_UNREAD_BYTES_MAX / 16;
/// Datagrams that wait to be written, and to be read; more are dropped.
const DATAGRAMS_MAX: usize = 16;
/// Frames without flow control that wait to be written. Each open stream has at most four, so a peer that reads never
/// lets so many gather.
const CONTROL_FRAMES_MAX: usize = 16 * STREAMS_MAX as usize;
/// Bytes put into one write to the socket.
const BATCH_BYTES: usize = 64 * 1024;

/// The order in which data goes out: small exchanges before bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Small = 0,
    Bulk = 1,
}

/// The streams of a connection, seen from one side.
#[derive(Debug)]
pub(super) struct State {
    dialled: bool,
    streams: HashMap<StreamId, Stream>,
    /// The index of the next stream that we open, and that the peer opens.
    next: [u64; 2],
    /// Streams of ours, and of the peer, that are not over.
    open: [usize; 2],
    incoming: VecDeque<StreamId>,
    acceptors: Vec<Waker>,
    /// What the peer may still send, and what was read of it since the last grant.
    window: Window,
    /// What is unread, whoever may read it.
    held: Held,
    control: VecDeque<Frame>,
    /// Frames with their streams' data, by class.
    data: [VecDeque<Frame>; 2],
    datagrams_out: VecDeque<Bytes>,
    datagrams_in: VecDeque<Bytes>,
    datagram_readers: Vec<Waker>,
    /// The token of the last ping that was not answered yet: of a flood, one is.
    pong: Option<u64>,
    /// No frame is taken any more, in or out.
    over: bool,
}

/// Whose streams: index into pairs.
const OURS: usize = 0;
const THEIRS: usize = 1;

/// What the peer did that is for others to act upon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// More may be sent on the connection.
    Credit(usize),
    /// A ping of ours came back.
    Pong(u64),
    /// The peer closed the connection.
    Close(u32, Bytes),
}

/// Why a stream takes nothing to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The peer stopped it.
    Stopped(Code),
    /// It was ended here before.
    Ended,
    /// The connection is over.
    Over,
}

/// What was taken to be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// What the data cost, by class: room for others.
    pub(super) data: [usize; 2],
}

impl State {
    pub(super) fn new(dialled: bool) -> Self {
        Self {
            dialled,
            streams: HashMap::new(),
            next: [0; 2],
            open: [0; 2],
            incoming: VecDeque::new(),
            acceptors: Vec::new(),
            window: Window { left: TUNNEL_UNREAD_BYTES_MAX, read: 0 },
            held: Held::default(),
            control: VecDeque::new(),
            data: Default::default(),
            datagrams_out: VecDeque::new(),
            datagrams_in: VecDeque::new(),
            datagram_readers: Vec::new(),
            pong: None,
            over: false,
        }
    }

    /// Opens the next stream of ours; `None`: the peer allows no more at the moment.
    pub(super) fn open(&mut self) -> Option<StreamId> {
        if self.over || self.open[OURS] >= STREAMS_MAX as usize || self.next[OURS] >= mux::INDEX_MAX {
            return None;
        }
        let id = StreamId::new(self.next[OURS], self.dialled);
        self.next[OURS] += 1;
        self.open[OURS] += 1;
        self.streams.insert(id, Stream::new(true));
        self.control.push_back(Frame::Open(id));
        Some(id)
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamId>> {
        let id = match self.incoming.pop_front() {
            _ if self.over => return Poll::Ready(None),
            Some(id) => id,
            None => return wait(&mut self.acceptors, cx),
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.accepted = true;
            if let Some(code) = stream.send.stopped {
                self.end(id, Some(code));
            }
        }
        Poll::Ready(Some(id))
    }

    /// How many of `wanted` bytes the stream takes now, in one frame.
    pub(super) fn poll_credit(
        &mut self,
        id: StreamId,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Closed>> {
        let send = match self.writable(id) {
            Ok(send) => send,
            Err(closed) => return Poll::Ready(Err(closed)),
        };
        let take = wanted.min(MUX_PAYLOAD_BYTES_MAX).min(send.credit);
        if mux::cost(take) <= send.credit {
            return Poll::Ready(Ok(take));
        }
        send.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Queues one chunk that the stream's credit, and the room of its class, allow.
    pub(super) fn write(&mut self, id: StreamId, class: Class, chunk: Bytes) -> Result<(), Closed> {
        let send = self.writable(id)?;
        send.credit = send.credit.saturating_sub(mux::cost(chunk.len()));
        self.data[class as usize].push_back(Frame::Data(id, chunk));
        Ok(())
    }

    /// Why nothing can be written on a stream, for one that was found so.
    pub(super) fn why_closed(&mut self, id: StreamId) -> Closed {
        self.writable(id).err().unwrap_or(Closed::Ended)
    }

    /// Whether frames without flow control wait to be written.
    pub(super) fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    fn writable(&mut self, id: StreamId) -> Result<&mut Send, Closed> {
        match self.streams.get_mut(&id) {
            _ if self.over => Err(Closed::Over),
            Some(Stream { send: Send { stopped: Some(code), .. }, .. }) => Err(Closed::Stopped(*code)),
            Some(Stream { send, .. }) if !send.ended => Ok(send),
            _ => Err(Closed::Ended),
        }
    }

    /// Ends our half: whole, or with a code.
    pub(super) fn end(&mut self, id: StreamId, reset: Option<Code>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if self.over || stream.send.ended {
            return;
        }
        stream.send.ended = true;
        let frame = reset.map_or(Frame::Fin(id), |code| Frame::Reset(id, code.to_wire()));
        self.data[stream.send.class() as usize].push_back(frame);
    }

    /// From now on its data goes after that of others.
    pub(super) fn lower(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.send.class = Some(Class::Bulk);
        }
    }

    pub(super) fn class(&self, id: StreamId) -> Class {
        self.streams.get(&id).map_or(Class::Small, |stream| stream.send.class())
    }

    /// Ready when the peer stopped the stream, or all of it is on its way, or the connection is over.
    pub(super) fn poll_stopped(&mut self, id: StreamId, cx: &mut Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&id) {
            Some(Stream { send, .. }) if !self.over && send.stopped.is_none() && !send.gone => {
                wait(&mut send.watchers, cx)
            }
            _ => Poll::Ready(()),
        }
    }

    /// The next bytes of a stream, at most `max`; `None` at its end, an error if it was reset.
    pub(super) fn poll_read(
        &mut self,
        id: StreamId,
        max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Option<Bytes>, Code>>> {
        let Some(Stream { recv, .. }) = self.streams.get_mut(&id) else { return Poll::Ready(Some(Ok(None))) };
        // What came before the end of the connection is still read, as long as it was not reset.
        if let Some(code) = recv.given_up.or(recv.end.and_then(Result::err)) {
            return Poll::Ready(Some(Err(code)));
        }
        let Some((bytes, cost)) = recv.pop(max) else {
            return match recv.end {
                Some(_) => Poll::Ready(Some(Ok(None))),
                None if recv.stopped => Poll::Ready(Some(Ok(None))),
                None if self.over => Poll::Ready(None),
                None => {
                    recv.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        recv.window.read += cost;
        let open = recv.end.is_none();
        if open && let Some(more) = recv.window.grant(STREAM_GRANT_BYTES) {
            self.control.push_back(Frame::Window(Some(id), more));
        }
        self.let_go(cost);
        Poll::Ready(Some(Ok(Some(bytes))))
    }

    /// Reads no further.
    pub(super) fn stop(&mut self, id: StreamId, code: Code) {
        let Some(Stream { recv, .. }) = self.streams.get_mut(&id) else { return };
        if !std::mem::replace(&mut recv.stopped, true) && recv.end.is_none() && !self.over {
            self.control.push_back(Frame::Stop(id, code.to_wire()));
        }
        let unread = recv.clear();
        self.let_go(unread);
    }

    /// From now on what is unread counts on `account`.
    pub(super) fn share(&mut self, account: Arc<Account>) {
        if !self.held.share(account) {
            self.make_room();
        }
    }

    /// What is unread, by what it cost.
    #[cfg(test)]
    pub(super) fn unread(&self) -> usize {
        self.streams.values().map(|stream| stream.recv.unread()).sum()
    }

    /// Nobody holds our half, or the peer's, any more.
    pub(super) fn drop_half(&mut self, id: StreamId, ours: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if ours {
            stream.send.dropped = true;
        } else {
            stream.recv.dropped = true;
        }
        self.forget(id);
    }

    pub(super) fn send_datagram(&mut self, data: Bytes) {
        if self.datagrams_out.len() < DATAGRAMS_MAX {
            self.datagrams_out.push_back(data);
        }
    }

    pub(super) fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.datagrams_in.pop_front() {
            Some(bytes) => Poll::Ready(Some(bytes)),
            None if self.over => Poll::Ready(None),
            None => wait(&mut self.datagram_readers, cx),
        }
    }

    pub(super) fn ping(&mut self, token: u64) {
        self.control.push_back(Frame::Ping(token));
    }

    /// A stream that was opened; `None` if it is long over.
    fn known(&mut self, id: StreamId) -> Result<Option<&mut Stream>, &'static str> {
        let whose = if id.is_by_dialler() == self.dialled { OURS } else { THEIRS };
        if id.index() >= self.next[whose] {
            return Err("a stream that was never opened");
        }
        Ok(self.streams.get_mut(&id))
    }

    /// Counts a stream as over once both halves have ended, ours on the wire. The opener sees that last, so that it never
    /// opens more than the other side takes.
    fn count_end(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(|s| s.send.gone && s.recv.end.is_some()) {
            self.open[if id.is_by_dialler() == self.dialled { OURS } else { THEIRS }] -= 1;
        }
    }

    /// Forgets a stream that is over and that nobody holds.
    fn forget(&mut self, id: StreamId) {
        let over = |s: &Stream| s.send.dropped && s.recv.dropped && s.send.gone && s.recv.end.is_some();
        if self.streams.get(&id).is_some_and(over) {
            self.streams.remove(&id);
        }
    }

    /// What was unread is not held any more.
    fn let_go(&mut self, cost: usize) {
        self.held.remove(cost);
        self.was_read(cost);
    }

    fn was_read(&mut self, cost: usize) {
        self.window.read += cost;
        if let Some(more) = self.window.grant(CONNECTION_GRANT_BYTES) {
            self.control.push_back(Frame::Window(None, more));
        }
    }

    /// Puts what is to be written next into `out`: what keeps the connection going, then small exchanges, then bulk.
    pub(super) fn take(&mut self, out: &mut BytesMut) -> Taken {
        let mut taken = Taken::default();
        if let Some(token) = self.pong.take() {
            Frame::Pong(token).encode(out);
        }
        while out.len() < BATCH_BYTES
            && let Some(frame) = self.control.pop_front()
        {
            frame.encode(out);
        }
        self.datagrams_out.drain(..).for_each(|bytes| Frame::Datagram(bytes).encode(out));
        for class in [Class::Small, Class::Bulk] {
            while out.len() < BATCH_BYTES
                && let Some(frame) = self.data[class as usize].pop_front()
            {
                frame.encode(out);
                match frame {
                    Frame::Data(_, bytes) => taken.data[class as usize] += mux::cost(bytes.len()),
                    Frame::Fin(id) | Frame::Reset(id, _) => self.is_gone(id),
                    _ => {}
                }
            }
        }
        taken
    }

    fn is_gone(&mut self, id: StreamId) {
        if let Some(Stream { send, .. }) = self.streams.get_mut(&id) {
            send.gone = true;
            wake(&mut send.watchers);
            self.count_end(id);
            self.forget(id);
        }
    }

    /// The connection is over: wakes everyone, and keeps only what can still be read.
    pub(super) fn finish(&mut self) {
        self.over = true;
        self.control.clear();
        self.data.iter_mut().for_each(VecDeque::clear);
        self.datagrams_out.clear();
        self.incoming.clear();
        for Stream { send, recv, .. } in self.streams.values_mut() {
            send.writer.take().into_iter().chain(recv.reader.take()).for_each(Waker::wake);
            wake(&mut send.watchers);
        }
        wake(&mut self.acceptors);
        wake(&mut self.datagram_readers);
    }
}

fn wait<T>(waiting: &mut Vec<Waker>, cx: &Context<'_>) -> Poll<T> {
    if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
        waiting.push(cx.waker().clone());
    }
    Poll::Pending
}

fn wake(waiting: &mut Vec<Waker>) {
    waiting.drain(..).for_each(Waker::wake);
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
