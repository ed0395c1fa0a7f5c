//! Golden bytes: what neighbours of one minor version send each other. A change here is a change of the wire and needs
//! a new protocol version, or a new tag that older sides skip.
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use proto::control::{
    Control, Digest, Disagreement, GatewayAddress, Gateways, GoAway, Hello, Limits, Objection, ServiceDigest,
    control,
};
use proto::datagram::{DatagramKind, Probe};
use proto::frame::{Decoder, Frame, FrameKind, put_frame, put_frame_header};
use proto::head::{FlowHead, HttpHead, RequestHead, ResponseHead, encode_fields};
use proto::message::{encode_message, take_message};
use proto::sync::{
    Contract, Current, Event, HashKey, Member, Members, Mode, OnOwnerUnavailable, Port, Protocol, Record,
    Relative, Removed, Selector, SnapshotBegin, SnapshotEnd, SourceIp, Tier, TierEntry, Tiers, Watch, event,
    hash_key, tier_entry,
};

/// Hexadecimal digits; blanks, and what follows `;` on a line, count for nothing.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .lines()
        .flat_map(|line| line.split(';').next())
        .flat_map(str::chars)
        .filter_map(|c| c.to_digit(16))
        .collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn show(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_golden(bytes: &[u8], golden: &str) {
    assert_eq!(show(bytes), show(&hex(golden)));
}

const REQUEST: &str = "
    01 10 000102030405060708090a0b0c0d0e0f ; request id
    02 04 73686f70                         ; namespace shop
    03 04 63617274                         ; service cart
    04 02 1f90                             ; port 8080
    05 01 07                               ; generation
    06 08 0123456789abcdef                 ; key hash
    07 04 65617374                         ; owner east
    08 01 01                               ; attempt
    09 01 02                               ; attempts left
    0a 01 03                               ; flags: replayable, insist
    0b 02 03e8                             ; deadline 1000 ms
    0c 02 3030                             ; traceparent (short here)
    0d 03 613d31                           ; tracestate
    0e 0c 7370696666653a2f2f612f77         ; caller
    0f 01 61                               ; endpoint
    17 01 01                               ; hops
    18 02 02bc                             ; connect timeout
    10 04 504f5354                         ; POST
    11 06 2f3f69643d31                     ; /?id=1
    12 0e 636172742e73686f702e6d657368     ; cart.shop.mesh
    00                                     ; end of facts
    06 782d75736572 01 37                  ; x-user: 7
    06 616363657074 00                     ; accept:
";

fn request() -> RequestHead<'static> {
    let flow = FlowHead {
        request_id: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        namespace: "shop",
        service: "cart",
        port: 8080,
        generation: 7,
        key_hash: Some(0x0123_4567_89ab_cdef),
        owner: Some("east"),
        attempt: 1,
        attempts_left: 2,
        replayable: true,
        insist: true,
        deadline_ms: 1000,
        connect_ms: 700,
        traceparent: Some("00"),
        tracestate: Some("a=1"),
        caller: Some("spiffe://a/w"),
        endpoint: Some("a"),
        hops: 1,
    };
    RequestHead {
        flow,
        http: HttpHead { method: "POST", path: "/?id=1", authority: "cart.shop.mesh", upgrade: None },
    }
}

const FIELDS: [(&[u8], &[u8]); 2] = [(b"x-user", b"7"), (b"accept", b"")];

#[test]
fn request_head() {
    let mut out = Vec::new();
    request().encode(FIELDS, &mut out).unwrap();
    assert_golden(&out, REQUEST);
    let (head, fields) = RequestHead::decode(&out).unwrap();
    assert_eq!(head, request());
    assert_eq!(fields.collect::<Vec<_>>(), FIELDS);
}

#[test]
fn request_head_of_a_later_version() {
    let later = format!("13 02 ffff 7fff 00 {REQUEST}");
    assert_eq!(RequestHead::decode(&hex(&later)).unwrap().0, request());
}

#[test]
fn response_head() {
    let mut out = Vec::new();
    ResponseHead { status: 200, endpoint: Some("a") }.encode([(&b"x"[..], &b"y"[..])], &mut out).unwrap();
    assert_golden(&out, "01 01 c8  02 01 61  00  01 78 01 79");
}

#[test]
fn exchange() {
    let mut out = vec![proto::stream::StreamKind::Exchange.to_wire()];
    put_frame(&mut out, FrameKind::Head, |out| ResponseHead { status: 404, endpoint: None }.encode([], out))
        .unwrap();
    put_frame_header(&mut out, FrameKind::Data, 100);
    out.extend_from_slice(&[0xdd; 100]);
    put_frame(&mut out, FrameKind::Trailers, |out| encode_fields([(&b"t"[..], &b"1"[..])], out)).unwrap();
    out.extend_from_slice(&proto::frame::END);
    let golden = format!(
        "01                            ; an exchange
         01 80000005 01 02 0194 00     ; HEAD, status 404
         00 4064 {}                    ; DATA
         02 80000004 01 74 01 31       ; TRAILERS, t: 1
         03 00                         ; END",
        "dd".repeat(100)
    );
    assert_golden(&out, &golden);

    let mut decoder = Decoder::new();
    decoder.push(Bytes::from(out).slice(1..));
    let frames: Vec<_> = std::iter::from_fn(|| decoder.next_frame().unwrap()).collect();
    assert_eq!(
        frames,
        [
            Frame::Head(hex("01 02 0194 00").into()),
            Frame::Data(vec![0xdd; 100].into()),
            Frame::Trailers(hex("01 74 01 31").into()),
            Frame::End,
        ]
    );
}

#[test]
fn probes() {
    let ping = Probe { kind: DatagramKind::Ping, sequence: 1, clock_us: 0x0102_0304 };
    assert_golden(&ping.encode(), "01 0000000000000001 0000000001020304");
    assert_golden(&ping.pong().encode(), "02 0000000000000001 0000000001020304");
}

/// Checks that `message` is `golden` on the wire, and comes back.
fn assert_message<M: prost::Message + Default + PartialEq>(message: M, golden: &str) {
    let bytes = encode_message(&message);
    assert_golden(&bytes, golden);
    let read = take_message::<M>(&mut BytesMut::from(&bytes[..]), bytes.len());
    assert!(read == Ok(Some(message)), "it does not come back");
}

#[test]
fn hello() {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        cluster: "west".into(),
        region: "us-west".into(),
        cluster_uid: vec![0xcc; 16],
        gateway: "gw-1".into(),
        worker: 2,
        boot: 0x0102_0304_0506_0708,
        addresses: vec!["gw:7443".into()],
        limits: Some(Limits { streams_max: 4096, head_bytes_max: 65_536 }),
        software: "ringway 0.1.0".into(),
        takes_over_from: 9,
    };
    assert_message(
        hello,
        "4060                                  ; 96 bytes
         08 01                                 ; version_min
         10 01                                 ; version_max
         1a 04 77657374                        ; cluster
         22 07 75732d77657374                  ; region
         2a 10 cccccccccccccccccccccccccccccccc
         32 04 67772d31                        ; gateway
         38 02                                 ; worker
         41 0807060504030201                   ; boot
         4a 07 67773a37343433                  ; an address
         52 07 08 8020 10 808004               ; limits
         5a 0d 72696e6777617920302e312e30      ; software
         61 0900000000000000                   ; takes_over_from",
    );
}

#[test]
fn control_messages() {
    let go_away = |last_stream| {
        let go_away = GoAway { last_stream, reason: "bye".into() };
        Control { kind: Some(control::Kind::GoAway(go_away)) }
    };
    assert_message(go_away(Some(0)), "09 0a 07 08 00 12 03 627965");
    assert_message(go_away(None), "07 0a 05 12 03 627965");
    let ready = ServiceDigest { namespace: "a".into(), name: "b".into(), ready: 300, ..Default::default() };
    let service = |ring| ServiceDigest { ring, ..ready.clone() };
    let digest = |ring| {
        let digest = Digest { services: vec![service(ring)], objections: Vec::new() };
        Control { kind: Some(control::Kind::Digest(digest)) }
    };
    assert_message(digest(None), "0d 12 0b 0a 09 0a 01 61 12 01 62 18 ac02");
    let objection = Objection { namespace: "a".into(), name: "b".into(), reason: Disagreement::Ports.into() };
    let objects = Digest { services: Vec::new(), objections: vec![objection] };
    let objects = Control { kind: Some(control::Kind::Digest(objects)) };
    assert_message(objects, "0c 12 0a 12 08 0a 01 61 12 01 62 18 01");
    let address = GatewayAddress { gateway: "g".into(), address: "h:1".into() };
    let gateways = Gateways { addresses: vec![address] };
    let gateways = Control { kind: Some(control::Kind::Gateways(gateways)) };
    assert_message(gateways, "0c 1a 0a 0a 08 0a 01 67 12 03 683a31");
    assert_message(digest(Some(1)), "16 12 14 0a 12 0a 01 61 12 01 62 18 ac02 29 0100000000000000");
    let degraded =
        Digest { services: vec![ServiceDigest { degraded: true, ..ready.clone() }], objections: Vec::new() };
    let degraded = Control { kind: Some(control::Kind::Digest(degraded)) };
    assert_message(degraded, "0f 12 0d 0a 0b 0a 01 61 12 01 62 18 ac02 30 01");
}

#[test]
fn sync_messages() {
    let watch = Watch { epoch: 1, revision: 300, selectors: vec![Selector { namespace: "a".into() }] };
    assert_message(watch, "11 09 0100000000000000 10 ac02 1a 03 0a 01 61");
    let event = |kind| Event { kind: Some(kind) };
    let begin = SnapshotBegin { epoch: 2, revision: 5 };
    assert_message(event(event::Kind::SnapshotBegin(begin)), "0d 0a 0b 09 0200000000000000 10 05");
    assert_message(event(event::Kind::SnapshotEnd(SnapshotEnd { revision: 5 })), "04 12 02 08 05");
    let removed = Removed { namespace: "a".into(), name: "b".into(), revision: 6 };
    assert_message(event(event::Kind::Removed(removed)), "0a 22 08 0a 01 61 12 01 62 18 06");
    let current = Current { epoch: 2, revision: 7 };
    assert_message(event(event::Kind::Current(current)), "0d 2a 0b 09 0200000000000000 10 07");
}

#[test]
fn record() {
    let entry = |kind| TierEntry { kind: Some(kind) };
    let key = |kind| HashKey { kind: Some(kind) };
    let contract = Contract {
        generation: 1,
        mode: Mode::Sharded.into(),
        members: Some(Members {
            members: vec![Member { cluster: "w".into(), region: "r".into(), weight: 100 }],
        }),
        seed: 9,
        tiers: Some(Tiers {
            tiers: vec![Tier {
                entries: vec![
                    entry(tier_entry::Kind::Relative(Relative::SameRegion.into())),
                    entry(tier_entry::Kind::Cluster("e".into())),
                ],
            }],
        }),
        hash: vec![
            key(hash_key::Kind::Header("h".into())),
            key(hash_key::Kind::Query("q".into())),
            key(hash_key::Kind::SourceIp(SourceIp {})),
        ],
        on_owner_unavailable: OnOwnerUnavailable::Fail.into(),
    };
    let record = Record {
        namespace: "a".into(),
        name: "b".into(),
        ports: vec![Port {
            name: "web".into(),
            number: 80,
            protocol: Protocol::Http.into(),
            proxy_header: false,
        }],
        region: "r".into(),
        contract: Some(contract),
        epoch: 2,
        revision: 7,
    };
    assert_message(
        Event { kind: Some(event::Kind::Upsert(record)) },
        "4059 1a 57
         0a 01 61  12 01 62                    ; a/b
         1a 09 0a 03 776562 10 50 18 01        ; port
         22 01 72                              ; region
         2a 36                                 ; contract
           08 01  10 02                        ; generation, mode
           1a 0a 0a 08 0a 01 77 12 01 72 18 64 ; members
           21 0900000000000000                 ; seed
           2a 0b 0a 09 0a 02 08 02             ; tiers: relative,
             0a 03 12 01 65                    ; cluster
           32 03 0a 01 68                      ; hash: header,
           32 03 12 01 71                      ; query,
           32 02 1a 00                         ; source address
           38 02                               ; on_owner_unavailable
         31 0200000000000000                   ; epoch
         38 07                                 ; revision",
    );
}
