#![allow(clippy::unwrap_used)]

use super::*;

fn written(state: &mut State) -> Vec<Frame> {
    let mut out = BytesMut::new();
    let mut frames = Vec::new();
    loop {
        state.take(&mut out);
        let before = frames.len();
        while let Some(frame) = Frame::decode(&mut out).unwrap() {
            frames.push(frame);
        }
        if frames.len() == before {
            return frames;
        }
    }
}

/// Takes everything that each side has written to the other, until nothing is left.
fn exchange(a: &mut State, b: &mut State) {
    loop {
        let (from_a, from_b) = (written(a), written(b));
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        from_a.into_iter().for_each(|frame| assert_eq!(b.receive(frame), Ok(None)));
        from_b.into_iter().for_each(|frame| assert_eq!(a.receive(frame), Ok(None)));
    }
}

fn now() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn accepted(state: &mut State) -> Option<StreamId> {
    match state.poll_accept(&mut now()) {
        Poll::Ready(id) => id,
        Poll::Pending => None,
    }
}

fn drop_both(state: &mut State, id: StreamId) {
    state.end(id, Some(Code::Cancelled));
    state.drop_half(id, true);
    state.stop(id, Code::Cancelled);
    state.drop_half(id, false);
}

#[test]
fn at_the_limit_a_stream_in_the_place_of_another_is_never_one_too_many() {
    let (mut west, mut east) = (State::new(true), State::new(false));
    let mut open: VecDeque<_> = std::iter::from_fn(|| west.open()).collect();
    assert_eq!(open.len(), STREAMS_MAX as usize);
    exchange(&mut west, &mut east);
    for _ in 0..100 {
        let theirs = accepted(&mut east).unwrap();
        drop_both(&mut east, theirs);
        drop_both(&mut west, open.pop_front().unwrap());
        // As soon as west may; OPEN goes before whatever waits with the data.
        while west.open().is_none() {
            for frame in written(&mut east) {
                west.receive(frame).unwrap();
            }
            for frame in written(&mut west) {
                assert_eq!(east.receive(frame), Ok(None));
            }
        }
        exchange(&mut west, &mut east);
    }
    assert_eq!(west.streams.len(), STREAMS_MAX as usize);
}

#[test]
fn what_is_over_is_forgotten() {
    let (mut west, mut east) = (State::new(true), State::new(false));
    for _ in 0..10 {
        let id = west.open().unwrap();
        west.write(id, Class::Small, Bytes::from_static(b"ask")).unwrap();
        west.end(id, None);
        exchange(&mut west, &mut east);
        assert_eq!(accepted(&mut east), Some(id));
        drop_both(&mut east, id);
        drop_both(&mut west, id);
        exchange(&mut west, &mut east);
    }
    assert_eq!((west.streams.len(), east.streams.len(), west.open, east.open), (0, 0, [0; 2], [0; 2]));
    // What a peer may still say of them hurts nobody.
    assert_eq!(east.receive(Frame::Stop(StreamId::new(3, true), 1)), Ok(None));
    assert_eq!(east.receive(Frame::Window(Some(StreamId::new(3, true)), 1)), Ok(None));
}

#[test]
fn small_exchanges_go_before_bulk_and_each_stream_keeps_its_order() {
    let mut west = State::new(true);
    let (bulk, small) = (west.open().unwrap(), west.open().unwrap());
    let data = |id, text: &'static str| Frame::Data(id, Bytes::from_static(text.as_bytes()));
    west.write(bulk, west.class(bulk), "first".into()).unwrap();
    west.lower(bulk);
    west.write(bulk, west.class(bulk), "second".into()).unwrap();
    west.end(bulk, None);
    west.write(small, west.class(small), "small".into()).unwrap();
    let expected = [
        Frame::Open(bulk),
        Frame::Open(small),
        data(bulk, "first"),
        data(small, "small"),
        data(bulk, "second"),
        Frame::Fin(bulk),
    ];
    assert_eq!(written(&mut west), expected);
}

#[test]
fn what_is_discarded_is_granted_anew_on_the_connection() {
    let (mut west, mut east) = (State::new(true), State::new(false));
    let chunk = Bytes::from(vec![0; MUX_PAYLOAD_BYTES_MAX]);
    let mut granted = 0;
    for _ in 0..40 {
        let id = west.open().unwrap();
        for _ in 0..STREAM_UNREAD_BYTES_MAX / MUX_PAYLOAD_BYTES_MAX {
            west.write(id, Class::Small, chunk.clone()).unwrap();
        }
        written(&mut west).into_iter().for_each(|frame| assert_eq!(east.receive(frame), Ok(None)));
        // Of one stream nothing was read, of the next all of it is late.
        let theirs = accepted(&mut east).unwrap();
        drop_both(&mut east, theirs);
        for frame in written(&mut east) {
            if let Some(Act::Credit(more)) = west.receive(frame).unwrap() {
                granted += more;
            }
        }
        drop_both(&mut west, id);
    }
    let sent = 40 * STREAM_UNREAD_BYTES_MAX;
    assert!(granted > sent - CONNECTION_GRANT_BYTES && granted <= sent, "{granted}");
}

#[test]
fn answers_that_nobody_takes_are_limited() {
    let mut east = State::new(false);
    let mut broken = None;
    // A peer that asks for answers and reads none, and each time looks like another.
    for index in 0..u64::from(STREAMS_MAX) {
        east.receive(Frame::Open(StreamId::new(index, true))).unwrap();
        accepted(&mut east).unwrap();
    }
    for token in 0..CONTROL_FRAMES_MAX as u64 + 1 {
        east.ping(token);
        broken = broken.or(east.receive(Frame::Ping(token)).err());
    }
    assert_eq!(broken, Some("nothing is read of what is answered"));
}

#[test]
fn datagrams_that_would_wait_are_dropped() {
    let mut west = State::new(true);
    for n in 0..100 {
        west.send_datagram(Bytes::from(vec![n]));
        west.receive(Frame::Datagram(Bytes::from(vec![n]))).unwrap();
    }
    assert_eq!(written(&mut west).len(), DATAGRAMS_MAX);
    assert_eq!(west.datagrams_in.len(), DATAGRAMS_MAX);
}
