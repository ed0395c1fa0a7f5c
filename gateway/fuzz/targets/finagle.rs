//! Whatever a caller, a peer or an endpoint sends as Mux is read: the same in pieces as at once, never more than came, and an
//! answer in the place of another is a message itself.
#![no_main]

use bytes::BytesMut;
use finagle::{Malformed, Message, Status, next};
use libfuzzer_sys::fuzz_target;

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Option<Malformed>) {
    let (mut buf, mut messages) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match next(&mut buf) {
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
        assert_eq!(decode(data.chunks(size)), (messages.clone(), malformed));
    }
    for call in messages.iter().filter(|message| message.kind.is_call()) {
        let _ = thrift::method(call.body());
        let said = call.answer(Status::Error, "no");
        assert!(call.is_answered_by(&said));
        assert_eq!(decode([&said.bytes[..]]), (vec![said], None));
    }
});
