//! Who gets in and who does not, by real handshakes.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::world::{ALPN, DOMAIN, Outcome, World, YEAR, chmod, gateway, handshake, trust, workload};
use identity::pki::{self, Validity};
use identity::{Credentials, Refusal};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::{AlertDescription, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

const EAST: &str = "spiffe://acme.example/cluster/east/gateway/gw-e";
pub(crate) const WEST: &str = "spiffe://acme.example/cluster/west/gateway/gw-w";

/// A chain made by hand: `params` signed by `ca-<ca>`, with `more` behind it, put where `west` keeps its own.
fn forge(world: &World, ca: &str, params: CertificateParams, more: &str) -> PathBuf {
    let read = |file: &str| fs::read_to_string(world.dir(&format!("ca-{ca}")).join(file)).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&read("ca.crt"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap();
    let dir = world.dir("west");
    fs::write(dir.join("tls.crt"), signed.pem() + more).unwrap();
    fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    dir
}

pub(crate) fn named(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|u| SanType::URI(Ia5String::try_from(*u).unwrap())).collect();
    params
}

/// West dials east, whose server side has the credentials in `server` instead of its own.
fn east_is(world: &World, server: &Credentials) -> Outcome {
    let trust = world.trust("east", &["west"]);
    handshake(world.client(), identity::server_config(server, trust, ALPN).unwrap())
}

/// Credentials of a validity in the past or future, loaded as if it were now.
fn of_another_time(world: &World, ca: &str, cluster: &str, validity: Validity) -> Credentials {
    let mut ask = world.ask(ca, cluster, gateway("gw-t"), &[]);
    ask.out_dir = world.dir("other-time");
    ask.validity = validity;
    pki::issue(&ask).unwrap();
    Credentials::load_at(&ask.out_dir, validity.not_before + Duration::from_secs(1)).unwrap()
}

#[test]
fn linked_gateways_know_each_other() {
    let world = World::linked();
    let (client, server) = handshake(world.client(), world.server()).up();
    assert_eq!(identity::peer_identity(client.peer_certificates().unwrap()).unwrap().to_string(), EAST);
    assert_eq!(identity::peer_identity(server.peer_certificates().unwrap()).unwrap().to_string(), WEST);
    assert_eq!(server.alpn_protocol(), Some(ALPN[0]));
    assert_eq!(server.server_name(), None);
    let until = identity::not_after(&server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(until, world.credentials("west").not_after());
}

#[test]
fn every_handshake_is_tls_1_3_in_full_and_post_quantum() {
    let world = World::linked();
    let (client, server) = (world.client(), world.server());
    for _ in 0..2 {
        let (client, server) = handshake(client.clone(), server.clone()).up();
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
    assert_eq!((server.max_early_data_size, client.enable_early_data), (0, false));
}

#[test]
fn another_cluster_at_the_dialled_address_is_refused() {
    let world = World::linked();
    world.authority("south", DOMAIN);
    pki::issue(&world.ask("south", "south", gateway("gw-s"), &[("west", "west")])).unwrap();
    let outcome = handshake(world.client(), {
        let trust = world.trust("south", &["west"]);
        identity::server_config(&world.credentials("south"), trust, ALPN).unwrap()
    });
    assert_eq!(
        outcome.client_refuses(),
        "cluster `east` was dialled, but spiffe://acme.example/cluster/south/gateway/gw-s answered: \
         check the link's addresses"
    );
}

#[test]
fn a_foreign_authority_cannot_speak_for_a_peer() {
    let world = World::linked();
    world.authority("mallory", DOMAIN);
    let mut ask = world.ask("mallory", "east", gateway("gw-e"), &[]);
    ask.out_dir = world.dir("mallory");
    pki::issue(&ask).unwrap();
    let outcome = east_is(&world, &world.credentials("mallory"));
    let told =
        format!("{EAST} is not signed by an authority in the trust bundle held here for cluster `east`");
    assert_eq!(outcome.client_refuses(), told);
}

#[test]
fn one_peers_authority_cannot_make_an_identity_of_another_peer() {
    let world = World::linked();
    world.authority("south", DOMAIN);
    // South is linked to east as well, and its authority signs "west".
    pki::issue(&world.ask("south", "west", gateway("gw-w"), &[("east", "east")])).unwrap();
    pki::issue(&world.ask("east", "east", gateway("gw-e"), &[("west", "west"), ("south", "south")])).unwrap();
    let trust = world.trust("east", &["west", "south"]);
    let server = identity::server_config(&world.credentials("east"), trust, ALPN).unwrap();
    let outcome = handshake(world.client(), server);
    let told =
        format!("{WEST} is not signed by an authority in the trust bundle held here for cluster `west`");
    assert_eq!(outcome.server_refuses(), told);
}

#[test]
fn a_cluster_without_a_link_is_refused_and_its_end_hears_so() {
    let world = World::linked();
    let server = identity::server_config(&world.credentials("east"), world.trust("east", &[]), ALPN).unwrap();
    let outcome = handshake(world.client(), server);
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateUnknown);
    assert_eq!(outcome.client.as_ref().err(), Some(&alert));
    assert_eq!(identity::reason(&alert), "the peer refused our certificate; its log says why");
    let told = format!("there is no link with a trust bundle for cluster `west`, which {WEST} belongs to");
    assert_eq!(outcome.server_refuses(), told);
}

#[test]
fn the_links_trust_domain_counts() {
    let world = World::linked();
    // An authority that names no trust domain: only the link says which one it may sign for.
    let mut other = named(&[]);
    other.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = world.dir("ca-plain");
    fs::create_dir(&ca).unwrap();
    fs::write(ca.join("ca.crt"), other.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(ca.join("ca.key"), key.serialize_pem()).unwrap();
    chmod(&ca.join("ca.key"), 0o600);

    let mut ask = world.ask("plain", "west", gateway("gw-w"), &[("east", "east")]);
    ask.trust_domain = Some("other.example".into());
    pki::issue(&ask).unwrap();
    pki::issue(&world.ask("east", "east", gateway("gw-e"), &[("west", "plain")])).unwrap();
    let told = "spiffe://other.example/cluster/west/gateway/gw-w is of another trust domain than the link's, \
                `acme.example`";
    assert_eq!(handshake(world.client(), world.server()).server_refuses(), told);

    let linked = trust(&world.dir("east"), &[("west", "other.example")]);
    let server = identity::server_config(&world.credentials("east"), linked, ALPN).unwrap();
    handshake(world.client(), server).up();
}

#[test]
fn an_expired_certificate_is_refused_with_its_date_on_either_side() {
    let world = World::linked();
    let year_2020 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    let validity = Validity { not_before: year_2020, not_after: year_2020 + Duration::from_secs(86_400) };
    let east = of_another_time(&world, "east", "east", validity);
    assert_eq!(
        east_is(&world, &east).client_refuses(),
        "the certificate of spiffe://acme.example/cluster/east/gateway/gw-t expired on 2020-01-02 00:00:00 UTC"
    );
    let west = of_another_time(&world, "west", "west", validity);
    assert_eq!(
        handshake(world.dialling(&west), world.server()).server_refuses(),
        "the certificate of spiffe://acme.example/cluster/west/gateway/gw-t expired on 2020-01-02 00:00:00 UTC"
    );
}

#[test]
fn a_certificate_of_the_future_is_refused() {
    let world = World::linked();
    let start = SystemTime::now() + YEAR;
    let east =
        of_another_time(&world, "east", "east", Validity { not_before: start, not_after: start + YEAR });
    let told = east_is(&world, &east).client_refuses();
    assert!(
        told.starts_with(
            "the certificate of spiffe://acme.example/cluster/east/gateway/gw-t is valid only from 2"
        ),
        "{told}"
    );
    assert!(told.ends_with(" UTC: are both clocks right?"), "{told}");
}

#[test]
fn a_workload_is_no_gateway() {
    let world = World::linked();
    // Neither as the dialled side ...
    let mut ask = world.ask("east", "east", workload("shop", "cart"), &[]);
    ask.out_dir = world.dir("sidecar");
    pki::issue(&ask).unwrap();
    let told = "spiffe://acme.example/cluster/east/ns/shop/sa/cart is no gateway: \
                only a gateway may speak for a cluster";
    assert_eq!(east_is(&world, &world.credentials("sidecar")).client_refuses(), told);
    // ... nor as a dialler from a peer cluster; in its own cluster it is welcome.
    let own = world.dialling_own(&world.credentials("sidecar"));
    handshake(own, world.server()).up();
    pki::issue(&world.ask("west", "west", workload("shop", "cart"), &[("east", "east")])).unwrap();
    let told = told.replace("east", "west");
    assert_eq!(handshake(world.client(), world.server()).server_refuses(), told);
}

#[test]
fn who_shows_no_certificate_is_refused() {
    let world = World::linked();
    let mut client = (*world.client()).clone();
    client.client_auth_cert_resolver = Arc::new(NoCertificate);
    let outcome = handshake(Arc::new(client), world.server());
    let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    assert_eq!(outcome.client.as_ref().err(), Some(&alert));
    assert_eq!(outcome.server_refuses(), "no certificate was presented");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn another_protocol_is_refused() {
    let world = World::linked();
    let client =
        identity::client_config(&world.credentials("west"), world.trust("west", &["east"]), "east", &[b"h2"]);
    let outcome = handshake(client.unwrap(), world.server());
    let told = "the peer does not speak this tunnel protocol (ALPN)";
    assert_eq!(outcome.client.as_ref().map_err(identity::reason).err().as_deref(), Some(told));
    assert_eq!(outcome.server_refuses(), told);
}

#[test]
fn tls_1_2_is_refused() {
    // A ClientHello of TLS 1.2 (RFC 5246, section 7.4.1.2): one ECDHE suite, groups, point format, signatures.
    let extensions = [
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x1d][..],
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],
        &[0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03],
    ]
    .concat();
    let mut hello = [&[0x03, 0x03][..], &[7; 32], &[0], &[0x00, 0x02, 0xc0, 0x2b], &[0x01, 0x00]].concat();
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![0x16, 0x03, 0x01, 0, hello.len() as u8 + 4, 0x01, 0, 0, hello.len() as u8];
    record.extend(hello);

    let mut server = ServerConnection::new(World::linked().server()).unwrap();
    server.read_tls(&mut Cursor::new(record)).unwrap();
    assert!(matches!(server.process_new_packets(), Err(rustls::Error::PeerIncompatible(_))));
    let mut wire = Vec::new();
    server.write_tls(&mut wire).unwrap();
    assert_eq!(wire[5..], [2, u8::from(AlertDescription::ProtocolVersion)]);
}

#[test]
fn a_name_must_be_single_and_well_formed() {
    let world = World::linked();
    let load = |params| Credentials::load(&forge(&world, "west", params, "")).unwrap_err();
    let told = |params| std::error::Error::source(&load(params)).unwrap().to_string();
    assert_eq!(told(named(&[])), Refusal::NoIdentity.to_string());
    assert_eq!(told(named(&[WEST, EAST])), Refusal::ManyIdentities(2).to_string());
    assert_eq!(
        told(named(&["https://west.example/"])),
        "the certificate's URI is no Ringway identity: the URI does not start with `spiffe://`"
    );
}

#[test]
fn a_certificate_of_another_use_is_refused() {
    let world = World::linked();
    let mut params = named(&[WEST]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    forge(&world, "west", params, "");
    let told = format!("the certificate of {WEST} is not issued for this use (extended key usage)");
    assert_eq!(handshake(world.client(), world.server()).server_refuses(), told);
}

#[test]
fn a_process_cannot_sign_for_others() {
    let world = World::linked();
    let dir = world.dir("west");
    let (own, key) =
        (fs::read_to_string(dir.join("tls.crt")).unwrap(), fs::read_to_string(dir.join("tls.key")).unwrap());
    let fake = world.dir("ca-fake");
    fs::create_dir(&fake).unwrap();
    fs::write(fake.join("ca.crt"), &own).unwrap();
    fs::write(fake.join("ca.key"), key).unwrap();
    forge(&world, "fake", named(&["spiffe://acme.example/cluster/west/gateway/gw-x"]), &own);
    let told = handshake(world.client(), world.server()).server_refuses();
    assert!(told.contains("gw-x does not hold: "), "{told}");
}

#[test]
fn nobody_is_dialled_without_trust() {
    let world = World::linked();
    let none =
        identity::client_config(&world.credentials("west"), world.trust("west", &["east"]), "south", ALPN);
    assert_eq!(
        none.unwrap_err().to_string(),
        "cluster `south` cannot be dialled: no trust bundle is loaded for it (`bundles/south.pem`)"
    );
}

#[test]
fn a_peer_is_believed_for_as_long_as_its_bundle_and_its_certificate_say() {
    let world = World::linked();
    let (client, server) = handshake(world.client(), world.server()).up();
    let (east, west) = (client.peer_certificates().unwrap(), server.peer_certificates().unwrap());
    let now = SystemTime::now();
    assert!(world.trust("west", &["east"]).still_believes(east, true, now).is_ok());
    assert!(world.trust("east", &["west"]).still_believes(west, false, now).is_ok());

    let expired = world.trust("west", &["east"]).still_believes(east, true, now + 2 * YEAR);
    assert!(matches!(expired, Err(Refusal::Expired { .. })), "{expired:?}");
    // The link, and with it the bundle, is gone.
    let gone = world.trust("west", &[]).still_believes(east, true, now);
    assert!(matches!(gone, Err(Refusal::NotLinked(_))), "{gone:?}");
    let before = world.trust("west", &["east"]);
    assert_eq!(world.trust("west", &["east"]).changed_since(&before).count(), 0);
    assert!(world.trust("west", &[]).changed_since(&before).eq(["east"]));
    // The bundle holds another authority now.
    world.authority("other", DOMAIN);
    fs::copy(world.dir("ca-other").join("ca.crt"), world.dir("west").join("bundles/east.pem")).unwrap();
    let other = world.trust("west", &["east"]);
    assert!(other.still_believes(east, true, now).is_err());
    assert!(other.changed_since(&before).eq(["east"]));
}
