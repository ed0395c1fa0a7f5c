//! One process after another on the same sockets.
//!
//! A socket that two processes hold gives each datagram to whoever reads first, so only one of them reads: the *heir*. It
//! knows by the connection ID what is a tunnel's of the *elder*, who still serves what it has begun, and carries that to it
//! over a stream of bytes. Both send by themselves.
//!
//! On the stream each datagram is a length (4 bytes, big-endian; of all that follows), where it came from (family, address,
//! port), where to (family, address), its ECN bits, and its bytes. Both ends are of one user on one host, and may be of two
//! versions: what one cannot read it takes for the end of the stream.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::udp::{EcnCodepoint, RecvMeta};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::cid::Owner;
use crate::port::{Datagram, Group, Port};

/// Datagrams for the elder that wait for the stream: as many full ones as the kernel would keep for it.
const WAITING: usize = 2048;
/// The longest datagram there is, and what goes before it.
const FRAME_BYTES_MAX: usize = u16::MAX as usize + 64;
/// What is read of the stream at once.
const READ_BYTES: usize = 64 * 1024;
const V4: u8 = 4;
const V6: u8 = 6;
const NONE: u8 = 0;

/// What a process keeps of its port beside its workers: an heir to begin with it when it is its own, and an elder to hand it
/// over.
#[derive(Debug)]
pub struct Spare {
    sockets: Vec<UdpSocket>,
    group: Arc<Group>,
}

impl Spare {
    /// Of all shares of a port, of which there is one at least.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn of(ports: &[Port]) -> io::Result<Self> {
        let first = ports.first().ok_or(io::ErrorKind::InvalidInput)?;
        let sockets = ports.iter().map(|port| port.socket.try_clone()).collect::<io::Result<_>>()?;
        Ok(Self { sockets, group: first.group.clone() })
    }

    /// The sockets, in the order of the workers.
    pub fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// From now on this process reads none of its sockets; once this returns, nothing is being read.
    pub fn let_go(&self) {
        self.group.read_sockets(false);
    }

    /// Reads them: it is this process's turn, or no heir came of it.
    pub fn take(&self) {
        self.group.read_sockets(true);
    }

    /// Takes what the heir carries to this process, until that ends the stream.
    ///
    /// # Errors
    /// What the stream fails with.
    pub async fn receive(&self, heir: UnixStream) -> io::Result<()> {
        let mut heir = BufReader::with_capacity(READ_BYTES, heir);
        loop {
            let length = match heir.read_u32().await {
                Ok(length) => length as usize,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if length > FRAME_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut frame = vec![0; length];
            heir.read_exact(&mut frame).await?;
            let datagram = decode(frame.into()).ok_or(io::ErrorKind::InvalidData)?;
            self.group.sort_in(datagram);
        }
    }

    /// What is an elder's is carried to it over `elder` from now on, by the future, which ends when the elder has; what
    /// comes for it later is a dead process's.
    pub fn carry_to(&self, elder: UnixStream) -> impl Future<Output = ()> + Send + 'static + use<> {
        let (waiting, taken) = mpsc::channel(WAITING);
        let group = self.group.clone();
        group.elder.store(Some(Arc::new(waiting)));
        async move {
            carry(taken, elder).await;
            group.elder.store(None);
        }
    }
}

/// Writes what waits to the elder, until that ends.
async fn carry(mut waiting: mpsc::Receiver<Datagram>, mut elder: UnixStream) {
    let (mut read, mut write) = elder.split();
    let writing = async {
        let mut frames = BytesMut::new();
        while let Some(datagram) = waiting.recv().await {
            encode(&datagram, &mut frames);
            while frames.len() < READ_BYTES
                && let Ok(more) = waiting.try_recv()
            {
                encode(&more, &mut frames);
            }
            if write.write_all_buf(&mut frames).await.is_err() {
                return;
            }
        }
    };
    // It says nothing on the stream: what comes is its end.
    let ended = async { while read.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {} };
    tokio::select! {
        () = writing => {}
        () = ended => {}
    }
}

impl Group {
    /// Hands on what an heir has carried here.
    fn sort_in(&self, datagram: Datagram) {
        match self.owner(&datagram.bytes) {
            Owner::One(worker) => self.hand_over(worker, datagram),
            Owner::All => self.show_to_others(None, &datagram),
            // Of a start before this one: whoever has it resets it.
            Owner::Earlier | Owner::Any => self.hand_over(0, datagram),
        }
    }
}

fn encode(datagram: &Datagram, frames: &mut BytesMut) {
    let Datagram { bytes, meta } = datagram;
    let at = frames.len();
    frames.put_u32(0);
    put_ip(Some(meta.addr.ip()), frames);
    frames.put_u16(meta.addr.port());
    put_ip(meta.dst_ip, frames);
    frames.put_u8(meta.ecn.map_or(0, |ecn| ecn as u8));
    frames.put_slice(bytes);
    let length = (frames.len() - at - size_of::<u32>()) as u32;
    frames[at..at + size_of::<u32>()].copy_from_slice(&length.to_be_bytes());
}

/// None: it is no frame of ours.
fn decode(mut frame: Bytes) -> Option<Datagram> {
    let from = take_ip(&mut frame)??;
    let port = frame.try_get_u16().ok()?;
    let dst_ip = take_ip(&mut frame)?;
    let ecn = EcnCodepoint::from_bits(frame.try_get_u8().ok()?);
    let (addr, len) = (SocketAddr::new(from, port), frame.len());
    let meta = RecvMeta { addr, len, stride: len, ecn, dst_ip };
    Some(Datagram { bytes: frame, meta })
}

fn put_ip(ip: Option<IpAddr>, frames: &mut BytesMut) {
    match ip {
        None => frames.put_u8(NONE),
        Some(IpAddr::V4(v4)) => {
            frames.put_u8(V4);
            frames.put_slice(&v4.octets());
        }
        Some(IpAddr::V6(v6)) => {
            frames.put_u8(V6);
            frames.put_slice(&v6.octets());
        }
    }
}

/// None: there is none that can be read.
fn take_ip(frame: &mut Bytes) -> Option<Option<IpAddr>> {
    let ip = match frame.try_get_u8().ok()? {
        NONE => None,
        V4 => Some(IpAddr::from(frame.try_get_u32().ok()?.to_be_bytes())),
        V6 => Some(IpAddr::from(frame.try_get_u128().ok()?.to_be_bytes())),
        _ => return None,
    };
    Some(ip)
}

#[cfg(test)]
#[path = "succession/tests.rs"]
mod tests;
