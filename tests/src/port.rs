//! Ports of this machine that nobody uses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// Below the range from which the kernel takes ports of outgoing connections, above what is well known, and without
/// the ports of the examples.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of 127.0.0.1 at which nobody listens and that is given out once by this process, so that a server can be
/// stopped and started again on it. Who takes UDP on it listens on TCP, too.
///
/// # Panics
/// When a thousand ports in a row are taken.
pub fn free_port() -> u16 {
    // Test binaries that run at once begin in different places.
    let offset = (std::process::id() % 400) as u16 * 50;
    for _ in 0..1_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset + step % COUNT) % COUNT;
        if is_free((Ipv4Addr::LOCALHOST, port).into()) {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Whether nobody listens there. Looks without listening: another thread may start a process at this moment, and a copy
/// of a socket that listens would keep the port taken until that process has become what it shall be.
fn is_free(at: SocketAddr) -> bool {
    let bound = || -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())
    };
    bound().is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn a_port_at_which_somebody_listens_is_not_free() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        assert!(!super::is_free(at));
        drop(listener);
        assert!(super::is_free(at));
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: BTreeSet<_> = (0..50).map(|_| super::free_port()).collect();
        assert_eq!(ports.len(), 50);
    }
}
