//! A stream of frames reads the same whatever the chunks. The first byte sets their size.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::frame::{Decoder, Frame, FrameError};

#[derive(Debug, Default, PartialEq)]
struct Read {
    head: Option<Bytes>,
    body: Vec<u8>,
    trailers: Option<Bytes>,
    error: Option<FrameError>,
}

fn read(data: &[u8], chunk: usize) -> Read {
    let (mut decoder, mut read) = (Decoder::new(), Read::default());
    for chunk in data.chunks(chunk) {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(Frame::Head(head))) => assert_eq!(read.head.replace(head), None),
                Ok(Some(Frame::Data(piece))) => {
                    assert!(!piece.is_empty());
                    read.body.extend_from_slice(&piece);
                }
                Ok(Some(Frame::Trailers(trailers))) => assert_eq!(read.trailers.replace(trailers), None),
                Ok(Some(Frame::Interim(_))) => assert!(read.head.is_none()),
                Ok(Some(Frame::End)) => assert!(decoder.ended()),
                Err(error) => return Read { error: Some(error), ..read },
            }
        }
    }
    Read { error: decoder.finish().err(), ..read }
}

fuzz_target!(|data: &[u8]| {
    let Some((&chunk, data)) = data.split_first() else { return };
    assert_eq!(read(data, usize::from(chunk) + 1), read(data, data.len().max(1)));
});
