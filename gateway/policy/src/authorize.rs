//! Whether a request of another cluster may have a service of this one: decided in one place, before any work is done for
//! it. Deny by default.

use registry::model::{ClusterName, Grant};

/// The gateway that asks, by its certificate.
#[derive(Clone, Copy, Debug)]
pub struct Gateway<'a> {
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its trust domain.
    pub trust_domain: &'a str,
}

/// Whom it says that it asks for.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// Nobody in particular: a caller without a sidecar.
    Anonymous,
    /// A workload, by its SPIFFE ID.
    Workload {
        /// Its cluster.
        cluster: &'a str,
        /// Its trust domain.
        trust_domain: &'a str,
    },
    /// What is no ID, or not that of a workload.
    Nonsense,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The service is not exported to that cluster.
    NotGranted,
    /// A gateway speaks for the workloads of its own cluster, within the trust domain that the link gives it (of which its
    /// own certificate is), and for no others.
    NotItsWorkload,
}

/// Whether `gateway` may have a service of this `grant` for `caller`.
///
/// # Errors
/// [`Denied`].
pub fn authorize(grant: &Grant, gateway: Gateway<'_>, caller: Caller<'_>) -> Result<(), Denied> {
    if !grant.allows(gateway.cluster) {
        return Err(Denied::NotGranted);
    }
    match caller {
        Caller::Anonymous => Ok(()),
        Caller::Workload { cluster, trust_domain }
            if cluster == gateway.cluster.as_str() && trust_domain == gateway.trust_domain =>
        {
            Ok(())
        }
        Caller::Workload { .. } | Caller::Nonsense => Err(Denied::NotItsWorkload),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_gateway_has_what_is_granted_to_its_cluster_for_workloads_of_its_own() {
        let east = ClusterName::new("east").unwrap();
        let gateway = Gateway { cluster: &east, trust_domain: "acme.example" };
        let of = |cluster, trust_domain| Caller::Workload { cluster, trust_domain };
        let granted = Grant::Clusters([east.clone()].into());
        for (caller, expected) in [
            (Caller::Anonymous, Ok(())),
            (of("east", "acme.example"), Ok(())),
            (of("west", "acme.example"), Err(Denied::NotItsWorkload)),
            (of("east", "evil.example"), Err(Denied::NotItsWorkload)),
            (Caller::Nonsense, Err(Denied::NotItsWorkload)),
        ] {
            assert_eq!(authorize(&granted, gateway, caller), expected, "{caller:?}");
            assert_eq!(authorize(&Grant::Everyone, gateway, caller), expected, "{caller:?}");
            assert_eq!(authorize(&Grant::Nobody, gateway, caller), Err(Denied::NotGranted));
        }
    }
}
