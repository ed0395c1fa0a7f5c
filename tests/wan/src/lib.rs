//! Emulated wide-area links between network namespaces of this machine, for benchmarks. Never published.
//!
//! A [`Namespace`] has no name and no file: it is gone with the last process in it, however that ends. A [`Wan`] joins two
//! of them by a TUN device in each, and one thread carries each direction: [`link::Link`] says what becomes of every
//! packet and when it arrives, without a clock or a socket of its own; the thread keeps the time.
//!
//! It takes root (`CAP_NET_ADMIN` and `CAP_SYS_ADMIN`), `/dev/net/tun` and `ip`; [`obstacle`] tells whether they are there.

mod carrier;
mod joined;
pub mod link;
mod namespace;

pub use joined::{Direction, End, Wan};
pub use link::{Counters, Settings};
pub use namespace::Namespace;

/// Why no link can be made here; none: they can.
pub fn obstacle() -> Option<String> {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(e) => return Some(format!("no network namespace can be made: {e}")),
    };
    let end = End { namespace: &namespace, device: "probe", address: [192, 0, 2, 1].into() };
    joined::open(&end).err().map(|e| format!("no TUN device can be made: {e}"))
}
