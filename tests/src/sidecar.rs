//! A real sidecar beside the callers of a test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::client::{FetchError, Request, Response, fetch};
use crate::manifest::object;
use crate::mesh::{Mesh, Site, TRUST_DOMAIN, find};
use crate::port::free_port;
use crate::process::{Process, ringway};
use crate::wait::{SOON, wait_until};

/// A place for one sidecar: its ports and identity stay over restarts.
#[derive(Clone, Debug)]
pub struct SidecarSite {
    /// Its `metadata.name`.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// Where its manifest and identity are.
    pub dir: PathBuf,
    /// Where it takes requests.
    pub proxy: SocketAddr,
    /// Health, metrics and status.
    pub admin: SocketAddr,
    /// Entries of `spec.gateways`.
    pub gateways: Vec<String>,
    /// Further lines of its spec, each indented by two spaces and ended.
    pub more: String,
    /// Further objects in its file.
    pub objects: Vec<String>,
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// Where it runs.
    pub site: SidecarSite,
    /// Its process.
    pub process: Process,
}

impl SidecarSite {
    /// For the workload `shop/account` of the cluster of `gateway`, which it reaches by its Unix socket.
    pub fn new(mesh: &Mesh, name: &str, account: &str, gateway: &Site) -> Self {
        let dir = mesh.dir().join(format!("sidecar-{name}"));
        std::fs::create_dir_all(&dir).expect("a folder in our own");
        let port = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let site = Self {
            name: name.into(),
            cluster: gateway.cluster.clone(),
            dir,
            proxy: port(),
            admin: port(),
            gateways: vec![unix(gateway)],
            more: String::new(),
            objects: Vec::new(),
        };
        site.issue(mesh, "ca", &site.cluster, account);
        site
    }

    /// Issues its certificate by the authority in the folder `ca`, for a workload `shop/account` of `cluster`.
    ///
    /// # Panics
    /// When `ringway pki issue` fails.
    pub fn issue(&self, mesh: &Mesh, ca: &str, cluster: &str, account: &str) {
        let out = self.dir.join("pki");
        let (out, workload) = (out.to_string_lossy(), format!("shop/{account}"));
        let args = ["pki", "issue", "--ca", ca, "--cluster", cluster, "--workload", &workload, "--out", &out];
        let said = mesh.cli(&args);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// Writes its manifest.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self) {
        let spec = format!(
            "cluster: {}\n  trustDomain: {TRUST_DOMAIN}\n  identity: {{ directory: pki }}\n  gateways: [{}]\n  \
             listen: {{ proxy: \"{}\", admin: \"{}\" }}\n{}",
            self.cluster,
            self.gateways.join(", "),
            self.proxy,
            self.admin,
            self.more
        );
        let documents = [&[object("Sidecar", &self.name, &spec)], &self.objects[..]].concat();
        std::fs::write(self.file(), documents.join("---\n")).expect("a file in our own folder");
    }

    /// The file of its manifest.
    pub fn file(&self) -> PathBuf {
        self.dir.join("sidecar.yaml")
    }

    /// Starts it and waits until it is ready.
    pub fn start(&self) -> Sidecar {
        self.write();
        let mut command = Command::new(ringway());
        command.arg("sidecar").arg("-f").arg(self.file());
        let name = format!("sidecar {}", self.name);
        let process = Process::start(&name, command, &self.dir.join("sidecar.log"));
        let sidecar = Sidecar { site: self.clone(), process };
        wait_until(&format!("{name} is ready"), SOON, || {
            sidecar.process.assert_running();
            (sidecar.admin("/ready")?.status == 200).then_some(())
        });
        sidecar
    }

    /// Starts it and waits until it has a tunnel to the gateway `gw-1`.
    pub fn start_up(&self) -> Sidecar {
        let sidecar = self.start();
        sidecar.wait_gateway("gw-1", "up");
        sidecar
    }
}

/// The entry of `spec.gateways` that leads to a gateway by its Unix socket.
pub fn unix(gateway: &Site) -> String {
    format!("{{ unix: \"{}\" }}", gateway.dir.join("state/tunnel.sock").display())
}

/// The same by TCP.
pub fn tcp(gateway: &Site) -> String {
    format!("{{ address: \"{}\" }}", gateway.tunnel)
}

impl Sidecar {
    /// Asks it as a proxy: `GET http://host/target`.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn get(&self, host: &str, target: &str) -> Response {
        let request = Request::get(host, &format!("http://{host}{target}"));
        self.ask(&request)
            .unwrap_or_else(|e| panic!("GET http://{host}{target} by {}: {e:?}", self.site.name))
    }

    /// Asks it whatever.
    ///
    /// # Errors
    /// When there is no answer or it is cut.
    pub fn ask(&self, request: &Request) -> Result<Response, FetchError> {
        fetch(self.site.proxy, request)
    }

    /// `GET path` on the admin port, if there is an answer.
    pub fn admin(&self, path: &str) -> Option<Response> {
        fetch(self.site.admin, &Request::get("localhost", path)).ok()
    }

    /// `/v1/status`, if it answers.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.admin("/v1/status")?.body).ok()
    }

    /// Waits until a gateway is in this state.
    pub fn wait_gateway(&self, gateway: &str, state: &str) {
        wait_until(&format!("{}: {gateway} is {state}", self.site.name), SOON, || {
            let status = self.status()?;
            (find(&status["gateways"], "gateway", gateway)?["state"] == state).then_some(())
        });
    }
}
