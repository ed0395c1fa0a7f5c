//! A thousand sidecars of one gateway that use a hundred names each, and see no change.

use e2e::backend::Backend;
use e2e::crowd::Crowd;
use e2e::manifest::service;
use e2e::mesh::Mesh;
use e2e::sidecar::SidecarSite;

use super::{Size, at_rest, print, resident};

/// One may have a quarter of the names that a gateway follows.
const WORKLOADS: usize = 4;
const SIDECARS: usize = 1_000;
const NAMES: usize = 100;

pub(super) fn run(size: &Size) -> Result<(), String> {
    let mesh = Mesh::new();
    let backend = Backend::start("west/a");
    let west = mesh.site("west", &[]);
    let services = (0..NAMES).map(|n| service(&format!("s{n}"), &[("a", backend.address())]));
    let west = west.start(&services.collect::<Vec<_>>());
    let before = resident(&west)?;
    let names: Vec<_> = (0..NAMES).map(|n| format!("s{n}.shop")).collect();
    let gather = |n| {
        // Its process is not started: it lends its identity.
        let one = SidecarSite::new(&mesh, &format!("crowd-{n}"), &format!("cart-{n}"), &west.site);
        Crowd::gather(&one.dir.join("pki"), ("west", west.site.tunnel), SIDECARS / WORKLOADS, &names)
    };
    let crowd: Vec<_> = (0..WORKLOADS).map(gather).collect::<Result<_, _>>()?;
    print("sidecars1000.mib", (resident(&west)? - before) / f64::from(1 << 20), 1, "MiB");
    print("sidecars1000.idle_cpu_pct", at_rest(&west, size.rest)?, 2, "%");
    drop(crowd);
    Ok(())
}
