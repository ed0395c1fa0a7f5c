//! One exchange: reads the request, answers as its path asks, keeps the journal.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::{Outcome, Seen, Shared};
use crate::http::{Digest, Fields, Framing, pattern, read_body, read_head, value};

/// Time between two chunks of `/drip`.
const DRIP: Duration = Duration::from_millis(5);

type Reader = BufReader<TcpStream>;

/// Serves one exchange; whether another may follow.
pub(super) fn serve(shared: &Arc<Shared>, reader: &mut Reader) -> io::Result<bool> {
    let Some((start, fields)) = read_head(reader)? else { return Ok(false) };
    let mut words = start.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (entry, asked) = {
        let mut state = shared.state();
        state.seen.push(Seen {
            method: method.into(),
            target: target.into(),
            fields: fields.clone(),
            trailers: Fields::new(),
            body: Digest::default(),
            outcome: Outcome::Open,
        });
        (state.seen.len() - 1, state.instead.get(target).cloned().unwrap_or_else(|| target.into()))
    };
    let mut exchange = Exchange { shared, reader, entry, head: start.clone(), fields, body_read: false };
    let result = exchange.answer(method, &asked);
    let cancelled = matches!(&result, Err(_) | Ok(End::Cancelled));
    shared.state().seen[entry].outcome = if cancelled { Outcome::Cancelled } else { Outcome::Answered };
    let keep = matches!(result?, End::Keep);
    Ok(keep && value(&exchange.fields, "connection").is_none_or(|c| !c.eq_ignore_ascii_case("close")))
}

/// How an exchange left its connection.
enum End {
    Keep,
    Close,
    Cancelled,
}

struct Exchange<'a> {
    shared: &'a Arc<Shared>,
    reader: &'a mut Reader,
    entry: usize,
    head: String,
    fields: Fields,
    body_read: bool,
}

impl Exchange<'_> {
    fn answer(&mut self, method: &str, target: &str) -> io::Result<End> {
        let path = target.split('?').next().unwrap_or_default();
        let mut parts = path.trim_start_matches('/').split('/');
        let kind = parts.next().unwrap_or_default();
        let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok()).unwrap_or(0);
        match kind {
            "echo" => return self.echo(),
            "refuse-body" => {
                self.write_head(413, &[("connection", "close"), ("content-length", "0")])?;
                // RFC 9112, section 9.6: closing at once could reset the connection and destroy the answer.
                let mut rest = [0; 8192];
                while self.reader.read(&mut rest)? > 0 {}
                return Ok(End::Close);
            }
            _ => self.read_request_body(|_| Ok(()))?,
        }
        if let Some(end) = self.hold_or_break_off(kind, method, &mut number)? {
            return Ok(end);
        }
        match kind {
            "seen" => {
                let lines = self.fields.iter().map(|(n, v)| format!("{n}: {v}\n"));
                let text = format!("{}\n{}", self.head, lines.collect::<String>());
                self.whole(method, 200, text.as_bytes())?;
            }
            "bytes" => {
                let n = number();
                self.write_head(200, &[("content-length", &n.to_string())])?;
                if method != "HEAD" {
                    pattern(n, |p| self.write(p))?;
                }
            }
            "chunked" => {
                self.write_head(200, &[("transfer-encoding", "chunked")])?;
                pattern(number(), |p| self.chunk(p))?;
                self.write(b"0\r\n\r\n")?;
            }
            "status" => {
                let status = u16::try_from(number()).unwrap_or(500);
                if matches!(status, 204 | 304) {
                    self.write_head(status, &[("etag", "\"7\"")])?;
                } else {
                    self.whole(method, status, b"as asked\n")?;
                }
            }
            "early" => {
                self.write(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")?;
                self.whole(method, 200, b"late\n")?;
            }
            "hops" => self.write(
                b"HTTP/1.1 200 Said\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=5\r\nx-hop: 1\r\n\
                  proxy-authenticate: Basic\r\nx-end: 1\r\ncontent-length: 0\r\n\r\n",
            )?,
            "trailers" => {
                self.write_head(200, &[("transfer-encoding", "chunked"), ("trailer", "x-sum")])?;
                self.chunk(b"seven")?;
                self.write(b"0\r\nx-sum: 7\r\n\r\n")?;
            }
            "trickle" => {
                let (bytes, every) = (number(), Duration::from_millis(number()));
                self.write_head(200, &[("content-length", &bytes.to_string())])?;
                for _ in 0..bytes {
                    crate::pause(every);
                    self.write(b"t")?;
                }
            }
            _ => self.named(method)?,
        }
        Ok(End::Keep)
    }

    /// Answers that take their time, or are the last on their connection; none: `kind` is no such.
    fn hold_or_break_off(
        &mut self,
        kind: &str,
        method: &str,
        mut number: impl FnMut() -> u64,
    ) -> io::Result<Option<End>> {
        match kind {
            "until-close" => {
                self.write_head(200, &[("connection", "close")])?;
                pattern(number(), |p| self.write(p))?;
                return Ok(Some(End::Close));
            }
            "cut" => {
                let (announced, sent) = (number(), number());
                self.write_head(200, &[("content-length", &announced.to_string())])?;
                pattern(sent, |p| self.write(p))?;
                return Ok(Some(End::Close));
            }
            "cut-chunked" => {
                self.write_head(200, &[("transfer-encoding", "chunked")])?;
                pattern(number(), |p| self.chunk(p))?;
                return Ok(Some(End::Close));
            }
            "hold" => {
                if !self.hold() {
                    return Ok(Some(End::Cancelled));
                }
                self.named(method)?;
            }
            "stall" => {
                let n = number();
                self.write_head(200, &[("content-length", &(n + 10).to_string())])?;
                pattern(n, |p| self.write(p))?;
                if !self.hold() {
                    return Ok(Some(End::Cancelled));
                }
                self.write(&[b'.'; 10])?;
            }
            "drip" => {
                self.write_head(200, &[("transfer-encoding", "chunked")])?;
                while !self.shared.state().stopped {
                    self.chunk(b"drip\n")?;
                    crate::pause(DRIP);
                }
                return Ok(Some(End::Close));
            }
            "close" => {
                self.write_head(200, &[("connection", "close"), ("content-length", "0")])?;
                return Ok(Some(End::Close));
            }
            "hang-up" => {
                self.named(method)?;
                return Ok(Some(End::Close));
            }
            "slam" => return Ok(Some(End::Close)),
            _ => return Ok(None),
        }
        Ok(Some(End::Keep))
    }

    /// Sends the body back as it comes, so that neither side needs to hold it.
    fn echo(&mut self) -> io::Result<End> {
        let framing = Framing::of(&self.fields, Framing::None)?;
        let mut out = self.reader.get_ref().try_clone()?;
        let chunked = framing == Framing::Chunked;
        let length = if let Framing::Length(n) = framing { n } else { 0 }.to_string();
        let declared =
            if chunked { ("transfer-encoding", "chunked") } else { ("content-length", length.as_str()) };
        self.continue_if_expected()?;
        let trailer = value(&self.fields, "trailer").map(str::to_owned);
        let mut fields = vec![declared];
        fields.extend(trailer.as_deref().map(|t| ("trailer", t)));
        self.write_head(200, &fields)?;
        self.read_request_body(|piece| {
            if chunked {
                out.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                out.write_all(piece)?;
                out.write_all(b"\r\n")
            } else {
                out.write_all(piece)
            }
        })?;
        if chunked {
            let trailers = self.shared.state().seen[self.entry].trailers.clone();
            let lines: String = trailers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
            self.write(format!("0\r\n{lines}\r\n").as_bytes())?;
        }
        Ok(End::Keep)
    }

    fn continue_if_expected(&mut self) -> io::Result<()> {
        if value(&self.fields, "expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue")) {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        Ok(())
    }

    fn read_request_body(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if std::mem::replace(&mut self.body_read, true) {
            return Ok(());
        }
        let framing = Framing::of(&self.fields, Framing::None)?;
        if framing != Framing::None && self.path() != "echo" {
            self.continue_if_expected()?;
        }
        let (shared, entry) = (self.shared, self.entry);
        let trailers = read_body(self.reader, framing, |piece| {
            shared.state().seen[entry].body.update(piece);
            take(piece)
        })?;
        shared.state().seen[entry].trailers = trailers;
        Ok(())
    }

    /// Waits for the release; false if the other side went away or the backend stopped.
    fn hold(&self) -> bool {
        let stream = self.reader.get_ref();
        let _ = stream.set_nonblocking(true);
        let released = self.shared.hold(|| {
            let mut byte = [0];
            match stream.peek(&mut byte) {
                Ok(n) => n == 0,
                Err(e) => e.kind() != io::ErrorKind::WouldBlock,
            }
        });
        let _ = stream.set_nonblocking(false);
        released
    }

    /// 200 and the backend's name.
    fn named(&mut self, method: &str) -> io::Result<()> {
        let body = format!("{}\n", self.shared.name);
        self.whole(method, 200, body.as_bytes())
    }

    fn whole(&mut self, method: &str, status: u16, body: &[u8]) -> io::Result<()> {
        let length = body.len().to_string();
        let body = if method == "HEAD" { b"" } else { body };
        let head = self.head(status, &[("content-length", &length)]);
        self.write(&[head.as_bytes(), body].concat())
    }

    fn write_head(&mut self, status: u16, fields: &[(&str, &str)]) -> io::Result<()> {
        let head = self.head(status, fields);
        self.write(head.as_bytes())
    }

    fn head(&self, status: u16, fields: &[(&str, &str)]) -> String {
        let mut head = format!("HTTP/1.1 {status} Said\r\nx-served-by: {}\r\n", self.shared.name);
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }

    fn chunk(&mut self, piece: &[u8]) -> io::Result<()> {
        self.write(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    fn path(&self) -> &str {
        let target = self.head.split(' ').nth(1).unwrap_or_default();
        target.trim_start_matches('/').split(['/', '?']).next().unwrap_or_default()
    }
}
