//! Clusters made of real gateways, from a certificate authority to manifests, all through the real command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{FetchError, Request, Response, fetch};
use crate::etcd::Etcd;
use crate::manifest::object;
use crate::port::free_port;
use crate::process::{Process, Said, cli, ringway};
use crate::wait::{SOON, wait_until};

/// How many workers every gateway gets; unset, their own default counts.
const WORKERS_VARIABLE: &str = "RINGWAY_TEST_WORKERS";

/// What `RINGWAY_LOG` is where every request is to be logged.
pub const ACCESS_LOG: &str = "info,ringway::access=debug";

/// The trust domain of every test.
pub const TRUST_DOMAIN: &str = "acme.example";

/// A folder with a certificate authority; everything is gone when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    dir: TempDir,
}

/// The QUIC tunnels between two gateways of the harness.
///
/// # Panics
/// When the variable of the workers is no number.
pub fn lanes() -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = std::env::var(WORKERS_VARIABLE).ok().map(|n| n.parse().expect("a number of workers"));
    workers.unwrap_or_else(cores).min(2)
}

/// A place for one gateway: its ports, identity and state stay over restarts.
#[derive(Clone, Debug)]
pub struct Site {
    /// The cluster; its region is `us-CLUSTER`.
    pub cluster: String,
    /// The gateway's id.
    pub gateway: String,
    /// Where its manifest, identity and state are.
    pub dir: PathBuf,
    /// UDP port of its tunnels.
    pub tunnel: SocketAddr,
    /// Where it takes plain HTTP.
    pub http: SocketAddr,
    /// Where it takes commands.
    pub admin: SocketAddr,
    /// Whether its log names every request.
    pub access_log: bool,
    /// The etcd that keeps its registry, and then it tells its address to peers; empty: its state directory.
    pub etcd: Vec<String>,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Where it runs.
    pub site: Site,
    /// Its process.
    pub process: Process,
}

impl Mesh {
    /// # Panics
    /// When `ringway pki init` fails.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ringway-e2e-").tempdir().expect("a temporary folder");
        let mesh = Self { dir };
        worked(&mesh.cli(&["pki", "init", "--trust-domain", TRUST_DOMAIN, "--out", "ca"]));
        mesh
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `ringway ARGS` in the folder.
    pub fn cli(&self, args: &[&str]) -> Said {
        cli(self.dir(), args)
    }

    /// The same against a running gateway.
    pub fn cli_at(&self, gateway: &Gateway, args: &[&str]) -> Said {
        self.cli(&[args, &["--admin", &gateway.site.admin.to_string()]].concat())
    }

    /// A place for gateway `gw-1` of `cluster`, with an identity and the bundles of `peers`.
    ///
    /// # Panics
    /// When `ringway pki issue` fails.
    pub fn site(&self, cluster: &str, peers: &[&str]) -> Site {
        self.site_in(self.dir().join(cluster), cluster, "gw-1", peers)
    }

    /// A place for another gateway of `cluster`, whose gateways share `etcd`.
    ///
    /// # Panics
    /// When `ringway pki issue` fails.
    pub fn site_of(&self, cluster: &str, gateway: &str, peers: &[&str], etcd: &Etcd) -> Site {
        let dir = self.dir().join(format!("{cluster}-{gateway}"));
        Site { etcd: etcd.endpoints(), ..self.site_in(dir, cluster, gateway, peers) }
    }

    fn site_in(&self, dir: PathBuf, cluster: &str, gateway: &str, peers: &[&str]) -> Site {
        std::fs::create_dir_all(&dir).expect("a folder in our own");
        self.issue_to("ca", cluster, gateway, peers, &dir.join("pki"));
        let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let (tunnel, http, admin) = (port(), port(), port());
        let (cluster, gateway) = (cluster.into(), gateway.into());
        Site { cluster, gateway, dir, tunnel, http, admin, access_log: false, etcd: Vec::new() }
    }

    /// Issues the identity of `gw-1` of `cluster` by the authority in the folder `ca`.
    ///
    /// # Panics
    /// When `ringway pki issue` fails.
    pub fn issue(&self, ca: &str, cluster: &str, peers: &[&str], out: &Path) {
        self.issue_to(ca, cluster, "gw-1", peers, out);
    }

    /// An identity of the gateway `gateway` of `cluster`, which knows the bundles of `peers`, and where it is.
    ///
    /// # Panics
    /// When `ringway pki issue` fails.
    pub fn identity(&self, cluster: &str, gateway: &str, peers: &[&str]) -> PathBuf {
        let dir = self.dir().join(format!("{cluster}-{gateway}-pki"));
        self.issue_to("ca", cluster, gateway, peers, &dir);
        dir
    }

    fn issue_to(&self, ca: &str, cluster: &str, gateway: &str, peers: &[&str], out: &Path) {
        let out = out.to_string_lossy();
        let mut args =
            vec!["pki", "issue", "--ca", ca, "--cluster", cluster, "--gateway", gateway, "--out", &out];
        args.extend(peers.iter().flat_map(|p| ["--peer", p]));
        worked(&self.cli(&args));
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// Its `kind: Gateway`.
    pub fn manifest(&self) -> String {
        let Self { cluster, gateway, tunnel, http, admin, etcd, .. } = self;
        let shared = match etcd.is_empty() {
            true => String::new(),
            false => format!(
                "\n  registry: {{ etcd: {{ endpoints: [{}] }} }}\n  advertise: [\"{tunnel}\"]",
                etcd.join(", ")
            ),
        };
        object(
            "Gateway",
            gateway,
            &format!(
                "cluster: {cluster}\n  region: us-{cluster}\n  trustDomain: {TRUST_DOMAIN}\n  \
                 identity: {{ directory: pki }}\n  state: {{ directory: state }}\n  \
                 listen: {{ tunnel: \"{tunnel}\", http: \"{http}\", admin: \"{admin}\" }}{shared}"
            ),
        )
    }

    /// The file of its manifests.
    pub fn file(&self) -> PathBuf {
        self.dir.join("gateway.yaml")
    }

    /// Writes its Gateway and `objects` into its file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, objects: &[String]) {
        let mut documents = vec![self.manifest()];
        documents.extend_from_slice(objects);
        // At once: a gateway may be looking, and half of a file is another manifest.
        let written = self.file().with_extension("written");
        std::fs::write(&written, documents.join("---\n")).expect("a file in our own folder");
        std::fs::rename(written, self.file()).expect("a file in our own folder");
    }

    /// Starts its gateway with `objects` and waits until it is ready.
    pub fn start(&self, objects: &[String]) -> Gateway {
        self.write(objects);
        let gateway = self.spawn();
        gateway.wait_ready();
        gateway
    }

    /// Starts its gateway with what its file holds, and does not wait.
    pub fn spawn(&self) -> Gateway {
        self.spawn_as(&[])
    }

    fn spawn_as(&self, how: &[&str]) -> Gateway {
        let workers = std::env::var(WORKERS_VARIABLE).ok();
        self.spawn_with(workers.iter().flat_map(|n| ["--workers", n]).chain(how.iter().copied()))
    }

    /// Starts its gateway with what its file holds and further arguments, and does not wait.
    pub fn spawn_with<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Gateway {
        let mut command = Command::new(ringway());
        command.args(["gateway", "-f"]).arg(self.file()).current_dir(&self.dir);
        command.args(args);
        if self.access_log {
            command.env("RINGWAY_LOG", ACCESS_LOG);
        }
        let name = format!("{}/{}", self.cluster, self.gateway);
        Gateway { site: self.clone(), process: Process::start(&name, command, &self.dir.join("log")) }
    }
}

impl Gateway {
    /// Starts it again on its ports with what its file holds, and waits until it is ready.
    pub fn restart(&mut self) {
        self.process.kill();
        *self = self.site.spawn();
        self.wait_ready();
    }

    /// Starts a process in its place that takes over, and waits until it has; gives the old one, which drains.
    pub fn take_over(&mut self) -> Process {
        let taken = || self.process.log().matches("taken_over=true").count();
        let before = taken();
        let heir = self.site.spawn_as(&["--take-over"]);
        wait_until(&format!("{} is taken over", self.site.cluster), SOON, || {
            heir.process.assert_running();
            (taken() > before).then_some(())
        });
        std::mem::replace(&mut self.process, heir.process)
    }

    /// Asks it over HTTP.
    ///
    /// # Errors
    /// When there is no answer or it is cut.
    pub fn ask(&self, request: &Request) -> Result<Response, FetchError> {
        fetch(self.site.http, request)
    }

    /// A GET of `target` from `host` that gives an answer.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, host: &str, target: &str) -> Response {
        let request = Request::get(host, target);
        self.ask(&request).unwrap_or_else(|e| panic!("GET {host}{target} at {}: {e:?}", self.site.cluster))
    }

    /// `GET path` on the admin port, if there is an answer.
    pub fn admin(&self, path: &str) -> Option<Response> {
        fetch(self.site.admin, &Request::get("localhost", path)).ok()
    }

    /// `/v1/status`, if it answers.
    pub fn status(&self) -> Option<Value> {
        let answer = self.admin("/v1/status")?;
        assert_eq!(answer.body.len() as u64, answer.digest.len, "the status is kept whole");
        serde_json::from_slice(&answer.body).ok()
    }

    /// Waits for `/ready`.
    pub fn wait_ready(&self) {
        wait_until(&format!("{} is ready", self.site.cluster), SOON, || {
            self.process.assert_running();
            (self.admin("/ready")?.status == 200).then_some(())
        });
    }

    /// Waits until its status is so.
    pub fn wait_status<T>(&self, what: &str, limit: Duration, look: impl Fn(&Value) -> Option<T>) -> T {
        wait_until(&format!("{}: {what}", self.site.cluster), limit, || look(&self.status()?))
    }

    /// The state of its peer `cluster`, if it has ever been up.
    pub fn peer_state(&self, cluster: &str) -> Option<String> {
        state_of(&self.status()?, cluster)
    }

    /// What it thinks of each peer gateway and since when, and the tunnels that it gave up for their silence; none while
    /// it doubts a peer.
    fn mind(&self) -> Option<(Vec<Value>, usize)> {
        let status = self.status()?;
        let peers = status["peers"].as_array()?;
        let calm = peers.iter().all(|peer| peer["state"] != "suspect");
        let given_up = self.process.log().matches("tunnel given up").count();
        calm.then(|| (peers.iter().map(|peer| peer["since_unix_ms"].clone()).collect(), given_up))
    }

    /// Waits until `cluster` is in this state.
    pub fn wait_peer(&self, cluster: &str, state: &str) {
        self.wait_status(&format!("{cluster} is {state}"), SOON, |s| {
            (state_of(s, cluster)? == state).then_some(())
        });
    }

    /// Waits until it has so many tunnels to `cluster` on QUIC and on TCP.
    pub fn wait_tunnels(&self, cluster: &str, quic: usize, tcp: usize) {
        self.wait_status(&format!("{quic} tunnels to {cluster} on QUIC, {tcp} on TCP"), SOON, |status| {
            let tunnels = find(&status["peers"], "cluster", cluster)?["tunnels"].as_array()?;
            let on = |carrier| tunnels.iter().filter(|t| t["carrier"] == carrier).count();
            ((on("quic"), on("tcp")) == (quic, tcp)).then_some(())
        });
    }

    /// Waits until it places `service` (`namespace/name`) on every one of `clusters`, all up.
    pub fn wait_service(&self, service: &str, clusters: &[&str]) {
        self.wait_status(&format!("{service} is served by {clusters:?}"), SOON, |status| {
            let service = find(&status["services"], "name", service)?;
            let serves = |c: &&str| {
                let member = find(&service["members"], "cluster", c);
                member.is_some_and(|m| m["serves"] == true && m["state"] == "up")
            };
            clusters.iter().all(serves).then_some(())
        });
    }

    /// The conditions of `object` that do not hold, as `kind reason: message`.
    pub fn complaints(&self, object: &str) -> Vec<String> {
        let status = self.status().unwrap_or_default();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let of = |c: &&Value| c["object"] == object && c["status"] == false;
        let text = |c: &Value, k: &str| c[k].as_str().unwrap_or_default().to_owned();
        conditions
            .iter()
            .filter(of)
            .map(|c| format!("{} {}: {}", text(c, "kind"), text(c, "reason"), text(c, "message")))
            .collect()
    }
}

/// Does `attempt`, and does it again if meanwhile one of `gateways` changed its mind about a peer: on a machine that
/// has much else to do a live peer may wait for a core for longer than the 80 ms after which it is suspect, or the
/// 500 ms after which a carrier is given up; what is its own then rightly goes elsewhere, and what streams is cut.
///
/// # Panics
/// When they do not keep their minds for as long as one attempt.
pub fn undoubted<'a, T>(
    gateways: impl IntoIterator<Item = &'a Gateway> + Clone,
    mut attempt: impl FnMut() -> T,
) -> T {
    let minds = || -> Option<Vec<_>> { gateways.clone().into_iter().map(Gateway::mind).collect() };
    wait_until("gateways that do not doubt their peers meanwhile", SOON, || {
        let before = minds()?;
        let done = attempt();
        (minds()? == before).then_some(done)
    })
}

/// The entry of `list` whose field `key` is `value`.
pub fn find<'a>(list: &'a Value, key: &str, value: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry[key] == value)
}

/// The state of the peer `cluster` in a status.
pub fn state_of(status: &Value, cluster: &str) -> Option<String> {
    Some(find(&status["peers"], "cluster", cluster)?["state"].as_str()?.to_owned())
}

/// A command that must have worked.
fn worked(said: &Said) {
    assert_eq!(said.code, Some(0), "{said:?}");
}
