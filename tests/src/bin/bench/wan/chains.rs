//! Chains of which the near half is in west and the far half in east.

use std::net::SocketAddr;

use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::process::Process;

use crate::bed::Bed;
use crate::chain::{Chain, Ends, THREADS, free_address};
use crate::envoy;
use crate::haproxy;
use crate::identity::Identity;
use crate::load::Tool;
use crate::programs::{ENVOY, HAPROXY, find};

/// The chain that stands for us.
pub(super) const OURS: &str = "ringway";

/// The chains, and the processes that they are made of.
#[derive(Debug)]
pub(super) struct Chains {
    /// Ours first.
    pub(super) all: Vec<Chain>,
    /// The process of the backend.
    pub(super) backend: u32,
    _gateways: [Gateway; 2],
    _processes: Vec<Process>,
    _mesh: Mesh,
}

impl Chains {
    /// Starts ours and those of the peers that are installed, and waits until each answers.
    pub(super) fn start(bed: &Bed, tool: &Tool) -> Result<Self, String> {
        let mesh = Mesh::new();
        let east = &bed.far[0];
        let (backend_process, backend) = east.namespace.enter(|| tool.backend(&mesh, "e"));
        let (ringway, gateways) = ringway(bed, &mesh, backend);
        let backend_pid = backend_process.pid();
        let (mut all, mut processes) = (vec![ringway], vec![backend_process]);
        let identity = Identity::named(&mesh).map_err(|e| format!("the peers' identity: {e}"))?;
        let ends = || Ends {
            near: free_address(),
            far: (east.address, free_address().port()).into(),
            backend,
            inside: [Some(&bed.west), Some(&east.namespace)],
        };
        let mut add = |(chain, started): (Chain, Vec<Process>)| {
            all.push(chain);
            processes.extend(started);
        };
        if let Some(program) = find(&ENVOY) {
            add(envoy::two_http3(&program, &identity, &ends()));
        }
        if let Some(program) = find(&HAPROXY) {
            let (chain, started) = haproxy::two(&program, &identity, &ends());
            add((Chain { name: "haproxy", ..chain }, started));
        }
        bed.west.enter(|| all.iter().for_each(Chain::wait));
        Ok(Self { all, backend: backend_pid, _gateways: gateways, _processes: processes, _mesh: mesh })
    }
}

/// Our two gateways.
fn ringway(bed: &Bed, mesh: &Mesh, backend: SocketAddr) -> (Chain, [Gateway; 2]) {
    let far = &bed.far[0];
    let workers = THREADS.to_string();
    let east = far.site(mesh, "east", &["west"]);
    let west = Bed::west_site(mesh, &["east"]);
    east.write(&[link("west", &[]), service("cart", &[("e", backend)])]);
    west.write(&[link("east", &[east.tunnel])]);
    let east = far.namespace.enter(|| {
        let gateway = east.spawn_with(["--workers", &workers]);
        gateway.wait_ready();
        gateway
    });
    let west = bed.west.enter(|| {
        let gateway = west.spawn_with(["--workers", &workers]);
        gateway.wait_ready();
        gateway.wait_service("shop/cart", &["east"]);
        gateway
    });
    let pids = vec![west.process.pid(), east.process.pid()];
    (Chain { name: OURS, address: west.site.http, host: "cart.shop.mesh", keys: 0, pids }, [west, east])
}
