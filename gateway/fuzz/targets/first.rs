//! Whatever a caller begins a connection with is judged: more of the same never takes a judgement back, and a PROXY header is
//! no longer than what came.
#![no_main]

use first::{Begins, Seen, begins, proxy_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = begins(data);
    for cut in [data.len() / 2, data.len().saturating_sub(1)] {
        if let Seen::All(early) = begins(&data[..cut]) {
            // Of a ClientHello that is malformed it may show later.
            let same = whole == Seen::All(early.clone()) || matches!(early, Begins::Tls(_));
            assert!(same, "{early:?}, then {whole:?}");
        }
    }
    if let Seen::All(Some(told)) = proxy_header::read(data) {
        assert!(told.length <= data.len());
    }
});
