//! A UDP link that can be spoiled from a test: loss, delay, silence in one direction or both. Needs no root.
//!
//! Stands where a NAT would: each client address gets a socket of its own towards the target.

use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a blocked thread looks whether the relay has been dropped.
const LOOK: Duration = Duration::from_millis(50);

/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Which way a datagram travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// From a client to the target.
    Target = 0,
    /// From the target back to a client.
    Client = 1,
}

/// How one direction treats what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fault {
    /// The share of datagrams lost, 0.0 to 1.0.
    pub loss: f64,
    /// How much later each arrives.
    pub delay: Duration,
    /// Nothing arrives.
    pub silent: bool,
    /// Longer datagrams do not arrive, and nobody is told; 0: all lengths do.
    pub longest: usize,
}

/// The relay; dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    faults: Mutex<[Fault; 2]>,
    /// State of the generator that draws losses; one for both directions.
    random: AtomicU64,
    /// Datagrams handed on, per direction.
    passed: [AtomicU64; 2],
    /// Datagrams lost, per direction.
    lost: [AtomicU64; 2],
    late: Mutex<BinaryHeap<Late>>,
    late_came: Condvar,
    /// How often clients have been given other addresses.
    moves: AtomicU64,
    stop: AtomicBool,
}

/// A datagram on its way; the greatest is the one due first.
#[derive(Debug)]
struct Late {
    due: Instant,
    bytes: Vec<u8>,
    out: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Relay {
    /// A relay on a free port of 127.0.0.1 in front of `target`, without faults. Losses follow from `seed`.
    ///
    /// # Panics
    /// When no socket can be had.
    pub fn start(target: SocketAddr, seed: u64) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP socket on loopback");
        let address = front.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target,
            faults: Mutex::default(),
            random: AtomicU64::new(seed),
            passed: Default::default(),
            lost: Default::default(),
            late: Mutex::default(),
            late_came: Condvar::new(),
            moves: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let (a, b) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads =
            vec![std::thread::spawn(move || serve(&a, front)), std::thread::spawn(move || deliver(&b))];
        Self { address, shared, threads }
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the faults of one direction.
    pub fn set(&self, toward: Toward, fault: Fault) {
        guard(&self.shared.faults)[toward as usize] = fault;
    }

    /// Nothing arrives in either direction any more.
    pub fn cut(&self) {
        *guard(&self.shared.faults) = [Fault { silent: true, ..Fault::default() }; 2];
    }

    /// Everything arrives again, at once.
    pub fn heal(&self) {
        *guard(&self.shared.faults) = Default::default();
    }

    /// From now on the target sees each client at another port of another address, and what it sends to the ones that it
    /// knew gets nowhere: as when a NAT forgets, or a host moves to another network.
    pub fn move_clients(&self) {
        self.shared.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Datagrams handed on and lost in this direction so far.
    pub fn counts(&self, toward: Toward) -> (u64, u64) {
        let of = |n: &[AtomicU64; 2]| n[toward as usize].load(Ordering::Relaxed);
        (of(&self.shared.passed), of(&self.shared.lost))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.late_came.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Loses a datagram, hands it on, or puts it on the way.
    fn pass(&self, toward: Toward, bytes: &[u8], out: &Arc<UdpSocket>, to: SocketAddr) {
        let fault = guard(&self.faults)[toward as usize];
        let too_long = fault.longest > 0 && bytes.len() > fault.longest;
        if fault.silent || too_long || (fault.loss > 0.0 && self.draw() < fault.loss) {
            self.lost[toward as usize].fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.passed[toward as usize].fetch_add(1, Ordering::Relaxed);
        if fault.delay.is_zero() {
            let _ = out.send_to(bytes, to);
            return;
        }
        let late =
            Late { due: Instant::now() + fault.delay, bytes: bytes.to_vec(), out: Arc::clone(out), to };
        guard(&self.late).push(late);
        self.late_came.notify_one();
    }

    /// A number in [0, 1): splitmix64.
    fn draw(&self) -> f64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.random.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Takes what clients send; the way back of each client is a thread of its own.
fn serve(shared: &Arc<Shared>, front: UdpSocket) {
    let front = Arc::new(front);
    let mut upstream: HashMap<(SocketAddr, u64), Arc<UdpSocket>> = HashMap::new();
    let mut backs = Vec::new();
    receive(shared, &front, |bytes, client| {
        let moves = shared.moves.load(Ordering::Relaxed);
        let socket = upstream.entry((client, moves)).or_insert_with(|| {
            let host = Ipv4Addr::new(127, 0, 0, u8::try_from(1 + moves % 250).unwrap_or(1));
            let socket = Arc::new(UdpSocket::bind((host, 0)).expect("a UDP socket on loopback"));
            let (shared, front, up) = (Arc::clone(shared), Arc::clone(&front), Arc::clone(&socket));
            backs.push(std::thread::spawn(move || {
                receive(&shared, &up, |bytes, from| {
                    if from == shared.target && shared.moves.load(Ordering::Relaxed) == moves {
                        shared.pass(Toward::Client, bytes, &front, client);
                    }
                });
            }));
            socket
        });
        shared.pass(Toward::Target, bytes, socket, shared.target);
    });
    for back in backs {
        let _ = back.join();
    }
}

/// Gives every datagram of `socket` to `take` until the relay is dropped.
fn receive(shared: &Shared, socket: &UdpSocket, mut take: impl FnMut(&[u8], SocketAddr)) {
    socket.set_read_timeout(Some(LOOK)).expect("the timeout is not zero");
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !shared.stopped() {
        // An error is the timeout, or an ICMP message about an earlier datagram: neither ends a link.
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            take(&buffer[..n], from);
        }
    }
}

/// Delivers what is delayed when it is due.
fn deliver(shared: &Shared) {
    let mut late = guard(&shared.late);
    while !shared.stopped() {
        let now = Instant::now();
        let wait = match late.peek() {
            Some(first) if first.due <= now => {
                if let Some(l) = late.pop() {
                    let _ = l.out.send_to(&l.bytes, l.to);
                }
                continue;
            }
            Some(first) => (first.due - now).min(LOOK),
            None => LOOK,
        };
        late = shared.late_came.wait_timeout(late, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Late {}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn receive_one(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 100];
        let (n, from) = socket.recv_from(&mut buffer).unwrap();
        (buffer[..n].to_vec(), from)
    }

    #[test]
    fn carries_both_ways_and_keeps_a_mapping_per_client() {
        let (target, one, two) = (socket(), socket(), socket());
        let relay = Relay::start(target.local_addr().unwrap(), 1);
        one.send_to(b"one", relay.address()).unwrap();
        let (bytes, one_mapped) = receive_one(&target);
        assert_eq!(bytes, b"one");
        two.send_to(b"two", relay.address()).unwrap();
        let (_, two_mapped) = receive_one(&target);
        assert_ne!(one_mapped, two_mapped);
        one.send_to(b"again", relay.address()).unwrap();
        assert_eq!(receive_one(&target).1, one_mapped);
        target.send_to(b"back", two_mapped).unwrap();
        assert_eq!(receive_one(&two), (b"back".to_vec(), relay.address()));
    }

    #[test]
    fn loses_the_share_it_is_told_and_the_same_for_the_same_seed() {
        let run = |seed| {
            let (target, client) = (socket(), socket());
            let relay = Relay::start(target.local_addr().unwrap(), seed);
            relay.set(Toward::Target, Fault { loss: 0.3, ..Fault::default() });
            // In bursts that the socket's buffer can hold: what overflows there is lost unseen.
            let mut lost = 0;
            for burst in 1..=20 {
                for _ in 0..25 {
                    client.send_to(b"x", relay.address()).unwrap();
                }
                lost = crate::wait_until("all were seen", Duration::from_secs(5), || {
                    let (passed, lost) = relay.counts(Toward::Target);
                    (passed + lost == burst * 25).then_some(lost)
                });
            }
            lost
        };
        let lost = run(7);
        assert!((100..200).contains(&lost), "{lost}");
        assert_eq!(run(7), lost);
    }

    #[test]
    fn is_silent_one_way_until_healed() {
        let (target, client) = (socket(), socket());
        let relay = Relay::start(target.local_addr().unwrap(), 1);
        client.send_to(b"hello", relay.address()).unwrap();
        let mapped = receive_one(&target).1;
        relay.set(Toward::Client, Fault { silent: true, ..Fault::default() });
        target.send_to(b"lost", mapped).unwrap();
        client.send_to(b"still", relay.address()).unwrap();
        assert_eq!(receive_one(&target).0, b"still");
        crate::wait_until("one was lost", Duration::from_secs(5), || {
            (relay.counts(Toward::Client) == (0, 1)).then_some(())
        });
        relay.heal();
        target.send_to(b"heard", mapped).unwrap();
        assert_eq!(receive_one(&client).0, b"heard");
    }

    #[test]
    fn swallows_what_is_too_long_and_moves_clients() {
        let (target, client) = (socket(), socket());
        let relay = Relay::start(target.local_addr().unwrap(), 1);
        relay.set(Toward::Target, Fault { longest: 4, ..Fault::default() });
        client.send_to(b"longer", relay.address()).unwrap();
        client.send_to(b"four", relay.address()).unwrap();
        let (bytes, before) = receive_one(&target);
        assert_eq!(bytes, b"four");
        relay.move_clients();
        target.send_to(b"to nobody", before).unwrap();
        client.send_to(b"here", relay.address()).unwrap();
        let (bytes, after) = receive_one(&target);
        assert_eq!(bytes, b"here");
        assert!(before.ip() != after.ip() && before.port() != after.port());
        target.send_to(b"found", after).unwrap();
        assert_eq!(receive_one(&client).0, b"found");
    }

    #[test]
    fn delays_by_what_it_is_told() {
        let (target, client) = (socket(), socket());
        let relay = Relay::start(target.local_addr().unwrap(), 1);
        let delay = Duration::from_millis(80);
        relay.set(Toward::Target, Fault { delay, ..Fault::default() });
        let sent = Instant::now();
        client.send_to(b"x", relay.address()).unwrap();
        receive_one(&target);
        assert!(sent.elapsed() >= delay, "{:?}", sent.elapsed());
    }
}
