//! Clusters in network namespaces of their own, joined by emulated links: what the far ones are to west.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use e2e::mesh::{Mesh, Site};
use wan::{End, Namespace, Settings, Wan};

/// Half of a round trip.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(25);
/// Bits a second, each way.
const RATE: u64 = 300_000_000;
/// Bytes that wait for the rate: 25 ms.
const QUEUE: u64 = RATE / 8 / 40;
/// Where the tunnels of every gateway are, each having a host to itself.
const TUNNEL_PORT: u16 = 7443;

/// Of which packets are lost: the same in every run.
const SEED: u64 = 1;

/// What every connection of TCP uses that crosses a link, if the machine lets a namespace choose it; and else.
const CONGESTION: [&str; 2] = ["cubic", "reno"];

/// West and the clusters that it is linked to.
#[derive(Debug)]
pub(crate) struct Bed {
    /// In the order in which they were named.
    pub(crate) far: Vec<Far>,
    /// Where the clients are.
    pub(crate) west: Namespace,
}

/// A cluster at the far end of a link.
#[derive(Debug)]
pub(crate) struct Far {
    /// The link; forth is from west.
    pub(crate) wan: Wan,
    pub(crate) namespace: Namespace,
    /// Where west reaches it.
    pub(crate) address: Ipv4Addr,
}

impl Bed {
    /// West and so many others. None: this machine does not let us, which is said.
    pub(crate) fn new(others: u8) -> Result<Option<Self>, String> {
        if let Some(obstacle) = wan::obstacle() {
            eprintln!("SKIPPED: {obstacle}");
            return Ok(None);
        }
        Self::make(others).map(Some).map_err(|e| format!("the emulated links: {e}"))
    }

    fn make(others: u8) -> std::io::Result<Self> {
        let west = Namespace::new()?;
        let congestion = choose_congestion(&west)?;
        eprintln!("TCP goes by {congestion} in the namespaces");
        let settings = Settings { delay: ONE_WAY, rate: RATE, queue: QUEUE, ..Settings::default() };
        let mut far = Vec::new();
        for number in 1..=others {
            let namespace = Namespace::new()?;
            choose_congestion(&namespace)?;
            let (near, address) = (Ipv4Addr::new(10, 66, number, 1), Ipv4Addr::new(10, 66, number, 2));
            let device = format!("wan{number}");
            let end = |namespace, address| End { namespace, device: &device, address };
            let ends = [end(&west, near), end(&namespace, address)];
            let wan = Wan::join(ends, &settings, SEED + u64::from(number))?;
            if !wan.is_real_time() {
                eprintln!(
                    "the links have no priority here: a busy machine delays packets beyond what is meant"
                );
            }
            far.push(Far { wan, namespace, address });
        }
        Ok(Self { far, west })
    }

    /// The place of west's gateway.
    pub(crate) fn west_site(mesh: &Mesh, peers: &[&str]) -> Site {
        Site { tunnel: (Ipv4Addr::UNSPECIFIED, TUNNEL_PORT).into(), ..mesh.site("west", peers) }
    }

    /// Packets that arrived so late that the emulation was not what it should be, and all that arrived.
    ///
    /// # Errors
    /// When a link carries nothing any more: then no figure says anything.
    pub(crate) fn late(&self) -> Result<(u64, u64), String> {
        if !self.far.iter().all(|far| far.wan.is_up()) {
            return Err("an emulated link has ended before its time".into());
        }
        let ways = [wan::Direction::Forth, wan::Direction::Back];
        let all = self.far.iter().flat_map(|far| ways.map(|way| far.wan.counters(way)));
        Ok(all.fold((0, 0), |(late, arrived), counters| (late + counters.late, arrived + counters.arrived)))
    }
}

impl Far {
    /// The place of its gateway.
    pub(crate) fn site(&self, mesh: &Mesh, cluster: &str, peers: &[&str]) -> Site {
        Site { tunnel: SocketAddr::from((self.address, TUNNEL_PORT)), ..mesh.site(cluster, peers) }
    }
}

/// Has TCP go by the first of [`CONGESTION`] that this machine allows a namespace; tells which.
fn choose_congestion(namespace: &Namespace) -> std::io::Result<&'static str> {
    let set = |name| namespace.set("net/ipv4/tcp_congestion_control", name).map(|()| name);
    let [wanted, instead] = CONGESTION;
    set(wanted).or_else(|_| set(instead))
}
