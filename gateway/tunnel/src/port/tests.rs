#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use super::*;

fn ports(workers: u8) -> Vec<Port> {
    bind((Ipv4Addr::LOCALHOST, 0).into(), workers).unwrap()
}

fn bind(address: SocketAddr, workers: u8) -> Result<Vec<Port>, EndpointError> {
    let secrets = Secrets { reset_key: [1; 32], cid_key: [2; 32] };
    Port::bind(address, NonZeroU8::new(workers).unwrap(), &secrets, 7)
}

fn meta() -> RecvMeta {
    RecvMeta::default()
}

#[test]
fn workers_share_an_address_and_nobody_else_joins_them() {
    for workers in [1, 4] {
        let ports = ports(workers);
        let address = ports[0].socket.local_addr().unwrap();
        assert!(ports.iter().all(|p| p.socket.local_addr().unwrap() == address));
        assert_eq!(ports.iter().map(Port::worker).collect::<Vec<_>>(), (0..workers).collect::<Vec<_>>());
        for others in [1, 2] {
            assert!(matches!(bind(address, others), Err(EndpointError::Bind(at, _)) if at == address));
        }
        drop(ports);
        bind(address, 2).unwrap();
    }
}

#[test]
fn what_is_handed_over_arrives_as_it_was_received() {
    let mut ports = ports(2);
    let received = RecvMeta {
        addr: (Ipv4Addr::new(192, 0, 2, 1), 7).into(),
        len: 9000,
        stride: 1200,
        ecn: Some(quinn::udp::EcnCodepoint::Ce),
        dst_ip: Some(Ipv4Addr::LOCALHOST.into()),
    };
    ports[0].group.hand_over(1, Datagram::copy(b"hello", &received));
    let datagram = ports[1].inbox.try_recv().unwrap();
    assert_eq!(datagram.bytes, &b"hello"[..]);
    assert_eq!((datagram.meta.len, datagram.meta.stride), (5, 5));
    assert_eq!(datagram.meta.addr, received.addr);
    assert!(datagram.meta.ecn == received.ecn && datagram.meta.dst_ip == received.dst_ip);
    assert_eq!(ports[0].group.strays(), Strays { handed_over: 1, ..Strays::default() });
}

#[test]
fn a_full_inbox_drops_and_counts() {
    let mut ports = ports(2);
    let group = ports[0].group.clone();
    for _ in 0..INBOX + 3 {
        group.hand_over(1, Datagram::copy(b"x", &meta()));
    }
    let counted = Strays { handed_over: INBOX as u64, possible_resets: 0, dropped: 3 };
    assert_eq!(group.strays(), counted);
    ports[1].inbox.try_recv().unwrap();
    group.hand_over(1, Datagram::copy(b"x", &meta()));
    assert_eq!(group.strays().handed_over, INBOX as u64 + 1);
}

#[test]
fn possible_resets_leave_room_for_what_is_certainly_the_workers() {
    let mut ports = ports(3);
    let group = ports[0].group.clone();
    for _ in 0..INBOX {
        group.show_to_others(Some(0), &Datagram::copy(b"x", &meta()));
    }
    assert!(ports[0].inbox.try_recv().is_err(), "the one who has it is not shown it again");
    for worker in [1, 2] {
        let inbox = &ports[usize::from(worker)].inbox;
        assert!(inbox.len() <= INBOX - INBOX_FOR_OWN + 1, "{} of {INBOX}", inbox.len());
        group.hand_over(worker, Datagram::copy(b"x", &meta()));
    }
    assert_eq!(group.strays().handed_over, 2);
    assert_eq!(group.strays().possible_resets, INBOX as u64);
}

#[test]
fn what_belongs_to_a_worker_that_has_ended_is_dropped() {
    let mut ports = ports(2);
    drop(ports.pop());
    ports[0].group.hand_over(1, Datagram::copy(b"x", &meta()));
    ports[0].group.hand_over(200, Datagram::copy(b"x", &meta()));
    assert_eq!(ports[0].group.strays(), Strays { dropped: 2, ..Strays::default() });
}
