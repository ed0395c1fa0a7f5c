//! Messages of the protocols whose calls are placed each by itself: what all of them have in common. Pure.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finagle::Status;
use registry::model::Protocol;
use thrift::{ExceptionKind, Kind};

/// The method of a call that hides it.
const NO_METHOD: &str = "";

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Of Thrift.
    Thrift(thrift::Message),
    /// Of Mux, with the method that it calls where it holds a call of Thrift.
    Mux(finagle::Message, Option<Box<str>>),
}

/// What an answer says of how its call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was served.
    Served,
    /// Whoever serves it could not do so.
    Failed,
    /// It was not: whoever calls has no claim to it.
    Refused,
    /// Nothing of it was done.
    Untouched,
}

/// Why what came is no message.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is longer than a message may be.
    #[error("it is too long")]
    TooLong,
    /// It is none of Thrift.
    #[error(transparent)]
    Thrift(thrift::Malformed),
    /// It is none of Mux.
    #[error(transparent)]
    Mux(finagle::Malformed),
}

/// Takes messages out of the bytes of one connection.
#[derive(Debug)]
pub enum Decoder {
    /// Those of Thrift.
    Thrift(thrift::Decoder),
    /// Those of Mux.
    Mux,
}

/// A longer one was most likely read into memory of its own.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// The longest message of any of the protocols, with what is before it.
pub const MESSAGE_BYTES_MAX: usize = {
    let (thrift, mux) = (thrift::MESSAGE_BYTES_MAX, finagle::MESSAGE_BYTES_MAX);
    (if thrift > mux { thrift } else { mux }) + size_of::<u32>()
};

impl Decoder {
    /// For a connection that speaks `protocol`; none: it has no calls.
    pub fn of(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Thrift => Some(Self::Thrift(thrift::Decoder::default())),
            Protocol::Mux => Some(Self::Mux),
            Protocol::Http | Protocol::Grpc | Protocol::Tcp | Protocol::Tls | Protocol::Udp => None,
        }
    }

    /// The next message of `buf`, taken out of it; none: more must come first.
    ///
    /// # Errors
    /// [`Malformed`]: nothing more can be read of this connection.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<Message>, Malformed> {
        match self {
            Self::Thrift(decoder) => match decoder.next(buf) {
                Ok(message) => Ok(message.map(Message::Thrift)),
                Err(thrift::Malformed::TooLong) => Err(Malformed::TooLong),
                Err(error) => Err(Malformed::Thrift(error)),
            },
            Self::Mux => match finagle::next(buf) {
                Ok(message) => Ok(message.map(Message::mux)),
                Err(finagle::Malformed::TooLong) => Err(Malformed::TooLong),
                Err(error) => Err(Malformed::Mux(error)),
            },
        }
    }
}

impl Message {
    /// One of Mux.
    pub fn mux(message: finagle::Message) -> Self {
        let method = if message.kind.is_call() { thrift::method(message.body()) } else { None };
        Self::Mux(message, method)
    }

    /// The same, which holds no more memory than it needs: what it was read from may be far larger.
    pub fn detached(mut self) -> Self {
        let bytes = match &mut self {
            Self::Thrift(message) => &mut message.bytes,
            Self::Mux(message, _) => &mut message.bytes,
        };
        if bytes.len() <= COPIED_BYTES_MAX {
            *bytes = Bytes::copy_from_slice(bytes);
        }
        self
    }

    /// As it came.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Thrift(message) => &message.bytes,
            Self::Mux(message, _) => &message.bytes,
        }
    }

    /// What it is of.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Thrift(_) => Protocol::Thrift,
            Self::Mux(..) => Protocol::Mux,
        }
    }

    /// The method that it calls, if that shows.
    pub fn method(&self) -> &str {
        match self {
            Self::Thrift(message) => &message.head.method,
            Self::Mux(_, method) => method.as_deref().unwrap_or(NO_METHOD),
        }
    }

    /// Whether it is a call, answered or not.
    pub fn is_call(&self) -> bool {
        match self {
            Self::Thrift(message) => matches!(message.head.kind, Kind::Call | Kind::Oneway),
            Self::Mux(message, _) => message.kind.is_call(),
        }
    }

    /// Whether it is a call that is not answered.
    pub fn is_oneway(&self) -> bool {
        matches!(self, Self::Thrift(message) if message.head.kind == Kind::Oneway)
    }

    /// How long whoever calls waits for the answer, where that is said.
    pub fn given(&self) -> Option<Duration> {
        match self {
            Self::Thrift(_) => None,
            Self::Mux(message, _) => message.nanoseconds_given().map(Duration::from_nanos),
        }
    }

    /// Whether `answer` is the one to this call.
    pub fn is_answered_by(&self, answer: &Self) -> bool {
        match (self, answer) {
            (Self::Thrift(call), Self::Thrift(answer)) => {
                let (asked, said) = (&call.head, &answer.head);
                matches!(said.kind, Kind::Reply | Kind::Exception)
                    && (said.number, &said.method) == (asked.number, &asked.method)
                    && said.protocol.is_read_by_who_writes(asked.protocol)
                    && answer.transport == call.transport
            }
            (Self::Mux(call, _), Self::Mux(answer, _)) => call.is_answered_by(answer),
            _ => false,
        }
    }

    /// The answer to this call that says in `text` why it is not served, and whether something of it may have been done.
    pub fn refusal(&self, text: &str, untouched: bool) -> Self {
        match self {
            Self::Thrift(message) => Self::Thrift(message.exception(ExceptionKind::InternalError, text)),
            Self::Mux(message, _) => {
                let status = if untouched { Status::Nack } else { Status::Error };
                Self::Mux(message.answer(status, text), None)
            }
        }
    }

    /// Of an answer, how its call went.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Thrift(message) => match message.head.kind {
                Kind::Exception => Verdict::of_exception(message.exception_kind()),
                _ => Verdict::Served,
            },
            Self::Mux(message, _) => match message.status() {
                Some(Status::Error) => Verdict::Failed,
                Some(Status::Nack) => Verdict::Untouched,
                // Of Thrift by Mux, what failed is an exception in an answer that is none.
                Some(Status::Ok) | None => {
                    thrift::exception_kind(message.body()).map_or(Verdict::Served, Verdict::of_exception)
                }
            },
        }
    }
}

impl Verdict {
    /// That of an exception of Thrift of this kind.
    fn of_exception(kind: Option<i32>) -> Self {
        match kind {
            // That it has no such method is its caller's fault.
            Some(kind) if kind == ExceptionKind::UnknownMethod as i32 => Self::Refused,
            Some(_) => Self::Failed,
            None => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The call `who`, of Thrift.
    const WHO: &[u8] = b"\x80\x01\0\x01\0\0\0\x03who\0\0\0\x07\0";

    fn read(protocol: Protocol, bytes: &[u8]) -> Message {
        Decoder::of(protocol).unwrap().next(&mut BytesMut::from(bytes)).unwrap().unwrap()
    }

    /// By Mux, with `holds` behind no contexts.
    fn dispatch(holds: &[u8]) -> Message {
        let size = (holds.len() as u32 + 10).to_be_bytes();
        read(Protocol::Mux, &[&size[..], b"\x02\0\0\x05\0\0\0\0\0\0", holds].concat())
    }

    #[test]
    fn a_call_shows_its_method_by_either_way() {
        for call in [read(Protocol::Thrift, WHO), dispatch(WHO)] {
            assert!(call.is_call() && !call.is_oneway());
            assert_eq!(call.method(), "who");
        }
        assert_eq!(dispatch(b"anything").method(), "");
    }

    #[test]
    fn a_refusal_answers_its_call_and_says_what_was_done() {
        for (call, verdict) in
            [(read(Protocol::Thrift, WHO), Verdict::Failed), (dispatch(WHO), Verdict::Untouched)]
        {
            let refusal = call.refusal("no room", true);
            assert!(call.is_answered_by(&refusal) && !refusal.is_call());
            assert_eq!(refusal.verdict(), verdict);
            assert_eq!(call.refusal("broken", false).verdict(), Verdict::Failed);
        }
        assert!(!dispatch(WHO).is_answered_by(&read(Protocol::Thrift, WHO).refusal("", true)));
    }

    #[test]
    fn a_failure_of_thrift_is_one_by_mux_too() {
        let answer = |status: u8, holds: &[u8]| {
            let size = (holds.len() as u32 + 7).to_be_bytes();
            read(Protocol::Mux, &[&size[..], b"\xfe\0\0\x05", &[status, 0, 0], holds].concat()).verdict()
        };
        let exception = |kind: u8| {
            let text = b"\x80\x01\0\x03\0\0\0\x03who\0\0\0\x07\x08\0\x02\0\0\0";
            [&text[..], &[kind, 0]].concat()
        };
        assert_eq!(answer(0, &exception(6)), Verdict::Failed);
        assert_eq!(answer(0, &exception(1)), Verdict::Refused);
        assert_eq!(answer(0, b"whatever"), Verdict::Served);
        assert_eq!((answer(1, b"no"), answer(2, b"no")), (Verdict::Failed, Verdict::Untouched));
    }

    #[test]
    fn what_is_small_keeps_nothing_large() {
        let mut buf = BytesMut::with_capacity(1 << 20);
        buf.extend_from_slice(dispatch(WHO).bytes());
        let message = Decoder::Mux.next(&mut buf).unwrap().unwrap();
        let detached = message.clone().detached();
        assert_eq!(detached, message);
        assert_ne!(detached.bytes().as_ptr(), message.bytes().as_ptr());
    }

    #[test]
    fn what_is_too_long_is_said_apart() {
        for protocol in [Protocol::Thrift, Protocol::Mux] {
            let decoded =
                Decoder::of(protocol).unwrap().next(&mut BytesMut::from(&[0x7f, 0, 0, 0, 0x80][..]));
            assert!(matches!(decoded, Err(Malformed::TooLong)));
        }
        assert!(Decoder::of(Protocol::Http).is_none());
    }
}
