//! Messages on control and sync streams: a variable-length length, then the protobuf message.

use bytes::{Buf, BytesMut};
use prost::Message;
use thiserror::Error;

use crate::varint;

/// Why no message could be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The announced length is above the limit of this stream.
    #[error("a message of {announced} bytes is announced, {max} are allowed")]
    TooLarge {
        /// What the peer announced, in bytes.
        announced: u64,
        /// What this stream allows, in bytes.
        max: usize,
    },
    /// The bytes are no such protobuf message.
    #[error("the message is malformed")]
    Malformed(#[from] prost::DecodeError),
}

/// Appends `message` with its length.
pub fn put_message(out: &mut Vec<u8>, message: &impl Message) {
    let len = message.encoded_len();
    out.reserve(len + 8);
    varint::put(out, len as u64);
    message.encode(out).expect("only a full buffer fails, and a Vec grows");
}

/// `message` with its length, as one buffer.
pub fn encode_message(message: &impl Message) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(&mut out, message);
    out
}

/// Takes one whole message of at most `max` bytes from the front of `buf`. None: more bytes are needed; `buf` never has
/// to hold more than `max + 8`.
///
/// # Errors
/// [`MessageError`]: the stream cannot be read any further.
pub fn take_message<M: Message + Default>(buf: &mut BytesMut, max: usize) -> Result<Option<M>, MessageError> {
    let Some((announced, prefix)) = varint::get(buf) else { return Ok(None) };
    let len = match usize::try_from(announced) {
        Ok(len) if len <= max => len,
        _ => return Err(MessageError::TooLarge { announced, max }),
    };
    if buf.len() - prefix < len {
        return Ok(None);
    }
    buf.advance(prefix);
    Ok(Some(M::decode(buf.split_to(len))?))
}
