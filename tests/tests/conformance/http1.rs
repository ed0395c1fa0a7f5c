//! HTTP/1.1.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use e2e::raw::read_all;
use e2e::wait::SOON;

use super::World;

/// A rule: its section, what is sent, and the statuses of all that is answered before the connection ends.
struct Row(&'static str, &'static [u8], &'static [u16]);

/// RFC 9112.
const MESSAGES: &[Row] = &[
    Row("2.2 empty lines before a request are skipped", b"\r\n\r\nGET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200]),
    Row("2.2 no space before the first field", b"GET / HTTP/1.1\r\n host: cart.shop.mesh\r\n\r\n", &[400]),
    Row("2.2 no bare CR in a field", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nx: a\rb\r\n\r\n", &[400]),
    Row("2.2 no bare CR in the request line", b"GET /\r HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("2.3 no version of 1 but those that are known", b"GET / HTTP/1.9\r\nhost: cart.shop.mesh\r\n\r\n", &[505]),
    Row("2.3 another major version is not", b"GET / HTTP/3.0\r\nhost: cart.shop.mesh\r\n\r\n", &[505]),
    Row("2.3 the name has a case", b"GET / http/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[505]),
    Row("2.3 two digits, a dot between", b"GET / HTTP/11\r\nhost: cart.shop.mesh\r\n\r\n", &[505]),
    Row("3 one space between the parts", b"GET  / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("3 no space in the target", b"GET /a b HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[505]),
    Row("3 nothing behind the version", b"GET / HTTP/1.1 \r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("3 a version stands there (no HTTP/0.9)", b"GET /\r\n\r\n", &[400]),
    Row("3.1 a method is a token", b"G@T / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("3.1 a method that nobody knows goes on", b"BREW /status/204 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[204]),
    Row("3.2 a request of 1.1 has a Host", b"GET / HTTP/1.1\r\n\r\n", &[400]),
    Row("3.2 and one only", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("3.2 that is one", b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", &[400]),
    Row("3.2 without user information", b"GET / HTTP/1.1\r\nhost: me@cart.shop.mesh\r\n\r\n", &[400]),
    Row("3.2.1 no fragment", b"GET /a#b HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("3.2.2 an absolute target counts", b"GET http://cart.shop.mesh/ HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200]),
    Row("3.2.2 another Host beside it does not", b"GET http://cart.shop.mesh/ HTTP/1.1\r\nhost: other.shop.mesh\r\n\r\n", &[200]),
    Row("3.2.3 an authority is for CONNECT alone", b"GET cart.shop.mesh:80 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("3.2.4 an asterisk is for OPTIONS", b"OPTIONS * HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200]),
    Row("3.2.4 and for nothing else", b"GET * HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[400]),
    Row("5 a field has a name", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n: a\r\n\r\n", &[400]),
    Row("5 that is a token", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nx y: a\r\n\r\n", &[400]),
    Row("5 and a colon", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nx\r\n\r\n", &[400]),
    Row("5.1 no space before it", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nx : a\r\n\r\n", &[400]),
    Row("5.1 any around the value", b"GET / HTTP/1.1\r\nhost:\t cart.shop.mesh \t\r\n\r\n", &[200]),
    Row("5.2 no line folding", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nx: a\r\n b\r\n\r\n", &[400]),
    Row("5.5 of RFC 9110: no NUL in a value", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nx: a\0b\r\n\r\n", &[400]),
    Row("6.1 a length beside chunks counts for nothing, and nothing comes behind", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200]),
    Row("6.1 chunks come last", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", &[501]),
    Row("6.1 and once", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", &[400]),
    Row("6.1 a coding that is not understood", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", &[501]),
    Row("6.1 none in HTTP/1.0", b"POST /echo HTTP/1.0\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", &[400]),
    Row("6.3 two lengths are none", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", &[400]),
    Row("6.3 a length is digits", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ncontent-length: +1\r\n\r\na", &[400]),
    Row("6.3 of some number", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ncontent-length: \r\n\r\na", &[400]),
    Row("6.3 that can be counted", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ncontent-length: 99999999999999999999\r\n\r\na", &[400]),
    Row("7.1 chunks", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", &[200]),
    Row("7.1 a size is hexadecimal", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", &[400]),
    Row("7.1 and can be counted", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\na\r\n0\r\n\r\n", &[400]),
    Row("7.1 a chunk ends with its line", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", &[400]),
    Row("7.1.1 extensions are skipped", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n1;a=b;c=\"d\"\r\na\r\n0\r\n\r\n", &[200]),
    Row("7.1.1 but not bare LF in them", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n1;a\nx\r\na\r\n0\r\n\r\n", &[400]),
    Row("7.1.2 trailers", b"POST / HTTP/1.1\r\nhost: cart.shop.mesh\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n", &[200]),
    Row("9.3 a connection persists", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\nGET /status/204 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200, 204]),
    Row("9.3 unless it is to close", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nconnection: close\r\n\r\nGET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200]),
    Row("9.3 or of HTTP/1.0", b"GET / HTTP/1.0\r\nhost: cart.shop.mesh\r\n\r\nGET / HTTP/1.0\r\nhost: cart.shop.mesh\r\n\r\n", &[200]),
    Row("9.3.2 answers come in order", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\ncontent-length: 1\r\n\r\naGET /status/404 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\nGET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200, 404, 200]),
];

/// RFC 9110.
const SEMANTICS: &[Row] = &[
    Row("7.6.2 nobody is asked beyond Max-Forwards: OPTIONS", b"OPTIONS / HTTP/1.1\r\nhost: cart.shop.mesh\r\nmax-forwards: 0\r\n\r\n", &[200]),
    Row("7.6.2 nobody is asked beyond Max-Forwards: TRACE", b"TRACE / HTTP/1.1\r\nhost: cart.shop.mesh\r\nmax-forwards: 0\r\n\r\n", &[501]),
    Row("7.6.2 it means nothing to other methods", b"GET / HTTP/1.1\r\nhost: cart.shop.mesh\r\nmax-forwards: 0\r\n\r\n", &[200]),
    Row("8.6 no length with 204", b"GET /status/204 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[204]),
    Row("9.3.2 HEAD has no body", b"HEAD /bytes/100 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\nGET / HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n", &[200, 200]),
    Row("10.1.1 nobody waits for 100 whose content is here", b"POST /echo HTTP/1.1\r\nhost: cart.shop.mesh\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\na", &[200]),
    Row("10.1.1 but not in HTTP/1.0", b"POST /echo HTTP/1.0\r\nhost: cart.shop.mesh\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\na", &[200]),
    Row("9.3.8 TRACE goes on where it may", b"TRACE / HTTP/1.1\r\nhost: cart.shop.mesh\r\nmax-forwards: 1\r\n\r\n", &[200]),
];

/// What is sent behind each, and answered where the connection persists.
const NEXT: &[u8] = b"GET /status/410 HTTP/1.1\r\nhost: cart.shop.mesh\r\nconnection: close\r\n\r\n";

/// The statuses of all that is answered, in order.
fn statuses(front: SocketAddr, sent: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(front).unwrap();
    // Whoever refuses a request may end the connection under it.
    let _ = stream.write_all(&[sent, NEXT].concat());
    let all = read_all(&mut stream, SOON);
    all.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

#[test]
fn every_rule_of_messages_and_semantics_is_kept() {
    let world = World::new();
    let mut broken = Vec::new();
    for front in world.fronts() {
        for Row(rule, sent, expected) in MESSAGES.iter().chain(SEMANTICS) {
            let mut answered = statuses(front, sent);
            let persists = answered.pop_if(|last| *last == 410).is_some();
            // Behind what was refused nobody knows where the next request begins.
            let refused = expected.iter().any(|status| [400, 501, 505].contains(status))
                && ["2", "3 ", "3.1", "5", "6", "7.1"].iter().any(|framing| rule.starts_with(framing));
            if answered != *expected || (persists && refused) {
                broken.push(format!(
                    "{rule}: {answered:?} instead of {expected:?}, persists: {persists}, from {front}"
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
