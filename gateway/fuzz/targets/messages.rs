//! Control, sync, lookup, objects and store messages: no bytes make a panic, and what was read comes back when it is written again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proto::control::{Control, Hello};
use proto::lookup::{Answer, Ask};
use proto::message::{encode_message, take_message};
use proto::objects;
use proto::store::LastCatalog;
use proto::sync::{Event, Watch};

const MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    macro_rules! check {
        ($($message:ty),*) => {$(
            let mut buf = BytesMut::from(data);
            while let Ok(Some(message)) = take_message::<$message>(&mut buf, MAX) {
                let mut again = BytesMut::from(&encode_message(&message)[..]);
                let read = take_message::<$message>(&mut again, usize::MAX).expect("what was written can be read");
                assert_eq!(read.expect("it is whole"), message);
                assert!(again.is_empty());
            }
        )*};
    }
    check!(Hello, Control, Watch, Event, LastCatalog, Ask, Answer, objects::Ask, objects::Answer);
});
