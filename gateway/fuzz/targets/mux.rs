//! Frames of a byte stream read the same whatever the chunks, and what was read is written alike. The first byte sets
//! their size.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proto::mux::{Frame, MuxError};

fn read(data: &[u8], chunk: usize) -> (Vec<Frame>, Option<MuxError>) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for chunk in data.chunks(chunk) {
        buf.extend_from_slice(chunk);
        loop {
            match Frame::decode(&mut buf) {
                Ok(None) => break,
                Ok(Some(frame)) => frames.push(frame),
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&chunk, data)) = data.split_first() else { return };
    let whole = read(data, data.len().max(1));
    assert_eq!(read(data, usize::from(chunk) + 1), whole);
    let (frames, _) = whole;
    let mut written = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut written));
    assert_eq!(read(&written, written.len().max(1)), (frames, None));
});
