#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// See there.
const GOLDEN: &str = include_str!("tests/golden.txt");

fn golden() -> impl Iterator<Item = (Protocol, &'static str, Vec<u8>)> {
    GOLDEN.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [protocol, kind, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let protocol = match protocol {
            "binary" => Protocol::Binary,
            "old" => Protocol::OldBinary,
            _ => Protocol::Compact,
        };
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (protocol, kind, (0..hex.len()).step_by(2).map(byte).collect())
    })
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

/// All messages of `bytes`, which come in pieces that end at `cuts`.
fn decoded(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Message>, Malformed> {
    let (mut decoder, mut buf, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    cuts.sort_unstable();
    let mut from = 0;
    for cut in cuts {
        buf.extend_from_slice(&bytes[from..cut]);
        from = cut;
        while let Some(message) = decoder.next(&mut buf)? {
            messages.push(message);
        }
    }
    Ok(messages)
}

#[test]
fn messages_of_the_real_library_are_read_in_every_form() {
    for (protocol, kind, bytes) in golden() {
        for (transport, wire) in [(Transport::Buffered, bytes.clone()), (Transport::Framed, framed(&bytes))] {
            let twice = [&wire[..], &wire].concat();
            let messages = decoded(&twice, &[]).unwrap();
            assert_eq!(messages.len(), 2, "{protocol:?} {kind} {transport:?}");
            let Message { bytes, transport: found, head, .. } = &messages[1];
            assert_eq!((&bytes[..], *found, head.protocol), (&wire[..], transport, protocol));
            let (expected, method, number) = match kind {
                "call" => (Kind::Call, "get", 300),
                "oneway" => (Kind::Oneway, "note", 7),
                _ => (Kind::Exception, "get", 300),
            };
            assert_eq!((head.kind, &*head.method, head.number), (expected, method, number));
            assert_eq!(messages[1].exception_kind(), (kind == "exception").then_some(6));
        }
    }
}

#[test]
fn an_exception_is_as_the_real_library_writes_it() {
    let mut golden_ones = golden().collect::<Vec<_>>();
    golden_ones.retain(|(_, kind, _)| *kind == "exception");
    for (protocol, _, bytes) in golden_ones {
        let head = Head { protocol, kind: Kind::Call, method: "get".into(), number: 300 };
        let said = |transport| {
            let call = Message { bytes: Bytes::new(), transport, head: head.clone(), content: 0 };
            call.exception(ExceptionKind::InternalError, "no, não").bytes
        };
        assert_eq!(said(Transport::Buffered), bytes);
        assert_eq!(said(Transport::Framed), framed(&bytes));
    }
}

#[test]
fn what_is_no_message_is_told_at_once() {
    let strict =
        |name: &[u8]| [&[0x80, 1, 0, 1][..], &(name.len() as u32).to_be_bytes(), name, &[0; 4]].concat();
    let nested = [strict(b"a"), [12, 0, 1].repeat(70)].concat();
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), Malformed::Protocol),
        (vec![0xff], Malformed::Protocol),
        (vec![0x80, 2, 0, 1], Malformed::Protocol),
        (vec![0x80, 1, 0, 9], Malformed::Kind),
        (vec![0x82, 0x22], Malformed::Protocol),
        (vec![0x82, 0xe1], Malformed::Kind),
        (strict(&[b'a'; 300]), Malformed::Method),
        (strict(b"a\nb"), Malformed::Method),
        // Envoy's proxy of Thrift once overflowed at such a length.
        (vec![0x80, 1, 0, 1, 0xff, 0xff, 0xff, 0xf7], Malformed::Method),
        ([&strict(b"a")[..], &[1]].concat(), Malformed::Content),
        ([&strict(b"a")[..], &[11, 0, 1, 0xff, 0xff, 0xff, 0xff]].concat(), Malformed::Content),
        (framed(&nested), Malformed::Nested),
        (nested, Malformed::Nested),
        (vec![0x82, 0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Malformed::Content),
        ([&u32::MAX.to_be_bytes()[..], &[0x80]].concat(), Malformed::Protocol),
        ([&0x7f00_0000_u32.to_be_bytes()[..], &[0x80]].concat(), Malformed::TooLong),
        (framed(&[0x80, 1, 0, 1]), Malformed::Frame),
        (framed(&strict(b"a")), Malformed::Frame),
        // More than one message in a frame, and a part of one.
        (framed(&[&strict(b"a")[..], &[0, 0]].concat()), Malformed::Frame),
        (framed(&[&strict(b"a")[..], &[11, 0, 1, 0, 0, 0, 9, b'a']].concat()), Malformed::Frame),
    ] {
        assert_eq!(decoded(&bytes, &[]), Err(expected), "{bytes:x?}");
    }
}

/// A string that is announced is not waited for in memory: only what has come is.
#[test]
fn a_message_that_would_be_too_long_is_refused_once_it_is() {
    let head = [0x80, 1, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, 11, 0, 1, 0x7f, 0xff, 0xff, 0xff];
    let mut decoder = Decoder::default();
    let mut buf = BytesMut::from(&head[..]);
    assert_eq!(decoder.next(&mut buf), Ok(None));
    buf.resize(MESSAGE_BYTES_MAX, 0);
    assert_eq!(decoder.next(&mut buf), Ok(None));
    buf.resize(MESSAGE_BYTES_MAX + 1, 0);
    assert_eq!(decoder.next(&mut buf), Err(Malformed::TooLong));
}

proptest! {
    #[test]
    fn pieces_make_no_difference(which in 0..9_usize, is_framed: bool, cuts in prop::collection::vec(any::<usize>(), 0..8)) {
        let (_, _, bytes) = golden().nth(which).unwrap();
        let wire = if is_framed { framed(&bytes) } else { bytes };
        let wire = wire.repeat(3);
        prop_assert_eq!(decoded(&wire, &cuts), decoded(&wire, &[]));
    }

    #[test]
    fn any_bytes_can_be_read_in_pieces(
        which in 0..9_usize, start in 0..3_u8, rest in prop::collection::vec(any::<u8>(), 0..60),
        at in any::<usize>(), cuts in prop::collection::vec(any::<usize>(), 0..4),
    ) {
        let (_, _, golden) = golden().nth(which).unwrap();
        let bytes = match start {
            0 => rest,
            1 => [&golden[..at % golden.len()], &rest].concat(),
            _ => framed(&[&golden[..at % golden.len()], &rest].concat()),
        };
        prop_assert_eq!(decoded(&bytes, &cuts).is_ok(), decoded(&bytes, &[]).is_ok());
    }

    #[test]
    fn an_exception_is_the_answer_to_its_call(method in "[a-zA-Z:_.]{1,40}", number: i32, text in ".{0,80}", is_framed: bool) {
        for protocol in [Protocol::Binary, Protocol::OldBinary, Protocol::Compact] {
            let head = Head { protocol, kind: Kind::Call, method: method.clone().into(), number };
            let transport = if is_framed { Transport::Framed } else { Transport::Buffered };
            let call = Message { bytes: Bytes::new(), transport, head, content: 0 };
            let said = call.exception(ExceptionKind::UnknownMethod, &text);
            let read = decoded(&said.bytes, &[]).unwrap().remove(0);
            prop_assert_eq!(&read, &said);
            prop_assert_eq!((read.transport, read.head.kind), (transport, Kind::Exception));
            prop_assert_eq!((read.head.protocol, &*read.head.method, read.head.number), (protocol, &*method, number));
            prop_assert_eq!(read.exception_kind(), Some(ExceptionKind::UnknownMethod as i32));
        }
    }
}
