//! Checks of the ways to peers: addresses, tunnels, and how fresh what is mirrored is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::model::{HostPort, PeerImports};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::base::clock::span;
use crate::peers::{PeerCluster, PeerGateway};
use admin_api::check::Check;
use policy::health::State;

/// Addresses looked at together.
const AT_ONCE: usize = 64;
/// A resolver, and after it a connect, must answer within this.
const PATIENCE: Duration = Duration::from_millis(1200);
/// All addresses together: the command that asks waits a little longer.
const PATIENCE_IN_ALL: Duration = Duration::from_secs(4);
/// Peers say something every five seconds; three missed words mean that what is mirrored stands still.
const FRESH_SECONDS: u64 = 15;
/// Clocks that differ by less do no harm.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

/// All checks of links.
pub(super) async fn checks(admin: &Admin) -> Vec<Check> {
    let peers: Vec<_> = admin.shared.peers.iter().collect();
    let mut checks = addresses(&peers).await;
    // Ages are told by the steady clock that wrote them, the rest by the one that the operator reads.
    let steady = admin.shared.clock.unix_ms();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let now = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    for peer in &peers {
        let imports = admin.knowledge.imports(&peer.name);
        checks.push(tunnel(peer, now));
        checks.push(udp(peer));
        checks.push(age(peer, imports.as_deref(), steady));
        checks.extend(imports.as_deref().and_then(|imports| clock(peer, imports, now)));
    }
    if peers.is_empty() {
        checks.push(Check::warn(
            "link.tunnel",
            "-",
            "no link is declared",
            "declare a Link for each peer cluster",
        ));
    }
    checks
}

/// Resolves every address and opens a TCP connection to it.
async fn addresses(peers: &[Arc<PeerCluster>]) -> Vec<Check> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    let mut waiting = Vec::new();
    for peer in peers {
        for address in &peer.link().addresses {
            let object = format!("{} {address}", peer.name);
            waiting.push(object.clone());
            let (permits, address) = (permits.clone(), address.clone());
            looks.spawn(async move {
                // Never closed.
                let _permit = permits.acquire_owned().await.ok();
                (object.clone(), look(object, &address).await)
            });
        }
    }
    let mut checks = Vec::new();
    let all = async {
        while let Some(looked) = looks.join_next().await {
            if let Ok((object, found)) = looked {
                waiting.retain(|other| *other != object);
                checks.extend(found);
            }
        }
    };
    // What is not done by then ends with the set.
    let _late = tokio::time::timeout(PATIENCE_IN_ALL, all).await;
    checks.extend(waiting.into_iter().map(|object| {
        Check::unknown("link.resolves", object, "not looked at: too many addresses for the time of a check")
    }));
    checks
}

async fn look(object: String, address: &HostPort) -> Vec<Check> {
    let resolving = lookup_host((&*address.host, address.port));
    let fix = "put `addresses` of the Link right, or the name server";
    let found: Vec<SocketAddr> = match tokio::time::timeout(PATIENCE, resolving).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return vec![Check::fail("link.resolves", object, error.to_string(), fix)],
        Err(_) => {
            return vec![Check::fail("link.resolves", object, format!("no answer within {PATIENCE:?}"), fix)];
        }
    };
    let Some(&first) = found.first() else {
        return vec![Check::fail("link.resolves", object, "the name has no address", fix)];
    };
    let tcp = match tokio::time::timeout(PATIENCE, TcpStream::connect(first)).await {
        Ok(Ok(_)) => Check::ok("link.tcp", &object, format!("{first} accepts")),
        Ok(Err(error)) => without_tcp(&object, first, &error.to_string()),
        Err(_) => without_tcp(&object, first, "no answer: a firewall may drop it"),
    };
    let all: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
    vec![Check::ok("link.resolves", object, all.join(", ")), tcp]
}

/// TCP is what is left where UDP is blocked: to miss it breaks nothing yet.
fn without_tcp(object: &str, address: SocketAddr, why: &str) -> Check {
    let fix =
        "if UDP is ever blocked there is no other way: let TCP through to the port of `listen.tunnel`, too";
    Check::warn("link.tcp", object, format!("no connection to {}: {why}", address.ip()), fix)
}

/// The gateway of a peer that is best, if any was ever reached.
fn best(peer: &PeerCluster) -> Option<Arc<PeerGateway>> {
    let gateways = peer.gateways();
    gateways.iter().min_by_key(|gateway| gateway.state() as u8).cloned()
}

fn tunnel(peer: &PeerCluster, now_unix_ms: u64) -> Check {
    let Some(gateway) = best(peer) else {
        let accept_only = peer.link().addresses.is_empty();
        return match peer.last_error() {
            Some(error) => Check::fail("link.tunnel", &peer.name, &error, remedy(peer, &error)),
            None if accept_only => Check::fail(
                "link.tunnel",
                &peer.name,
                "the peer has not dialled yet, and this link has no address to dial",
                format!("let {} dial this cluster, or add `addresses` to the Link", peer.name),
            ),
            None => {
                Check::warn("link.tunnel", &peer.name, "the first dial is under way", "ask again in a moment")
            }
        };
    };
    let lasted = span(Duration::from_millis(now_unix_ms.saturating_sub(gateway.since_unix_ms())));
    let object = format!("{}/{}", peer.name, gateway.id);
    match gateway.state() {
        State::Up => {
            let tunnels = gateway.tunnels();
            let tunnels: Vec<_> =
                tunnels.iter().map(|t| format!("{} {}", t.carrier().as_str(), t.remote_address())).collect();
            Check::ok("link.tunnel", object, format!("up for {lasted}: {}", tunnels.join(", ")))
        }
        State::Suspect => Check::warn(
            "link.tunnel",
            object,
            format!("suspect for {lasted}: {}", gateway.reason()),
            "look at the path to it for loss, and at its load",
        ),
        State::Down => {
            let reason = peer.last_error().unwrap_or_else(|| gateway.reason());
            Check::fail("link.tunnel", object, format!("down for {lasted}: {reason}"), remedy(peer, &reason))
        }
    }
}

/// What to do about a dial that failed so.
fn remedy(peer: &PeerCluster, error: &str) -> String {
    let name = &peer.name;
    let lower = error.to_lowercase();
    if lower.contains("no link to cluster") {
        format!("declare a Link to this cluster in {name}")
    } else if lower.contains("certificate") || lower.contains("bundle") || lower.contains("identity") {
        format!("compare `identity.certificate` and `trust.bundle` here and in {name}")
    } else if lower.contains("resolve") {
        "see `link.resolves`".into()
    } else {
        format!(
            "look whether the gateway of {name} runs, and whether a firewall drops UDP (`link.udp`, `link.tcp`)"
        )
    }
}

fn udp(peer: &PeerCluster) -> Check {
    let gateways = peer.gateways();
    let carriers: Vec<&str> = gateways
        .iter()
        .flat_map(|gateway| {
            gateway.tunnels().iter().filter(|t| t.is_open()).map(|t| t.carrier().as_str()).collect::<Vec<_>>()
        })
        .collect();
    if carriers.contains(&"quic") {
        return Check::ok("link.udp", &peer.name, "a tunnel runs over QUIC");
    }
    match carriers.first() {
        Some(other) => Check::warn(
            "link.udp",
            &peer.name,
            format!("no tunnel over QUIC: requests go over {other}"),
            "let UDP through to the port of `listen.tunnel`",
        ),
        None => Check::unknown("link.udp", &peer.name, "no tunnel is up, so no datagram came back"),
    }
}

fn age(peer: &PeerCluster, imports: Option<&PeerImports>, now_unix_ms: u64) -> Check {
    let Some(imports) = imports.filter(|imports| imports.synced_unix_ms > 0) else {
        let fix = "bring the link up; what its services are is learned over it";
        return Check::warn("registry.age", &peer.name, "nothing was ever heard of its services", fix);
    };
    let age = now_unix_ms.saturating_sub(imports.synced_unix_ms) / 1000;
    let seen = format!(
        "services mirrored: {}, the last word {} ago",
        imports.services.len(),
        span(Duration::from_secs(age))
    );
    if age <= FRESH_SECONDS {
        return Check::ok("registry.age", &peer.name, seen);
    }
    let fix = "bring the link up; until then its services stay as they were last heard of";
    Check::warn("registry.age", &peer.name, seen, fix)
}

/// A peer's revisions count on from its clock, in microseconds: one that lies in our future means that the clocks
/// differ. That ours is ahead cannot be seen so.
fn clock(peer: &PeerCluster, imports: &PeerImports, now_unix_ms: u64) -> Option<Check> {
    if imports.revision == 0 {
        return None;
    }
    let ahead = Duration::from_micros(imports.revision.saturating_sub(now_unix_ms.saturating_mul(1000)));
    if ahead <= CLOCK_SLACK {
        return Some(Check::ok(
            "clock",
            &peer.name,
            "not behind that of the peer's last start; ahead cannot be seen",
        ));
    }
    Some(Check::fail(
        "clock",
        &peer.name,
        format!("this machine's clock was {} behind the peer's at least", span(ahead)),
        "synchronise both clocks (NTP): certificates are judged by them",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use registry::model::Link;
    use registry::testing::{cluster, link};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::peers::Peers;
    use admin_api::check::Outcome;

    fn peer(addresses: Vec<HostPort>) -> Arc<PeerCluster> {
        let (west, east) = (cluster("west"), cluster("east"));
        let links = [(east.clone(), Link { addresses, ..link("east") })].into();
        Peers::new(&west, "gw-1", &links, CancellationToken::new()).get(&east).unwrap()
    }

    fn imports(revision: u64, synced_unix_ms: u64) -> PeerImports {
        PeerImports { epoch: 1, revision, synced_unix_ms, ..PeerImports::default() }
    }

    #[test]
    fn what_is_mirrored_is_judged_by_its_age() {
        let peer = peer(vec![]);
        let looked = |imports: Option<&PeerImports>| age(&peer, imports, 100_000).result;
        assert_eq!(looked(None), Outcome::Warn);
        assert_eq!(looked(Some(&imports(1, 0))), Outcome::Warn, "never heard");
        assert_eq!(looked(Some(&imports(1, 85_000))), Outcome::Ok);
        assert_eq!(looked(Some(&imports(1, 84_000))), Outcome::Warn);
    }

    #[test]
    fn a_revision_from_the_future_shows_clocks_that_differ() {
        let peer = peer(vec![]);
        let looked = |revision| clock(&peer, &imports(revision, 1), 1_000_000).map(|check| check.result);
        assert_eq!(looked(0), None);
        assert_eq!(looked(1_000_000_000 + 4_000_000), Some(Outcome::Ok));
        assert_eq!(looked(1_000_000_000 + 60_000_000), Some(Outcome::Fail));
    }

    #[test]
    fn a_link_that_was_never_up_says_what_to_do() {
        let waits = tunnel(&peer(vec![]), 0);
        assert_eq!(waits.result, Outcome::Fail);
        assert!(waits.fix.unwrap().contains("let east dial"));
        let address = HostPort { host: "127.0.0.1".into(), port: 9 };
        let dials = peer(vec![address]);
        assert_eq!(tunnel(&dials, 0).result, Outcome::Warn);
        assert_eq!(udp(&dials).result, Outcome::Unknown);
        for (error, fix) in [
            ("refused: there is no link to cluster `west` here", "declare a Link"),
            ("the certificate is of another trust domain", "trust.bundle"),
            ("cannot resolve east.example", "link.resolves"),
            ("timed out", "firewall"),
        ] {
            assert!(remedy(&dials, error).contains(fix), "{error}");
        }
    }

    #[tokio::test]
    async fn addresses_are_resolved_and_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = |host: &str, port| HostPort { host: host.into(), port };
        let results = |checks: Vec<Check>| -> Vec<(String, Outcome)> {
            checks.into_iter().map(|check| (check.id, check.result)).collect()
        };
        let (resolves, tcp) = ("link.resolves".to_owned(), "link.tcp".to_owned());
        let open = results(addresses(&[peer(vec![address("127.0.0.1", port)])]).await);
        assert_eq!(open, [(resolves.clone(), Outcome::Ok), (tcp.clone(), Outcome::Ok)]);
        drop(listener);
        let closed = results(addresses(&[peer(vec![address("127.0.0.1", port)])]).await);
        assert_eq!(closed, [(resolves, Outcome::Ok), (tcp, Outcome::Warn)]);
    }
}
