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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::{Control, GoAway, control};
    use crate::limits::CONTROL_MESSAGE_BYTES_MAX;
    use crate::sync::{Contract, HashKey, Mode, Port, Protocol, Record, Tiers};

    fn go_away(reason: &str) -> Control {
        let go_away = GoAway { last_stream: Some(7), reason: reason.into() };
        Control { kind: Some(control::Kind::GoAway(go_away)) }
    }

    #[test]
    fn messages_come_out_whole_and_in_order_whatever_the_chunks() {
        let sent = [go_away(""), go_away("draining"), go_away(&"x".repeat(100))];
        let mut bytes = Vec::new();
        for message in &sent {
            put_message(&mut bytes, message);
        }
        let (mut buf, mut got) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buf.extend_from_slice(&[byte]);
            while let Some(message) = take_message::<Control>(&mut buf, CONTROL_MESSAGE_BYTES_MAX).unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, sent);
        assert!(buf.is_empty());
    }

    #[test]
    fn the_limit_counts_before_the_payload_came() {
        let message = go_away("draining");
        let len = prost::Message::encoded_len(&message);
        let bytes = encode_message(&message);
        let take = |max| take_message::<Control>(&mut BytesMut::from(&bytes[..]), max);
        assert_eq!(take(len).unwrap(), Some(message));
        assert_eq!(take(len - 1), Err(MessageError::TooLarge { announced: len as u64, max: len - 1 }));

        let mut prefix_only = BytesMut::from(&[0xff; 8][..]);
        let error = take_message::<Control>(&mut prefix_only, CONTROL_MESSAGE_BYTES_MAX).unwrap_err();
        assert_eq!(error, MessageError::TooLarge { announced: varint::MAX, max: CONTROL_MESSAGE_BYTES_MAX });
    }

    #[test]
    fn no_message_is_an_error_with_its_cause() {
        let error = take_message::<Control>(&mut BytesMut::from(&[1, 0xff][..]), 10).unwrap_err();
        assert!(matches!(error, MessageError::Malformed(_)));
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn a_control_message_of_a_later_kind_reads_as_no_kind() {
        // Field 15, two bytes.
        let mut buf = BytesMut::from(&[4, 0x7a, 2, 1, 2][..]);
        let message = take_message::<Control>(&mut buf, CONTROL_MESSAGE_BYTES_MAX).unwrap();
        assert_eq!(message, Some(Control { kind: None }));
    }

    #[test]
    fn what_a_later_version_says_is_seen_as_unknown_and_not_misread() {
        let port = Port { protocol: 99, ..Port::default() };
        assert_eq!(port.protocol(), Protocol::Unspecified);
        let contract = Contract { mode: 99, ..Contract::default() };
        assert_eq!(contract.mode(), Mode::Unspecified);
        // A source of the key in field 15.
        assert_eq!(<HashKey as prost::Message>::decode(&[0x7a, 1, 1][..]).unwrap().kind, None);
    }

    #[test]
    fn an_empty_list_of_tiers_is_not_an_absent_one() {
        let contract = Contract { generation: 1, tiers: Some(Tiers::default()), ..Contract::default() };
        let record = Record { contract: Some(contract), ..Record::default() };
        let mut buf = BytesMut::from(&encode_message(&record)[..]);
        assert_eq!(take_message::<Record>(&mut buf, 100).unwrap(), Some(record));
    }
}
