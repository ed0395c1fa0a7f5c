//! Accepts tunnels. Whoever reaches the port can connect: what it costs is bounded per process and per address, and
//! whoever connects and says nothing keeps nobody out.

use std::fmt::Display;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::{FIRST_BYTES_WAIT, HELLO_WAIT};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;
use tunnel::{Driver, Incoming, Tunnel, TunnelError};

use super::{Plane, own_tunnel};
use crate::base::accept::{ACCEPT_PAUSE, here};
use crate::base::places::{Limits, Place, Places, Source};
use crate::telemetry::limited::limited;

/// Handshakes of a process at once, on QUIC and on TCP each. One address has a quarter of them, so that four must join to
/// take all; each has a second before it must make room for others, which is more than a handshake around the world takes.
const FROM_OUTSIDE: Limits = Limits { all: 256, each: 64, grace: Duration::from_secs(1) };
/// The same on the Unix socket, which only our own user can connect to: all may be of one.
const FROM_THIS_HOST: Limits = Limits { all: 256, each: 256, grace: Duration::from_secs(1) };

/// Handshakes under way, in all threads of the process.
#[derive(Clone, Debug)]
pub struct Handshakes {
    quic: Arc<Places>,
    tcp: Arc<Places>,
    unix: Arc<Places>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            quic: Places::new(FROM_OUTSIDE),
            tcp: Places::new(FROM_OUTSIDE),
            unix: Places::new(FROM_THIS_HOST),
        }
    }
}

impl Handshakes {
    /// Whether a source whose address nobody has proven has taken half of what it may, or all sources together have: the
    /// rest is for such as can be reached where they say they are.
    fn are_crowded(&self, source: Source) -> bool {
        self.quic.taken() >= FROM_OUTSIDE.all / 2 || self.quic.taken_of(source) >= FROM_OUTSIDE.each / 2
    }
}

/// Accepts tunnels on QUIC for as long as the endpoint lives.
pub(super) async fn on_quic(plane: Rc<Plane>) {
    let handshakes = plane.control.handshakes.clone();
    while let Some(attempt) = plane.endpoint.accept().await {
        let from = attempt.from();
        let source = Source::from(from.ip());
        if !attempt.is_proven() && handshakes.are_crowded(source) {
            attempt.ask_for_proof();
            continue;
        }
        let Some(place) = handshakes.quic.enter(source).await else {
            refused(source, &from, "its address has as many handshakes under way as it may");
            attempt.refuse();
            continue;
        };
        // Its first packet holds its first words.
        place.heard();
        let admitting = plane.clone();
        let handshake = attempt.answer(move |peer| admitting.admit(peer));
        spawn_local(take(plane.clone(), source, from, handshake, place));
    }
}

/// Accepts tunnels on TCP.
pub(super) async fn on_tcp(plane: Rc<Plane>, listener: TcpListener) {
    let places = plane.control.handshakes.tcp.clone();
    loop {
        match here(&plane.worker.shared.accepts_tunnels, listener.accept()).await {
            Ok((stream, from)) => {
                let source = Source::from(from.ip());
                match places.enter(source).await {
                    Some(place) => begin(&plane, Incoming::Tcp(stream, from), source, from, place),
                    None => refused(source, &from, "its address has as many handshakes under way as it may"),
                }
            }
            Err(error) => cannot_accept(&error).await,
        }
    }
}

/// Accepts tunnels on the Unix socket.
pub(super) async fn on_unix(plane: Rc<Plane>, listener: UnixListener) {
    let places = plane.control.handshakes.unix.clone();
    loop {
        match here(&plane.worker.shared.accepts_tunnels, listener.accept()).await {
            // Never refused: there is one source, which may have all.
            Ok((stream, _)) => {
                if let Some(place) = places.enter(Source::Host).await {
                    begin(&plane, Incoming::Unix(stream), Source::Host, Source::Host, place);
                }
            }
            Err(error) => cannot_accept(&error).await,
        }
    }
}

/// Waits for the first bytes of a connection and answers them.
fn begin(plane: &Rc<Plane>, incoming: Incoming, source: Source, from: impl Display + 'static, place: Place) {
    // A good one has said something by the time it is looked at: it need not wait for its turn to show that.
    if incoming.has_spoken() {
        place.heard();
    }
    let plane = plane.clone();
    spawn_local(async move {
        let first = tokio::select! {
            first = tokio::time::timeout(FIRST_BYTES_WAIT, incoming.readable()) => first,
            () = place.gives_way() => return refused(source, &from, "it said nothing, and others came"),
        };
        match first {
            Ok(Ok(())) => place.heard(),
            Ok(Err(error)) => return refused(source, &from, error),
            Err(_) => {
                return refused(source, &from, format_args!("nothing came within {FIRST_BYTES_WAIT:?}"));
            }
        }
        let admitting = plane.clone();
        let handshake = plane.direct.answer(incoming, move |peer| admitting.admit(peer));
        take(plane.clone(), source, from, handshake, place).await;
    });
}

/// Takes the tunnel that comes of a handshake into use.
async fn take<A>(
    plane: Rc<Plane>,
    source: Source,
    from: impl Display,
    handshake: impl Future<Output = Result<(Tunnel, Driver), (A, TunnelError)>>,
    place: Place,
) {
    tokio::select! {
        done = handshake => match done {
            Ok((tunnel, driver)) => own_tunnel(&plane, tunnel, driver),
            Err((_, error)) => refused(source, &from, error),
        },
        () = place.gives_way() => {
            refused(source, &from, format_args!("its handshake was not done when others came, of {HELLO_WAIT:?} at most"));
        }
    }
}

fn refused(source: Source, from: &impl Display, error: impl Display) {
    limited!(WARN, STRANGERS, source, "Refused a tunnel.", %from, %error);
}

/// For want of file descriptors or memory, most of the time: soon there may be some.
async fn cannot_accept(error: &io::Error) {
    limited!(WARN, STRANGERS, "", "Cannot accept a connection on the port of the tunnels.", %error);
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[tokio::test]
    async fn who_has_proven_no_address_takes_half_of_the_places_at_most() {
        let handshakes = Handshakes::default();
        let source = |n: u8| Source::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, n)));
        let mut held = Vec::new();
        while !handshakes.are_crowded(source(0)) {
            held.push(handshakes.quic.enter(source(0)).await.unwrap());
        }
        assert_eq!(held.len(), FROM_OUTSIDE.each / 2, "an address that may be forged");
        for n in 1.. {
            if handshakes.are_crowded(source(n)) {
                break;
            }
            held.push(handshakes.quic.enter(source(n)).await.unwrap());
        }
        assert_eq!(held.len(), FROM_OUTSIDE.all / 2);
        assert!(handshakes.tcp.taken() + handshakes.unix.taken() == 0, "each has its own");
    }
}
