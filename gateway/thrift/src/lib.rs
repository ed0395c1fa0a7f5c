//! Messages of Thrift as a proxy sees them: where one ends, which method it calls, and an exception in the place of its
//! answer. What is called with stays closed: no type of any service is known here. Pure.
//!
//! A message is a head (method, kind, number) and one struct, in the binary protocol (strict or old) or the compact one,
//! each behind its length (framed) or not (buffered, where only its structure shows its end). Which of them a connection
//! speaks, its first bytes show. (Thrift's own specifications: `thrift-binary-protocol.md`, `thrift-compact-protocol.md`,
//! `thrift-rpc.md`.)

mod exception;
mod head;
mod skip;

use bytes::{Bytes, BytesMut};

pub use exception::ExceptionKind;
pub use head::{Head, Kind, METHOD_BYTES_MAX, Protocol};
use skip::Skip;

/// The longest message: what Thrift's own libraries take (`TConfiguration`, `maxMessageSize` 100 MiB, `maxFrameSize` 16 MB)
/// is the frame.
pub const MESSAGE_BYTES_MAX: usize = 16_384_000;
/// The length before a framed message.
const FRAME_BYTES: usize = 4;

/// How messages follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Each behind its length.
    Framed,
    /// One after the other.
    Buffered,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it came, its length before it if it was framed.
    pub bytes: Bytes,
    /// How it came.
    pub transport: Transport,
    /// What it is.
    pub head: Head,
    /// Where what it holds begins in its bytes.
    content: usize,
}

impl Message {
    /// The answer to this call: why it is not served, and a `text` for people.
    pub fn exception(&self, kind: ExceptionKind, text: &str) -> Self {
        let (bytes, content) = exception::exception(&self.head, self.transport, kind, text);
        let head = Head { kind: Kind::Exception, ..self.head.clone() };
        Self { bytes, transport: self.transport, head, content }
    }

    /// Of an exception the kind, as the number that [`ExceptionKind`] has; none: it does not say, or is no exception.
    pub fn exception_kind(&self) -> Option<i32> {
        let content = self.bytes.get(self.content..)?;
        if self.head.kind == Kind::Exception { exception::kind(self.head.protocol, content) } else { None }
    }
}

/// Why what came is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither protocol begins like this.
    #[error("it begins like no message of the binary or the compact protocol")]
    Protocol,
    /// It is none of the four kinds of messages.
    #[error("it is neither a call nor an answer")]
    Kind,
    /// The name of the method is too long, or no text.
    #[error("the name of its method is no text of at most {METHOD_BYTES_MAX} bytes")]
    Method,
    /// The message is too long.
    #[error("it has more than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// A length is negative, a type is not known, or a number has too many bytes.
    #[error("what it holds is malformed")]
    Content,
    /// Structs lie in each other deeper than anybody needs.
    #[error("what it holds is nested too deeply")]
    Nested,
    /// The frame is longer or shorter than what it holds.
    #[error("its frame is not as long as its message")]
    Frame,
}

/// Takes messages out of the bytes of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    transport: Option<Transport>,
    /// Of a buffered message, of which not all has come.
    begun: Option<(Head, usize, Skip)>,
}

impl Decoder {
    /// The next message of `buf`, taken out of it; none: more must come first. It is looked at once, however it comes in
    /// pieces.
    ///
    /// # Errors
    /// [`Malformed`]: nothing more can be read of this connection.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        let transport = match self.transport {
            Some(transport) => transport,
            None => match detect(buf)? {
                None => return Ok(None),
                Some(transport) => *self.transport.insert(transport),
            },
        };
        match transport {
            Transport::Framed => Self::framed(buf),
            Transport::Buffered => self.buffered(buf),
        }
    }

    fn framed(buf: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        let Some(length) = buf.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        if buf.len() < FRAME_BYTES + length {
            return Ok(None);
        }
        let bytes = buf.split_to(FRAME_BYTES + length).freeze();
        let message = &bytes[FRAME_BYTES..];
        let (head, at) = Head::read(message)?.ok_or(Malformed::Frame)?;
        // Servers take what is left of a frame for the next message, and what lacks out of the next frame: then answers
        // would come to those who have not asked.
        if Skip::behind(at, head.protocol).end(message)? != Some(message.len()) {
            return Err(Malformed::Frame);
        }
        Ok(Some(Message { bytes, transport: Transport::Framed, head, content: FRAME_BYTES + at }))
    }

    fn buffered(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        if self.begun.is_none() {
            let Some((head, at)) = Head::read(buf)? else { return Ok(None) };
            let skip = Skip::behind(at, head.protocol);
            self.begun = Some((head, at, skip));
        }
        let Some((.., skip)) = &mut self.begun else { return Ok(None) };
        let end = skip.end(buf)?;
        if end.unwrap_or(buf.len()) > MESSAGE_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        let Some(end) = end else { return Ok(None) };
        let begun = self.begun.take();
        let bytes = buf.split_to(end).freeze();
        Ok(begun.map(|(head, content, _)| Message { bytes, transport: Transport::Buffered, head, content }))
    }
}

/// The method that the message calls which `bytes` begin with, without a frame; none: they begin with no message.
pub fn method(bytes: &[u8]) -> Option<Box<str>> {
    Head::read(bytes).ok().flatten().map(|(head, _)| head.method)
}

/// The kind that an exception names, as [`Message::exception_kind`], where `bytes` are one without a frame; none: they are
/// none.
pub fn exception_kind(bytes: &[u8]) -> Option<Option<i32>> {
    let (head, at) = Head::read(bytes).ok()??;
    (head.kind == Kind::Exception).then(|| exception::kind(head.protocol, &bytes[at..]))
}

/// How the messages of a connection come that begins with `bytes`; none: too few of them.
///
/// A frame has its length first, whose first byte is small; the strict binary protocol and the compact one begin with a byte
/// that is not. The old binary protocol begins with the length of a name: behind it comes a letter, where behind a frame's
/// comes the beginning of a message.
fn detect(bytes: &[u8]) -> Result<Option<Transport>, Malformed> {
    match bytes {
        [head::COMPACT | head::STRICT, ..] => Ok(Some(Transport::Buffered)),
        [0..=0x7f, _, _, _, head::COMPACT | head::STRICT | 0, ..] => Ok(Some(Transport::Framed)),
        [0, _, _, _, b'!'..=b'~', ..] => Ok(Some(Transport::Buffered)),
        [_, _, _, _, _, ..] | [0x80..=0xff, ..] => Err(Malformed::Protocol),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
