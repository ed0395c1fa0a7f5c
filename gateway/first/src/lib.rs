//! What a connection begins with, told by its first bytes: HTTP, TLS and the name that it is for, a PROXY header. Pure: bytes
//! in, a judgement out.

pub mod proxy_header;

use rustls::server::Acceptor;

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How requests of HTTP/1.1 begin that a caller may well make (RFC 9110, section 9; RFC 5789).
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];
/// A record of TLS that holds a handshake, and its first version byte (RFC 8446, section 5.1).
const HANDSHAKE: [u8; 2] = [22, 3];
/// Bytes that are looked at: a ClientHello of one record (RFC 8446, section 5.1), or a PROXY header with its TLVs.
pub const LOOK_BYTES_MAX: usize = 16 * 1024 + 5;

/// What the first bytes are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begins {
    /// A request of HTTP.
    Http,
    /// TLS, and the name that it is for, lower case, if it says one.
    Tls(Option<String>),
    /// Neither of them, or nothing in time.
    Other,
}

/// What a look at the first bytes shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// All that was looked for.
    All(T),
    /// More must come before it shows.
    Part,
}

/// What these bytes are the beginning of.
pub fn begins(bytes: &[u8]) -> Seen<Begins> {
    let may_be = |whole: &[u8]| whole.starts_with(bytes) || bytes.starts_with(whole);
    if bytes.is_empty() {
        return Seen::Part;
    }
    if may_be(&HANDSHAKE) {
        return match bytes.len() < HANDSHAKE.len() {
            true => Seen::Part,
            false => server_name(bytes),
        };
    }
    // Not so much as a line of HTTP may be waited for: what speaks first may be any protocol.
    let known = METHODS.iter().copied().chain([PREFACE]);
    match known.filter(|begin| may_be(begin)).map(<[u8]>::len).min() {
        Some(enough) if bytes.len() >= enough => Seen::All(Begins::Http),
        Some(_) => Seen::Part,
        None => Seen::All(Begins::Other),
    }
}

/// The name that a ClientHello asks for. One that is malformed asks for none: whoever is to answer it says what is wrong.
fn server_name(bytes: &[u8]) -> Seen<Begins> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        if !rest.is_empty() && acceptor.read_tls(&mut rest).is_err() {
            return Seen::All(Begins::Tls(None));
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Seen::All(Begins::Tls(name));
            }
            Ok(None) if !rest.is_empty() => {}
            Ok(None) if bytes.len() < LOOK_BYTES_MAX => return Seen::Part,
            Ok(None) | Err(_) => return Seen::All(Begins::Tls(None)),
        }
    }
}

#[cfg(test)]
mod tests;
