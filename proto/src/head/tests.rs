#![allow(clippy::unwrap_used)]
use super::*;
use crate::limits::NAME_BYTES_MAX;
use crate::varint;

fn small() -> RequestHead<'static> {
    let flow =
        FlowHead { request_id: [7; 16], namespace: "shop", service: "cart", port: 80, ..FlowHead::default() };
    RequestHead {
        flow,
        http: HttpHead { method: "GET", path: "/", authority: "cart.shop.mesh", upgrade: None },
    }
}

fn full() -> RequestHead<'static> {
    let flow = FlowHead {
        generation: u64::MAX,
        key_hash: Some(0),
        owner: Some("east"),
        attempt: 255,
        attempts_left: 1,
        replayable: true,
        insist: true,
        deadline_ms: 1 << 62,
        connect_ms: 1,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        tracestate: Some("a=1, b=2"),
        caller: Some("spiffe://acme.example/cluster/west/ns/shop/sa/web"),
        endpoint: Some("a"),
        ..small().flow
    };
    RequestHead { flow, http: HttpHead { path: "/items?id=%20&q=\u{e9}", ..small().http } }
}

fn placed<'a>(alter: impl FnOnce(&mut FlowHead<'a>), mut head: RequestHead<'a>) -> RequestHead<'a> {
    alter(&mut head.flow);
    head
}

fn asked<'a>(alter: impl FnOnce(&mut HttpHead<'a>)) -> RequestHead<'a> {
    let mut head = small();
    alter(&mut head.http);
    head
}

fn encoded(head: &RequestHead<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    head.encode([], &mut out).unwrap();
    out
}

fn decode(buf: &[u8]) -> Result<RequestHead<'_>, HeadError> {
    RequestHead::decode(buf).map(|(head, _)| head)
}

/// `facts` as they stand on the wire, then the end of facts.
fn wire(facts: &[(u64, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, value) in facts {
        put_fact(&mut out, *tag, value);
    }
    out.push(END_OF_FACTS);
    out
}

/// The facts of [`small`], those of `tag` replaced by `value`.
fn with(tag: u64, value: &[u8]) -> Vec<u8> {
    let mut facts: Vec<(u64, &[u8])> = vec![
        (request::REQUEST_ID, &[7; 16]),
        (request::NAMESPACE, b"shop"),
        (request::SERVICE, b"cart"),
        (request::PORT, &[80]),
        (request::METHOD, b"GET"),
        (request::PATH, b"/"),
        (request::AUTHORITY, b"cart.shop.mesh"),
    ];
    facts.retain(|(t, _)| *t != tag);
    facts.push((tag, value));
    wire(&facts)
}

#[test]
fn every_fact_comes_back() {
    for head in [
        small(),
        full(),
        placed(|flow| flow.insist = false, full()),
        placed(|flow| flow.replayable = false, full()),
    ] {
        assert_eq!(decode(&encoded(&head)), Ok(head));
    }
    for head in
        [ResponseHead { status: 100, endpoint: None }, ResponseHead { status: 999, endpoint: Some("a:80") }]
    {
        let mut out = Vec::new();
        head.encode([], &mut out).unwrap();
        assert_eq!(ResponseHead::decode(&out).unwrap().0, head);
    }
}

#[test]
fn every_cut_within_the_facts_is_an_error() {
    let whole = encoded(&full());
    for cut in 0..whole.len() {
        assert_eq!(decode(&whole[..cut]), Err(HeadError::Truncated), "{cut}");
    }
}

#[test]
fn unknown_facts_and_flags_are_skipped() {
    let mut facts = Vec::new();
    for tag in [request::NAMES.len() as u64, 63, 64, 1000, varint::MAX] {
        put_fact(&mut facts, tag, b"\0\r\n from a later version");
        put_fact(&mut facts, tag, b"twice");
    }
    facts.extend_from_slice(&with(request::FLAGS, &[0xff, 0xff]));
    assert_eq!(decode(&facts), Ok(placed(|flow| (flow.replayable, flow.insist) = (true, true), small())));

    let later = wire(&[(3, b"later"), (response::STATUS, &[200])]);
    assert_eq!(ResponseHead::decode(&later).unwrap().0, ResponseHead { status: 200, endpoint: None });
}

#[test]
fn each_fact_stands_at_most_once() {
    for tag in 1..request::NAMES.len() as u64 {
        let value: &[u8] = match tag {
            request::REQUEST_ID => &[7; 16],
            request::PORT | request::ATTEMPT => &[80],
            _ => b"/",
        };
        let name = request::NAMES[tag as usize];
        // A method of "/" is malformed before it is seen twice.
        let value = if tag == request::METHOD { b"GET" } else { value };
        let mut twice = Vec::new();
        put_fact(&mut twice, tag, value);
        twice.extend_from_slice(&with(tag, value));
        assert_eq!(decode(&twice), Err(HeadError::Duplicate(name)));
    }
}

#[test]
fn what_must_be_there_is_missed_by_name() {
    let names = ["request id", "namespace", "service", "port", "method", "path", "authority"];
    for (tag, name) in request::OF_EVERY_FLOW.into_iter().chain(request::OF_HTTP).zip(names) {
        let mut facts: Vec<(u64, &[u8])> = Vec::new();
        for other in request::OF_EVERY_FLOW.into_iter().chain(request::OF_HTTP).filter(|other| *other != tag)
        {
            facts.push((other, if other == request::REQUEST_ID { &[7; 16] } else { b"*" }));
        }
        assert_eq!(decode(&wire(&facts)), Err(HeadError::Missing(name)));
    }
    assert_eq!(ResponseHead::decode(&[END_OF_FACTS]).unwrap_err(), HeadError::Missing("status"));
}

#[test]
fn values_of_the_wrong_kind_are_refused_by_name() {
    let long = [b'a'; NAME_BYTES_MAX + 1];
    let bad: &[(u64, &[u8])] = &[
        (request::REQUEST_ID, &[7; 15]),
        (request::REQUEST_ID, &[7; 17]),
        (request::NAMESPACE, b""),
        (request::NAMESPACE, b"a b"),
        (request::SERVICE, &long),
        (request::SERVICE, b"a\nb"),
        (request::SERVICE, b"\xff"),
        (request::PORT, &[]),
        (request::PORT, &[0]),
        (request::PORT, &[1, 0, 0]),
        (request::GENERATION, &[1; 9]),
        (request::KEY_HASH, &[]),
        (request::OWNER, &long),
        (request::ATTEMPT, &[1, 0]),
        (request::ATTEMPTS_LEFT, &[1, 0]),
        (request::FLAGS, &[]),
        (request::DEADLINE_MS, &[1; 9]),
        (request::TRACEPARENT, b"00 01"),
        (request::TRACESTATE, b"a=1\r\nb"),
        (request::CALLER, b""),
        (request::ENDPOINT, &long),
        (request::METHOD, b""),
        (request::METHOD, b"GET /"),
        (request::METHOD, b"G\xc3\xa9T"),
        (request::PATH, b""),
        (request::PATH, b"items"),
        (request::PATH, b"**"),
        (request::PATH, b"/a b"),
        (request::PATH, b"/a\r\nHost: x"),
        (request::PATH, b"/\x7f"),
        (request::PATH, b"/\xc3"),
        (request::AUTHORITY, b""),
        (request::AUTHORITY, b"a\tb"),
    ];
    for (tag, value) in bad {
        let expected = HeadError::Malformed(request::NAMES[*tag as usize]);
        assert_eq!(decode(&with(*tag, value)), Err(expected), "{value:x?}");
    }
    for status in [&[0][..], &[99], &[0x03, 0xe8], &[1, 0, 0]] {
        let buf = wire(&[(response::STATUS, status)]);
        assert_eq!(ResponseHead::decode(&buf).unwrap_err(), HeadError::Malformed("status"), "{status:?}");
    }
}

#[test]
fn methods_of_any_case_and_the_asterisk_are_http() {
    let head = asked(|http| (http.method, http.path) = ("OPTIONS", "*"));
    assert_eq!(decode(&encoded(&head)), Ok(head));
    let head = asked(|http| http.method = "m-search");
    assert_eq!(decode(&encoded(&head)), Ok(head));
}

#[test]
fn a_longest_name_passes() {
    let name = "a".repeat(NAME_BYTES_MAX);
    let head = placed(|flow| (flow.endpoint, flow.owner) = (Some(&*name), Some(&*name)), small());
    assert_eq!(decode(&encoded(&head)), Ok(head));
}

#[test]
fn one_byte_too_many_is_refused_on_both_sides() {
    let spare = HEAD_BYTES_MAX - encoded(&small()).len();
    // The path's length grows from 1 byte to 4.
    let path = format!("/{}", "a".repeat(spare - 3));
    let head = asked(|http| http.path = &path);
    let whole = encoded(&head);
    assert_eq!((whole.len(), decode(&whole)), (HEAD_BYTES_MAX, Ok(head)));

    let path = format!("/{}", "a".repeat(spare - 2));
    let head = asked(|http| http.path = &path);
    let too_large = HeadError::TooLarge { bytes: HEAD_BYTES_MAX + 1 };
    let mut out = b"kept".to_vec();
    assert_eq!(head.encode([], &mut out), Err(too_large));
    assert_eq!(out, b"kept");
    assert_eq!(decode(&[0; HEAD_BYTES_MAX + 1]), Err(too_large));

    // Facts and fields together.
    let value = vec![b'v'; HEAD_BYTES_MAX - 20];
    assert!(matches!(small().encode([(&b"a"[..], &value[..])], &mut out), Err(HeadError::TooLarge { .. })));
    assert_eq!(out, b"kept");
}

#[test]
fn fields_follow_the_facts() {
    let mut out = Vec::new();
    let fields = [(&b"x-user"[..], &b"7"[..]), (b"accept", b""), (b"x-user", b"\xff")];
    small().encode(fields, &mut out).unwrap();
    let (head, decoded) = RequestHead::decode(&out).unwrap();
    assert_eq!(head, small());
    assert_eq!(decoded.collect::<Vec<_>>(), fields);

    out.truncate(out.len() - 1);
    assert_eq!(RequestHead::decode(&out).unwrap_err(), HeadError::Truncated);
}

#[test]
fn the_head_of_a_connection_round_trips_and_needs_an_authority() {
    let flow = FlowHead {
        request_id: [7; 16],
        namespace: "shop",
        service: "db",
        port: 5432,
        caller: Some("spiffe://acme.example/cluster/west/ns/shop/sa/web"),
        ..FlowHead::default()
    };
    let plain = ConnectionHead { flow, authority: "db.shop.mesh:5432", ..ConnectionHead::default() };
    let told = ConnectionHead {
        source: "192.0.2.7:4711".parse().ok(),
        destination: "[2001:db8::1]:5432".parse().ok(),
        server_name: Some("db.example"),
        ..plain
    };
    for head in [plain, told] {
        let mut bytes = Vec::new();
        head.encode(&mut bytes).unwrap();
        assert_eq!(ConnectionHead::decode(&bytes).unwrap(), head);
        for cut in 0..bytes.len() {
            assert!(ConnectionHead::decode(&bytes[..cut]).is_err(), "{cut}");
        }
    }
    let mut bytes = Vec::new();
    ConnectionHead { authority: "", ..plain }.encode(&mut bytes).unwrap();
    assert_eq!(ConnectionHead::decode(&bytes), Err(HeadError::Malformed("authority")));
    // Five bytes are no address and port.
    let mut bytes = Vec::new();
    plain.encode(&mut bytes).unwrap();
    let end = bytes.pop();
    assert_eq!(end, Some(0));
    bytes.extend([19, 5, 1, 2, 3, 4, 5, 0]);
    assert_eq!(ConnectionHead::decode(&bytes), Err(HeadError::Malformed("source")));
}
