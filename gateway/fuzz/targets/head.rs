//! Whatever a peer sends as a head is refused, or comes back the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::head::{Fields, RequestHead, ResponseHead, encode_fields};

fuzz_target!(|data: &[u8]| {
    let mut out = Vec::new();
    // Inputs are far below the limits of a head, so what was read can always be written.
    if let Ok((head, fields)) = RequestHead::decode(data) {
        head.encode(fields, &mut out).expect("a head that was read can be written");
        let (again, rest) = RequestHead::decode(&out).expect("a head that was written can be read");
        assert_eq!(again, head);
        assert!(rest.eq(fields));
    }
    out.clear();
    if let Ok((head, fields)) = ResponseHead::decode(data) {
        head.encode(fields, &mut out).expect("a head that was read can be written");
        let (again, rest) = ResponseHead::decode(&out).expect("a head that was written can be read");
        assert_eq!(again, head);
        assert!(rest.eq(fields));
    }
    out.clear();
    if let Ok(fields) = Fields::decode(data) {
        encode_fields(fields, &mut out).expect("fields that were read can be written");
        let again = Fields::decode(&out).expect("fields that were written can be read");
        assert_eq!(fields.len(), again.len());
        assert!(again.eq(fields));
    }
});
