//! Two clusters, and what a gateway of each proves itself by.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::pki::{self, Issue, Validity};
use identity::{Credentials, Role, Trust};
use tempfile::TempDir;
use tunnel::{HelloInfo, Local};

const DOMAIN: &str = "mesh.test";
const CLUSTERS: [&str; 2] = ["east", "west"];

/// Certificates for east and west by one authority, each in a folder of the cluster's name.
pub(crate) struct Pki(TempDir);

impl Pki {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let ca_dir = dir.path().join("ca");
        pki::init(DOMAIN, &ca_dir, now).unwrap();
        for cluster in CLUSTERS {
            let ask = Issue {
                ca_dir: ca_dir.clone(),
                cluster: cluster.into(),
                role: Role::Gateway { id: "gw-1".into() },
                peers: CLUSTERS.map(|c| (c.to_owned(), None)).into(),
                out_dir: dir.path().join(cluster),
                trust_domain: None,
                validity: Validity::from_now(now, Duration::from_secs(3600)),
            };
            pki::issue(&ask).unwrap();
        }
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The gateway whose certificates are in `dir`.
pub(crate) fn local(dir: &Path, cluster: &str, worker: u32, boot: u64) -> Local {
    let (trust, problems) = Trust::load(dir, CLUSTERS.map(|c| (c, DOMAIN)));
    assert!(problems.is_empty(), "{problems:?}");
    Local {
        hello: HelloInfo {
            cluster: cluster.into(),
            region: "test".into(),
            cluster_uid: [7; 16],
            gateway: "gw-1".into(),
            worker,
            boot,
            takes_over_from: 0,
            addresses: Vec::new(),
        },
        credentials: Arc::new(Credentials::load(dir).unwrap()),
        trust: Arc::new(trust),
    }
}
