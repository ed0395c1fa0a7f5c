//! Meddles with the sockets of a port from outside.

use std::net::{SocketAddr, UdpSocket};

use nix::libc::{self, BPF_ABS, BPF_ALU, BPF_K, BPF_LD, BPF_MOD, BPF_RET, BPF_W, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

/// A socket more on a port that several share.
pub(crate) fn join(address: SocketAddr) -> UdpSocket {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.into()
}

/// From now on the kernel draws lots among the first `workers` sockets of a port, for every datagram.
pub(crate) fn over(address: SocketAddr, workers: u32) {
    const BPF_A: u32 = 0x10;
    let step = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        step(BPF_LD | BPF_W | BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32),
        step(BPF_ALU | BPF_MOD | BPF_K, workers),
        step(BPF_RET | BPF_A, 0),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    setsockopt(&join(address), AttachReusePortCbpf, &program).unwrap();
}
