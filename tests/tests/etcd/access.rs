//! Who may speak with an etcd, where its keys stand, and how much it takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use e2e::etcd::{ETCD_SOON, Etcd};
use etcd_client::{Client, Permission, PermissionType};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use registry::model::{EtcdOptions, EtcdUser};
use registry::store::{
    Event, Op, Store, StoreError, TRANSACTION_OPS_MAX, VALUE_BYTES_MAX, Watch, conformance,
};

use super::{commit, ended, keys, open, options, put, set, store, until_answered, whole};

/// Values that no single answer holds.
const LARGE: usize = 18;

pub(crate) async fn large_ranges(binary: &Path) {
    let etcd = Etcd::start(binary, 1);
    let store = store(&etcd);
    let many: Vec<_> = (0..2_500).map(|n| format!("/many/{n:04}")).collect();
    for some in many.chunks(TRANSACTION_OPS_MAX) {
        commit(&store, some.iter().map(|key| set(key, "")).collect()).await.unwrap();
    }
    assert_eq!(keys(&store, "/many/").await, many);
    for n in 0..LARGE {
        let (key, value) = (format!("/large/{n:02}"), vec![7; VALUE_BYTES_MAX].into());
        let op = Op::Put { key, value, lease: None };
        until_answered("a large write", async || commit(&store, vec![op.clone()]).await).await;
    }
    let range = until_answered("a large range", async || store.range("/large/").await).await;
    assert_eq!(range.entries.len(), LARGE);
    assert!(range.entries.iter().all(|entry| entry.value.len() == VALUE_BYTES_MAX));
}

pub(crate) async fn prefixes(binary: &Path) {
    let etcd = Etcd::start(binary, 1);
    let at = |prefix: &str| open(EtcdOptions { prefix: prefix.into(), ..options(&etcd) });
    // One prefix is the beginning of another: what comes after it is a slash.
    let (west, west_2, whole) = (at("/west"), at("/west-2"), store(&etcd));
    let first = put(&west, "/a", "west").await;
    let mut watch = west.watch("/", first).await.unwrap();
    put(&west_2, "/a", "west-2").await;
    let last = commit(&west, vec![Op::Delete("/a".into())]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, first);
    let changes = watch.next().await.unwrap();
    assert_eq!((changes.revision, changes.events), (last, vec![Event::Deleted("/a".into())]));
    assert_eq!(west.get("/a").await, Ok(None));
    assert_eq!(keys(&west_2, "/").await, ["/a"]);
    assert_eq!(keys(&whole, "/").await, ["/west-2/a"]);
    conformance::all(&west).await;
}

pub(crate) async fn narrow(binary: &Path) {
    let narrow = ["--max-txn-ops=8", "--max-request-bytes=65536"].map(String::from);
    let etcd = Etcd::start_with(binary, 1, |_| narrow.into());
    let store = store(&etcd);
    let many = (0..9).map(|n| set(&format!("/{n}"), "")).collect();
    let large = vec![set("/large", &"x".repeat(100_000))];
    for (ops, remedy) in [(many, "--max-txn-ops"), (large, "--max-request-bytes")] {
        let error = commit(&store, ops).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
    assert_eq!(keys(&store, "/").await, [""; 0], "what was refused changed nothing");
}

/// Writes a file that nobody else reads.
fn write(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.into()
}

/// An authority, and a folder for each it signs a certificate for.
pub(crate) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pair = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&pair).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, pair) }
    }

    /// A folder with `ca.crt`, `tls.crt` and `tls.key`.
    pub(crate) fn sign(&self, folder: PathBuf, name: &str) -> PathBuf {
        fs::create_dir_all(&folder).unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pair = KeyPair::generate().unwrap();
        let signed = params.signed_by(&pair, &self.issuer).unwrap();
        write(&folder.join("ca.crt"), &self.certificate);
        write(&folder.join("tls.crt"), &signed.pem());
        write(&folder.join("tls.key"), &pair.serialize_pem());
        folder
    }
}

/// What makes an etcd, whose folder is `dir`, speak TLS with those that `authority` knows.
pub(crate) fn server(authority: &Authority, dir: &Path) -> Vec<String> {
    let server = authority.sign(dir.join("server"), "127.0.0.1");
    let file = |flag: &str, name: &str| format!("--{flag}={}", server.join(name).display());
    let (certificate, key) = (file("cert-file", "tls.crt"), file("key-file", "tls.key"));
    vec![certificate, key, file("trusted-ca-file", "ca.crt"), "--client-cert-auth".into()]
}

pub(crate) async fn tls(binary: &Path) {
    let authority = Authority::new();
    let etcd = Etcd::start_with(binary, 1, |dir| server(&authority, dir));
    let with = |tls: PathBuf| open(EtcdOptions { tls: Some(tls), ..options(&etcd) });
    let client = authority.sign(etcd.dir().join("client"), "ringway");
    let store = with(client.clone());
    conformance::reads_see_writes(&store).await;
    conformance::watches_miss_nothing(&store).await;

    // Who shows no certificate is nobody, and who trusts another authority speaks with nobody.
    fs::remove_file(client.join("tls.crt")).unwrap();
    fs::remove_file(client.join("tls.key")).unwrap();
    let nobody = with(client);
    let stranger = with(Authority::new().sign(etcd.dir().join("stranger"), "ringway"));
    for store in [nobody, stranger] {
        let asked = tokio::time::timeout(ETCD_SOON, store.get("/a")).await.expect("nobody waits for ever");
        let error = asked.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
}

pub(crate) async fn users(binary: &Path) {
    let mut etcd = Etcd::start(binary, 1);
    let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("ringway", "sesame", None).await.unwrap();
    client.role_add("west").await.unwrap();
    let west = Permission::new(PermissionType::Readwrite, "/west/").with_prefix();
    client.role_grant_permission("west", west).await.unwrap();
    client.user_grant_role("ringway", "west").await.unwrap();
    client.auth_enable().await.unwrap();

    let password_file = write(&etcd.dir().join("password"), "sesame\n");
    let wrong_file = write(&etcd.dir().join("wrong"), "open\n");
    let user = |file: &PathBuf| Some(EtcdUser { name: "ringway".into(), password_file: file.clone() });
    let at = |prefix: &str, user| open(EtcdOptions { prefix: prefix.into(), user, ..options(&etcd) });
    let store = at("/west", user(&password_file));
    conformance::reads_see_writes(&store).await;
    conformance::watches_miss_nothing(&store).await;
    let refused = [
        (at("/west", user(&wrong_file)), "passwordFile"),
        (at("/west", None), "passwordFile"),
        (at("/east", user(&password_file)), "role"),
    ];
    for (store, remedy) in refused {
        let error = commit(&store, vec![set("/a", "1")]).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{}", whole(&error));
        assert!(error.to_string().contains(remedy), "{}", whole(&error));
        assert!(!whole(&error).contains("sesame"), "{}", whole(&error));
        let error = store.watch("/", 1).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{}", whole(&error));
    }

    // An etcd forgets who has logged in when it is started again.
    let answered = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", answered + 1).await.unwrap();
    etcd.kill(0);
    ended(&mut watch).await;
    etcd.restart(0);
    until_answered("a write", async || commit(&store, vec![set("/b", "1")]).await).await;
    let mut watch = until_answered("a watch", async || store.watch("/", answered + 1).await).await;
    assert!(watch.next().await.is_ok());
}
