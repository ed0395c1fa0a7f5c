//! Clusters with their own authorities, and handshakes between them in memory.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::DerefMut;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::pki::{self, Issue, Validity};
use identity::{Credentials, Role, Trust};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};
use tempfile::TempDir;

pub(crate) const DOMAIN: &str = "acme.example";
pub(crate) const ALPN: &[&[u8]] = &[b"ringway/1"];
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) fn gateway(id: &str) -> Role {
    Role::Gateway { id: id.into() }
}

pub(crate) fn workload(namespace: &str, account: &str) -> Role {
    Role::Workload { namespace: namespace.into(), service_account: account.into() }
}

/// A directory with authorities (`ca-NAME`) and processes (`NAME`).
pub(crate) struct World(TempDir);

impl World {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes the authority `ca-NAME`.
    pub(crate) fn authority(&self, name: &str, trust_domain: &str) -> PathBuf {
        let dir = self.dir(&format!("ca-{name}"));
        pki::init(trust_domain, &dir, SystemTime::now()).unwrap();
        dir
    }

    /// What a process `role` of `cluster` is issued by `ca-<ca>` into `<cluster>`; it believes `peers`, each by
    /// the authority named.
    pub(crate) fn ask(&self, ca: &str, cluster: &str, role: Role, peers: &[(&str, &str)]) -> Issue {
        let bundle = |ca: &str| Some(self.dir(&format!("ca-{ca}")).join("ca.crt"));
        Issue {
            ca_dir: self.dir(&format!("ca-{ca}")),
            cluster: cluster.into(),
            role,
            peers: peers.iter().map(|(name, ca)| (name.to_string(), bundle(ca))).collect(),
            out_dir: self.dir(cluster),
            trust_domain: None,
            validity: Validity::from_now(SystemTime::now(), pki::DEFAULT_VALID),
        }
    }

    /// Two linked clusters, each with an authority of its own.
    pub(crate) fn linked() -> Self {
        let world = Self::new();
        world.authority("west", DOMAIN);
        world.authority("east", DOMAIN);
        pki::issue(&world.ask("west", "west", gateway("gw-w"), &[("east", "east")])).unwrap();
        pki::issue(&world.ask("east", "east", gateway("gw-e"), &[("west", "west")])).unwrap();
        world
    }

    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        Credentials::load(&self.dir(name)).unwrap()
    }

    /// What the process `name` believes: its bundles of `clusters`.
    pub(crate) fn trust(&self, name: &str, clusters: &[&str]) -> Arc<Trust> {
        trust(&self.dir(name), &clusters.iter().map(|c| (*c, DOMAIN)).collect::<Vec<_>>())
    }

    /// `east`, accepting gateways of `west` and processes of its own cluster.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        let trust = self.trust("east", &["east", "west"]);
        identity::server_config(&self.credentials("east"), trust, ALPN).unwrap()
    }

    /// `west`, dialling `east`.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.dialling(&self.credentials("west"))
    }

    /// Somebody with `credentials`, dialling `east` with the trust of `west`.
    pub(crate) fn dialling(&self, credentials: &Credentials) -> Arc<ClientConfig> {
        identity::client_config(credentials, self.trust("west", &["east"]), "east", ALPN).unwrap()
    }

    /// Somebody with `credentials`, dialling `east` from within.
    pub(crate) fn dialling_own(&self, credentials: &Credentials) -> Arc<ClientConfig> {
        identity::client_config(credentials, self.trust("east", &["east"]), "east", ALPN).unwrap()
    }
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn trust(dir: &Path, peers: &[(&str, &str)]) -> Arc<Trust> {
    let (trust, problems) = Trust::load(dir, peers.iter().copied());
    assert!(problems.is_empty(), "{problems:?}");
    Arc::new(trust)
}

/// What each side of a handshake says in the end.
pub(crate) struct Outcome {
    pub(crate) client: Result<ClientConnection, rustls::Error>,
    pub(crate) server: Result<ServerConnection, rustls::Error>,
}

impl Outcome {
    pub(crate) fn client_refuses(self) -> String {
        identity::reason(&self.client.expect_err("the client accepted the server"))
    }

    pub(crate) fn server_refuses(self) -> String {
        identity::reason(&self.server.expect_err("the server accepted the client"))
    }

    pub(crate) fn up(self) -> (ClientConnection, ServerConnection) {
        (self.client.unwrap(), self.server.unwrap())
    }
}

/// A whole handshake without a network. The dialled name is a dummy: it must not matter.
pub(crate) fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Outcome {
    let mut client = ClientConnection::new(client, "nobody.invalid".try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_end, mut server_end) = (Ok(()), Ok(()));
    // A side that failed still has an alert to deliver; four rounds are more than TLS 1.3 has flights.
    for _ in 0..4 {
        deliver(&mut client, &mut server, &mut server_end);
        deliver(&mut server, &mut client, &mut client_end);
    }
    if client_end.is_ok() && server_end.is_ok() {
        assert!(!client.is_handshaking() && !server.is_handshaking(), "the handshake stands still");
    }
    Outcome { client: client_end.map(|()| client), server: server_end.map(|()| server) }
}

/// Carries what `from` has to say to `to`, unless `to` has failed already.
fn deliver<A, B>(
    from: &mut impl DerefMut<Target = ConnectionCommon<A>>,
    to: &mut impl DerefMut<Target = ConnectionCommon<B>>,
    end: &mut Result<(), rustls::Error>,
) where
    A: SideData,
    B: SideData,
{
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = &wire[..];
    while end.is_ok() && !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        *end = to.process_new_packets().map(|_| ());
    }
}
