//! Tells the kernel which socket of a shared port gets a datagram: that of the worker whose tunnel it is.
//!
//! By itself the kernel chooses by the addresses of a datagram. All tunnels between two gateways have the same, so one
//! worker would receive for all of them; and the answers to our own dials would come to a worker that has not dialled.
//! Each of these datagrams would then be copied to its owner by [`crate::socket`], which stays right wherever the
//! kernel's choice is wrong: this file saves work and promises nothing.

use std::io;
use std::net::UdpSocket;
use std::num::NonZeroU8;

use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

use crate::cid::{CID_BYTES, LONG_CID_AT, LONG_CID_LENGTH_AT, LONG_HEADER, Mask, SHORT_CID_AT, WORKER_AT};

/// Makes the kernel choose among the sockets that share a port, of which `socket` is one. The choice is the place of a
/// socket in the order in which they were bound.
///
/// # Errors
/// When the kernel does not take the filter.
pub(crate) fn attach(socket: &UdpSocket, mask: Mask, workers: NonZeroU8) -> io::Result<()> {
    let mut filter = program(mask, workers);
    // The kernel copies it.
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    Ok(setsockopt(socket, AttachReusePortCbpf, &program)?)
}

/// `Codec::worker` in the language of the kernel's filters (classic BPF): an accumulator, an index register and memory
/// cells. A load behind the end of the datagram ends the program with 0: the first socket.
fn program(mask: Mask, workers: NonZeroU8) -> [sock_filter; 24] {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD,
        BPF_LDX, BPF_MEM,
    };
    use libc::{
        BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_STX, BPF_TAX, BPF_W, BPF_X, BPF_XOR,
    };
    /// Return the accumulator; libc lacks its name.
    const BPF_A: u32 = 0x10;
    const CID: u32 = 0;
    const MASK: u32 = 1;
    let jump = |code: u32, k: u32, jt: u8, jf: u8| sock_filter { code: code as u16, jt, jf, k };
    let step = |code: u32, k: u32| jump(code, k, 0, 0);
    [
        // Index: where the ID starts.
        step(BPF_LD | BPF_B | BPF_ABS, 0),
        step(BPF_LDX | BPF_IMM, SHORT_CID_AT as u32),
        jump(BPF_JMP | BPF_JSET | BPF_K, LONG_HEADER.into(), 0, 5),
        step(BPF_LDX | BPF_IMM, LONG_CID_AT as u32),
        // A client's first choice: the worker that it wishes for, on to the last but one step.
        step(BPF_LD | BPF_B | BPF_ABS, LONG_CID_LENGTH_AT as u32),
        jump(BPF_JMP | BPF_JEQ | BPF_K, CID_BYTES as u32, 2, 0),
        step(BPF_LD | BPF_B | BPF_ABS, (LONG_CID_AT + WORKER_AT) as u32),
        step(BPF_JMP | BPF_JA, 14),
        // An ID as ours are.
        step(BPF_STX, CID),
        // The mask, from the first word.
        step(BPF_LD | BPF_W | BPF_IND, 0),
        step(BPF_ALU | BPF_XOR | BPF_K, mask.xor),
        step(BPF_ALU | BPF_MUL | BPF_K, mask.multiply[0]),
        step(BPF_MISC | BPF_TAX, 0),
        step(BPF_ALU | BPF_RSH | BPF_K, Mask::FOLD),
        step(BPF_ALU | BPF_XOR | BPF_X, 0),
        step(BPF_ALU | BPF_MUL | BPF_K, mask.multiply[1]),
        step(BPF_ALU | BPF_RSH | BPF_K, 24),
        step(BPF_ST, MASK),
        // The masked worker.
        step(BPF_LDX | BPF_MEM, CID),
        step(BPF_LD | BPF_B | BPF_IND, WORKER_AT as u32),
        step(BPF_LDX | BPF_MEM, MASK),
        step(BPF_ALU | BPF_XOR | BPF_X, 0),
        step(BPF_ALU | BPF_MOD | BPF_K, workers.get().into()),
        step(BPF_RET | BPF_A, 0),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;
    use std::time::Duration;

    use quinn::ConnectionIdGenerator;

    use crate::cid::{Generator, Owner};
    use crate::port::Port;
    use crate::secrets::Secrets;

    use super::*;

    #[test]
    fn the_kernel_chooses_as_the_codec_does() {
        let secrets = Secrets { reset_key: [1; 32], cid_key: [2; 32] };
        let workers = NonZeroU8::new(3).unwrap();
        let ports = Port::bind((Ipv4Addr::LOCALHOST, 0).into(), workers, &secrets, 7).unwrap();
        let address = ports[0].socket.local_addr().unwrap();
        for port in &ports {
            port.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
        let mut rng = fastrand::Rng::with_seed(1);
        let mut generators = [0, 1, 2].map(|w| Generator::new(ports[0].group.codec.clone(), w));
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut received = [0; 3];
        for round in 0..300 {
            let ours = generators[round % 3].generate_cid();
            let theirs: [u8; 20] = std::array::from_fn(|_| rng.u8(..));
            let datagram = match round / 3 % 3 {
                0 => [&[0x40][..], &ours, &[0; 25]].concat(),
                1 => [&[0xe0, 0, 0, 0, 1, ours.len() as u8][..], &ours, &[0; 25]].concat(),
                _ => [&[0xc0, 0, 0, 0, 1, 20][..], &theirs, &[0; 25]].concat(),
            };
            let Owner::One(owner) = ports[0].group.owner(&datagram) else { panic!("no owner") };
            sender.send_to(&datagram, address).unwrap();
            let mut buf = [0; 100];
            let len = ports[usize::from(owner)].socket.recv(&mut buf).unwrap();
            assert_eq!(buf[..len], datagram, "round {round}");
            received[usize::from(owner)] += 1;
        }
        assert!(received.iter().all(|n| *n > 66), "{received:?}");
    }
}
