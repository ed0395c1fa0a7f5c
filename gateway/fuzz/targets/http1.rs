//! What a caller or an endpoint sends in HTTP/1.1 reads the same whatever the pieces, and ends where its head says. The first
//! byte sets their size, the second whose message it is.
#![no_main]

use bytes::BytesMut;
use http1::chunked::{Decoder, Item};
use http1::framing::{self, Framing};
use http1::head::{Finder, Request, Response};
use http1::Limits;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bytes: 2048, fields: 64 };

#[derive(Debug, Default, PartialEq)]
struct Read {
    head: Option<String>,
    body: Vec<u8>,
    trailers: Option<String>,
    /// What stands behind the message, once it is whole.
    rest: Option<usize>,
    refused: bool,
}

fn read(data: &[u8], chunk: usize, request: bool) -> Read {
    let (mut read, mut buf, mut finder) = (Read::default(), BytesMut::new(), Finder::default());
    let mut decoder: Option<Decoder> = None;
    let mut taken = 0;
    for piece in data.chunks(chunk) {
        buf.extend_from_slice(piece);
        taken += piece.len();
        if decoder.is_none() {
            let head = match finder.take(&mut buf, &LIMITS) {
                Ok(Some(head)) => head,
                Ok(None) => continue,
                Err(_) => return Read { refused: true, ..read },
            };
            let framing = if request {
                Request::parse(&head, &LIMITS).map_err(drop).and_then(|head| {
                    read.head = Some(format!("{head:?}"));
                    framing::of_request(head.version, &head.headers).map_err(drop)
                })
            } else {
                Response::parse(&head, &LIMITS).map_err(drop).and_then(|head| {
                    read.head = Some(format!("{head:?}"));
                    framing::of_response(head.version, head.status, &head.headers, &http::Method::GET)
                        .map_err(drop)
                })
            };
            match framing {
                Ok(framing) => {
                    assert!(!(request && framing == Framing::UntilClose), "a request has an end");
                    decoder = Some(Decoder::new(framing, LIMITS));
                }
                Err(()) => return Read { refused: true, ..read },
            }
        }
        let Some(decoder) = &mut decoder else { continue };
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(Item::Data(data))) => {
                    assert!(!data.is_empty());
                    read.body.extend_from_slice(&data);
                }
                Ok(Some(Item::Trailers(trailers))) => read.trailers = Some(format!("{trailers:?}")),
                Ok(Some(Item::End)) => {
                    read.rest = Some(buf.len() + data.len() - taken);
                    return read;
                }
                Ok(None) => break,
                Err(_) => return Read { refused: true, ..read },
            }
        }
    }
    read
}

fuzz_target!(|data: &[u8]| {
    let [chunk, whose, data @ ..] = data else { return };
    let request = whose & 1 == 0;
    let (cut, whole) = (read(data, usize::from(*chunk) + 1, request), read(data, data.len().max(1), request));
    // Refused is refused, wherever in the pieces that shows.
    if !(cut.refused && whole.refused) {
        assert_eq!(cut, whole);
    }
});
