#![allow(clippy::unwrap_used)]
use super::*;

fn header(kind: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, kind);
    varint::put(&mut out, len);
    out
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = header(kind, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

/// Every frame of `chunks`, then the end of the stream. Pieces of DATA are joined.
fn read(chunks: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        while let Some(frame) = decoder.next_frame()? {
            match (frames.last_mut(), frame) {
                (Some(Frame::Data(body)), Frame::Data(piece)) => *body = [&body[..], &piece].concat().into(),
                (_, frame) => frames.push(frame),
            }
        }
    }
    decoder.finish()?;
    Ok(frames)
}

fn whole() -> (Vec<u8>, Vec<Frame>) {
    let body = vec![b'b'; 300];
    let bytes = [
        frame(77, b"unknown, before the head"),
        frame(1, b"head"),
        frame(0, b""),
        frame(0, &body),
        frame(6, b""),
        frame(0, b"more"),
        frame(1 << 40, b"unknown"),
        frame(2, b"trailers"),
        frame(5, b"x"),
        frame(3, b""),
    ];
    let data = [&body[..], b"more"].concat().into();
    let frames = vec![
        Frame::Head(Bytes::from_static(b"head")),
        Frame::Data(data),
        Frame::Trailers(Bytes::from_static(b"trailers")),
        Frame::End,
    ];
    (bytes.concat(), frames)
}

#[test]
fn interim_answers_come_before_the_head_and_are_few() {
    let interim = |count| frame(4, b"hint").repeat(count);
    let end = [frame(1, b"head"), frame(3, b"")].concat();
    let frames = read(&[&interim(16), &end]).unwrap();
    assert_eq!(frames[..16], vec![Frame::Interim(Bytes::from_static(b"hint")); 16]);
    assert_eq!(frames[16..], [Frame::Head(Bytes::from_static(b"head")), Frame::End]);
    assert_eq!(read(&[&interim(17), &end]), Err(FrameError::TooManyInterim));
    let late = [frame(1, b"head"), interim(1), frame(3, b"")].concat();
    let order = FrameError::Order { found: "INTERIM", expected: "DATA, TRAILERS or END" };
    assert_eq!(read(&[&late]), Err(order));
}

#[test]
fn an_exchange_reads_the_same_whatever_the_chunks() {
    let (bytes, frames) = whole();
    assert_eq!(read(&[&bytes]).unwrap(), frames);
    assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()).unwrap(), frames);
    for cut in 0..bytes.len() {
        assert_eq!(read(&[&bytes[..cut], &[], &bytes[cut..]]).unwrap(), frames, "{cut}");
    }
}

#[test]
fn chunks_pushed_before_the_last_was_read_are_kept() {
    let (bytes, frames) = whole();
    let mut decoder = Decoder::new();
    for chunk in bytes.chunks(7) {
        decoder.push(Bytes::copy_from_slice(chunk));
    }
    let got: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
    assert_eq!((got.first(), got.last()), (frames.first(), frames.last()));
}

#[test]
fn every_stream_that_ends_early_is_truncated() {
    let (bytes, _) = whole();
    for cut in 0..bytes.len() {
        assert_eq!(read(&[&bytes[..cut]]), Err(FrameError::Truncated), "{cut}");
    }
}

#[test]
fn data_comes_at_once_and_without_a_copy() {
    let mut decoder = Decoder::new();
    decoder.push([frame(1, b"h"), header(0, 1000)].concat().into());
    assert_eq!(decoder.next_frame().unwrap(), Some(Frame::Head(Bytes::from_static(b"h"))));
    assert_eq!(decoder.next_frame().unwrap(), None);
    let chunk = Bytes::from(vec![1; 10]);
    decoder.push(chunk.clone());
    let Some(Frame::Data(piece)) = decoder.next_frame().unwrap() else { panic!("no data") };
    assert_eq!((piece.as_ptr(), piece.len()), (chunk.as_ptr(), 10));
    assert_eq!(decoder.finish(), Err(FrameError::Truncated));
}

#[test]
fn frames_out_of_order_are_refused() {
    let (head, data, trailers, end) = (frame(1, b"h"), frame(0, b"d"), frame(2, b"t"), frame(3, b""));
    let order = |found, expected| Err(FrameError::Order { found, expected });
    assert_eq!(read(&[&data]), order("DATA", "HEAD"));
    assert_eq!(read(&[&trailers]), order("TRAILERS", "HEAD"));
    assert_eq!(read(&[&end]), order("END", "HEAD"));
    assert_eq!(read(&[&head, &head]), order("HEAD", "DATA, TRAILERS or END"));
    assert_eq!(read(&[&head, &trailers, &data]), order("DATA", "END"));
    assert_eq!(read(&[&head, &trailers, &trailers]), order("TRAILERS", "END"));
    for after in [&head, &data, &trailers, &end, &frame(9, b"")] {
        assert_eq!(read(&[&head, &end, after]), Err(FrameError::AfterEnd));
        assert_eq!(read(&[&[&head[..], &end, after].concat()]), Err(FrameError::AfterEnd));
    }
    assert!(read(&[&head, &end]).is_ok());
}

#[test]
fn an_empty_head_or_trailer_section_is_still_one() {
    let empty = [frame(1, b""), frame(2, b""), frame(3, b"")].concat();
    assert_eq!(
        read(&[&empty]).unwrap(),
        [Frame::Head(Bytes::new()), Frame::Trailers(Bytes::new()), Frame::End]
    );
}

#[test]
fn lengths_above_a_limit_are_refused_before_the_payload() {
    let max = HEAD_BYTES_MAX as u64;
    let head = frame(1, b"h");
    let too_large = |kind, announced, max| Err(FrameError::TooLarge { kind, announced, max });
    assert_eq!(read(&[&header(1, max)]), Err(FrameError::Truncated));
    assert_eq!(read(&[&header(1, max + 1)]), too_large(1, max + 1, max));
    assert_eq!(read(&[&head, &header(2, max)]), Err(FrameError::Truncated));
    assert_eq!(read(&[&head, &header(2, varint::MAX)]), too_large(2, varint::MAX, max));
    assert_eq!(read(&[&head, &header(0, FRAME_DATA_BYTES_MAX)]), Err(FrameError::Truncated));
    let over = FRAME_DATA_BYTES_MAX + 1;
    assert_eq!(read(&[&head, &header(0, over)]), too_large(0, over, FRAME_DATA_BYTES_MAX));
    assert_eq!(read(&[&head, &header(3, 1)]), too_large(3, 1, 0));
}

#[test]
fn unknown_frames_are_skipped_up_to_a_limit_in_all() {
    let head = frame(1, b"h");
    let half = vec![0; UNKNOWN_FRAME_BYTES_MAX as usize / 2 - 2];
    let full = [head.clone(), frame(9, &half), frame(10, &half), frame(3, b"")].concat();
    assert!(read(&[&full]).is_ok());
    assert_eq!(
        read(&[&head, &frame(9, &half), &frame(10, &half), &header(11, 0)]),
        Err(FrameError::TooMuchUnknown)
    );
    assert_eq!(read(&[&header(9, varint::MAX)]), Err(FrameError::TooMuchUnknown));
    let endless = header(9, 0).repeat(UNKNOWN_FRAME_BYTES_MAX as usize);
    assert_eq!(read(&[&endless]), Err(FrameError::TooMuchUnknown));
}

#[test]
fn what_is_written_is_read() {
    let mut out = b"\x01".to_vec();
    put_frame(&mut out, FrameKind::Head, |out| {
        out.extend_from_slice(b"head");
        Ok::<_, FrameError>(())
    })
    .unwrap();
    put_frame_header(&mut out, FrameKind::Data, 4);
    out.extend_from_slice(b"data");
    put_frame(&mut out, FrameKind::Trailers, |_| Ok::<_, FrameError>(())).unwrap();
    out.extend_from_slice(&END);
    let frames = [
        Frame::Head(Bytes::from_static(b"head")),
        Frame::Data(Bytes::from_static(b"data")),
        Frame::Trailers(Bytes::new()),
        Frame::End,
    ];
    assert_eq!(read(&[&out[1..]]).unwrap(), frames);

    let before = out.clone();
    let refused = put_frame(&mut out, FrameKind::Head, |out| {
        out.push(1);
        Err(FrameError::Truncated)
    });
    assert_eq!((refused, out), (Err(FrameError::Truncated), before));

    let mut header = Vec::new();
    put_frame_header(&mut header, FrameKind::Data, FRAME_DATA_BYTES_MAX as usize);
    assert_eq!(header.len(), FRAME_HEADER_BYTES_MAX);
}
