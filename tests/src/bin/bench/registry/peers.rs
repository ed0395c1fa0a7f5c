//! A hundred peers of one gateway, each with a hundred services.

use e2e::exporter::Exporter;
use e2e::manifest::link;
use e2e::mesh::Mesh;

use super::{Size, at_rest, print, resident, until};

const PEERS: usize = 100;
const SERVICES: usize = 100;

pub(super) fn run(size: &Size) -> Result<(), String> {
    let mesh = Mesh::new();
    let names: Vec<_> = (0..PEERS).map(|n| format!("p{n:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    names.iter().for_each(|peer| mesh.issue("ca", peer, &["west"], &mesh.dir().join(peer)));
    let west = mesh.site("west", &names);
    let west = west.start(&names.iter().map(|peer| link(peer, &[])).collect::<Vec<_>>());
    let before = resident(&west)?;
    let started = std::time::Instant::now();
    let linked = names.iter().map(|peer| {
        let services = (0..SERVICES).map(|n| format!("s{n:02}"));
        Exporter::link(&mesh.dir().join(peer), ("west", west.site.tunnel), peer, services)
    });
    let exporters: Vec<_> = linked.collect::<Result<_, _>>()?;
    for peer in &names {
        until(west.site.http, &format!("s99.shop.{peer}.mesh"), |status| status != 404)?;
    }
    print("peers100.sync_s", started.elapsed().as_secs_f64(), 2, "s");
    print("peers100.mib", (resident(&west)? - before) / f64::from(1 << 20), 1, "MiB");
    print("peers100.idle_cpu_pct", at_rest(&west, size.rest)?, 2, "%");
    drop(exporters);
    Ok(())
}
