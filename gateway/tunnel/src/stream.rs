//! One exchange: frames written and read on a stream, and the difference between a whole message and a cut one.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use proto::code::Code;
use proto::frame::{self, Decoder, Frame, FrameKind};
use proto::limits;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Duration, Instant};

use crate::carrier::{RecvStream, SendStream};
use crate::error::TunnelError;
use crate::flight::{Fate, Flight};

/// Bytes asked of the carrier at once: large enough that bulk is not read in crumbs.
const READ_BYTES_MAX: usize = 256 * 1024;

/// An exchange in progress: what we send and what we receive.
#[derive(Debug)]
pub struct Exchange {
    /// Our half.
    pub sender: Sender,
    /// The peer's half.
    pub receiver: Receiver,
}

/// The sending half of an exchange. Dropped before [`Sender::end`], it resets the stream with `CANCELLED`: a stream
/// that quinn finishes by itself on drop would pass for a whole message.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream,
    /// The exchange is not over while we may still send: a request without a body is read long before its answer ends.
    flight: Arc<Flight>,
    /// Among the bulk streams of the tunnel.
    place: Option<OwnedSemaphorePermit>,
    sent: u64,
    /// Small exchanges overtake it.
    bulk: bool,
    /// Of what has no end that it comes to by itself: since when `sent` counts.
    endless_since: Option<Instant>,
    ended: bool,
}

/// What has no end is bulk while it sends [`limits::BULK_AFTER_BYTES`] in less than this.
const ENDLESS_WINDOW: Duration = Duration::from_millis(100);

impl Sender {
    pub(crate) fn new(stream: SendStream, flight: Arc<Flight>) -> Self {
        Self { stream, flight, place: None, sent: 0, bulk: false, endless_since: None, ended: false }
    }

    /// Counts it from now on.
    pub(crate) fn count(&mut self, flight: Arc<Flight>) {
        self.flight = flight;
    }

    /// Writes bytes that are frames already (a head with what follows it), waiting for flow control, for a moment where
    /// [many](limits::BULK_STREAMS_MAX) send much, and for the rate that the tunnel may have.
    ///
    /// # Errors
    /// When the peer stopped the stream or the connection is lost. Not cancel safe.
    pub async fn write(&mut self, frames: Bytes) -> Result<(), TunnelError> {
        if let Some(since) = &mut self.endless_since
            && since.elapsed() >= ENDLESS_WINDOW
        {
            // At least one byte: what was said first was said.
            (*since, self.sent) = (Instant::now(), 1);
            if std::mem::take(&mut self.bulk) {
                self.stream.raise_priority();
            }
        }
        let before = self.sent;
        self.sent += frames.len() as u64;
        if before == 0 {
            self.flight.say_data();
        }
        if before < limits::BULK_AFTER_BYTES && self.sent >= limits::BULK_AFTER_BYTES {
            self.expect(u64::MAX);
            if let Some(bulk) = self.flight.bulk().filter(|_| self.endless_since.is_none()) {
                self.place = bulk.place().await;
            }
        }
        if !self.bulk && self.sent <= limits::SMALL_BODY_BYTES as u64 {
            self.stream.mark_small(frames.len());
        } else if let Some(bulk) = self.flight.bulk() {
            bulk.pace(frames.len()).await;
        }
        self.stream.write(frames).await
    }

    /// What is written is of a connection, which may last: it is bulk only while it sends much, and takes no place among those
    /// that come to an end.
    pub fn never_ends(&mut self) {
        self.endless_since = Some(Instant::now());
    }

    /// So many bytes will be written from here on: if they are many, small exchanges overtake them from the first. A
    /// place among the bulk streams is not theirs before they are.
    pub fn expect(&mut self, bytes: u64) {
        if bytes > limits::BULK_AFTER_BYTES && !self.bulk {
            self.bulk = true;
            self.stream.lower_priority();
        }
    }

    /// Writes a part of the body, as large as it comes.
    ///
    /// # Errors
    /// As [`Sender::write`].
    pub async fn data(&mut self, mut body: Bytes) -> Result<(), TunnelError> {
        while !body.is_empty() {
            let part = body.split_to(body.len().min(limits::FRAME_DATA_BYTES_MAX as usize));
            let mut header = Vec::with_capacity(16);
            frame::put_frame_header(&mut header, FrameKind::Data, part.len());
            self.write(header.into()).await?;
            self.write(part).await?;
        }
        Ok(())
    }

    /// Writes the trailers, if any, and the end frame, and finishes the stream: the message is whole.
    ///
    /// # Errors
    /// As [`Sender::write`].
    pub async fn end(&mut self, trailers: Option<&[u8]>) -> Result<(), TunnelError> {
        let mut out = Vec::with_capacity(16);
        if let Some(fields) = trailers {
            frame::put_frame_header(&mut out, FrameKind::Trailers, fields.len());
            out.extend_from_slice(fields);
        }
        frame::put_frame_header(&mut out, FrameKind::End, 0);
        self.write(out.into()).await?;
        self.finish();
        Ok(())
    }

    /// Finishes a stream whose end frame was written by [`Sender::write`].
    pub fn finish(&mut self) {
        self.ended = true;
        self.stream.finish();
        if let Some(place) = self.place.take() {
            // Much of it may still be under way.
            let arrived = self.stream.stopped();
            tokio::spawn(async move {
                arrived.await;
                drop(place);
            });
        }
    }

    /// Waits until the peer stops reading, or has read everything; the future does not borrow this half.
    pub fn stopped(&self) -> impl Future<Output = ()> + 'static {
        self.stream.stopped()
    }

    /// Ends the stream with a code instead of an end frame.
    pub fn reset(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            self.place = None;
            if self.sent == 0 {
                self.flight.say_code(code);
            }
            self.stream.reset(code);
        }
    }
}

impl Exchange {
    /// Tells how it was answered, when that is over.
    pub fn fate(&self) -> Fate {
        Fate::of(&self.sender.flight)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.reset(Code::Cancelled);
    }
}

/// The receiving half of an exchange. Dropped before the end frame, it tells the peer to stop.
#[derive(Debug)]
pub struct Receiver {
    stream: RecvStream,
    decoder: Decoder,
    flight: Arc<Flight>,
    /// What came in one chunk with the stream's kind.
    unread: Bytes,
    /// Frames that [`Receiver::end_is_here`] has read ahead.
    ahead: VecDeque<Frame>,
    /// The end frame was read, or the stream failed: nothing is to be stopped.
    over: bool,
}

impl Receiver {
    pub(crate) fn new(stream: RecvStream, flight: Arc<Flight>) -> Self {
        Self {
            stream,
            decoder: Decoder::new(),
            flight,
            unread: Bytes::new(),
            ahead: VecDeque::new(),
            over: false,
        }
    }

    /// The next frame: head, pieces of data, trailers, end. After the end frame: `None`.
    ///
    /// # Errors
    /// A code from the peer, a lost connection, a stream cut before its end frame, or broken frames.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, TunnelError>> {
        if let Some(frame) = self.ahead.pop_front() {
            return Poll::Ready(Ok(Some(frame)));
        }
        if self.over {
            return Poll::Ready(Ok(None));
        }
        if !self.unread.is_empty() {
            self.decoder.push(std::mem::take(&mut self.unread));
        }
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => {
                    if matches!(frame, Frame::End) {
                        self.over = true;
                        self.drain(cx);
                    }
                    return Poll::Ready(Ok(Some(frame)));
                }
                Ok(None) => {}
                Err(e) => return Poll::Ready(Err(self.fail(TunnelError::Protocol(e.to_string())))),
            }
            match ready!(self.stream.poll_read(cx, READ_BYTES_MAX)) {
                Ok(Some(bytes)) => self.decoder.push(bytes),
                Ok(None) => return Poll::Ready(Err(self.fail(TunnelError::Truncated))),
                Err(e) => return Poll::Ready(Err(self.fail(e))),
            }
        }
    }

    /// Whether the end frame came together with what was read so far: the whole message is here.
    pub fn end_is_here(&mut self) -> bool {
        // A broken frame is found again, and reported, by whoever reads on.
        while let Ok(Some(frame)) = self.decoder.next_frame() {
            let end = matches!(frame, Frame::End);
            self.ahead.push_back(frame);
            if end {
                self.over = true;
                self.drain(&mut Context::from_waker(std::task::Waker::noop()));
                break;
            }
        }
        self.over
    }

    /// As [`Receiver::poll_frame`]. Cancel safe.
    ///
    /// # Errors
    /// As [`Receiver::poll_frame`].
    pub async fn frame(&mut self) -> Result<Option<Frame>, TunnelError> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Tells the peer that we read no further.
    pub fn stop(&mut self, code: Code) {
        if !self.over {
            self.over = true;
            self.stream.stop(code);
        }
    }

    /// Counts it from now on.
    pub(crate) fn count(&mut self, flight: Arc<Flight>) {
        self.flight = flight;
    }

    /// The first byte of a stream that the peer opened: its kind.
    pub(crate) async fn kind_byte(&mut self) -> Result<u8, TunnelError> {
        match std::future::poll_fn(|cx| self.stream.poll_read(cx, READ_BYTES_MAX)).await {
            Ok(Some(mut bytes)) if !bytes.is_empty() => {
                let kind = bytes.split_to(1)[0];
                self.unread = bytes;
                Ok(kind)
            }
            Ok(_) => Err(self.fail(TunnelError::Truncated)),
            Err(e) => Err(self.fail(e)),
        }
    }

    /// Turns what follows on this stream into messages instead of frames.
    pub(crate) fn into_messages(mut self, max: usize) -> MessageReader {
        let buffer = BytesMut::from(std::mem::take(&mut self.unread));
        MessageReader { receiver: self, buffer, max }
    }

    /// The FIN mostly travels with the end frame: taking it now spares the peer a STOP_SENDING.
    fn drain(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.stream.poll_read(cx, 1), Poll::Ready(Ok(None))) {
            self.stream.stop(Code::Cancelled);
        }
    }

    fn fail(&mut self, error: TunnelError) -> TunnelError {
        if matches!(error, TunnelError::Protocol(_)) {
            self.stream.stop(Code::Internal);
        }
        self.over = true;
        self.flight.judge(error)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop(Code::Cancelled);
    }
}

/// Reads length-delimited messages from a control or sync stream.
#[derive(Debug)]
pub struct MessageReader {
    receiver: Receiver,
    buffer: BytesMut,
    max: usize,
}

impl MessageReader {
    /// The next message; `None` when the peer finished the stream. Cancel safe.
    ///
    /// # Errors
    /// A lost connection, a message that is too long, cut or does not parse.
    pub async fn next<M: prost::Message + Default>(&mut self) -> Result<Option<M>, TunnelError> {
        loop {
            let parsed = proto::message::take_message::<M>(&mut self.buffer, self.max);
            match parsed {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(e) => return Err(self.receiver.fail(TunnelError::Protocol(e.to_string()))),
            }
            let stream = &mut self.receiver.stream;
            match std::future::poll_fn(|cx| stream.poll_read(cx, READ_BYTES_MAX)).await {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) if self.buffer.is_empty() => {
                    self.receiver.over = true;
                    return Ok(None);
                }
                Ok(None) => return Err(self.receiver.fail(TunnelError::Truncated)),
                Err(e) => return Err(self.receiver.fail(e)),
            }
        }
    }
}

/// Writes length-delimited messages to a control or sync stream.
#[derive(Debug)]
pub struct MessageWriter {
    sender: Sender,
}

impl MessageWriter {
    pub(crate) fn new(sender: Sender) -> Self {
        Self { sender }
    }

    /// Writes one message, waiting for flow control.
    ///
    /// # Errors
    /// As [`Sender::write`].
    pub async fn send<M: prost::Message>(&mut self, message: &M) -> Result<(), TunnelError> {
        self.sender.write(proto::message::encode_message(message).into()).await
    }

    /// Writes a message that [`proto::message::encode_message`] made, such as one that many are sent.
    ///
    /// # Errors
    /// As [`Sender::write`].
    pub async fn send_encoded(&mut self, message: Bytes) -> Result<(), TunnelError> {
        self.sender.write(message).await
    }

    /// Writes bytes as they are: the stream's kind before the first message.
    pub(crate) async fn raw(&mut self, bytes: Bytes) -> Result<(), TunnelError> {
        self.sender.write(bytes).await
    }

    /// Ends the stream after what was written.
    pub fn finish(mut self) {
        self.sender.finish();
    }
}
