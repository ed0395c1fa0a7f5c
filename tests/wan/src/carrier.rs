//! The thread that carries one direction: reads from a device, keeps the time, writes into another.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tun_rs::SyncDevice;

use crate::link::Link;

/// A packet, from the first byte of its IP header.
pub(crate) type Packet = Box<[u8]>;

/// More than the devices let through.
const PACKET_MAX: usize = 2048;

/// How many packets are read, or written, before the other is looked after.
const BATCH: usize = 64;

/// The longest that it sleeps: how soon it is seen that it shall stop.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// The accuracy of its sleep in nanoseconds, instead of the 50,000 of other threads.
const TIMER_SLACK_NS: u64 = 1;

/// Carries from `from` to `to` until `stop`.
pub(crate) fn carry(
    from: &SyncDevice,
    to: &SyncDevice,
    link: &Mutex<Link<Packet>>,
    stop: &AtomicBool,
) -> io::Result<()> {
    nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)?;
    let locked = || link.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = [0; PACKET_MAX];
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            match from.recv(&mut buffer) {
                Ok(bytes) => locked().send(Instant::now(), bytes, buffer[..bytes].into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        for _ in 0..BATCH {
            // Not held while the packet is written: the receiving host's work is done in that call.
            let arrived = locked().arrive(Instant::now());
            let Some(packet) = arrived else { break };
            // A host that cannot take a packet loses it.
            let _ = to.send(&packet);
        }
        let next = locked().next();
        let sleep = next.map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()).min(SLEEP_MAX));
        wait(from, sleep)?;
    }
    Ok(())
}

/// Waits until there is something to read, at most for `limit`.
fn wait(from: &SyncDevice, limit: Duration) -> io::Result<()> {
    let mut readable = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut readable, Some(TimeSpec::from_duration(limit)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
