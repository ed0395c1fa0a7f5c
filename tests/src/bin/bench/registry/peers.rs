//! Many peers of one gateway, of few services each.

use e2e::exporter::Exporter;
use e2e::manifest::link;
use e2e::mesh::Mesh;

use super::{Size, at_rest, print, resident, until};

/// Services of all peers together.
const SERVICES: usize = 10_000;

pub(super) fn run(size: &Size, peers: usize) -> Result<(), String> {
    let mesh = Mesh::new();
    let names: Vec<_> = (0..peers).map(|n| format!("p{n:03}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    names.iter().for_each(|peer| mesh.issue("ca", peer, &["west"], &mesh.dir().join(peer)));
    let west = mesh.site("west", &names);
    let west = west.start(&names.iter().map(|peer| link(peer, &[])).collect::<Vec<_>>());
    let before = resident(&west)?;
    let started = std::time::Instant::now();
    let of_each = SERVICES / peers;
    let linked = names.iter().map(|peer| {
        let services = (0..of_each).map(|n| format!("s{n:02}"));
        Exporter::link(&mesh.dir().join(peer), ("west", west.site.tunnel), peer, services)
    });
    let exporters: Vec<_> = linked.collect::<Result<_, _>>()?;
    for peer in &names {
        let last = format!("s{:02}.shop.{peer}.mesh", of_each - 1);
        until(west.site.http, &last, |status| status != 404)?;
    }
    let print =
        |figure: &str, value, digits, unit| print(&format!("peers{peers}.{figure}"), value, digits, unit);
    print("sync_s", started.elapsed().as_secs_f64(), 2, "s");
    print("mib", (resident(&west)? - before) / f64::from(1 << 20), 1, "MiB");
    print("idle_cpu_pct", at_rest(&west, size.rest)?, 2, "%");
    drop(exporters);
    Ok(())
}
