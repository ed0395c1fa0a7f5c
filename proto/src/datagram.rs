//! Datagrams of a tunnel. The first byte of each is its kind; a receiver skips kinds that it does not know, so that later
//! versions can carry flows of datagrams beside these.
//!
//! A flow's datagram: kind, the number of the flow (a varint), then its bytes. A flow's number is twice the place of its
//! stream in the order of its opener's streams, plus one where the opener is the one who gets it.
//!
//! Datagrams that the carrier takes no other way, because they are too large, go on the stream of their flow, in data cut
//! anywhere: a length (2 bytes, big-endian), then its bytes.
//!
//! Probes ask a peer's worker whether it lives. 17 bytes: kind, sequence number, the asking side's clock, both big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::PROBE_BYTES;
use crate::varint;

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DatagramKind {
    /// A probe that asks.
    Ping = 0x01,
    /// A probe that answers, with the ping's sequence number and clock.
    Pong = 0x02,
    /// One of a flow.
    Flow = 0x03,
}

impl DatagramKind {
    /// The kind of a datagram; `None`: empty, or of a kind that this version does not know.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        match datagram.first()? {
            0x01 => Some(Self::Ping),
            0x02 => Some(Self::Pong),
            0x03 => Some(Self::Flow),
            _ => None,
        }
    }
}

/// The flow that a datagram is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// The place of its stream in the order of its opener's streams.
    pub index: u64,
    /// Whether the one who gets the datagram opened it.
    pub to_opener: bool,
}

impl FlowId {
    /// The longest beginning of a datagram of a flow.
    pub const BYTES_MAX: usize = 9;

    /// Begins a datagram of this flow.
    pub fn put(self, out: &mut Vec<u8>) {
        out.push(DatagramKind::Flow as u8);
        varint::put(out, self.index << 1 | u64::from(self.to_opener));
    }

    /// The flow of a datagram, and where its bytes begin; none: it is of no flow.
    pub fn read(datagram: &[u8]) -> Option<(Self, usize)> {
        DatagramKind::of(datagram).filter(|kind| *kind == DatagramKind::Flow)?;
        let (number, length) = varint::get(&datagram[1..])?;
        Some((Self { index: number >> 1, to_opener: number & 1 == 1 }, 1 + length))
    }
}

/// A datagram as it goes on a stream; none: no datagram is so large.
pub fn on_stream(datagram: &[u8]) -> Option<Bytes> {
    let length = u16::try_from(datagram.len()).ok()?;
    let mut bytes = BytesMut::with_capacity(size_of::<u16>() + datagram.len());
    bytes.put_u16(length);
    bytes.put_slice(datagram);
    Some(bytes.freeze())
}

/// Takes the first datagram of what came on a stream, if all of it is here. What is no whole datagram is at most 64 KiB.
pub fn take_from_stream(came: &mut BytesMut) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes(*came.first_chunk()?));
    if came.len() < size_of::<u16>() + length {
        return None;
    }
    came.advance(size_of::<u16>());
    Some(came.split_to(length).freeze())
}

/// One probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// [`DatagramKind::Ping`] or [`DatagramKind::Pong`].
    pub kind: DatagramKind,
    /// Counts the pings of one asking side on one tunnel.
    pub sequence: u64,
    /// Microseconds of the asking side's own clock when it asked; means nothing to the other.
    pub clock_us: u64,
}

impl Probe {
    /// The answer to this ping.
    pub const fn pong(self) -> Self {
        Self { kind: DatagramKind::Pong, ..self }
    }

    /// The datagram.
    pub fn encode(self) -> [u8; PROBE_BYTES] {
        let mut out = [0; PROBE_BYTES];
        out[0] = self.kind as u8;
        out[1..9].copy_from_slice(&self.sequence.to_be_bytes());
        out[9..17].copy_from_slice(&self.clock_us.to_be_bytes());
        out
    }

    /// Reads a datagram; bytes after the probe are a later version's and are skipped. None: no probe (of this version).
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let kind = DatagramKind::of(datagram).filter(|kind| *kind != DatagramKind::Flow)?;
        let rest = &datagram[1..];
        let (sequence, rest) = rest.split_first_chunk()?;
        let (clock_us, _) = rest.split_first_chunk()?;
        Some(Self { kind, sequence: u64::from_be_bytes(*sequence), clock_us: u64::from_be_bytes(*clock_us) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips_needs_every_byte_and_skips_what_follows(sequence: u64, clock_us: u64, tail: Vec<u8>) {
            let ping = Probe { kind: DatagramKind::Ping, sequence, clock_us };
            for probe in [ping, ping.pong()] {
                let bytes = probe.encode();
                prop_assert_eq!(Probe::decode(&[&bytes[..], &tail].concat()), Some(probe));
                for cut in 0..bytes.len() {
                    prop_assert_eq!(Probe::decode(&bytes[..cut]), None);
                }
            }
        }
    }

    #[test]
    fn a_flow_is_known_by_its_number() {
        for flow in [(0, false), (7, true), ((1 << 60) - 1, false)] {
            let flow = FlowId { index: flow.0, to_opener: flow.1 };
            let mut bytes = Vec::new();
            flow.put(&mut bytes);
            let length = bytes.len();
            assert!(length <= FlowId::BYTES_MAX);
            bytes.extend_from_slice(b"payload");
            assert_eq!(FlowId::read(&bytes), Some((flow, length)));
            assert_eq!(FlowId::read(&bytes[..length - 1]), None);
        }
        let ping = Probe { kind: DatagramKind::Ping, sequence: 7, clock_us: 9 };
        assert_eq!(FlowId::read(&ping.encode()), None);
        assert_eq!(FlowId::read(&[]), None);
    }

    proptest! {
        #[test]
        fn datagrams_of_a_stream_come_whole_wherever_it_is_cut(
            datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), cut in 1..400_usize,
        ) {
            let written: Vec<u8> = datagrams.iter().flat_map(|datagram| on_stream(datagram).unwrap()).collect();
            let (mut came, mut taken) = (BytesMut::new(), Vec::new());
            for part in written.chunks(cut) {
                came.extend_from_slice(part);
                taken.extend(std::iter::from_fn(|| take_from_stream(&mut came)));
            }
            prop_assert!(came.is_empty());
            prop_assert_eq!(taken, datagrams);
        }
    }

    #[test]
    fn none_is_larger_than_its_length_can_say() {
        assert!(on_stream(&[0; 65_535]).is_some() && on_stream(&[0; 65_536]).is_none());
    }

    #[test]
    fn a_pong_answers_its_ping_and_other_kinds_are_none() {
        let ping = Probe { kind: DatagramKind::Ping, sequence: 7, clock_us: 9 };
        assert_eq!(ping.pong(), Probe { kind: DatagramKind::Pong, sequence: 7, clock_us: 9 });
        let mut bytes = ping.encode();
        for kind in (0..=255).filter(|kind| !matches!(kind, 1 | 2)) {
            bytes[0] = kind;
            assert_eq!(Probe::decode(&bytes), None);
        }
    }
}
