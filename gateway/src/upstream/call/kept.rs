//! Idle connections to endpoints whose calls are placed each by itself. On each there is one call at a time, also where its
//! protocol would have more: then a tag is never another caller's, and a large answer is in nobody's way.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::BytesMut;
use registry::model::{HostPort, Protocol};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::aside::Aside;
use super::message::Message;
use crate::upstream::idle::Idle;

/// Idle connections of Thrift kept per endpoint and worker, of either kind; more are closed. Few: many servers have a thread
/// for each.
const IDLE_MAX: usize = 64;
/// The same of Mux.
const MUX_IDLE_MAX: usize = 512;

/// Idle connections. Those for one-way calls are apart: what a server says to one all the same is not to come to the next
/// caller.
#[derive(Debug)]
pub(in crate::upstream) struct Connections {
    answered: Idle<TcpStream>,
    oneway: Idle<TcpStream>,
    mux: Idle<TcpStream>,
}

impl Default for Connections {
    fn default() -> Self {
        let [answered, oneway] = [(); 2].map(|()| Idle::new(IDLE_MAX));
        Self { answered, oneway, mux: Idle::new(MUX_IDLE_MAX) }
    }
}

impl Connections {
    /// Closes what was idle for too long, and what its endpoint has closed.
    pub(in crate::upstream) fn sweep(&self) {
        self.answered.sweep(is_quiet);
        self.oneway.sweep(is_open);
        self.mux.sweep(is_welcome);
    }

    /// Closes all; whether there was any.
    pub(in crate::upstream) fn close_idle(&self) -> bool {
        let closed = [&self.answered, &self.oneway, &self.mux].map(Idle::close);
        closed.contains(&true)
    }

    /// One for `call` that was idle for less than `most`.
    pub(super) fn take(&self, address: &HostPort, call: &Message, most: Duration) -> Option<TcpStream> {
        let usable = match call.protocol() {
            Protocol::Mux => is_welcome,
            _ if call.is_oneway() => is_open,
            _ => is_quiet,
        };
        self.idle_for(call).take(address, most, usable)
    }

    /// `call` was served on it.
    pub(super) fn give_back(&self, address: &HostPort, call: &Message, stream: TcpStream) {
        self.idle_for(call).give_back(address, stream);
    }

    fn idle_for(&self, call: &Message) -> &Idle<TcpStream> {
        match call.protocol() {
            Protocol::Mux => &self.mux,
            _ if call.is_oneway() => &self.oneway,
            _ => &self.answered,
        }
    }
}

/// Whether nothing has come on an idle connection, and no end. By the system's word: the readiness that the runtime knows is
/// as old as its last turn.
fn is_quiet(stream: &TcpStream) -> bool {
    let came = SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); 1]);
    came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Whether no end has come; what else has is thrown away.
fn is_open(stream: &TcpStream) -> bool {
    let mut said = [MaybeUninit::uninit(); 512];
    loop {
        match SockRef::from(stream).recv(&mut said) {
            Ok(count) if count > 0 => {}
            Ok(_) => return false,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Whether calls are welcome on an idle connection of Mux; what its server asks about the connection is answered.
fn is_welcome(stream: &TcpStream) -> bool {
    if is_quiet(stream) {
        return true;
    }
    let mut buf = BytesMut::zeroed(512);
    // More than that is nothing that a server says to a client that asks nothing.
    let Ok(count) = std::io::Read::read(&mut &*SockRef::from(stream), &mut buf) else { return false };
    buf.truncate(count);
    let mut is_welcome = count > 0;
    while let Ok(Some(said)) = finagle::next(&mut buf) {
        match Aside::of(&said) {
            Some(Aside { reply, last }) => {
                let unsaid = reply.is_some_and(|reply| {
                    SockRef::from(stream).send(&reply.bytes).ok() != Some(reply.bytes.len())
                });
                is_welcome &= !last && !unsaid;
            }
            None => return false,
        }
    }
    is_welcome && buf.is_empty()
}
