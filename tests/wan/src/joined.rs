//! Two namespaces joined by a link.

use std::io;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::unistd::gettid;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::carrier::{Packet, carry};
use crate::link::{Counters, Link, Settings};
use crate::namespace::Namespace;

/// The largest packet, IP header included, as on Ethernet.
const MTU: u16 = 1500;

/// Packets that a device keeps until the carrier reads them: whole bursts of a sender, so that only the link's own queue
/// drops any.
const DEVICE_QUEUE: u32 = 16_384;

/// Bits of the network that both ends are in.
const NETWORK_BITS: u8 = 24;

/// One end of a link.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// The name of its device, at most 15 bytes.
    pub device: &'a str,
    /// Its address; both ends of a link are in one network of 24 bits.
    pub address: Ipv4Addr,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first end to the second.
    Forth,
    /// From the second to the first.
    Back,
}

/// A link between two namespaces; it is gone when this is dropped.
#[derive(Debug)]
pub struct Wan {
    links: [Arc<Mutex<Link<Packet>>>; 2],
    stop: Arc<AtomicBool>,
    /// Each ends with this, or with a device that fails.
    threads: Vec<JoinHandle<()>>,
    real_time: bool,
}

impl Wan {
    /// Joins two ends by a link that does the same in both directions. Chance follows from `seed`.
    ///
    /// # Errors
    /// When a device cannot be made.
    pub fn join(ends: [End<'_>; 2], settings: &Settings, seed: u64) -> io::Result<Self> {
        let [first, second] = [Arc::new(open(&ends[0])?), Arc::new(open(&ends[1])?)];
        let link = |way: u64| Arc::new(Mutex::new(Link::new(settings.clone(), seed * 2 + way)));
        let mut wan =
            Self { links: [link(0), link(1)], stop: Arc::default(), threads: Vec::new(), real_time: true };
        wan.spawn(Direction::Forth, Arc::clone(&first), Arc::clone(&second))?;
        wan.spawn(Direction::Back, second, first)?;
        Ok(wan)
    }

    /// Changes what both directions do.
    pub fn set(&self, change: impl Fn(&mut Settings)) {
        self.set_way(Direction::Forth, &change);
        self.set_way(Direction::Back, &change);
    }

    /// Changes what one direction does.
    pub fn set_way(&self, way: Direction, change: impl FnOnce(&mut Settings)) {
        change(self.link(way).settings());
    }

    /// What became of the packets of one direction.
    pub fn counters(&self, way: Direction) -> Counters {
        self.link(way).counters()
    }

    /// Whether both directions are still carried: a device may have failed.
    pub fn is_up(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Whether the carriers go before all other work of the machine; else packets are late where it has much to do.
    pub fn is_real_time(&self) -> bool {
        self.real_time
    }

    fn link(&self, way: Direction) -> std::sync::MutexGuard<'_, Link<Packet>> {
        self.links[way as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&mut self, way: Direction, from: Arc<SyncDevice>, to: Arc<SyncDevice>) -> io::Result<()> {
        let (link, stop) = (Arc::clone(&self.links[way as usize]), Arc::clone(&self.stop));
        let (tell, told) = sync_channel(1);
        let carrier = move || {
            let _ = tell.send(gettid());
            if let Err(e) = carry(&from, &to, &link, &stop) {
                eprintln!("wan: a direction has ended: {e}");
            }
        };
        self.threads.push(std::thread::Builder::new().name("wan".into()).spawn(carrier)?);
        let thread = told.recv().map_err(io::Error::other)?;
        self.real_time &= prioritise(thread);
        Ok(())
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Makes the device of an end.
pub(crate) fn open(end: &End<'_>) -> io::Result<SyncDevice> {
    end.namespace.enter(|| {
        let device = DeviceBuilder::new()
            .name(end.device)
            .ipv4(end.address, NETWORK_BITS, None)
            .mtu(MTU)
            .tx_queue_len(DEVICE_QUEUE)
            .build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    })
}

/// Lets a thread go before those that share the processor evenly; whether that is allowed here.
fn prioritise(thread: nix::unistd::Pid) -> bool {
    let mut command = Command::new("chrt");
    command.args(["--rr", "--pid", "1", &thread.to_string()]);
    command.output().is_ok_and(|said| said.status.success())
}
