//! Messages of Mux, by which Finagle has many calls on one connection, as a proxy sees them: which of them are calls, which
//! answer is whose, and an answer in the place of one. What is called with stays closed. Pure.
//!
//! A message is a size, a type, a tag by which answers are matched, and a body (the documentation of Finagle's package
//! `com.twitter.finagle.mux`). What the two ends of a connection may agree on beyond that, fragments of messages among it, is
//! theirs alone, and not taken up here.

mod content;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use content::Content;

/// The longest message, as that of Thrift, which most of them hold.
pub const MESSAGE_BYTES_MAX: usize = 16_384_000;
/// By which both ends know messages about their connection.
pub const CONTROL_TAG: u32 = 1;
/// Who asks by it whether an end knows `Tinit` is answered with the same by one that does.
pub const INIT_CHECK: &[u8] = b"tinit check";

/// The size before each message.
const SIZE_BYTES: usize = 4;
/// Type and tag.
const HEAD_BYTES: usize = 4;
/// On the tag of a message of which more comes.
const FRAGMENT: u32 = 1 << 23;

/// The type of a message: what begins an exchange, and behind it what ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Kind {
    /// A call in an older form (`Treq`).
    Request = 1,
    /// Its answer (`Rreq`).
    RequestAnswer = -1,
    /// A call (`Tdispatch`).
    Dispatch = 2,
    /// Its answer (`Rdispatch`).
    DispatchAnswer = -2,
    /// No call is to come any more (`Tdrain`).
    Drain = 64,
    /// None will (`Rdrain`).
    Drained = -64,
    /// Whether the other end lives (`Tping`).
    Ping = 65,
    /// It does (`Rping`).
    Pong = -65,
    /// A call is not waited for any more (`Tdiscarded`).
    Discard = 66,
    /// Nor is its answer to come (`Rdiscarded`).
    Discarded = -66,
    /// For how long calls are welcome (`Tlease`).
    Lease = 67,
    /// What both ends can do (`Tinit`).
    Init = 68,
    /// What they will (`Rinit`).
    Inited = -68,
    /// That a message is not understood, or cannot be served (`Rerr`).
    Error = -128,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was served.
    Ok = 0,
    /// It failed.
    Error = 1,
    /// Nothing of it was done.
    Nack = 2,
}

/// Why what came is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It has no type and tag.
    #[error("it has fewer than {HEAD_BYTES} bytes")]
    TooShort,
    /// The message is too long.
    #[error("it has more than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    /// There is no such type.
    #[error("there is no type {0}")]
    Kind(i8),
    /// It is a part of a message: that was not agreed on.
    #[error("it is a part of a message, and that was not agreed on")]
    Fragment,
    /// A length in it is longer than it is, or a status is none.
    #[error("what it holds is malformed")]
    Content,
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it came, its size before it.
    pub bytes: Bytes,
    /// What it is.
    pub kind: Kind,
    /// Which answer is its.
    pub tag: u32,
    content: Content,
}

impl Kind {
    fn of(byte: i8) -> Result<Self, Malformed> {
        const ALL: [Kind; 14] = [
            Kind::Request,
            Kind::RequestAnswer,
            Kind::Dispatch,
            Kind::DispatchAnswer,
            Kind::Drain,
            Kind::Drained,
            Kind::Ping,
            Kind::Pong,
            Kind::Discard,
            Kind::Discarded,
            Kind::Lease,
            Kind::Init,
            Kind::Inited,
            Kind::Error,
        ];
        match byte {
            // As older versions wrote them, and newer ones do to be understood by those.
            127 => Ok(Self::Error),
            -62 => Ok(Self::Discard),
            _ => ALL.into_iter().find(|kind| *kind as i8 == byte).ok_or(Malformed::Kind(byte)),
        }
    }

    /// Whether it is a call.
    pub fn is_call(self) -> bool {
        matches!(self, Self::Request | Self::Dispatch)
    }

    /// Whether it begins an exchange about the connection.
    pub fn asks(self) -> bool {
        self as i8 >= 64
    }
}

impl Message {
    /// A message of `kind` without a body, but for `text`.
    pub fn new(kind: Kind, tag: u32, text: &str) -> Self {
        Self::of(kind, tag, text.as_bytes(), Content::default())
    }

    fn of(kind: Kind, tag: u32, body: &[u8], mut content: Content) -> Self {
        content.at = content.at.max(SIZE_BYTES + HEAD_BYTES);
        let mut out = BytesMut::with_capacity(SIZE_BYTES + HEAD_BYTES + body.len());
        out.put_u32((HEAD_BYTES + body.len()) as u32);
        let byte = match kind {
            // The old type: all versions understand it.
            Kind::Error => 127,
            kind => kind as i8,
        };
        out.put_i8(byte);
        out.put_uint(tag.into(), 3);
        out.put_slice(body);
        Self { bytes: out.freeze(), kind, tag, content }
    }

    /// That the call `tag` is not waited for any more.
    pub fn discard(tag: u32, why: &str) -> Self {
        let mut body = Vec::with_capacity(3 + why.len());
        body.put_uint(tag.into(), 3);
        body.put_slice(why.as_bytes());
        let at = SIZE_BYTES + HEAD_BYTES + 3;
        let content = Content { discards: Some(tag), at, ..Content::default() };
        let mut message = Self::of(Kind::Discard, 0, &body, content);
        // As with errors.
        let mut bytes = BytesMut::from(message.bytes);
        bytes[SIZE_BYTES] = (-62_i8).cast_unsigned();
        message.bytes = bytes.freeze();
        message
    }

    /// The answer to this call: how it went, and a `text` for people.
    pub fn answer(&self, status: Status, text: &str) -> Self {
        let mut body = Vec::with_capacity(3 + text.len());
        body.put_u8(status as u8);
        let kind = if self.kind == Kind::Request {
            Kind::RequestAnswer
        } else {
            // No contexts.
            body.put_u16(0);
            Kind::DispatchAnswer
        };
        let content = Content { status: Some(status), ..Content::default() };
        let at = SIZE_BYTES + HEAD_BYTES + body.len();
        body.put_slice(text.as_bytes());
        Self::of(kind, self.tag, &body, Content { at, ..content })
    }

    /// Whether `answer` is the one to this call.
    pub fn is_answered_by(&self, answer: &Self) -> bool {
        let fits = match answer.kind {
            Kind::RequestAnswer => self.kind == Kind::Request,
            Kind::DispatchAnswer => self.kind == Kind::Dispatch,
            Kind::Error => self.kind.is_call(),
            _ => false,
        };
        fits && answer.tag == self.tag
    }

    /// Of an answer, how the call went.
    pub fn status(&self) -> Option<Status> {
        if self.kind == Kind::Error { Some(Status::Error) } else { self.content.status }
    }

    /// Of a call, how many nanoseconds whoever calls has given it.
    pub fn nanoseconds_given(&self) -> Option<u64> {
        self.content.nanoseconds
    }

    /// Which call is not waited for any more.
    pub fn discards(&self) -> Option<u32> {
        self.content.discards
    }

    /// Whether it says that no call is welcome from now on.
    pub fn ends_lease(&self) -> bool {
        self.kind == Kind::Lease && self.content.lease == Some(0)
    }

    /// What a call is with, or an answer, or what is said about the connection.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(self.content.at..).unwrap_or_default()
    }
}

/// The next message of `buf`, taken out of it; none: more must come first.
///
/// # Errors
/// [`Malformed`]: nothing more can be read of this connection.
pub fn next(buf: &mut BytesMut) -> Result<Option<Message>, Malformed> {
    let Some(size) = buf.first_chunk() else { return Ok(None) };
    let size = u32::from_be_bytes(*size) as usize;
    if size < HEAD_BYTES {
        return Err(Malformed::TooShort);
    }
    if size > MESSAGE_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    if buf.len() < SIZE_BYTES + size {
        return Ok(None);
    }
    let bytes = buf.split_to(SIZE_BYTES + size).freeze();
    let mut head = &bytes[SIZE_BYTES..];
    let kind = Kind::of(head.get_i8())?;
    let tag = head.get_uint(3) as u32;
    if tag & FRAGMENT != 0 {
        return Err(Malformed::Fragment);
    }
    let content = Content::read(kind, &bytes, SIZE_BYTES + HEAD_BYTES)?;
    Ok(Some(Message { bytes, kind, tag, content }))
}

#[cfg(test)]
mod tests;
