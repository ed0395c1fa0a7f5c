//! One UDP port for all workers of a process.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use aws_lc_rs::hmac;
use bytes::Bytes;
use quinn::udp::RecvMeta;
use tokio::sync::mpsc;

use crate::cid::{Codec, Owner};
use crate::error::EndpointError;
use crate::secrets::Secrets;

/// Kernel buffer asked for, each way; the kernel may give less.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Datagrams that wait for a worker that did not receive them itself: as many full ones as its kernel buffer holds.
const INBOX: usize = 2048;
/// What of an inbox stays free for datagrams that are certainly the worker's: a flood of rubbish, each a possible reset,
/// does not keep them out.
const INBOX_FOR_OWN: usize = INBOX / 4 * 3;

/// A worker's share of a UDP port: its socket, and an inbox for datagrams of its that came to another worker's socket.
/// [`crate::Endpoint::on`] makes it an endpoint in the runtime of the thread that it was sent to.
#[derive(Debug)]
pub struct Port {
    pub(crate) socket: UdpSocket,
    pub(crate) worker: u8,
    pub(crate) inbox: mpsc::Receiver<Datagram>,
    pub(crate) group: Arc<Group>,
}

/// What the workers of a port share.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) codec: Arc<Codec>,
    pub(crate) reset_key: hmac::Key,
    workers: NonZeroU8,
    inboxes: Box<[mpsc::Sender<Datagram>]>,
    /// Whether each worker reads its socket; held while it does.
    reads: Box<[Mutex<bool>]>,
    /// What waits for the process before this one, while that lives.
    pub(crate) elder: ArcSwapOption<mpsc::Sender<Datagram>>,
    handed_over: AtomicU64,
    possible_resets: AtomicU64,
    dropped: AtomicU64,
}

/// A datagram on its way from the worker that received it to its owner.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) bytes: Bytes,
    pub(crate) meta: RecvMeta,
}

/// Datagrams that came to the wrong worker of a port, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Handed over to their owners. More than a few of all datagrams: the kernel does not steer.
    pub handed_over: u64,
    /// Shown to every worker, because they may be stateless resets.
    pub possible_resets: u64,
    /// Lost, because the owner's inbox was full or the owner has ended.
    pub dropped: u64,
}

impl Port {
    /// Binds `address` for `workers`, one share each; the place in the list is the worker's number. `boot` is a random
    /// number of this start of the process, `secrets` are the same for all its starts.
    ///
    /// # Errors
    /// [`EndpointError::Bind`]; also where other processes are ready to share the port.
    pub fn bind(
        address: SocketAddr,
        workers: NonZeroU8,
        secrets: &Secrets,
        boot: u64,
    ) -> Result<Vec<Self>, EndpointError> {
        let codec = Arc::new(Codec::new(&secrets.cid_key, boot));
        let sockets = sockets(address, workers).map_err(|e| EndpointError::Bind(address, e))?;
        Ok(Self::share_out(codec, sockets, workers, secrets))
    }

    /// The same on sockets that others have bound, one for each of the `workers`: two processes hold them where an elder
    /// hands them over.
    ///
    /// # Errors
    /// [`EndpointError::Socket`]: one is none.
    pub fn on(
        sockets: Vec<UdpSocket>,
        workers: NonZeroU8,
        secrets: &Secrets,
        boot: u64,
    ) -> Result<Vec<Self>, EndpointError> {
        let codec = Arc::new(Codec::new(&secrets.cid_key, boot));
        if sockets.len() != usize::from(workers.get()) {
            return Err(EndpointError::Socket(io::ErrorKind::InvalidInput.into()));
        }
        Ok(Self::share_out(codec, sockets, workers, secrets))
    }

    fn share_out(
        codec: Arc<Codec>,
        sockets: Vec<UdpSocket>,
        workers: NonZeroU8,
        secrets: &Secrets,
    ) -> Vec<Self> {
        for socket in &sockets {
            let socket = socket2::SockRef::from(socket);
            // Best effort: the kernel caps them at its own limits.
            let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
            let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        }
        #[cfg(target_os = "linux")]
        if workers > NonZeroU8::MIN
            && let Some(Err(error)) =
                sockets.first().map(|first| crate::steer::attach(first, codec.mask, workers))
        {
            tracing::warn!(%error, "The kernel does not steer datagrams to their workers; they are handed over, which costs CPU.");
        }
        let (inboxes, receivers): (Vec<_>, Vec<_>) = sockets.iter().map(|_| mpsc::channel(INBOX)).unzip();
        let group = Arc::new(Group {
            codec,
            reset_key: hmac::Key::new(hmac::HMAC_SHA256, &secrets.reset_key),
            workers,
            inboxes: inboxes.into(),
            reads: (0..workers.get()).map(|_| Mutex::new(true)).collect(),
            elder: ArcSwapOption::empty(),
            handed_over: AtomicU64::new(0),
            possible_resets: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let shares = (0..).zip(sockets).zip(receivers);
        shares.map(|((worker, socket), inbox)| Self { socket, worker, inbox, group: group.clone() }).collect()
    }

    /// The worker whose share it is.
    pub fn worker(&self) -> u8 {
        self.worker
    }
}

impl Group {
    /// Whether there is nobody to hand anything to.
    pub(crate) fn is_alone(&self) -> bool {
        self.workers == NonZeroU8::MIN && self.elder.load().is_none()
    }

    /// Whether `worker` reads its socket: as it is for as long as this is held.
    pub(crate) fn reads(&self, worker: u8) -> MutexGuard<'_, bool> {
        // A panic while it was held left nothing half done.
        self.reads[usize::from(worker)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all workers read theirs from now on.
    pub(crate) fn read_sockets(&self, do_they: bool) {
        for worker in 0..self.workers.get() {
            *self.reads(worker) = do_they;
            if do_they {
                // Wakes it: of nothing there is nothing to be read.
                self.hand_over(worker, Datagram::copy(&[], &RecvMeta::default()));
            }
        }
    }

    /// Carries a datagram to the process before this one, if it is certainly its own or there is much room. False: there is no
    /// such process.
    pub(crate) fn carry_to_elder(&self, datagram: &[u8], meta: &RecvMeta, own: bool) -> bool {
        let elder = self.elder.load();
        let Some(elder) = elder.as_ref() else { return false };
        let room = own || elder.capacity() > INBOX_FOR_OWN;
        if !room || elder.try_send(Datagram::copy(datagram, meta)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    pub(crate) fn owner(&self, datagram: &[u8]) -> Owner {
        self.codec.owner(datagram, self.workers)
    }

    /// Hands a datagram to its owner.
    pub(crate) fn hand_over(&self, owner: u8, datagram: Datagram) {
        let sent = self.inboxes.get(usize::from(owner)).map(|inbox| inbox.try_send(datagram));
        let counter = if matches!(sent, Some(Ok(()))) { &self.handed_over } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows a datagram that may be a stateless reset to all workers but `from`, who has it.
    pub(crate) fn show_to_others(&self, from: Option<u8>, shown: &Datagram) {
        for (worker, inbox) in (0u8..).zip(&self.inboxes) {
            if Some(worker) != from
                && (inbox.capacity() < INBOX_FOR_OWN || inbox.try_send(shown.clone()).is_err())
            {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.possible_resets.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn strays(&self) -> Strays {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Strays {
            handed_over: read(&self.handed_over),
            possible_resets: read(&self.possible_resets),
            dropped: read(&self.dropped),
        }
    }
}

impl Datagram {
    pub(crate) fn copy(bytes: &[u8], meta: &RecvMeta) -> Self {
        let meta = RecvMeta { len: bytes.len(), stride: bytes.len(), ..*meta };
        Self { bytes: Bytes::copy_from_slice(bytes), meta }
    }
}

/// The sockets, in the order of the workers.
fn sockets(address: SocketAddr, workers: NonZeroU8) -> io::Result<Vec<UdpSocket>> {
    // Alone at first: sharing would hide that another process has the port, and of a port that the system chooses it
    // does not promise that nobody shares it already.
    let alone = socket(address, false)?;
    if workers == NonZeroU8::MIN {
        return Ok(vec![alone]);
    }
    let address = alone.local_addr()?;
    drop(alone);
    (0..workers.get()).map(|_| socket(address, true)).collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
#[path = "port/tests.rs"]
mod tests;
