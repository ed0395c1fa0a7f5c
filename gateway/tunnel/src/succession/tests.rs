#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

use proptest::prelude::*;
use quinn::ConnectionIdGenerator;

use super::*;
use crate::cid::Generator;
use crate::secrets::Secrets;

fn ports(boot: u64) -> Vec<Port> {
    let secrets = Secrets { reset_key: [1; 32], cid_key: [2; 32] };
    Port::bind((Ipv4Addr::LOCALHOST, 0).into(), NonZeroU8::new(2).unwrap(), &secrets, boot).unwrap()
}

fn datagram_of(port: &Port, worker: u8) -> Vec<u8> {
    let cid = Generator::new(port.group.codec.clone(), worker).generate_cid();
    [&[0x40][..], &cid, &[7; 40]].concat()
}

#[tokio::test]
async fn what_is_an_elders_comes_to_its_worker_and_nothing_once_it_has_ended() {
    let (mut elder, heir) = (ports(1), ports(2));
    let spare = Spare::of(&elder).unwrap();
    let group = heir[0].group.clone();
    let of_elder = datagram_of(&elder[0], 1);
    let meta = RecvMeta::default();
    assert!(!group.carry_to_elder(&of_elder, &meta, true), "there is none yet");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let carrying = tokio::spawn(Spare::of(&heir).unwrap().carry_to(ours));
    let receiving = tokio::spawn(async move { spare.receive(theirs).await });
    assert_eq!(group.owner(&of_elder), Owner::Earlier);
    assert!(group.carry_to_elder(&of_elder, &meta, true));
    let came = elder[1].inbox.recv().await.unwrap();
    assert_eq!(came.bytes, of_elder);
    receiving.abort();
    carrying.await.unwrap();
    assert!(!group.carry_to_elder(&of_elder, &meta, true));
}

#[tokio::test]
async fn what_is_no_frame_ends_the_stream() {
    let spare = Spare::of(&ports(1)).unwrap();
    for frame in [&u32::MAX.to_be_bytes()[..], &[0, 0, 0, 1, 9], &[0, 0, 0, 2, V4, 1]] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(frame).await.unwrap();
        assert_eq!(spare.receive(ours).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

fn ips() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).into()),
        any::<[u8; 16]>().prop_map(|v6| Ipv6Addr::from(v6).into()),
    ]
}

proptest! {
    #[test]
    fn a_datagram_comes_as_it_was_received(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        from in ips(), port: u16, dst_ip in prop::option::of(ips()), ecn in 0..4u8,
    ) {
        let addr = SocketAddr::new(from, port);
        let meta = RecvMeta { addr, dst_ip, ecn: EcnCodepoint::from_bits(ecn), ..RecvMeta::default() };
        let mut frames = BytesMut::new();
        encode(&Datagram::copy(&bytes, &meta), &mut frames);
        prop_assert_eq!(frames.get_u32() as usize, frames.len());
        let came = decode(frames.freeze()).unwrap();
        prop_assert_eq!(&came.bytes[..], &bytes[..]);
        prop_assert_eq!((came.meta.addr, came.meta.dst_ip), (meta.addr, dst_ip));
        prop_assert!(came.meta.ecn == meta.ecn && came.meta.len == bytes.len() && came.meta.stride == bytes.len());
    }

    #[test]
    fn anything_can_be_read(frame in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = decode(frame.into());
    }
}
