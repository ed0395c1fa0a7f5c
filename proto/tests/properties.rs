//! Properties of the codec over drawn heads, streams and garbage.
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proto::control::{Control, Hello};
use proto::datagram::Probe;
use proto::frame::{Decoder, Frame, FrameError, FrameKind, put_frame, put_frame_header};
use proto::head::{Fields, FlowHead, HeadError, HttpHead, RequestHead, ResponseHead, encode_fields};
use proto::message::take_message;
use proto::sync::Event;
use proto::text;

/// What ends a token (RFC 9110, section 5.6.2), and blanks.
const DELIMITERS: &[u8] = b" \t:\"(),/;<=>?@[\\]{}";

type OwnedFields = Vec<(Vec<u8>, Vec<u8>)>;

/// The texts of a request head, in the order of [`Owned::head`].
#[derive(Clone, Debug)]
struct Owned {
    names: [String; 2],
    optional: [Option<String>; 5],
    line: [String; 3],
    numbers: (u16, u64, Option<u64>, u8, u8, u64),
    flags: (bool, bool),
    id: [u8; 16],
}

impl Owned {
    fn head(&self) -> RequestHead<'_> {
        let [namespace, service] = self.names.each_ref().map(String::as_str);
        let [owner, traceparent, tracestate, caller, endpoint] =
            self.optional.each_ref().map(Option::as_deref);
        let [method, path, authority] = self.line.each_ref().map(String::as_str);
        let (port, generation, key_hash, attempt, attempts_left, deadline_ms) = self.numbers;
        let (replayable, insist) = self.flags;
        let flow = FlowHead {
            request_id: self.id,
            namespace,
            service,
            port,
            generation,
            key_hash,
            owner,
            attempt,
            attempts_left,
            replayable,
            insist,
            deadline_ms,
            connect_ms: deadline_ms / 7,
            traceparent,
            tracestate,
            caller,
            hops: attempt,
            endpoint,
        };
        RequestHead { flow, http: HttpHead { method, path, authority, upgrade: None } }
    }
}

fn owned() -> impl Strategy<Value = Owned> {
    let name = "[!-~]{1,63}";
    (
        [name, name],
        (option::of(name), option::of(name), option::of("[ -~\t]{0,80}"), option::of(name), option::of(name)),
        ("[A-Za-z!#$-]{1,12}", "/[!-~é]{0,200}", name),
        (1u16.., any::<u64>(), any::<Option<u64>>(), any::<u8>(), any::<u8>(), any::<u64>()),
        any::<(bool, bool)>(),
        any::<[u8; 16]>(),
    )
        .prop_map(|(names, o, l, numbers, flags, id)| Owned {
            names,
            optional: [o.0, o.1, o.2, o.3, o.4],
            line: [l.0, l.1, l.2],
            numbers,
            flags,
            id,
        })
}

fn fields() -> impl Strategy<Value = OwnedFields> {
    vec(("x-[a-z0-9_]{0,30}", vec(prop_oneof![Just(b'\t'), b' '..0x7f, 0x80u8..], 0..100)), 0..20)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect())
}

fn borrowed(fields: &OwnedFields) -> impl Iterator<Item = (&[u8], &[u8])> {
    fields.iter().map(|(name, value)| (&name[..], &value[..]))
}

/// One frame of an exchange as it is drawn.
#[derive(Clone, Debug)]
enum Drawn {
    Data(Vec<u8>),
    Unknown(u64, Vec<u8>),
}

fn middle() -> impl Strategy<Value = Vec<Drawn>> {
    let data = vec(any::<u8>(), 0..300).prop_map(Drawn::Data);
    let unknown =
        (4u64..1 << 20, vec(any::<u8>(), 0..50)).prop_map(|(kind, bytes)| Drawn::Unknown(kind, bytes));
    vec(prop_oneof![3 => data, 1 => unknown], 0..12)
}

/// The bytes of an exchange, and its body.
fn exchange(head: &[u8], middle: &[Drawn], trailers: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut body) = (Vec::new(), Vec::new());
    let put = |out: &mut Vec<u8>, kind, payload: &[u8]| {
        put_frame(out, kind, |out| {
            out.extend_from_slice(payload);
            Ok::<_, FrameError>(())
        })
    };
    put(&mut out, FrameKind::Head, head).unwrap();
    for frame in middle {
        match frame {
            Drawn::Data(bytes) => {
                put_frame_header(&mut out, FrameKind::Data, bytes.len());
                out.extend_from_slice(bytes);
                body.extend_from_slice(bytes);
            }
            Drawn::Unknown(kind, bytes) => {
                proto::varint::put(&mut out, *kind);
                proto::varint::put(&mut out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
    if let Some(trailers) = trailers {
        put(&mut out, FrameKind::Trailers, trailers).unwrap();
    }
    out.extend_from_slice(&proto::frame::END);
    (out, body)
}

/// What a stream of frames says: head, body, trailers, and how it ended.
#[derive(Debug, Default, PartialEq)]
struct Read {
    head: Option<Bytes>,
    body: Vec<u8>,
    trailers: Option<Bytes>,
    error: Option<FrameError>,
}

fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let (mut decoder, mut read) = (Decoder::new(), Read::default());
    for chunk in chunks {
        decoder.push(Bytes::copy_from_slice(chunk));
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(Frame::End | Frame::Interim(_))) => {}
                Ok(Some(Frame::Head(head))) => read.head = Some(head),
                Ok(Some(Frame::Data(piece))) => read.body.extend_from_slice(&piece),
                Ok(Some(Frame::Trailers(trailers))) => read.trailers = Some(trailers),
                Err(error) => return Read { error: Some(error), ..read },
            }
        }
    }
    Read { error: decoder.finish().err(), ..read }
}

/// `bytes` in pieces that end where `cuts` say.
fn chunks<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(ends.iter().copied()).map(|(start, end)| &bytes[start..end]).collect()
}

proptest! {
    #[test]
    fn whatever_others_write_is_shown_in_one_short_line(text in r"[\x00-\x9f\u{2020}-\u{2070}a-z\u{e4}]{0,60}", max in 24usize..80) {
        let shown = text::clean(&text, max);
        prop_assert!(shown.len() <= max);
        prop_assert!(!shown.contains(text::is_harmful));
        // Who cleans it again, or escapes it as it is written, changes nothing more.
        prop_assert_eq!(&text::clean(&shown, max), &shown);
        prop_assert_eq!(&*text::escape(&shown), &shown);
        prop_assert!(!text::escape_lines(&text).replace(['\n', '\t', '\r'], "").contains(text::is_harmful));
    }

    #[test]
    fn heads_come_back(owned in owned(), fields in fields(), status in 100u16..=999) {
        let (mut out, head) = (Vec::new(), owned.head());
        head.encode(borrowed(&fields), &mut out).unwrap();
        let (decoded, rest) = RequestHead::decode(&out).unwrap();
        prop_assert_eq!(decoded, head);
        prop_assert_eq!(rest.len(), fields.len());
        prop_assert!(rest.eq(borrowed(&fields)));

        let head = ResponseHead { status, endpoint: head.flow.endpoint };
        out.clear();
        head.encode(borrowed(&fields), &mut out).unwrap();
        let (decoded, rest) = ResponseHead::decode(&out).unwrap();
        prop_assert_eq!(decoded, head);
        prop_assert!(rest.eq(borrowed(&fields)));
    }

    #[test]
    fn a_cut_head_is_an_error_or_has_fewer_fields(owned in owned(), fields in fields()) {
        let mut out = Vec::new();
        owned.head().encode(borrowed(&fields), &mut out).unwrap();
        for cut in 0..out.len() {
            match RequestHead::decode(&out[..cut]) {
                Err(error) => prop_assert_eq!(error, HeadError::Truncated),
                Ok((_, rest)) => {
                    prop_assert!(rest.len() < fields.len());
                    prop_assert!(rest.eq(borrowed(&fields).take(rest.len())));
                }
            }
        }
    }

    #[test]
    fn a_changed_head_is_an_error_or_still_http(
        owned in owned(), fields in fields(), at: prop::sample::Index, byte: u8,
    ) {
        let mut out = Vec::new();
        owned.head().encode(borrowed(&fields), &mut out).unwrap();
        let at = at.index(out.len());
        out[at] = byte;
        if let Ok((head, rest)) = RequestHead::decode(&out) {
            let control = |byte: u8| byte < b' ' && byte != b'\t' || byte == 0x7f;
            prop_assert!(head.http.path.starts_with('/') || head.http.path == "*");
            let RequestHead { flow, http } = head;
            let texts = [flow.namespace, flow.service, http.method, http.path, http.authority];
            prop_assert!(texts.iter().all(|text| !text.is_empty() && !text.bytes().any(|b| control(b) || b == b' ')));
            for (name, value) in rest {
                prop_assert!(!name.is_empty() && name.is_ascii() && !name.iter().any(u8::is_ascii_uppercase));
                prop_assert!(!name.iter().any(|&b| control(b) || DELIMITERS.contains(&b)));
                prop_assert!(!value.iter().copied().any(control));
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..2000)) {
        let _ = RequestHead::decode(&bytes);
        let _ = ResponseHead::decode(&bytes);
        let _ = Probe::decode(&bytes);
        let _ = take_message::<Hello>(&mut BytesMut::from(&bytes[..]), 1000);
        let _ = take_message::<Control>(&mut BytesMut::from(&bytes[..]), 1000);
        let _ = take_message::<Event>(&mut BytesMut::from(&bytes[..]), 1000);
        if let Ok(fields) = Fields::decode(&bytes) {
            prop_assert_eq!(fields.len(), fields.count());
        }
    }

    #[test]
    fn exchanges_come_back_whatever_the_chunks(
        head in vec(any::<u8>(), 0..200), middle in middle(), trailers in option::of(fields()),
        cuts: [prop::sample::Index; 5],
    ) {
        let trailers = trailers.map(|fields| {
            let mut out = Vec::new();
            encode_fields(borrowed(&fields), &mut out).unwrap();
            out
        });
        let (bytes, body) = exchange(&head, &middle, trailers.as_deref());
        let expected = Read { head: Some(head.into()), body, trailers: trailers.map(Bytes::from), error: None };
        prop_assert_eq!(&read([&bytes[..]]), &expected);
        prop_assert_eq!(&read(bytes.chunks(1)), &expected);
        prop_assert_eq!(&read(chunks(&bytes, &cuts)), &expected);
        for cut in 0..bytes.len() {
            prop_assert_eq!(read([&bytes[..cut]]).error, Some(FrameError::Truncated));
        }
    }

    #[test]
    fn a_changed_exchange_reads_the_same_whatever_the_chunks(
        head in vec(any::<u8>(), 0..50), middle in middle(), at: prop::sample::Index, byte: u8,
        cuts: [prop::sample::Index; 5],
    ) {
        let (mut bytes, _) = exchange(&head, &middle, None);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let whole = read([&bytes[..]]);
        prop_assert_eq!(&read(bytes.chunks(1)), &whole);
        prop_assert_eq!(&read(chunks(&bytes, &cuts)), &whole);
    }
}
