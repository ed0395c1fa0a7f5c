//! Whatever a caller, a peer or an endpoint sends as Thrift is read: the same in pieces as at once, never more than came, and
//! an exception in the place of its answer is a message itself.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use thrift::{Decoder, ExceptionKind, Malformed, Message};

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Option<Malformed>) {
    let (mut decoder, mut buf, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buf) {
                Ok(None) => break,
                Ok(Some(message)) => messages.push(message),
                Err(malformed) => return (messages, Some(malformed)),
            }
        }
    }
    (messages, None)
}

fuzz_target!(|data: &[u8]| {
    let (messages, malformed) = decode([data]);
    let read: usize = messages.iter().map(|message| message.bytes.len()).sum();
    assert!(read <= data.len());
    for size in [1, 7] {
        let (in_pieces, then) = decode(data.chunks(size));
        assert_eq!((&in_pieces, then.is_some()), (&messages, malformed.is_some()));
    }
    if let Some(message) = messages.first() {
        let said = message.exception(ExceptionKind::InternalError, "no");
        assert_eq!(decode([&said.bytes[..]]), (vec![said], None));
    }
});
