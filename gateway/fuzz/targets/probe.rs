//! Datagrams and the first bytes of streams.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::datagram::Probe;
use proto::varint;

fuzz_target!(|data: &[u8]| {
    if let Some(probe) = Probe::decode(data) {
        assert!(data.starts_with(&probe.encode()));
        assert_eq!(Probe::decode(&probe.pong().encode()), Some(probe.pong()));
    }
    if let Some((value, len)) = varint::get(data) {
        let mut out = Vec::new();
        varint::put(&mut out, value);
        assert!(out.len() <= len);
        assert_eq!(varint::get(&out), Some((value, out.len())));
    }
});
