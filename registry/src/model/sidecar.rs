//! What a sidecar is told by its manifest.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{ClusterName, Endpoint, HostPort, HttpRules, ServiceName};

/// One sidecar process (`kind: Sidecar`); only ever read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// `metadata.name`: for people, in logs of the gateway and in status. Who the workload is stands in the certificate.
    pub id: String,
    /// The cluster it is in.
    pub cluster: ClusterName,
    /// SPIFFE trust domain of this cluster.
    pub trust_domain: String,
    /// Holds `tls.crt`, `tls.key` and `bundles/<cluster>.pem`.
    pub identity_dir: PathBuf,
    /// The gateways of its cluster, at least one, the preferred first.
    pub gateways: Vec<GatewayAddress>,
    /// Where it takes requests of its workload.
    pub proxy: SocketAddr,
    /// What holds for them.
    pub http: Arc<HttpRules>,
    /// Health, metrics and status.
    pub admin: SocketAddr,
    /// Host names under which `admin` may be asked, beside those that no web page can own.
    pub admin_hosts: Vec<String>,
    /// Whether it forwards what is no name of the mesh.
    pub passthrough: bool,
    /// The mesh's DNS domain, `mesh` by default; as its gateways have it.
    pub domain: String,
    /// What it registers for its workload, each id once in its service.
    pub register: Vec<(ServiceName, Endpoint)>,
}

/// Where a gateway of the own cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatewayAddress {
    /// The socket in its state directory: on the same host.
    Unix(PathBuf),
    /// TCP.
    Tcp(HostPort),
}

impl fmt::Display for GatewayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}
