//! Ports of this machine that nobody uses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as Name, UnixDatagram};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Socket, Type};

/// Below the range from which the kernel takes ports of outgoing connections, above what is well known, and without
/// the ports of the examples.
const FIRST: u16 = 12_000;
const BLOCK: u16 = 50;
const BLOCKS: u16 = 400;

/// Whole blocks that are ours, and the next port of the last.
#[derive(Debug)]
struct Ours {
    /// Each a name that only one process of the machine can have; they end with it.
    claims: Vec<UnixDatagram>,
    next: u16,
    end: u16,
}

static OURS: Mutex<Ours> = Mutex::new(Ours { claims: Vec::new(), next: 0, end: 0 });

/// A port of 127.0.0.1 at which nobody listens and that is given out once, by this process and by every other one that
/// runs these tests, so that a server can be stopped and started again on it. Who takes UDP on it listens on TCP, too.
///
/// # Panics
/// When all are taken.
pub fn free_port() -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while ours.next < ours.end {
            let port = ours.next;
            ours.next += 1;
            if is_free((Ipv4Addr::LOCALHOST, port).into()) {
                return port;
            }
        }
        // Processes that follow each other begin in different places: ports rest before they are used again.
        let offset = (std::process::id() % u32::from(BLOCKS)) as u16;
        let claimed = (0..BLOCKS).find_map(|step| {
            let block = (offset + step) % BLOCKS;
            Some((block, claim(block).ok()?))
        });
        let (block, name) = claimed.expect("a block of ports that no other process has");
        ours.claims.push(name);
        ours.next = FIRST + block * BLOCK;
        ours.end = ours.next + BLOCK;
    }
}

/// A name in the abstract namespace, which the kernel takes back when the process ends, however it does.
fn claim(block: u16) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&Name::from_abstract_name(format!("ringway-e2e-ports-{block}"))?)
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
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], super::free_port()));
        let listener = std::net::TcpListener::bind(at).expect("a port of ours");
        assert!(!super::is_free(at));
        drop(listener);
        assert!(super::is_free(at));
    }

    #[test]
    fn no_port_is_given_out_twice() {
        let ports: BTreeSet<_> = (0..120).map(|_| super::free_port()).collect();
        assert_eq!(ports.len(), 120);
    }

    #[test]
    fn a_block_has_one_owner() {
        // Beyond those that ports are taken from.
        let block = super::BLOCKS + std::process::id() as u16 % 1_000;
        let claimed = super::claim(block).expect("nobody has it");
        assert!(super::claim(block).is_err());
        drop(claimed);
        assert!(super::claim(block).is_ok());
    }
}
