//! Who may speak: wrong, expired and foreign certificates are refused, with a line that says so.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use e2e::backend::Backend;
use e2e::manifest::{link, service};
use e2e::mesh::{Mesh, Site, TRUST_DOMAIN};
use e2e::pair::CART;
use e2e::peer::{Peer, hello};
use e2e::process::cli;
use e2e::wait::SOON;
use identity::Role;
use identity::pki::{Issue, Validity, issue};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn gateway_role() -> Role {
    Role::Gateway { id: "gw-1".into() }
}

/// Issues an identity with the validity given, from the authority `ca` in the mesh's folder.
fn issue_at(mesh: &Mesh, cluster: &str, role: Role, out: &Path, from: SystemTime, to: SystemTime) {
    issue(&Issue {
        ca_dir: mesh.dir().join("ca"),
        cluster: cluster.into(),
        role,
        peers: vec![("east".into(), None), ("west".into(), None)],
        out_dir: out.into(),
        trust_domain: None,
        validity: Validity { not_before: from, not_after: to },
    })
    .unwrap();
}

/// `ringway gateway` at `site`, which must refuse to start: its exit code 1 and what it says.
fn refused(site: &Site) -> String {
    site.write(&[]);
    let said = cli(&site.dir, &["gateway", "-f", site.file().to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    said.err
}

#[test]
fn an_expired_certificate_of_our_own_stops_the_start_and_is_named() {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["west"]);
    let now = SystemTime::now();
    issue_at(&mesh, "east", gateway_role(), &site.dir.join("pki"), now - 2 * DAY, now - DAY / 2);
    let said = refused(&site);
    assert!(said.contains("tls.crt") && said.contains("expired"), "{said}");
    issue_at(&mesh, "east", gateway_role(), &site.dir.join("pki"), now + DAY, now + 2 * DAY);
    let said = refused(&site);
    assert!(said.contains("tls.crt") && said.contains("valid only from"), "{said}");
}

#[test]
fn a_missing_or_open_key_stops_the_start_and_the_remedy_is_named() {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["west"]);
    let key = site.dir.join("pki/tls.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = refused(&site);
    assert!(said.contains("tls.key") && said.contains("chmod 600"), "{said}");
    std::fs::remove_file(&key).unwrap();
    let said = refused(&site);
    assert!(said.contains("tls.key"), "{said}");
}

#[test]
fn a_certificate_of_another_cluster_than_the_manifest_says_stops_the_start() {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["west"]);
    mesh.issue("ca", "north", &["west"], &site.dir.join("pki"));
    let said = refused(&site);
    assert!(said.contains("north") && said.contains("east"), "{said}");
}

#[test]
fn a_peer_of_a_foreign_authority_is_refused_and_named() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let out = mesh.dir().join("foreign");
    assert_eq!(
        mesh.cli(&["pki", "init", "--trust-domain", TRUST_DOMAIN, "--out", out.to_str().unwrap()]).code,
        Some(0)
    );
    // West as the foreign authority has it; it believes east, as before.
    let ca = mesh.dir().join("ca/ca.crt");
    let east_bundle = format!("east={}", ca.display());
    mesh.issue("foreign", "west", &[&east_bundle], &west.dir.join("pki"));
    let east = east.start(&[link("west", &[]), service("cart", &[("a", backend.address())])]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    let line = east.process.wait_log(&["west", "authority"]);
    assert!(line.contains("WARN") || line.contains("warn"), "{line}");
    assert_eq!(east.peer_state("west"), None);
    assert_eq!(west.peer_state("east"), None);
    assert_eq!(west.get(CART, "/").status, 404);
    assert_eq!(backend.seen().len(), 0);
    // West hears of it too: the link says why it does not come up.
    west.wait_status("the link shows the refusal", SOON, |s| {
        s["links"][0]["last_error"].as_str().map(String::from)
    });
}

#[test]
fn an_expired_peer_is_refused_and_its_date_named() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west"]).start(&[link("west", &[])]);
    let (dir, now) = (mesh.dir().join("expired"), SystemTime::now());
    issue_at(&mesh, "west", gateway_role(), &dir, now - 2 * DAY, now - DAY / 2);
    let refusal = Peer::dial(&dir, ("east", east.site.tunnel), &hello("west", [1; 16])).unwrap_err();
    assert!(refusal.contains("expired") || refusal.contains("Expired"), "{refusal}");
    east.process.wait_log(&["west", "expired"]);
    assert_eq!(east.peer_state("west"), None);
}

#[test]
fn an_address_where_another_cluster_answers_is_refused_and_both_are_named() {
    let mesh = Mesh::new();
    let north = mesh.site("north", &["west"]).start(&[link("west", &[])]);
    let west = mesh.site("west", &["east", "north"]).start(&[link("east", &[north.site.tunnel])]);
    let line = west.process.wait_log(&["north", "east"]);
    assert!(!line.contains("panicked"), "{line}");
    assert_eq!(west.peer_state("east"), None);
    assert_eq!(north.peer_state("west"), None);
}

#[test]
fn a_cluster_without_a_link_is_refused() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west", "north"]).start(&[link("west", &[])]);
    let north = mesh.site("north", &["east"]);
    let refusal = Peer::dial(&north.dir.join("pki"), ("east", east.site.tunnel), &hello("north", [1; 16]));
    assert!(refusal.is_err());
    east.process.wait_log(&["north"]);
    assert_eq!(east.peer_state("north"), None);
}

#[test]
fn a_workload_cannot_pass_for_a_gateway() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west"]).start(&[link("west", &[])]);
    let (dir, now) = (mesh.dir().join("workload"), SystemTime::now());
    let role = Role::Workload { namespace: "shop".into(), service_account: "cart".into() };
    issue_at(&mesh, "west", role, &dir, now - DAY, now + DAY);
    assert!(Peer::dial(&dir, ("east", east.site.tunnel), &hello("west", [1; 16])).is_err());
    assert_eq!(east.peer_state("west"), None);
}

#[test]
fn a_hello_that_the_certificate_does_not_prove_is_refused() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west", "north"]).start(&[link("west", &[]), link("north", &[])]);
    let west = mesh.site("west", &["east"]);
    let refusal = Peer::dial(&west.dir.join("pki"), ("east", east.site.tunnel), &hello("north", [1; 16]));
    assert!(refusal.is_err());
    east.process.wait_log(&["north", "west"]);
    assert_eq!((east.peer_state("west"), east.peer_state("north")), (None, None));
}

#[test]
fn a_missing_bundle_disables_its_link_only_and_is_named() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let east = mesh
        .site("east", &["west"])
        .start(&[link("west", &[]), service("cart", &[("a", backend.address())])]);
    let west = mesh.site("west", &["east"]);
    let west = west.start(&[link("east", &[east.site.tunnel]), link("north", &[([127, 0, 0, 1], 9).into()])]);
    west.wait_service("shop/cart", &["east"]);
    assert_eq!(west.get(CART, "/").status, 200);
    e2e::wait_until("the other link names its bundle", SOON, || {
        let complaints = west.complaints("Link north").join("\n");
        (complaints.contains("ResolvedRefs") && complaints.contains("north.pem")).then_some(())
    });
}

#[test]
fn a_second_cluster_of_the_same_name_is_refused_while_the_first_is_up() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west"]).start(&[link("west", &[])]);
    let identity = mesh.site("west", &["east"]).dir.join("pki");
    let target = ("east", east.site.tunnel);
    let first = Peer::dial(&identity, target, &hello("west", [1; 16])).unwrap();
    east.wait_peer("west", "up");
    let refusal = match Peer::dial(&identity, target, &hello("west", [2; 16])) {
        Err(refusal) => refusal,
        Ok(second) => second.closed(),
    };
    east.process.wait_log(&["west", "DuplicateCluster"]);
    assert!(!refusal.is_empty());
    assert_eq!(east.peer_state("west").as_deref(), Some("up"));
    assert_eq!(first.connection.close_reason(), None);
}
