#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
    next(&mut BytesMut::from(bytes))
}

/// A call with one context, a destination and one delegation.
const DISPATCH: &[u8] = b"\0\0\0\x2b\x02\0\0\x07\
    \0\x01\0\x01k\0\x02vv\
    \0\x06/s/foo\
    \0\x01\0\x02/s\0\x05/$/in\
    body of a";

#[test]
fn a_call_is_read_as_finagle_writes_it() {
    let call = read(DISPATCH).unwrap().unwrap();
    assert_eq!((call.kind, call.tag, call.body()), (Kind::Dispatch, 7, &b"body of a"[..]));
    assert_eq!((call.bytes.as_ref(), call.nanoseconds_given()), (DISPATCH, None));
    // As versions before wrote them: the trace of the call, and its flags.
    let call = read(b"\0\0\0\x0a\x01\0\0\x02\x01\x02\x01\0hi").unwrap().unwrap();
    assert_eq!((call.kind, call.tag, call.body()), (Kind::Request, 2, &b"hi"[..]));
}

#[test]
fn a_deadline_is_how_long_it_is_from_when_it_was_said() {
    let call = |said: i64, until: i64| {
        let mut body = Vec::new();
        body.put_u16(1);
        let key = b"com.twitter.finagle.Deadline";
        body.put_u16(key.len() as u16);
        body.put_slice(key);
        body.put_u16(16);
        body.put_i64(said);
        body.put_i64(until);
        body.put_u32(0);
        let message = Message::of(Kind::Dispatch, 2, &body, Content::default());
        read(&message.bytes).unwrap().unwrap().nanoseconds_given()
    };
    assert_eq!(call(1_000, 3_000), Some(2_000));
    assert_eq!(call(3_000, 1_000), Some(0));
    assert_eq!(call(i64::MIN, i64::MAX), Some(i64::MAX as u64));
}

#[test]
fn an_answer_belongs_to_the_call_of_its_tag_and_form() {
    let call = read(DISPATCH).unwrap().unwrap();
    for status in [Status::Ok, Status::Error, Status::Nack] {
        let answer = call.answer(status, "why");
        let same = read(&answer.bytes).unwrap().unwrap();
        assert_eq!((&same, same.status(), same.body()), (&answer, Some(status), &b"why"[..]));
        assert!(call.is_answered_by(&answer));
    }
    assert_eq!(call.answer(Status::Nack, "").bytes, &b"\0\0\0\x07\xfe\0\0\x07\x02\0\0"[..]);
    let older = read(b"\0\0\0\x05\x01\0\0\x07\0").unwrap().unwrap();
    assert_eq!(older.answer(Status::Error, "no").bytes, &b"\0\0\0\x07\xff\0\0\x07\x01no"[..]);
    assert!(!older.is_answered_by(&call.answer(Status::Ok, "")), "it is in the other form");
    let error = read(b"\0\0\0\x06\x80\0\0\x07no").unwrap().unwrap();
    assert!(call.is_answered_by(&error) && older.is_answered_by(&error));
    assert_eq!((error.status(), error.body()), (Some(Status::Error), &b"no"[..]));
    assert!(!call.is_answered_by(&Message::new(Kind::Error, 8, "no")), "it is of another one");
}

#[test]
fn what_is_about_the_connection_is_written_as_all_versions_read_it() {
    assert_eq!(Message::new(Kind::Ping, 1, "").bytes, &b"\0\0\0\x04\x41\0\0\x01"[..]);
    assert_eq!(Message::new(Kind::Pong, 1, "").bytes, &b"\0\0\0\x04\xbf\0\0\x01"[..]);
    assert_eq!(Message::new(Kind::Error, 1, "no").bytes, &b"\0\0\0\x06\x7f\0\0\x01no"[..]);
    let discard = Message::discard(7, "late");
    assert_eq!(discard.bytes, &b"\0\0\0\x0b\xc2\0\0\0\0\0\x07late"[..]);
    assert_eq!(read(&discard.bytes).unwrap().unwrap().discards(), Some(7));
    let newer = read(b"\0\0\0\x07\x42\0\0\0\0\0\x07").unwrap().unwrap();
    assert_eq!((newer.kind, newer.discards()), (Kind::Discard, Some(7)));
    let lease = |left: &[u8]| read(&[b"\0\0\0\x0d\x43\0\0\0\0", left].concat()).unwrap().unwrap();
    assert!(lease(&[0; 8]).ends_lease());
    assert!(!lease(&[0, 0, 0, 0, 0, 0, 0, 1]).ends_lease());
}

#[test]
fn what_is_no_message_is_refused() {
    let refused = |bytes: &[u8]| read(bytes).unwrap_err();
    assert_eq!(refused(b"\0\0\0\x03"), Malformed::TooShort);
    assert_eq!(refused(b"\xff\xff\xff\xff"), Malformed::TooLong);
    assert_eq!(refused(b"\0\0\0\x04\x09\0\0\x01"), Malformed::Kind(9));
    assert_eq!(refused(b"\0\0\0\x04\x02\x80\0\x01"), Malformed::Fragment);
    for body in [&b"\0"[..], b"\0\x01\0\x05k", b"\0\0\0\x09/s", b"\0\0\0\0\0\x01\0\x01a"] {
        let message = Message::of(Kind::Dispatch, 2, body, Content::default());
        assert_eq!(refused(&message.bytes), Malformed::Content, "{body:?}");
    }
    assert_eq!(refused(b"\0\0\0\x05\xff\0\0\x07\x03"), Malformed::Content);
    assert_eq!(refused(b"\0\0\0\x06\x42\0\0\0\0\0"), Malformed::Content);
}

proptest! {
    #[test]
    fn it_is_the_same_however_it_comes_in_pieces(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
        piece in 1..20_usize,
    ) {
        let messages: Vec<_> = bodies
            .iter()
            .enumerate()
            .map(|(n, body)| Message::new(Kind::Ping, n as u32, &String::from_utf8_lossy(body)))
            .collect();
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes.to_vec()).collect();
        let (mut buf, mut read) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buf.extend_from_slice(piece);
            while let Some(message) = next(&mut buf).unwrap() {
                read.push(message.bytes);
            }
        }
        prop_assert_eq!(read, messages.into_iter().map(|message| message.bytes).collect::<Vec<_>>());
    }

    #[test]
    fn anything_may_come(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..60)) {
        let head = [&((HEAD_BYTES + body.len()) as u32).to_be_bytes()[..], &[kind, 0, 0, 1]].concat();
        let _ = read(&[head, body].concat());
    }
}

/// A message of `golden/frames.txt`.
fn golden(name: &str) -> Message {
    let lines = include_str!("../golden/frames.txt").lines();
    let hex = lines.filter_map(|line| line.split_once(' ')).find(|(named, _)| *named == name).unwrap().1;
    let digits: Vec<_> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    let bytes: Vec<_> = digits.chunks(2).map(|byte| byte[0] << 4 | byte[1]).collect();
    let message = read(&bytes).unwrap().unwrap();
    assert_eq!(message.bytes, bytes);
    message
}

#[test]
fn what_finagle_says_is_understood() {
    for (name, kind) in
        [("ping", Kind::Ping), ("pong", Kind::Pong), ("drain", Kind::Drain), ("drained", Kind::Drained)]
    {
        let message = golden(name);
        assert_eq!((message.kind, message.tag), (kind, CONTROL_TAG));
        // What we say in its place is the same.
        assert_eq!(Message::new(kind, CONTROL_TAG, "").bytes, message.bytes);
    }
    let calls = ["dispatch", "dispatch-of-a-client", "dispatch-compact"].map(golden);
    for call in &calls {
        assert_eq!((call.kind, call.tag), (Kind::Dispatch, 2));
        assert_eq!(thrift_begins(call.body()), Some(1), "a call of Thrift: {call:?}");
        let given = call.nanoseconds_given();
        assert!(given.is_none_or(|given| given > 1_000_000_000), "{given:?}");
    }
    let answers = [
        ("answer", Status::Ok),
        ("answer-compact", Status::Ok),
        // An exception of Thrift is an answer of Mux.
        ("answer-exception", Status::Ok),
        ("answer-error", Status::Error),
        ("nack", Status::Nack),
    ];
    for (name, status) in answers {
        let answer = golden(name);
        assert_eq!(answer.status(), Some(status), "{name}");
        assert!(calls[0].is_answered_by(&answer), "{name}");
    }
    assert_eq!(golden("nack").bytes, calls[0].answer(Status::Nack, "").bytes);
}

/// The kind of the message of Thrift that `bytes` are.
fn thrift_begins(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [0x80, 1, 0, kind, ..] => Some(*kind),
        [0x82, kind, ..] => Some(kind >> 5),
        _ => None,
    }
}
