//! Datagrams and the first bytes of streams.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proto::datagram::{FlowId, Probe, on_stream, take_from_stream};
use proto::varint;

fuzz_target!(|data: &[u8]| {
    if let Some(probe) = Probe::decode(data) {
        assert!(data.starts_with(&probe.encode()));
        assert_eq!(Probe::decode(&probe.pong().encode()), Some(probe.pong()));
    }
    if let Some((flow, begins)) = FlowId::read(data) {
        let mut out = Vec::new();
        flow.put(&mut out);
        assert!(out.len() <= begins && begins <= FlowId::BYTES_MAX);
        assert_eq!(FlowId::read(&out), Some((flow, out.len())));
    }
    let mut came = BytesMut::from(data);
    let taken: Vec<_> = std::iter::from_fn(|| take_from_stream(&mut came)).collect();
    let mut again: Vec<u8> = taken.iter().filter_map(|datagram| on_stream(datagram)).flatten().collect();
    again.extend_from_slice(&came);
    assert!(again == data, "what is taken and what is left are all that came");
    if let Some((value, len)) = varint::get(data) {
        let mut out = Vec::new();
        varint::put(&mut out, value);
        assert!(out.len() <= len);
        assert_eq!(varint::get(&out), Some((value, out.len())));
    }
});
