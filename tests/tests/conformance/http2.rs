//! HTTP/2, frame by frame.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use e2e::wait::SOON;

use super::World;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;
const WHOLE: u8 = END_STREAM | END_HEADERS;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;

/// What a rule asks for.
#[derive(Debug)]
enum Wanted {
    /// The connection ends with this error.
    Connection(u32),
    /// The connection does, though a closer error, or the stream alone, would do: so says the library.
    Ends,
    /// Stream 1 does, and no other.
    Stream(u32),
    /// Stream 1 does, or is answered with 400, as a malformed request may be.
    Malformed,
    /// Stream 1 is answered with this status.
    Answer(u16),
    /// A PING comes back.
    Pong,
}

use Wanted::{Answer, Connection, Ends, Malformed, Pong, Stream};

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Goaway(u32),
    Reset(u32, u32),
    Status(u32, u16),
    Pong,
    Closed,
    Silence,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as literals that are not indexed (RFC 7541, section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

const METHOD: (&str, &str) = (":method", "GET");
const POST: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const PATH: (&str, &str) = (":path", "/");
const AUTHORITY: (&str, &str) = (":authority", "cart.shop.mesh");

/// HEADERS of stream 1 that end it.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &block(fields))
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(&[METHOD, SCHEME, PATH, AUTHORITY]))
}

fn post(flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [&[POST, SCHEME, (":path", "/echo"), AUTHORITY], more].concat();
    frame(HEADERS, flags, 1, &block(&fields))
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &entries.iter().flat_map(entry).collect::<Vec<_>>())
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// A rule, the frames that are sent behind the preface, and what it asks for.
type Row = (&'static str, Vec<Vec<u8>>, Wanted);

/// Frames and streams (RFC 9113, sections 4 and 5).
fn streams() -> Vec<Row> {
    let large = vec![0; 16_385];
    vec![
        ("3.4 a request", vec![get(1)], Answer(200)),
        ("4.1 frames of an unknown type are skipped", vec![frame(99, 0xff, 0, b"what"), get(1)], Answer(200)),
        ("4.1 so are flags that mean nothing", vec![frame(PING, 0xfe, 0, b"12345678")], Pong),
        ("4.1 and the reserved bit", vec![frame(PING, 0, 0x8000_0000, b"12345678")], Pong),
        (
            "4.2 no DATA over the size that was allowed",
            vec![post(END_HEADERS, &[]), frame(DATA, 0, 1, &large)],
            Connection(FRAME_SIZE_ERROR),
        ),
        ("4.2 no HEADERS either", vec![frame(HEADERS, WHOLE, 1, &large)], Connection(FRAME_SIZE_ERROR)),
        (
            "4.3 fields that cannot be decoded",
            vec![frame(HEADERS, WHOLE, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f])],
            Ends,
        ),
        (
            "5.1 nothing of a stream that is idle: DATA",
            vec![frame(DATA, 0, 1, b"a")],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 nothing of a stream that is idle: RST_STREAM",
            vec![frame(RST_STREAM, 0, 1, &[0; 4])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 nothing of a stream that is idle: WINDOW_UPDATE",
            vec![window(1, 1)],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "5.1 nothing of a stream that is idle: CONTINUATION",
            vec![frame(CONTINUATION, END_HEADERS, 1, &[])],
            Connection(PROTOCOL_ERROR),
        ),
        ("5.1 DATA behind the end", vec![post(WHOLE, &[]), frame(DATA, END_STREAM, 1, b"a")], Ends),
        ("5.1.1 callers have odd streams", vec![get(2)], Connection(PROTOCOL_ERROR)),
        ("5.1.1 that grow", vec![get(3), get(1)], Connection(PROTOCOL_ERROR)),
        ("5.3.1 PRIORITY is skipped", vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), get(1)], Answer(200)),
    ]
}

/// Sections 6.1 to 6.4.
fn frames_of_streams() -> Vec<Row> {
    vec![
        ("6.1 DATA has a stream", vec![frame(DATA, 0, 0, b"a")], Connection(PROTOCOL_ERROR)),
        (
            "6.1 padding leaves room for itself",
            vec![post(END_HEADERS, &[]), frame(DATA, PADDED, 1, &[9, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.2 HEADERS have a stream", vec![get(0)], Connection(PROTOCOL_ERROR)),
        (
            "6.2 padding leaves room for itself",
            vec![frame(HEADERS, WHOLE | PADDED, 1, &[200, 0])],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.2 and may be there",
            vec![frame(
                HEADERS,
                WHOLE | PADDED,
                1,
                &[&[2][..], &block(&[METHOD, SCHEME, PATH, AUTHORITY]), &[0, 0]].concat(),
            )],
            Answer(200),
        ),
        (
            "6.2 so may a priority",
            vec![frame(
                HEADERS,
                WHOLE | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 0, 1][..], &block(&[METHOD, SCHEME, PATH, AUTHORITY])].concat(),
            )],
            Answer(200),
        ),
        (
            "6.3 PRIORITY has a stream",
            vec![frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1])],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.4 RST_STREAM has a stream", vec![frame(RST_STREAM, 0, 0, &[0; 4])], Connection(PROTOCOL_ERROR)),
        ("6.4 and four bytes", vec![post(END_HEADERS, &[]), frame(RST_STREAM, 0, 1, &[0; 3])], Ends),
    ]
}

/// Sections 6.5 to 6.10.
fn frames_of_connections() -> Vec<Row> {
    vec![
        ("6.5 an ACK of SETTINGS is empty", vec![frame(SETTINGS, ACK, 0, &[0; 6])], Ends),
        ("6.5 SETTINGS have no stream", vec![frame(SETTINGS, 0, 1, &[])], Connection(PROTOCOL_ERROR)),
        ("6.5 and six bytes each", vec![frame(SETTINGS, 0, 0, &[0; 5])], Ends),
        ("6.5.2 ENABLE_PUSH is 0 or 1", vec![settings(&[(2, 2)])], Connection(PROTOCOL_ERROR)),
        ("6.5.2 a window ends at 2^31-1", vec![settings(&[(4, 1 << 31)])], Ends),
        ("6.5.2 a frame has 16 KiB or more", vec![settings(&[(5, 16_383)])], Connection(PROTOCOL_ERROR)),
        ("6.5.2 and less than 16 MiB", vec![settings(&[(5, 1 << 24)])], Connection(PROTOCOL_ERROR)),
        ("6.5.2 settings that nobody knows are skipped", vec![settings(&[(0xff, 1)]), get(1)], Answer(200)),
        (
            "6.6 callers push nothing",
            vec![post(END_HEADERS, &[]), frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])],
            Connection(PROTOCOL_ERROR),
        ),
        ("6.7 a PING comes back", vec![frame(PING, 0, 0, b"12345678")], Pong),
        ("6.7 PING has no stream", vec![frame(PING, 0, 1, b"12345678")], Connection(PROTOCOL_ERROR)),
        ("6.7 and eight bytes", vec![frame(PING, 0, 0, b"1234567")], Ends),
        ("6.8 GOAWAY has no stream", vec![frame(GOAWAY, 0, 1, &[0; 8])], Connection(PROTOCOL_ERROR)),
        ("6.9 a window grows by something", vec![window(0, 0)], Connection(PROTOCOL_ERROR)),
        ("6.9 that of a stream, too", vec![post(END_HEADERS, &[]), window(1, 0)], Ends),
        ("6.9 WINDOW_UPDATE has four bytes", vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1])], Ends),
        ("6.9.1 no window is over 2^31-1", vec![window(0, 0x7fff_ffff)], Connection(FLOW_CONTROL_ERROR)),
        (
            "6.9.1 no stream's",
            vec![post(END_HEADERS, &[]), window(1, 0x7fff_ffff)],
            Stream(FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 a window may grow by SETTINGS, not over it",
            vec![post(END_HEADERS, &[]), window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])],
            Connection(FLOW_CONTROL_ERROR),
        ),
        (
            "6.10 nothing between HEADERS and CONTINUATION",
            vec![frame(HEADERS, END_STREAM, 1, &block(&[METHOD])), frame(PING, 0, 0, b"12345678")],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.10 of another stream",
            vec![
                frame(HEADERS, END_STREAM, 1, &block(&[METHOD])),
                frame(CONTINUATION, END_HEADERS, 3, &block(&[SCHEME])),
            ],
            Connection(PROTOCOL_ERROR),
        ),
        (
            "6.10 fields go on in CONTINUATION",
            vec![
                frame(HEADERS, END_STREAM, 1, &block(&[METHOD])),
                frame(CONTINUATION, END_HEADERS, 1, &block(&[SCHEME, PATH, AUTHORITY])),
            ],
            Answer(200),
        ),
        (
            "6.10 and are there before it",
            vec![get(1), frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "a")]))],
            Connection(PROTOCOL_ERROR),
        ),
    ]
}

/// Fields of messages, and what stands between them (sections 8.1 and 8.2).
fn fields() -> Vec<Row> {
    vec![
        (
            "8.1 trailers end a stream",
            vec![post(END_HEADERS, &[]), frame(HEADERS, END_HEADERS, 1, &block(&[("x", "a")]))],
            Malformed,
        ),
        (
            "8.1 trailers",
            vec![
                post(END_HEADERS, &[]),
                frame(DATA, 0, 1, b"a"),
                frame(HEADERS, WHOLE, 1, &block(&[("x", "a")])),
            ],
            Answer(200),
        ),
        (
            "8.1 pseudo-fields among them are dropped",
            vec![post(END_HEADERS, &[]), frame(HEADERS, WHOLE, 1, &block(&[METHOD]))],
            Answer(200),
        ),
        (
            "8.1.1 more than was declared",
            vec![post(END_HEADERS, &[("content-length", "1")]), frame(DATA, END_STREAM, 1, b"ab")],
            Malformed,
        ),
        (
            "8.1.1 less than was declared",
            vec![post(END_HEADERS, &[("content-length", "2")]), frame(DATA, END_STREAM, 1, b"a")],
            Malformed,
        ),
        (
            "8.2.1 names are of small letters",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, ("X", "a")])],
            Ends,
        ),
        (
            "8.2.1 values have no line ends",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, ("x", "a\nb")])],
            Ends,
        ),
        (
            "8.2.2 nothing of one connection: Connection",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, ("connection", "close")])],
            Malformed,
        ),
        (
            "8.2.2 nothing of one connection: Transfer-Encoding",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, ("transfer-encoding", "chunked")])],
            Malformed,
        ),
        (
            "8.2.2 TE has trailers and nothing else",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, ("te", "gzip")])],
            Malformed,
        ),
    ]
}

/// Section 8.3.
fn pseudo_fields() -> Vec<Row> {
    vec![
        (
            "8.3 pseudo-fields come first",
            vec![request(&[METHOD, SCHEME, ("x", "a"), PATH, AUTHORITY])],
            Malformed,
        ),
        (
            "8.3 none that nobody knows",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, (":test", "a")])],
            Ends,
        ),
        (
            "8.3 none of answers",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")])],
            Malformed,
        ),
        ("8.3.1 a request has a method", vec![request(&[SCHEME, PATH, AUTHORITY])], Malformed),
        ("8.3.1 a scheme", vec![request(&[METHOD, PATH, AUTHORITY])], Malformed),
        ("8.3.1 a path", vec![request(&[METHOD, SCHEME, AUTHORITY])], Malformed),
        ("8.3.1 that is not empty", vec![request(&[METHOD, SCHEME, (":path", ""), AUTHORITY])], Malformed),
        ("8.3.1 each once", vec![request(&[METHOD, METHOD, SCHEME, PATH, AUTHORITY])], Malformed),
        (
            "8.3.1 Host may stand for the authority",
            vec![request(&[METHOD, SCHEME, PATH, ("host", "cart.shop.mesh")])],
            Answer(200),
        ),
        (
            "8.3.1 but not contradict it",
            vec![request(&[METHOD, SCHEME, PATH, AUTHORITY, ("host", "other.shop.mesh")])],
            Malformed,
        ),
    ]
}

/// What comes of these frames behind the preface, other than what is of no account.
fn ask(front: SocketAddr, frames: &[Vec<u8>]) -> Came {
    let mut stream = TcpStream::connect(front).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(settings(&[]));
    frames.iter().for_each(|frame| sent.extend(frame));
    // Whoever is told of an error may end the connection under it.
    let _ = stream.write_all(&sent);
    loop {
        let mut head = [0; 9];
        if let Err(error) = stream.read_exact(&mut head) {
            let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            return if silent { Came::Silence } else { Came::Closed };
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).is_err() {
            return Came::Closed;
        }
        let of = number(&head[5..]);
        match head[3] {
            GOAWAY => return Came::Goaway(number(&payload[4..8])),
            RST_STREAM => return Came::Reset(of, number(&payload)),
            PING if head[4] & ACK != 0 => return Came::Pong,
            // The first field of an answer is its status: indexed (RFC 7541, appendix A), or
            // else of no account here.
            HEADERS => {
                let indexed = [200, 204, 206, 304, 400, 404, 500];
                let known = payload[0].checked_sub(0x88).and_then(|n| indexed.get(usize::from(n)));
                return Came::Status(of, known.copied().unwrap_or(0));
            }
            _ => {}
        }
    }
}

#[test]
fn every_rule_of_frames_streams_and_requests_is_kept() {
    let world = World::new();
    let mut broken = Vec::new();
    for front in world.fronts() {
        let rows = [streams(), frames_of_streams(), frames_of_connections(), fields(), pseudo_fields()];
        for (rule, frames, wanted) in rows.into_iter().flatten() {
            let came = ask(front, &frames);
            let kept = match wanted {
                Connection(code) => came == Came::Goaway(code),
                Ends => came == Came::Goaway(PROTOCOL_ERROR),
                Stream(code) => came == Came::Reset(1, code),
                Malformed => matches!(came, Came::Reset(1, PROTOCOL_ERROR) | Came::Status(1, 400)),
                Answer(status) => came == Came::Status(1, status),
                Pong => came == Came::Pong,
            };
            if !kept {
                broken.push(format!("{rule}: {came:?} instead of {wanted:?}, from {front}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
