//! What a frame of the peer changes, and what it may not say.

use std::task::Waker;

use bytes::Bytes;
use proto::code::Code;
use proto::limits::{STREAM_UNREAD_BYTES_MAX, STREAMS_MAX};
use proto::mux::{self, Frame, StreamId};

use super::stream::Stream;
use super::{Act, CONTROL_FRAMES_MAX, DATAGRAMS_MAX, State, THEIRS, wake};

impl State {
    /// Takes a frame of the peer.
    pub(in super::super) fn receive(&mut self, frame: Frame) -> Result<Option<Act>, &'static str> {
        match frame {
            _ if self.over => {}
            Frame::Open(id) => self.opened(id)?,
            Frame::Data(id, bytes) => self.data(id, &bytes)?,
            Frame::Fin(id) => self.ended(id, Ok(()))?,
            Frame::Reset(id, code) => self.ended(id, Err(Code::from_wire(code.into())))?,
            Frame::Stop(id, code) => self.stopped(id, Code::from_wire(code.into()))?,
            Frame::Window(None, more) => return Ok(Some(Act::Credit(more as usize))),
            Frame::Window(Some(id), more) => {
                if let Some(Stream { send, .. }) = self.known(id)? {
                    send.credit = send.credit.saturating_add(more as usize);
                    if send.credit > STREAM_UNREAD_BYTES_MAX {
                        return Err("a window that was never granted");
                    }
                    send.writer.take().into_iter().for_each(Waker::wake);
                }
            }
            Frame::Datagram(bytes) => {
                if self.datagrams_in.len() < DATAGRAMS_MAX {
                    // Not the buffer that it came in.
                    self.datagrams_in.push_back(Bytes::copy_from_slice(&bytes));
                    wake(&mut self.datagram_readers);
                }
            }
            Frame::Ping(token) => self.pong = Some(token),
            Frame::Pong(token) => return Ok(Some(Act::Pong(token))),
            Frame::Close(code, reason) => return Ok(Some(Act::Close(code, reason))),
        }
        if self.control.len() > CONTROL_FRAMES_MAX {
            return Err("nothing is read of what is answered");
        }
        Ok(None)
    }

    fn opened(&mut self, id: StreamId) -> Result<(), &'static str> {
        if id.is_by_dialler() == self.dialled || id.index() != self.next[THEIRS] {
            return Err("a stream opened out of order");
        }
        if self.open[THEIRS] >= STREAMS_MAX as usize {
            return Err("too many streams");
        }
        self.next[THEIRS] += 1;
        self.open[THEIRS] += 1;
        self.streams.insert(id, Stream::new(false));
        self.incoming.push_back(id);
        wake(&mut self.acceptors);
        Ok(())
    }

    fn data(&mut self, id: StreamId, payload: &[u8]) -> Result<(), &'static str> {
        let cost = mux::cost(payload.len());
        self.window.take(cost)?;
        let Some(Stream { recv, .. }) = self.known(id)? else { return Err("data after the end of a stream") };
        if recv.end.is_some() {
            return Err("data after the end of a stream");
        }
        recv.window.take(cost)?;
        if recv.stopped {
            self.was_read(cost);
            return Ok(());
        }
        recv.push(payload, cost);
        recv.reader.take().into_iter().for_each(Waker::wake);
        if !self.held.add(cost) {
            self.make_room();
        }
        Ok(())
    }

    /// There is more unread than there may be: what holds most of it goes. A small exchange is never what has filled it.
    pub(super) fn make_room(&mut self) {
        while !self.held.settle() {
            let fullest = self.streams.iter().max_by_key(|(_, stream)| stream.recv.unread());
            let Some((&id, _)) = fullest.filter(|(_, stream)| stream.recv.unread() > 0) else { return };
            if let Some(Stream { recv, .. }) = self.streams.get_mut(&id) {
                // It certifies nothing: what was read before may have been processed.
                recv.given_up = Some(Code::Internal);
                recv.reader.take().into_iter().for_each(Waker::wake);
            }
            self.stop(id, Code::Internal);
        }
    }

    fn ended(&mut self, id: StreamId, end: Result<(), Code>) -> Result<(), &'static str> {
        let Some(Stream { recv, .. }) = self.known(id)? else { return Err("a stream ended twice") };
        if recv.end.replace(end).is_some() {
            return Err("a stream ended twice");
        }
        let unread = if end.is_err() { recv.clear() } else { 0 };
        recv.reader.take().into_iter().for_each(Waker::wake);
        self.let_go(unread);
        self.count_end(id);
        self.forget(id);
        Ok(())
    }

    /// The peer reads no further: our half ends, whoever holds it; one that nobody has accepted yet, once it is. So what
    /// comes in counts until somebody has looked at it, whatever the peer does with it.
    fn stopped(&mut self, id: StreamId, code: Code) -> Result<(), &'static str> {
        let Some(Stream { send, accepted, .. }) = self.known(id)? else { return Ok(()) };
        if send.ended {
            return Ok(());
        }
        send.stopped = Some(code);
        send.writer.take().into_iter().for_each(Waker::wake);
        wake(&mut send.watchers);
        if *accepted {
            self.end(id, Some(code));
        }
        Ok(())
    }
}
