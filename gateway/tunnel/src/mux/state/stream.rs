//! One stream: what is known of either half.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use proto::code::Code;

use super::Class;

/// What one stream may have unread at the receiver.
pub(in crate::mux) const STREAM_WINDOW_BYTES: usize = 4 * 1024 * 1024;

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
    /// Chunks with what they cost; the cost counts as read with the chunk's last byte.
    pub(super) chunks: VecDeque<(Bytes, usize)>,
    pub(super) window: Window,
    pub(super) end: Option<Result<(), Code>>,
    /// We read no further.
    pub(super) stopped: bool,
    pub(super) reader: Option<Waker>,
    pub(super) dropped: bool,
}

/// What may still come, and what was read since the last grant.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) left: usize,
    pub(super) read: usize,
}

impl Stream {
    pub(super) fn new(ours: bool) -> Self {
        let window = Window { left: STREAM_WINDOW_BYTES, read: 0 };
        Self {
            accepted: ours,
            send: Send { credit: STREAM_WINDOW_BYTES, ..Send::default() },
            recv: Recv { window, ..Recv::default() },
        }
    }
}

impl Send {
    pub(super) fn class(&self) -> Class {
        self.class.unwrap_or(Class::Small)
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
