//! Where frames of WebSocket begin and end (RFC 6455, section 5.2), so that a drain can say goodbye between two of them. What
//! they hold is not looked at. Pure.

/// The longest header: two bytes, a length of eight, a mask of four.
const HEADER_BYTES_MAX: usize = 14;
/// This endpoint is going away (section 7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
/// The first byte of a close frame, which is whole.
const CLOSE: u8 = 0x88;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// How far one direction has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    header: [u8; HEADER_BYTES_MAX],
    /// Bytes of the header that have passed.
    known: usize,
    /// Bytes of the payload that have not.
    left: u64,
}

impl Place {
    /// These have passed.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            if let Some(left) = self.payload() {
                (self.known, self.left) = (0, left);
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// The length of the payload, once the header is whole.
    fn payload(&self) -> Option<u64> {
        let header = &self.header[..self.known];
        let second = *header.get(1)?;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let (length, said) = match second & LENGTH {
            126 => (u16::from_be_bytes(*header.get(2..)?.first_chunk()?).into(), 2),
            127 => (u64::from_be_bytes(*header.get(2..)?.first_chunk()?), 8),
            short => (short.into(), 0),
        };
        (header.len() == 2 + said + mask).then_some(length)
    }
}

/// What a client is told by a server that goes away.
pub fn goodbye_to_client() -> Vec<u8> {
    [&[CLOSE, GOING_AWAY.len() as u8][..], &GOING_AWAY].concat()
}

/// What a server is told by a client that goes away: behind a mask, as all that clients say (section 5.3).
pub fn goodbye_to_server(mask: [u8; 4]) -> Vec<u8> {
    let said = [GOING_AWAY[0] ^ mask[0], GOING_AWAY[1] ^ mask[1]];
    [&[CLOSE, MASKED | GOING_AWAY.len() as u8][..], &mask, &said].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn frame(masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = match length {
            0..=125 => vec![0x82, mask | length as u8],
            126..=0xffff => [&[0x82, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
            _ => [&[0x82, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
        };
        if masked {
            frame.extend_from_slice(&[0xff; 4]);
        }
        frame.resize(frame.len() + length, 0xff);
        frame
    }

    #[test]
    fn a_goodbye_is_a_frame_itself() {
        for goodbye in [goodbye_to_client(), goodbye_to_server([1, 2, 3, 4])] {
            let mut place = Place::default();
            for (n, byte) in goodbye.iter().enumerate() {
                place.pass(&[*byte]);
                assert_eq!(place.is_between(), n + 1 == goodbye.len());
            }
        }
        assert_eq!(goodbye_to_client(), [0x88, 2, 3, 0xe9]);
        assert_eq!(goodbye_to_server([0; 4]), [0x88, 0x82, 0, 0, 0, 0, 3, 0xe9]);
    }

    proptest! {
        #[test]
        fn the_places_between_frames_are_found_however_they_come(
            frames in prop::collection::vec((any::<bool>(), prop_oneof![0..200_usize, 60_000..70_000_usize]), 1..6),
            piece in 1..5_000_usize,
        ) {
            let mut place = Place::default();
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (masked, length) in frames {
                bytes.extend(frame(masked, length));
                ends.push(bytes.len());
            }
            let mut passed = 0;
            for piece in bytes.chunks(piece) {
                place.pass(piece);
                passed += piece.len();
                prop_assert_eq!(place.is_between(), ends.contains(&passed));
            }
        }

        #[test]
        fn anything_may_pass(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10)) {
            let mut place = Place::default();
            pieces.iter().for_each(|piece| place.pass(piece));
        }
    }
}
