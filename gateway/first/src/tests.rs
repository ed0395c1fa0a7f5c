#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::proxy_header;

/// What a client of TLS says first to a server of this name.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_first_bytes_tell_http_tls_and_anything_else() {
    let tls = |name: Option<&str>| Begins::Tls(name.map(Into::into));
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], Begins::Http),
        (b"PATCH /", Begins::Http),
        (PREFACE, Begins::Http),
        (&hello("Cart.Shop.mesh"), tls(Some("cart.shop.mesh"))),
        (&hello("127.0.0.1"), tls(None)),
        (b"\x16\x03\x01\x00\x05hello", tls(None)),
        (b"SSH-2.0-x\r\n", Begins::Other),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Begins::Other),
        (b"GETTY", Begins::Other),
        (b"PRI * HTTP/3", Begins::Other),
        (b"\x16\x02", Begins::Other),
    ] {
        assert_eq!(begins(bytes), Seen::All(expected), "{bytes:?}");
    }
    for part in [&b""[..], b"G", b"GET", b"PRI * ", b"\x16", &hello("cart.shop.mesh")[..100]] {
        assert_eq!(begins(part), Seen::Part, "{part:?}");
    }
}

#[test]
fn a_hello_may_be_spread_over_records() {
    let whole = hello("cart.shop.mesh");
    let (header, body) = whole.split_at(5);
    let mut spread = Vec::new();
    for piece in body.chunks(100) {
        spread.extend([header[0], header[1], header[2]]);
        spread.extend((piece.len() as u16).to_be_bytes());
        spread.extend(piece);
    }
    assert_eq!(begins(&spread), Seen::All(Begins::Tls(Some("cart.shop.mesh".into()))));
}

proptest! {
    #[test]
    fn whatever_comes_is_judged(bytes: Vec<u8>) {
        let _ = (begins(&bytes), proxy_header::read(&bytes));
    }

    #[test]
    fn more_of_the_same_is_judged_the_same(cut in 1_usize..300) {
        let whole = hello("cart.shop.mesh");
        let cut = cut.min(whole.len() - 1);
        prop_assert_eq!(begins(&whole[..cut]), Seen::Part);
    }
}
