//! What is written by the small authority, and what is refused when it is read back.
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::world::{DOMAIN, World, YEAR, chmod, gateway, handshake, workload};
use identity::pki::{self, PkiError, Validity};
use identity::{Credentials, IdentityError, Trust};
use x509_parser::prelude::{FromDer, X509Certificate};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn an_authority_is_made_once() {
    let world = World::new();
    let ca = world.dir("ca");
    let now = SystemTime::now();
    let made = pki::init(DOMAIN, &ca, now).unwrap();
    assert_eq!(made.uri, "spiffe://acme.example");
    assert_eq!(made.files, [ca.join("ca.crt"), ca.join("ca.key")]);
    assert_eq!(mode(&ca.join("ca.key")), 0o600);

    let before = fs::read(ca.join("ca.key")).unwrap();
    assert!(matches!(pki::init(DOMAIN, &ca, now), Err(PkiError::Exists(_))));
    // The key alone is worth as much.
    fs::remove_file(ca.join("ca.crt")).unwrap();
    assert!(matches!(pki::init(DOMAIN, &ca, now), Err(PkiError::Exists(_))));
    assert_eq!(fs::read(ca.join("ca.key")).unwrap(), before);
    assert!(matches!(pki::init("Acme", &world.dir("x"), now), Err(PkiError::Name(_))));
    assert!(!world.dir("x").exists());
}

#[test]
fn the_certificates_say_what_they_may_be_used_for() {
    let world = World::linked();
    let pem = fs::read(world.dir("ca-east/ca.crt")).unwrap();
    let der = x509_parser::pem::parse_x509_pem(&pem).unwrap().1.contents;
    let authority = X509Certificate::from_der(&der).unwrap().1;
    let limits = authority.basic_constraints().unwrap().unwrap();
    assert!(limits.critical && limits.value.ca && limits.value.path_len_constraint == Some(0));
    let usage = authority.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    let span = authority.validity().not_after.timestamp() - authority.validity().not_before.timestamp();
    assert_eq!(span as u64, (pki::AUTHORITY_VALID + pki::SKEW).as_secs());

    let credentials = world.credentials("east");
    let leaf = X509Certificate::from_der(&credentials.chain()[0]).unwrap().1;
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert_eq!(leaf.issuer(), authority.subject());
}

#[test]
fn an_issue_writes_everything_a_gateway_reads() {
    let world = World::new();
    world.authority("west", DOMAIN);
    world.authority("east", DOMAIN);
    let mut ask = world.ask("west", "west", gateway("gw-1"), &[("east", "east")]);
    ask.peers.push(("south".into(), None));
    let made = pki::issue(&ask).unwrap();
    let west = world.dir("west");
    let names = ["bundles/west.pem", "bundles/east.pem", "bundles/south.pem", "tls.key", "tls.crt"];
    assert_eq!(made.files, names.map(|n| west.join(n)));
    assert_eq!(mode(&west.join("tls.key")), 0o600);
    let same = |bundle: &str, ca: &str| {
        fs::read(west.join("bundles").join(bundle)).unwrap()
            == fs::read(world.dir(ca).join("ca.crt")).unwrap()
    };
    assert!(same("west.pem", "ca-west") && same("east.pem", "ca-east") && same("south.pem", "ca-west"));

    let credentials = world.credentials("west");
    assert_eq!(credentials.identity().to_string(), made.uri);
    assert_eq!(made.uri, "spiffe://acme.example/cluster/west/gateway/gw-1");
    assert_eq!(seconds(credentials.not_after()), seconds(made.not_after));
    let trust = world.trust("west", &["west", "east", "south"]);
    assert_eq!(trust.clusters().collect::<Vec<_>>(), ["east", "south", "west"]);

    // Issued again: another key, and nothing left lying about.
    let before = fs::read(west.join("tls.key")).unwrap();
    pki::issue(&ask).unwrap();
    assert_ne!(fs::read(west.join("tls.key")).unwrap(), before);
    assert_eq!(fs::read_dir(&west).unwrap().count(), 3);
    world.credentials("west");
}

#[test]
fn a_workload_gets_its_own_name() {
    let world = World::new();
    world.authority("west", DOMAIN);
    let made = pki::issue(&world.ask("west", "west", workload("shop", "cart"), &[])).unwrap();
    assert_eq!(made.uri, "spiffe://acme.example/cluster/west/ns/shop/sa/cart");
}

#[test]
fn nothing_is_written_for_a_wrong_question() {
    let world = World::linked();
    world.authority("blue", "blue.example");
    let good = |cluster: &str| {
        let mut ask = world.ask("west", cluster, gateway("gw-1"), &[]);
        ask.out_dir = world.dir("out");
        ask
    };
    let refuse = |ask: &pki::Issue| {
        let error = pki::issue(ask).unwrap_err();
        assert!(!world.dir("out").exists(), "{error}");
        error
    };
    assert!(matches!(refuse(&good("../up")), PkiError::Name(_)));
    let mut ask = good("west");
    ask.peers = vec![("../../etc".into(), None)];
    assert!(matches!(refuse(&ask), PkiError::Name(_)));
    ask.peers = vec![("east".into(), Some(world.dir("ca-east/ca.key")))];
    assert!(matches!(refuse(&ask), PkiError::File(_)));
    ask.peers = vec![("east".into(), Some(world.dir("absent")))];
    assert!(matches!(refuse(&ask), PkiError::File(_)));

    let mut ask = good("west");
    ask.trust_domain = Some("blue.example".into());
    assert!(refuse(&ask).to_string().ends_with("is the authority of `acme.example`, not of `blue.example`"));

    let mut ask = good("west");
    ask.validity = Validity { not_before: SystemTime::now(), not_after: SystemTime::UNIX_EPOCH };
    assert!(matches!(refuse(&ask), PkiError::Validity { .. }));
    ask.validity = Validity::from_now(SystemTime::now() + 11 * YEAR, YEAR);
    assert!(matches!(refuse(&ask), PkiError::Expired { .. }));

    let mut ask = good("west");
    ask.ca_dir = world.dir("mixed");
    fs::create_dir(&ask.ca_dir).unwrap();
    fs::copy(world.dir("ca-west/ca.crt"), ask.ca_dir.join("ca.crt")).unwrap();
    fs::copy(world.dir("ca-blue/ca.key"), ask.ca_dir.join("ca.key")).unwrap();
    assert!(matches!(refuse(&ask), PkiError::KeyMismatch { .. }));
    chmod(&ask.ca_dir.join("ca.key"), 0o640);
    assert!(matches!(refuse(&ask), PkiError::File(_)));
    fs::copy(world.dir("west/tls.crt"), ask.ca_dir.join("ca.crt")).unwrap();
    assert!(matches!(refuse(&ask), PkiError::NotAuthority(_)));
}

#[test]
fn a_certificate_does_not_outlive_its_authority() {
    let world = World::new();
    world.authority("west", DOMAIN);
    let mut ask = world.ask("west", "west", gateway("gw-1"), &[]);
    ask.validity = Validity::from_now(SystemTime::now(), 50 * YEAR);
    let made = pki::issue(&ask).unwrap();
    assert!(made.not_after <= SystemTime::now() + pki::AUTHORITY_VALID);
    assert_eq!(seconds(world.credentials("west").not_after()), seconds(made.not_after));
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let world = World::linked();
    let key = world.dir("west/tls.key");
    for bits in [0o640, 0o604, 0o660, 0o644] {
        chmod(&key, bits);
        let told = Credentials::load(&world.dir("west")).unwrap_err().to_string();
        let path = key.display();
        assert_eq!(told, format!("others may read `{path}` (mode 0{bits:o}): `chmod 600 {path}`"));
    }
    chmod(&key, 0o400);
    world.credentials("west");
}

#[test]
fn what_does_not_belong_together_is_not_loaded() {
    let world = World::linked();
    fs::copy(world.dir("east/tls.key"), world.dir("west/tls.key")).unwrap();
    assert!(matches!(Credentials::load(&world.dir("west")), Err(IdentityError::Key { .. })));
    fs::remove_file(world.dir("west/tls.key")).unwrap();
    let missing = Credentials::load(&world.dir("west")).unwrap_err();
    let told = missing.to_string();
    assert!(told.starts_with("cannot read `") && told.ends_with("west/tls.key`"), "{told}");
    assert!(missing.source().is_some());
}

#[test]
fn our_own_validity_is_checked_and_told() {
    let world = World::linked();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    let mut ask = world.ask("west", "west", gateway("gw-w"), &[]);
    ask.validity = Validity { not_before: start, not_after: start + Duration::from_secs(60) };
    pki::issue(&ask).unwrap();
    let dir = world.dir("west");
    let told = |seconds: i64| {
        let now = if seconds < 0 {
            start - Duration::from_secs(1)
        } else {
            start + Duration::from_secs(seconds as u64)
        };
        Credentials::load_at(&dir, now).map_err(|e| e.to_string())
    };
    let file = dir.join("tls.crt").display().to_string();
    let expired = format!(
        "{file}: the certificate expired on 2020-01-01 00:01:00 UTC: issue a new one (`ringway pki issue`)"
    );
    assert_eq!(told(61).unwrap_err(), expired);
    let early = format!(
        "{file}: the certificate is valid only from 2020-01-01 00:00:00 UTC: check this machine's clock"
    );
    assert_eq!(told(-1).unwrap_err(), early);
    assert!(told(0).is_ok() && told(60).is_ok());
}

#[test]
fn credentials_print_no_secret() {
    let world = World::linked();
    let credentials = world.credentials("west");
    let printed = format!("{credentials:?}");
    assert!(printed.starts_with("Credentials { identity: Identity {"), "{printed}");
    assert!(printed.ends_with(" UTC\", .. }") && printed.len() < 250, "{printed}");
}

#[test]
fn a_bad_bundle_makes_one_peer_inert_and_names_the_file() {
    let world = World::linked();
    let bundles = world.dir("west/bundles");
    world.authority("blue", "blue.example");
    fs::copy(world.dir("ca-blue/ca.crt"), bundles.join("blue.pem")).unwrap();
    fs::copy(world.dir("east/tls.crt"), bundles.join("leaf.pem")).unwrap();
    fs::write(bundles.join("junk.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let peers = ["absent", "blue", "east", "junk", "leaf", "../east"].map(|cluster| (cluster, DOMAIN));
    let (trust, problems) = Trust::load(&world.dir("west"), peers);
    assert_eq!(trust.clusters().collect::<Vec<_>>(), ["east"]);

    let at = |name: &str| bundles.join(name).display().to_string();
    let told: Vec<_> =
        problems.iter().map(|(cluster, error)| (cluster.as_str(), error.to_string())).collect();
    let expected = [
        (
            "absent",
            format!(
                "{}: no trust bundle for cluster `absent`: put its ca.crt there (`ringway pki issue --peer absent=FILE`)",
                at("absent.pem")
            ),
        ),
        (
            "blue",
            format!(
                "{}: certificate 1 of the bundle is the authority of spiffe://blue.example, the link says \
                 `acme.example`: put the right bundle here or set the link's trustDomain",
                at("blue.pem")
            ),
        ),
        ("junk", format!("{}: certificate 1 of the bundle cannot be used", at("junk.pem"))),
        (
            "leaf",
            format!(
                "{}: certificate 1 of the bundle is no authority (by its basic constraints or key usage); put the \
                 peer's ca.crt here, not a tls.crt",
                at("leaf.pem")
            ),
        ),
        (
            "../east",
            "\"../east\" is no cluster name (1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends)"
                .into(),
        ),
    ];
    assert_eq!(told, expected);
}

#[test]
fn an_authority_in_rotation_is_believed_beside_the_old_one() {
    let world = World::linked();
    world.authority("next", DOMAIN);
    let both = fs::read_to_string(world.dir("ca-east/ca.crt")).unwrap()
        + &fs::read_to_string(world.dir("ca-next/ca.crt")).unwrap();
    fs::write(world.dir("west/bundles/east.pem"), both).unwrap();
    handshake(world.client(), world.server()).up();
    pki::issue(&world.ask("next", "east", gateway("gw-e"), &[("west", "west")])).unwrap();
    handshake(world.client(), world.server()).up();
}

#[test]
fn what_was_believed_may_be_kept_for_the_same_trust_domain() {
    let world = World::linked();
    let before = Trust::load(&world.dir("west"), [("east", DOMAIN)]).0;
    fs::write(world.dir("west/bundles/east.pem"), "half a bun").unwrap();
    let (mut now, problems) = Trust::load(&world.dir("west"), [("east", DOMAIN)]);
    assert_eq!((now.clusters().count(), problems.len()), (0, 1));
    assert!(!now.keep(&before, "east", "other.example"));
    assert!(!now.keep(&before, "north", DOMAIN));
    assert_eq!(now.changed_since(&before).collect::<Vec<_>>(), ["east"]);
    assert!(now.keep(&before, "east", DOMAIN));
    assert_eq!(now.changed_since(&before).count(), 0);
}
