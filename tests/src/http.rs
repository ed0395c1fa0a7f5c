//! HTTP/1.1 messages as the test's client and backend read them: strict about framing, so that a cut is seen.

use std::io::{self, BufRead, Read};

/// Largest head either side takes; above what a gateway may let through.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Header or trailer fields in order: lower-case names and values as they came.
pub type Fields = Vec<(String, String)>;

/// The values of the field `name`, in order.
pub fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a str> {
    fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
}

/// The first value of the field `name`.
pub fn value<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    values(fields, name).first().copied()
}

/// How the end of a body is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Up to the end of the connection.
    Close,
}

impl Framing {
    /// The framing that the fields of a message declare; `otherwise` where they declare none.
    ///
    /// # Errors
    /// A Content-Length that is no number, or one beside Transfer-Encoding.
    pub fn of(fields: &Fields, otherwise: Self) -> io::Result<Self> {
        let length = value(fields, "content-length");
        match (values(fields, "transfer-encoding").last(), length) {
            (Some(_), Some(_)) => Err(malformed("Content-Length beside Transfer-Encoding")),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Self::Chunked),
            (Some(_), None) => Err(malformed("a transfer coding other than chunked")),
            (None, Some(n)) => n.parse().map(Self::Length).map_err(|_| malformed("Content-Length")),
            (None, None) => Ok(otherwise),
        }
    }
}

/// Reads a start line and fields up to the empty line; nothing if the connection ended before the first byte.
///
/// # Errors
/// When it is malformed, too long or cut.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<(String, Fields)>> {
    let Some(start) = read_line(from)? else { return Ok(None) };
    let fields = read_fields(from)?;
    Ok(Some((start, fields)))
}

fn read_fields(from: &mut impl BufRead) -> io::Result<Fields> {
    let mut fields = Fields::new();
    loop {
        let line = read_line(from)?.ok_or_else(cut)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a field without a colon"))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// A line without its end; nothing at the end of the connection.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let n = from.by_ref().take(HEAD_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(cut());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| malformed("a line that is not UTF-8"))
}

/// Reads a body and gives every piece to `take` as it comes; returns the trailer fields.
///
/// # Errors
/// `UnexpectedEof` when it is cut, else what `take` or the connection says.
pub fn read_body(
    from: &mut impl BufRead,
    framing: Framing,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Fields> {
    match framing {
        Framing::None => {}
        Framing::Length(n) => exactly(from, n, &mut take)?,
        Framing::Close => loop {
            let piece = from.fill_buf()?;
            let n = piece.len();
            if n == 0 {
                break;
            }
            take(piece)?;
            from.consume(n);
        },
        Framing::Chunked => loop {
            let line = read_line(from)?.ok_or_else(cut)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| malformed("a chunk size"))?;
            if size == 0 {
                return read_fields(from);
            }
            exactly(from, size, &mut take)?;
            if !read_line(from)?.ok_or_else(cut)?.is_empty() {
                return Err(malformed("a chunk longer than its size"));
            }
        },
    }
    Ok(Fields::new())
}

fn exactly(
    from: &mut impl BufRead,
    n: u64,
    take: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut left = n;
    while left > 0 {
        let piece = from.fill_buf()?;
        if piece.is_empty() {
            return Err(cut());
        }
        let n = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        take(&piece[..n])?;
        from.consume(n);
        left -= n as u64;
    }
    Ok(())
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the message is cut")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed: {what}"))
}

/// Length and FNV-1a hash of a body that nobody wants to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Bytes so far.
    pub len: u64,
    hash: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { len: 0, hash: 0xcbf2_9ce4_8422_2325 }
    }
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut digest = Self::default();
        digest.update(bytes);
        digest
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        for &b in bytes {
            self.hash = (self.hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// The digest of the first `len` bytes of [`pattern`].
    pub fn of_pattern(len: u64) -> Self {
        let mut digest = Self::default();
        pattern(len, |piece| {
            digest.update(piece);
            Ok(())
        })
        .expect("the closure never fails");
        digest
    }
}

/// Gives the first `len` bytes of an endless body that repeats late (its period is prime), in pieces of up to 64 KiB.
///
/// # Errors
/// What `take` says.
pub fn pattern(len: u64, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    const PERIOD: usize = 65_521;
    let once: Vec<u8> = (0..PERIOD as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut left = len;
    while left > 0 {
        let n = left.min(PERIOD as u64);
        take(&once[..n as usize])?;
        left -= n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn body(mut wire: &[u8], framing: Framing) -> io::Result<(Vec<u8>, Fields)> {
        let mut all = Vec::new();
        let trailers = read_body(&mut wire, framing, |p| {
            all.extend_from_slice(p);
            Ok(())
        })?;
        Ok((all, trailers))
    }

    #[test]
    fn reads_every_framing() {
        assert_eq!(body(b"hello+", Framing::Length(5)).unwrap().0, b"hello");
        assert_eq!(body(b"hello", Framing::Close).unwrap().0, b"hello");
        let (all, trailers) =
            body(b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx-sum: 7\r\n\r\n", Framing::Chunked).unwrap();
        assert_eq!((all.as_slice(), value(&trailers, "x-sum")), (&b"hello"[..], Some("7")));
    }

    #[test]
    fn a_cut_is_an_error_in_every_framing_that_can_show_it() {
        let kind = |wire: &[u8], framing| body(wire, framing).unwrap_err().kind();
        assert_eq!(kind(b"hell", Framing::Length(5)), io::ErrorKind::UnexpectedEof);
        for cut in [&b"5\r\nhell"[..], b"5\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n"] {
            assert_eq!(kind(cut, Framing::Chunked), io::ErrorKind::UnexpectedEof, "{cut:?}");
        }
    }

    #[test]
    fn the_pattern_is_one_body_however_long() {
        let mut long = Vec::new();
        pattern(200_000, |p| {
            long.extend_from_slice(p);
            Ok(())
        })
        .unwrap();
        assert_eq!(Digest::of_pattern(70_000), Digest::of(&long[..70_000]));
        assert_ne!(Digest::of(&long[..70_000]), Digest::of(&long[1..70_001]));
    }
}
