//! Connection IDs that name the worker and the start of the process that made them.
//!
//! | bytes | hold |
//! |---|---|
//! | 0..4 | nonce, first part |
//! | 4 | worker, masked |
//! | 5..9 | generation, masked |
//! | 9..11 | nonce, second part |
//! | 11..16 | the first 40 bits of a MAC (SipHash-2-4) over all before |
//!
//! The masks come from the first part of the nonce and the key by arithmetic that the kernel's packet filters can do
//! (see [`crate::steer`]). They are no cipher: they keep the same few bytes from showing in every ID of a connection
//! (RFC 9000, 5.1), and whoever sees through them learns which of a handful of workers has it. What must not be forged
//! hangs on the MAC.
//!
//! The first packet of a handshake has an ID of the client's choice (RFC 9000, 7.2). Ours say there, in the byte of the
//! worker and in plain, which worker of the other side shall take it, so that the tunnels of two gateways spread over
//! the workers of both.
//!
//! The layout and the derivation of the keys are kept from version to version: a gateway that restarts as a newer
//! version knows the IDs of the older one for dead.

use std::fmt;
use std::num::NonZeroU8;
use std::sync::Arc;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use siphasher::sip::SipHasher24;

/// The length of our connection IDs, in bytes. Fixed: short headers (RFC 8999, 5.2) do not say it.
pub(crate) const CID_BYTES: usize = 16;
/// Where the worker stands in the ID, after the word that masks it.
pub(crate) const WORKER_AT: usize = 4;
const GENERATION_AT: usize = 5;
const NONCE_AT: usize = 9;
const MAC_AT: usize = 11;

/// The top bit of a datagram's first byte: a long header (RFC 8999, 5.1).
pub(crate) const LONG_HEADER: u8 = 0x80;
/// Where the destination ID of a long header starts, after the byte with its length.
pub(crate) const LONG_CID_AT: usize = 6;
/// Where its length stands.
pub(crate) const LONG_CID_LENGTH_AT: usize = 5;
/// Where that of a short header starts.
pub(crate) const SHORT_CID_AT: usize = 1;
/// The shortest destination ID of a client's first packet (RFC 9000, 7.2). No long header for us has a shorter one.
const FOREIGN_CID_BYTES_MIN: usize = 8;
/// The length of the IDs in our first packets: the longest there is (RFC 9000, 17.2), so most of it is random.
const FIRST_CID_BYTES: usize = 20;
/// The shortest datagram that can be a stateless reset (RFC 9000, 10.3).
const RESET_BYTES_MIN: usize = 21;

/// Whose a received datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This worker's: its tunnel, or a handshake that it is to take.
    One(u8),
    /// Of a tunnel of an earlier start: that process's while it lives, then anybody's who has it, who resets it.
    Earlier,
    /// Anybody's who has it: to be dropped.
    Any,
    /// Perhaps a stateless reset, which does not say for which tunnel: every worker has to look.
    All,
}

/// Who made a connection ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    ThisStart,
    EarlierStart,
    Stranger,
}

/// Makes and reads the IDs of one start of the process.
#[derive(Clone)]
pub(crate) struct Codec {
    mac: SipHasher24,
    nonce: SipHasher24,
    pub(crate) mask: Mask,
    generation: u32,
}

/// The keyed arithmetic behind the masks: multiply and shift, on 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    pub(crate) xor: u32,
    pub(crate) multiply: [u32; 2],
}

impl Mask {
    /// How far the product is folded down between the two multiplications.
    pub(crate) const FOLD: u32 = 15;

    fn word(self, nonce: u32) -> u32 {
        let product = (nonce ^ self.xor).wrapping_mul(self.multiply[0]);
        (product ^ (product >> Self::FOLD)).wrapping_mul(self.multiply[1])
    }
}

impl Codec {
    /// For the start `boot` of the process that keeps `key`. Two starts whose numbers agree in the low 32 bits take
    /// each other's tunnels for their own and reset none.
    pub(crate) fn new(key: &[u8; 32], boot: u64) -> Self {
        let half = |at: usize| {
            let mut half = [0; 16];
            half.copy_from_slice(&key[at..at + 16]);
            SipHasher24::new_with_key(&half)
        };
        let (mac, nonce) = (half(0), half(16));
        let word = |label: &[u8]| nonce.hash(label) as u32;
        // An even factor would lose bits.
        let mask = Mask { xor: word(b"xor"), multiply: [word(b"first") | 1, word(b"second") | 1] };
        Self { mac, nonce, mask, generation: boot as u32 }
    }

    /// The ID number `count` of `worker`. Among 2^24 IDs of one start two may be equal (birthdays in 48 bits).
    fn make(&self, worker: u8, count: u64) -> [u8; CID_BYTES] {
        let mut counted = [0; 13];
        counted[..8].copy_from_slice(&count.to_be_bytes());
        counted[8] = worker;
        counted[9..].copy_from_slice(&self.generation.to_be_bytes());
        let nonce = self.nonce.hash(&counted).to_be_bytes();
        let mut cid = [0; CID_BYTES];
        cid[..WORKER_AT].copy_from_slice(&nonce[..4]);
        let mask = self.mask.word(first_word(&cid));
        cid[WORKER_AT] = worker ^ (mask >> 24) as u8;
        cid[GENERATION_AT..NONCE_AT].copy_from_slice(&(self.generation ^ spread(mask)).to_be_bytes());
        cid[NONCE_AT..MAC_AT].copy_from_slice(&nonce[4..6]);
        let mac = self.mac_of(&cid);
        cid[MAC_AT..].copy_from_slice(&mac);
        cid
    }

    fn mac_of(&self, cid: &[u8; CID_BYTES]) -> [u8; CID_BYTES - MAC_AT] {
        let mac = self.mac.hash(&cid[..MAC_AT]).to_be_bytes();
        let mut cut = [0; CID_BYTES - MAC_AT];
        cut.copy_from_slice(&mac[..CID_BYTES - MAC_AT]);
        cut
    }

    /// The worker of an ID of ours; of any other ID of that length one that is drawn by it. The filter of
    /// [`crate::steer`] computes the same.
    fn worker<const N: usize>(&self, cid: &[u8; N], workers: NonZeroU8) -> u8 {
        let mask = self.mask.word(first_word(cid));
        (cid[WORKER_AT] ^ (mask >> 24) as u8) % workers
    }

    /// For this start the generation is enough: who forges it reaches one more look-up. The MAC costs ten times as much.
    fn maker(&self, cid: &[u8; CID_BYTES]) -> Maker {
        let mask = spread(self.mask.word(first_word(cid)));
        if u32::from_be_bytes([cid[5], cid[6], cid[7], cid[8]]) ^ mask == self.generation {
            Maker::ThisStart
        } else if cid[MAC_AT..] == self.mac_of(cid) {
            Maker::EarlierStart
        } else {
            Maker::Stranger
        }
    }

    /// Whose `datagram` is, among `workers`.
    #[inline]
    pub(crate) fn owner(&self, datagram: &[u8], workers: NonZeroU8) -> Owner {
        match datagram {
            [first, ..] if first & LONG_HEADER == 0 => {
                let Some(cid) = datagram.get(SHORT_CID_AT..).and_then(<[u8]>::first_chunk::<CID_BYTES>)
                else {
                    return Owner::Any;
                };
                match self.maker(cid) {
                    Maker::ThisStart => Owner::One(self.worker(cid, workers)),
                    Maker::EarlierStart => Owner::Earlier,
                    Maker::Stranger if datagram.len() >= RESET_BYTES_MIN => Owner::All,
                    Maker::Stranger => Owner::Any,
                }
            }
            [_, _, _, _, _, length, cid @ ..] if usize::from(*length) >= FOREIGN_CID_BYTES_MIN => {
                let Some(start) = cid.first_chunk::<FOREIGN_CID_BYTES_MIN>() else { return Owner::Any };
                if usize::from(*length) != CID_BYTES {
                    return Owner::One(start[WORKER_AT] % workers);
                }
                match cid.first_chunk().map(|cid| self.maker(cid)) {
                    Some(Maker::EarlierStart) => Owner::Earlier,
                    _ => Owner::One(self.worker(start, workers)),
                }
            }
            _ => Owner::Any,
        }
    }
}

/// The ID of a first packet to a gateway: random but for a wish for one of its workers, who are counted modulo their
/// number. Its length tells it from an ID that a gateway made.
pub(crate) fn first_choice(worker: u8, rng: &mut fastrand::Rng) -> ConnectionId {
    let mut cid: [u8; FIRST_CID_BYTES] = std::array::from_fn(|_| rng.u8(..));
    cid[WORKER_AT] = worker;
    ConnectionId::new(&cid)
}

fn first_word<const N: usize>(cid: &[u8; N]) -> u32 {
    const { assert!(N > WORKER_AT) };
    u32::from_be_bytes([cid[0], cid[1], cid[2], cid[3]])
}

/// The mask of the generation from that of the worker: the odd constant of Fibonacci hashing.
fn spread(mask: u32) -> u32 {
    (mask ^ (mask >> 16)).wrapping_mul(0x9e37_79b1)
}

/// Says nothing of the keys.
impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// Makes the IDs of a worker's tunnels.
#[derive(Debug)]
pub(crate) struct Generator {
    codec: Arc<Codec>,
    worker: u8,
    made: u64,
}

impl Generator {
    pub(crate) fn new(codec: Arc<Codec>, worker: u8) -> Self {
        Self { codec, worker, made: 0 }
    }
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        self.made += 1;
        ConnectionId::new(&self.codec.make(self.worker, self.made))
    }

    /// quinn asks for an ID that it does not know, and sends a stateless reset if it is told that it is valid. So valid
    /// is what an earlier start made: that one is dead. An ID of this start may be alive elsewhere.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let cid = <&[u8; CID_BYTES]>::try_from(&cid[..]).map_err(|_| InvalidCid)?;
        match self.codec.maker(cid) {
            Maker::EarlierStart => Ok(()),
            Maker::ThisStart | Maker::Stranger => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
#[path = "cid/tests.rs"]
mod tests;
