//! What a bidirectional stream is for: its first byte, written by the side that opened it.

use crate::limits;

/// The purpose of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    /// HELLO, then control messages; one per tunnel, opened by the side that dialled, before any other.
    Control = 0x00,
    /// One request and its answer.
    Exchange = 0x01,
    /// The opener is the importer: WATCH from it, events to it.
    Sync = 0x02,
    /// The opener is a sidecar: it names the names that it uses, and hears what they mean.
    Lookup = 0x03,
    /// The opener is a sidecar: it registers endpoints, and hears how they are.
    Register = 0x04,
    /// The opener is a gateway: it asks once for a change of what the cluster declares, or to see it.
    Objects = 0x05,
    /// One connection of a caller, carried as such: its head, an answer's head once an endpoint has taken it, then its bytes
    /// both ways in frames of data. The end frame is the end of one way (a half-close); a stream without one was cut.
    Connection = 0x06,
    /// One flow of datagrams: heads as for a connection, then datagrams beside the stream, each with the number of the flow
    /// ([`crate::datagram`]), and on the stream those that the carrier takes no other way: in frames of data, each behind its
    /// length (2, big-endian). The end of the stream is the end of the flow.
    Datagrams = 0x07,
    /// One call of Thrift or Mux: the head of a connection, then the message as its caller sent it, in frames of data up to the end
    /// frame; back an answer's head and the answer in the same way, or nothing where none is due.
    Call = 0x08,
}

impl StreamKind {
    /// The byte on the wire.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Bytes of a message from the side that opened the stream, and to it; `None`: it carries no messages.
    pub const fn message_bytes_max(self) -> Option<(usize, usize)> {
        match self {
            Self::Control => Some((limits::CONTROL_MESSAGE_BYTES_MAX, limits::CONTROL_MESSAGE_BYTES_MAX)),
            Self::Exchange | Self::Connection | Self::Datagrams | Self::Call => None,
            Self::Sync => Some((limits::SYNC_MESSAGE_BYTES_MAX, limits::SYNC_MESSAGE_BYTES_MAX)),
            Self::Lookup => Some((limits::LOOKUP_ASK_BYTES_MAX, limits::LOOKUP_ANSWER_BYTES_MAX)),
            Self::Register => Some((limits::REGISTER_MESSAGE_BYTES_MAX, limits::REGISTER_MESSAGE_BYTES_MAX)),
            Self::Objects => Some((limits::OBJECTS_ASK_BYTES_MAX, limits::OBJECTS_ANSWER_BYTES_MAX)),
        }
    }

    /// The purpose that `byte` names. None: a purpose of a later version; refuse this one stream with
    /// [`Code::Refused`](crate::code::Code::Refused) and keep the tunnel.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0x00 => Some(Self::Control),
            0x01 => Some(Self::Exchange),
            0x02 => Some(Self::Sync),
            0x03 => Some(Self::Lookup),
            0x04 => Some(Self::Register),
            0x05 => Some(Self::Objects),
            0x06 => Some(Self::Connection),
            0x07 => Some(Self::Datagrams),
            0x08 => Some(Self::Call),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_names_one_purpose_or_none() {
        let known: Vec<_> = (0..=255).filter_map(StreamKind::from_wire).collect();
        let all = [
            StreamKind::Control,
            StreamKind::Exchange,
            StreamKind::Sync,
            StreamKind::Lookup,
            StreamKind::Register,
            StreamKind::Objects,
            StreamKind::Connection,
            StreamKind::Datagrams,
            StreamKind::Call,
        ];
        assert_eq!(known, all);
        for kind in known {
            assert_eq!(StreamKind::from_wire(kind.to_wire()), Some(kind));
        }
    }
}
