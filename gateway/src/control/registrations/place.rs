//! Whether an endpoint may be where its registrar says: the addresses of its host, and those of ours.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use registry::model::{Endpoint, ServiceName};
use registry::pure::registration::place::{BadPlace, CameFrom, Here, may_be_at};
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::view::View;

/// How long the addresses of a name are waited for; without them the name alone is looked at.
const RESOLVE_WAIT: Duration = Duration::from_secs(1);
/// Names that are resolved at once: each takes a thread of those that save the catalog, for as long as the system's
/// resolver likes.
pub(super) const RESOLVED_AT_ONCE: usize = 4;

/// What the endpoints of one registrar are held against.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Where it is.
    pub(super) from: CameFrom,
    /// Where this process listens.
    pub(super) listeners: Arc<[SocketAddr]>,
    /// Room for [`RESOLVED_AT_ONCE`], of all registrars.
    pub(super) resolving: Arc<Semaphore>,
}

impl Places {
    /// Whether an endpoint of `service` may be where it says, as far as its name can be resolved now.
    pub(super) async fn check(
        &self,
        service: &ServiceName,
        endpoint: &Endpoint,
        view: &View,
    ) -> Result<(), BadPlace> {
        self.allow(service, endpoint, &[], view)?;
        let of_ours = |port: u16| self.listeners.iter().any(|listener| listener.port() == port);
        let from_elsewhere = matches!(self.from, CameFrom::Address(_));
        // What else a name means is nobody's business before requests are sent there.
        if !from_elsewhere && !endpoint.ports.iter().any(|(_, port)| of_ours(port)) {
            return Ok(());
        }
        let addresses = timeout(RESOLVE_WAIT, addresses(&endpoint.host, self.resolving.clone())).await;
        self.allow(service, endpoint, &addresses.unwrap_or_default(), view)
    }

    /// The same, where its host means `addresses`.
    pub(super) fn allow(
        &self,
        service: &ServiceName,
        endpoint: &Endpoint,
        addresses: &[IpAddr],
        view: &View,
    ) -> Result<(), BadPlace> {
        let declared = view.catalog.as_ref().and_then(|catalog| catalog.declared.services.get(service));
        let allowed = declared.map(|declared| &declared.registration);
        let here = Here { listeners: &self.listeners, is_ours: &is_ours };
        may_be_at(endpoint, addresses, (service, allowed), self.from, here)
    }
}

/// What a name means at the moment; of an address, and of a name that means nothing, nothing more is known.
async fn addresses(host: &Arc<str>, resolving: Arc<Semaphore>) -> Vec<IpAddr> {
    if host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    // Never closed.
    let permit = resolving.acquire_owned().await.ok();
    let host = host.clone();
    // Whoever does not wait any more has not freed the thread.
    let resolved = tokio::spawn(async move {
        let _permit = permit;
        lookup_host((&*host, 0)).await.map(|found| found.map(|a| a.ip()).collect())
    });
    resolved.await.ok().and_then(Result::ok).unwrap_or_default()
}

/// Whether an address is one of this host: only those can be bound.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
