//! Whatever a peer sends as the head of a connection, or as a datagram, is refused, or comes back the same when it is written
//! again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::datagram::{FlowId, Probe};
use proto::head::ConnectionHead;

fuzz_target!(|data: &[u8]| {
    let mut out = Vec::new();
    if let Ok(head) = ConnectionHead::decode(data) {
        head.encode(&mut out).expect("a head that was read can be written");
        assert_eq!(ConnectionHead::decode(&out).expect("a head that was written can be read"), head);
    }
    out.clear();
    if let Some((flow, begin)) = FlowId::read(data) {
        assert!(begin <= data.len() && Probe::decode(data).is_none());
        flow.put(&mut out);
        let (again, length) = FlowId::read(&out).expect("what was written can be read");
        assert_eq!((again, length), (flow, out.len()));
    }
});
