//! A hundred thousand endpoints in one cluster: what they cost its gateway.

use e2e::manifest::service;
use e2e::mesh::Mesh;

use super::{print, resident, until};

/// As many as a service may have, of as many services as make a hundred thousand.
const OF_A_SERVICE: usize = 10_000;
const SERVICES: usize = 10;

pub(super) fn run() -> Result<(), String> {
    let mesh = Mesh::new();
    let (few, many) = (mesh.site("few", &[]), mesh.site("many", &[]));
    let folder = many.dir.join("services");
    std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for n in 0..SERVICES {
        let ids: Vec<_> = (0..OF_A_SERVICE).map(|at| format!("e{at}")).collect();
        let address = |at: usize| ([10, n as u8, (at / 250) as u8, (at % 250) as u8], 9001).into();
        let endpoints: Vec<_> = ids.iter().enumerate().map(|(at, id)| (id.as_str(), address(at))).collect();
        let file = folder.join(format!("{n}.yaml"));
        std::fs::write(&file, service(&format!("s{n}"), &endpoints))
            .map_err(|e| format!("{}: {e}", file.display()))?;
    }
    few.write(&[]);
    many.write(&[]);
    let few = few.spawn();
    let many =
        many.spawn_with(["-f".as_ref(), folder.as_os_str()].map(|arg| arg.to_str().unwrap_or_default()));
    for gateway in [&few, &many] {
        until(gateway.site.admin, "localhost", |_| true)?;
        gateway.wait_ready();
    }
    let growth = resident(&many)? - resident(&few)?;
    print("bytes_per_endpoint", growth / (SERVICES * OF_A_SERVICE) as f64, 0, "B");
    Ok(())
}
