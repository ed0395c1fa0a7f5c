//! One stream: what is known of either half.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use proto::code::Code;
use proto::limits::STREAM_UNREAD_BYTES_MAX;

use super::Class;

/// Payloads shorter than this are gathered in blocks of up to as much, so that what it costs to keep one is little
/// beside it.
const BLOCK_BYTES_MAX: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Stream {
    /// It is ours, or taken from those that came in.
    pub(super) accepted: bool,
    pub(super) send: Send,
    pub(super) recv: Recv,
}

/// Our half.
#[derive(Debug, Default)]
pub(super) struct Send {
    /// What the peer takes.
    pub(super) credit: usize,
    pub(super) class: Option<Class>,
    /// The peer reads no further.
    pub(super) stopped: Option<Code>,
    /// FIN or RESET is queued.
    pub(super) ended: bool,
    /// It is written.
    pub(super) gone: bool,
    pub(super) writer: Option<Waker>,
    pub(super) watchers: Vec<Waker>,
    pub(super) dropped: bool,
}

/// The peer's half.
#[derive(Debug, Default)]
pub(super) struct Recv {
    chunks: VecDeque<Chunk>,
    /// What they cost together.
    unread: usize,
    pub(super) window: Window,
    pub(super) end: Option<Result<(), Code>>,
    /// There was no room for what came: the reader is told this code.
    pub(super) given_up: Option<Code>,
    /// We read no further.
    pub(super) stopped: bool,
    pub(super) reader: Option<Waker>,
    pub(super) dropped: bool,
}

/// What came and is unread; the cost counts as read with the last byte.
#[derive(Debug)]
struct Chunk {
    bytes: BytesMut,
    cost: usize,
}

/// What may still come, and what was read since the last grant.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) left: usize,
    pub(super) read: usize,
}

impl Stream {
    pub(super) fn new(ours: bool) -> Self {
        let window = Window { left: STREAM_UNREAD_BYTES_MAX, read: 0 };
        Self {
            accepted: ours,
            send: Send { credit: STREAM_UNREAD_BYTES_MAX, ..Send::default() },
            recv: Recv { window, ..Recv::default() },
        }
    }
}

impl Send {
    pub(super) fn class(&self) -> Class {
        self.class.unwrap_or(Class::Small)
    }
}

impl Recv {
    /// What is unread, by what it cost.
    pub(super) fn unread(&self) -> usize {
        self.unread
    }

    /// Keeps a copy of `payload`, and nothing of the buffer that it came in.
    pub(super) fn push(&mut self, payload: &[u8], cost: usize) {
        self.unread += cost;
        if payload.len() >= BLOCK_BYTES_MAX {
            return self.chunks.push_back(Chunk { bytes: payload.into(), cost });
        }
        let room = |chunk: &Chunk| chunk.bytes.capacity() - chunk.bytes.len();
        let before = match self.chunks.back_mut() {
            Some(last) if room(last) >= payload.len() => {
                last.bytes.extend_from_slice(payload);
                last.cost += cost;
                return;
            }
            last => last.map_or(0, |last| last.bytes.capacity()),
        };
        // Twice as long as the one before: of few small payloads little is kept empty.
        let mut bytes = BytesMut::with_capacity(payload.len().max(BLOCK_BYTES_MAX.min(2 * before)));
        bytes.extend_from_slice(payload);
        self.chunks.push_back(Chunk { bytes, cost });
    }

    /// The next bytes, at most `max`, and the cost of what is read through with them.
    pub(super) fn pop(&mut self, max: usize) -> Option<(Bytes, usize)> {
        let chunk = self.chunks.front_mut()?;
        if max < chunk.bytes.len() {
            return Some((chunk.bytes.split_to(max).freeze(), 0));
        }
        let Chunk { bytes, cost } = self.chunks.pop_front()?;
        self.unread -= cost;
        // Of a block that is mostly empty whoever reads gets what is in it.
        let sparse = bytes.capacity() > 2 * bytes.len();
        Some((if sparse { Bytes::copy_from_slice(&bytes) } else { bytes.freeze() }, cost))
    }

    /// Forgets what is unread; gives what it cost.
    pub(super) fn clear(&mut self) -> usize {
        self.chunks = VecDeque::new();
        std::mem::take(&mut self.unread)
    }
}

impl Window {
    pub(super) fn take(&mut self, cost: usize) -> Result<(), &'static str> {
        self.left = self.left.checked_sub(cost).ok_or("more data than the window allows")?;
        Ok(())
    }

    /// What to grant anew, once it is at least `least`.
    pub(super) fn grant(&mut self, least: usize) -> Option<u32> {
        if self.read < least {
            return None;
        }
        self.left += self.read;
        // No more was read than the window held.
        u32::try_from(std::mem::take(&mut self.read)).ok()
    }
}
