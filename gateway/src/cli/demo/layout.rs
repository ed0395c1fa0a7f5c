//! What the demo writes before anything runs: a folder with certificates and manifests, on free ports.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use identity::Role;
use identity::pki::{self, Issue, Validity};

use super::DemoError;
use super::plan::{Cluster, GENERATION, Service};

/// Endpoint ids: two endpoints of each service in each cluster.
pub(super) const ENDPOINT_IDS: [&str; 2] = ["a", "b"];

/// The one gateway of each cluster.
pub(super) const GATEWAY_ID: &str = "gw-1";

const TRUST_DOMAIN: &str = "demo.example";

/// Where ports are looked for: below the range from which systems take the ports of outgoing connections (Linux from
/// 32768, IANA from 49152), so that none of those can sit on a killed process's port when it comes back.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Everything that has an address in one cluster.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    /// Tunnels, UDP and TCP.
    pub(super) tunnel: SocketAddr,
    /// Plain HTTP.
    pub(super) http: SocketAddr,
    /// Status.
    pub(super) admin: SocketAddr,
    /// The endpoints of [`Service::ALL`], by [`ENDPOINT_IDS`].
    pub(super) endpoints: [[SocketAddr; ENDPOINT_IDS.len()]; Service::ALL.len()],
}

/// The demo's folder and addresses.
#[derive(Debug)]
pub(super) struct Layout {
    /// The folder.
    pub(super) folder: PathBuf,
    addresses: [Addresses; Cluster::ALL.len()],
}

impl Layout {
    /// Makes the folder, the certificates and the manifests.
    ///
    /// # Errors
    /// When the folder cannot be written or no ports are free.
    pub(super) fn create(now: SystemTime, rng: &mut fastrand::Rng) -> Result<Self, DemoError> {
        let addresses = free_addresses(rng).ok_or(DemoError::Ports)?;
        // Keys lie in it: nobody else may read it, nor have put it there.
        let made = tempfile::Builder::new().prefix("ringway-demo-").tempdir();
        let folder = made.map_err(|source| DemoError::Folder { path: std::env::temp_dir(), source })?.keep();
        let unwritable = |source| DemoError::Folder { path: folder.clone(), source };
        fs::create_dir(folder.join("log")).map_err(unwritable)?;
        let layout = Self { folder: folder.clone(), addresses };

        pki::init(TRUST_DOMAIN, &folder.join("pki/ca"), now)?;
        for cluster in Cluster::ALL {
            pki::issue(&Issue {
                ca_dir: folder.join("pki/ca"),
                cluster: cluster.name().into(),
                role: Role::Gateway { id: GATEWAY_ID.into() },
                peers: cluster.peers().map(|peer| (peer.name().into(), None)).collect(),
                out_dir: folder.join("pki").join(cluster.name()),
                trust_domain: None,
                validity: Validity::from_now(now, pki::DEFAULT_VALID),
            })?;
            fs::write(layout.manifest(cluster), layout.manifest_text(cluster)).map_err(unwritable)?;
        }
        Ok(layout)
    }

    /// The addresses of a cluster.
    pub(super) fn addresses(&self, cluster: Cluster) -> &Addresses {
        &self.addresses[cluster.index()]
    }

    /// The manifest file of a cluster.
    pub(super) fn manifest(&self, cluster: Cluster) -> PathBuf {
        self.folder.join(format!("{}.yaml", cluster.name()))
    }

    /// The log file of a process.
    pub(super) fn log(&self, process: &str) -> PathBuf {
        self.folder.join("log").join(format!("{process}.log"))
    }

    /// Removes the folder; what cannot be removed stays, as its owner can see it in the system's temporary folder.
    pub(super) fn remove(&self) {
        let _left_behind = fs::remove_dir_all(&self.folder);
    }

    fn manifest_text(&self, cluster: Cluster) -> String {
        let Addresses { tunnel, http, admin, endpoints } = self.addresses(cluster);
        let (name, region) = (cluster.name(), cluster.region());
        let mut text = format!(
            "# Cluster {name} of `ringway demo`: its gateway, a link to each peer, and what it serves.
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: {{ name: {GATEWAY_ID} }}
spec:
  cluster: {name}
  region: {region}
  trustDomain: {TRUST_DOMAIN}
  identity: {{ directory: pki/{name} }}
  state: {{ directory: state/{name} }}
  listen: {{ tunnel: {tunnel}, http: {http}, admin: {admin} }}
  advertise: [{tunnel}]
"
        );
        for peer in cluster.peers() {
            let (peer, address) = (peer.name(), self.addresses(peer).tunnel);
            text += &format!(
                "---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: {{ name: {peer} }}
spec:
  addresses: [{address}]
  import: [{{ namespace: shop, union: true }}]
"
            );
        }
        for (service, addresses) in Service::ALL.iter().zip(endpoints) {
            let service = service.name();
            text += &format!(
                "---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: {{ name: {service}, namespace: shop }}
spec:
  ports: [{{ name: web, port: 80, protocol: http }}]
  endpoints:
"
            );
            for (id, address) in ENDPOINT_IDS.iter().zip(addresses) {
                let (host, port) = (address.ip(), address.port());
                text += &format!("    - {{ id: {id}, host: {host}, ports: {{ web: {port} }} }}\n");
            }
            text += "  export: { to: [\"*\"] }\n";
        }
        text += &format!(
            "---
# No policy for `web`: then it is local-first and has no key.
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: cart, namespace: shop }}
spec:
  service: cart
  placement:
    mode: sharded
    generation: {GENERATION}
    members:
"
        );
        for member in Cluster::ALL {
            let (name, region) = (member.name(), member.region());
            text += &format!("      - {{ cluster: {name}, region: {region}, weight: 100 }}\n");
        }
        text + "    hash: [{ header: x-user }]\n"
    }
}

/// Addresses for every listener of the demo, free at this moment.
fn free_addresses(rng: &mut fastrand::Rng) -> Option<[Addresses; Cluster::ALL.len()]> {
    // From a random start, so that two demos at one time do not look at the same ports.
    let start = rng.u16(PORTS);
    let mut ports = (start..PORTS.end).chain(PORTS.start..start).filter_map(free);
    let mut addresses = || {
        let mut next = || ports.next();
        Some(Addresses {
            tunnel: next()?,
            http: next()?,
            admin: next()?,
            endpoints: [[next()?, next()?], [next()?, next()?]],
        })
    };
    Some([addresses()?, addresses()?, addresses()?])
}

/// The loopback address with this port, if neither TCP nor UDP has it in use.
fn free(port: u16) -> Option<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).and_then(|_bound| UdpSocket::bind(address)).ok()?;
    Some(address)
}

/// The last lines of a log, for a message about the process that wrote it.
pub(super) fn tail(log: &Path) -> io::Result<String> {
    const LINES: usize = 12;
    let text = fs::read(log)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use registry::manifest;
    use registry::model::{ClusterName, Mode, ServiceName};
    use std::collections::BTreeSet;

    #[test]
    fn what_is_written_is_valid_and_says_what_the_driver_assumes() {
        let layout = Layout::create(SystemTime::now(), &mut fastrand::Rng::new()).unwrap();
        let cart = ServiceName::new("shop", "cart").unwrap();
        for cluster in Cluster::ALL {
            let read =
                manifest::load(&[layout.manifest(cluster)]).unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(read.warnings, []);
            assert_eq!(read.require_gateway().unwrap().cluster.as_str(), cluster.name());
            assert_eq!(read.declared.links.len(), 2);
            assert_eq!(read.declared.services.len(), 2);
            let contract = read.declared.policies[&cart].placement.clone().unwrap();
            assert_eq!((contract.mode, contract.generation, contract.seed), (Mode::Sharded, GENERATION, 0));
            let members = contract.members.unwrap();
            let regions: BTreeSet<_> =
                members.iter().map(|m| (m.cluster.as_str(), &*m.region, m.weight)).collect();
            assert_eq!(regions, Cluster::ALL.map(|c| (c.name(), c.region(), 100)).into());
            assert!(members.iter().any(|m| m.cluster == ClusterName::new(cluster.name()).unwrap()));
        }
        layout.remove();
        assert!(!layout.folder.exists());
    }

    #[test]
    fn no_port_is_given_twice() {
        let addresses = free_addresses(&mut fastrand::Rng::new()).unwrap();
        let ports: BTreeSet<_> = addresses
            .iter()
            .flat_map(|a| [a.tunnel, a.http, a.admin].into_iter().chain(a.endpoints.into_iter().flatten()))
            .map(|address| address.port())
            .collect();
        assert_eq!(ports.len(), 3 * 7);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
