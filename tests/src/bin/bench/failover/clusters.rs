//! West, which asks, and east and north, which serve the same.

use e2e::client::{Request, fetch};
use e2e::manifest::{link, policy, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::process::Process;
use e2e::wait::{SOON, wait_until};

use super::judge::{EAST, NORTH};
use crate::bed::{Bed, Far};
use crate::chain::Chain;
use crate::load::Tool;

const HOST: &str = "cart.shop.mesh";
/// Distinct keys of the requests: each is asked for several times a second.
const KEYS: u32 = 50;
/// East while it is available, else north.
const PLACEMENT: &str = "placement: { mode: local-first, generation: 1, tiers: [[east], [north]], \
    members: [{ cluster: east, region: us-east }, { cluster: north, region: us-north }], \
    hash: [{ header: x-key }] }";
/// So many requests in a row that east answers show that it has returned.
const ANSWERS: usize = 20;

/// The three, in namespaces of their own; with the configuration that they have by default.
#[derive(Debug)]
pub(super) struct Clusters {
    pub(super) west: Gateway,
    pub(super) east: Gateway,
    pub(super) north: Gateway,
    _backends: [Process; 2],
    pub(super) mesh: Mesh,
    pub(super) bed: Bed,
}

impl Clusters {
    /// Starts them, and waits until west knows both others and east answers.
    pub(super) fn start(bed: Bed, tool: &Tool) -> Self {
        let mesh = Mesh::new();
        let serve = |far: &Far, cluster: &str, name: &str| {
            let site = far.site(&mesh, cluster, &["west"]);
            far.namespace.enter(|| {
                let (process, backend) = tool.backend(&mesh, name);
                let objects =
                    [link("west", &[]), service("cart", &[(name, backend)]), policy("cart", PLACEMENT)];
                (site.start(&objects), process)
            })
        };
        let (east, east_backend) = serve(&bed.far[0], "east", &EAST.to_string());
        let (north, north_backend) = serve(&bed.far[1], "north", &NORTH.to_string());
        let west = Bed::west_site(&mesh, &["east", "north"]);
        let links = [link("east", &[east.site.tunnel]), link("north", &[north.site.tunnel])];
        let west = bed.west.enter(|| west.start(&links));
        let clusters = Self { west, east, north, _backends: [east_backend, north_backend], mesh, bed };
        clusters.wait_returned();
        clusters
    }

    /// Where the load asks.
    pub(super) fn chain(&self) -> Chain {
        let address = self.west.site.http;
        Chain { name: "ringway", address, host: HOST, keys: KEYS, pids: Vec::new() }
    }

    /// Waits until west places the service on both, and east answers.
    pub(super) fn wait_returned(&self) {
        self.bed.west.enter(|| {
            self.west.wait_service("shop/cart", &["east", "north"]);
            wait_until("east answers again", SOON, || {
                let from_east = |n: usize| {
                    let request = Request::get(HOST, "/").with("x-key", &format!("user-{n}"));
                    let answer = fetch(self.west.site.http, &request).ok()?;
                    answer.field("x-from")?.starts_with(EAST).then_some(())
                };
                (0..ANSWERS).map(from_east).collect::<Option<()>>()
            });
        });
    }

    /// Hedges that west has made since its start.
    pub(super) fn hedges(&self) -> Result<u64, String> {
        let answer = self.bed.west.enter(|| self.west.admin("/metrics"));
        let text = answer.ok_or("west's metrics: no answer")?.text();
        let lines = text.lines().filter(|line| line.starts_with("ringway_attempts_total{"));
        let mut hedges = lines.filter(|line| line.contains("kind=\"hedge\""));
        let count = hedges.next().and_then(|line| line.rsplit(' ').next()?.parse().ok());
        count.ok_or_else(|| "west's metrics: no hedges".to_owned())
    }

    /// How often any of the three has taken another for dead, by the audit lines of all.
    pub(super) fn downs(&self) -> usize {
        let of = |gateway: &Gateway| {
            let log = gateway.process.log();
            let changes = log.lines().filter(|line| line.contains("Audit: peer health changed."));
            changes.filter(|line| line.contains("to=\"down\"")).count()
        };
        [&self.west, &self.east, &self.north].map(of).into_iter().sum()
    }
}
