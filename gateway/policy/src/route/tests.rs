#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use registry::model::ServiceName;

use super::*;

#[track_caller]
fn assert_target(authority: &str, service: &str, namespace: &str, cluster: Option<&str>, port: Option<u16>) {
    let target = parse(authority, "mesh").unwrap();
    assert_eq!(
        (target.service(), target.namespace(), target.cluster(), target.port),
        (service, namespace, cluster, port)
    );
    assert_eq!(target.prefix(), ServiceName::new(namespace, service).unwrap().host_prefix());
}

#[test]
fn names_of_the_mesh() {
    assert_target("cart.shop.mesh", "cart", "shop", None, None);
    assert_target("cart.shop.east.mesh", "cart", "shop", Some("east"), None);
    assert_target("cart.shop.svc.clusterset.local", "cart", "shop", None, None);
    assert_target("cart.shop.mesh:80", "cart", "shop", None, Some(80));
    assert_target("cart.shop.mesh:080", "cart", "shop", None, Some(80));
    assert_target("cart.shop.mesh:", "cart", "shop", None, None);
    assert_target("cart.shop.mesh.", "cart", "shop", None, None);
    assert_target("CART.Shop.East.MESH.:8080", "cart", "shop", Some("east"), Some(8080));
    assert_target("Cart.shop.SVC.ClusterSet.Local.:1", "cart", "shop", None, Some(1));
    assert_target("mesh.mesh.mesh.mesh", "mesh", "mesh", Some("mesh"), None);
}

#[test]
fn a_domain_of_several_labels() {
    let target = parse("cart.shop.east.svc.acme.example", "svc.acme.example").unwrap();
    assert_eq!((target.prefix(), target.cluster()), ("cart.shop", Some("east")));
    // The domain must stand behind a dot.
    assert_eq!(parse("cart.shopsvc.acme.example", "svc.acme.example"), Err(NotMesh::Domain));
}

#[test]
fn lower_case_names_are_borrowed() {
    assert!(matches!(parse("cart.shop.mesh", "mesh").unwrap().name, Cow::Borrowed("cart.shop")));
    assert!(matches!(parse("cart.shop.MESH", "mesh").unwrap().name, Cow::Borrowed("cart.shop")));
    assert!(matches!(parse("cart.Shop.mesh", "mesh").unwrap().name, Cow::Owned(_)));
}

#[test]
fn what_is_no_name_of_the_mesh() {
    for (authority, why) in [
        ("", NotMesh::Missing),
        (":80", NotMesh::Missing),
        ("user@cart.shop.mesh", NotMesh::UserInfo),
        ("cart.shop.mesh:0", NotMesh::Port),
        ("cart.shop.mesh:65536", NotMesh::Port),
        ("cart.shop.mesh:+80", NotMesh::Port),
        ("cart.shop.mesh:http", NotMesh::Port),
        ("cart.shop.mesh:80:80", NotMesh::Port),
        ("127.0.0.1:7480", NotMesh::Domain),
        ("[::1]:7480", NotMesh::Domain),
        ("example.com", NotMesh::Domain),
        ("mesh", NotMesh::Domain),
        ("cart.shop.mesh..", NotMesh::Domain),
        ("cart.shopmesh", NotMesh::Domain),
        ("ü.mesh.shöp", NotMesh::Malformed),
        ("cart.shop.mesh, other", NotMesh::Malformed),
        ("cart.shop.mesh,other", NotMesh::Malformed),
        ("cart.shop.mesh/x", NotMesh::Malformed),
        (".mesh", NotMesh::Shape),
        ("cart.mesh", NotMesh::Shape),
        ("cart..mesh", NotMesh::Shape),
        (".shop.mesh", NotMesh::Shape),
        ("a.cart.shop.east.mesh", NotMesh::Shape),
        ("cart.shop.east.svc.clusterset.local", NotMesh::Shape),
        ("cart_1.shop.mesh", NotMesh::Shape),
        ("-cart.shop.mesh", NotMesh::Shape),
        ("%63art.shop.mesh", NotMesh::Shape),
        ("cärt.shop.mesh", NotMesh::Malformed),
    ] {
        assert_eq!(parse(authority, "mesh"), Err(why), "{authority}");
    }
    let long = format!("{}.shop.mesh", "a".repeat(64));
    assert_eq!(parse(&long, "mesh"), Err(NotMesh::Shape));
    let longer = format!("{}.mesh", "a.".repeat(200));
    assert_eq!(parse(&longer, "mesh"), Err(NotMesh::Domain));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(authority in "\\PC*", domain in "[a-z]{1,5}(\\.[a-z]{1,5})?") {
        if let Ok(target) = parse(&authority, &domain) {
            prop_assert!(is_label(target.service()) && is_label(target.namespace()));
            prop_assert!(target.cluster().is_none_or(is_label));
        }
    }

    #[test]
    fn every_valid_name_is_read(
        labels in prop::collection::vec("[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", 2..=3),
        port in prop::option::of(1..=u16::MAX),
        dot in "\\.?",
    ) {
        let port_text = port.map(|port| format!(":{port}")).unwrap_or_default();
        let authority = format!("{}.mesh{dot}{port_text}", labels.join("."));
        let target = parse(&authority, "mesh").unwrap();
        prop_assert_eq!(target.service(), labels[0].to_ascii_lowercase());
        prop_assert_eq!(target.namespace(), labels[1].to_ascii_lowercase());
        let cluster = labels.get(2).map(|label| label.to_ascii_lowercase());
        prop_assert_eq!(target.cluster(), cluster.as_deref());
        prop_assert_eq!(target.port, port);
    }
}

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));

fn key_of(sources: &[HashKey], user: Option<&'static [u8]>, target: &'static str) -> Option<Vec<u8>> {
    key(sources, |name| user.filter(|_| name == "x-user"), target, PEER).map(|key| key.to_vec())
}

fn user() -> HashKey {
    HashKey::Header("x-user".into())
}

fn id() -> HashKey {
    HashKey::Query("id".into())
}

#[test]
fn the_first_source_with_a_value_counts() {
    let sources = [user(), id(), HashKey::SourceIp];
    assert_eq!(key_of(&sources, Some(b"ada"), "/?id=7").unwrap(), b"ada");
    assert_eq!(key_of(&sources, Some(b""), "/?id=7").unwrap(), b"7");
    assert_eq!(key_of(&sources, None, "/?id=").unwrap(), [10, 1, 2, 3]);
    assert_eq!(key_of(&[user(), id()], None, "/"), None);
    assert_eq!(key_of(&[], Some(b"ada"), "/?id=7"), None);
}

#[test]
fn values_are_raw() {
    assert_eq!(key_of(&[user()], Some(b" a%20\xff "), "/").unwrap(), b" a%20\xff ");
    assert_eq!(key_of(&[id()], None, "/?id=a%20b+c=d").unwrap(), b"a%20b+c=d");
}

#[test]
fn of_a_parameter_the_first_counts_even_if_empty() {
    assert_eq!(key_of(&[id()], None, "/?x=1&id=2&id=3").unwrap(), b"2");
    assert_eq!(key_of(&[id()], None, "/?id=&id=3"), None);
    assert_eq!(key_of(&[id()], None, "/?id&id=3"), None);
    assert_eq!(key_of(&[id()], None, "/?ID=1&xid=2&id2=3"), None);
    assert_eq!(key_of(&[id()], None, "/id=1"), None);
    assert_eq!(key_of(&[id()], None, "/?a=b?id=1"), None);
}

#[test]
fn the_source_address_is_4_or_16_bytes() {
    let from = |peer: IpAddr| key(&[HashKey::SourceIp], |_| None, "/", peer).unwrap().to_vec();
    assert_eq!(from(PEER), [10, 1, 2, 3]);
    assert_eq!(from(Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().into()), [10, 1, 2, 3]);
    assert_eq!(from(Ipv6Addr::LOCALHOST.into()), Ipv6Addr::LOCALHOST.octets());
}
