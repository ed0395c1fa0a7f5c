//! All that a ring of clusters is a function of, from a running gateway or from manifests.

use std::path::PathBuf;
use std::sync::Arc;

use hashring::Ring;
use registry::manifest;
use registry::model::{ClusterName, Contract, Member as Declaration, Mode, ServiceName};
use serde::Deserialize;

use crate::cli::client::{Client, query_value};
use crate::cli::{Admin, Failure, block_on};
use policy::placement::Rings;

/// What `GET /v1/ring` answers, or manifests say. Fields of later versions are skipped.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(in crate::cli) struct Declared {
    /// `namespace/name`.
    pub(in crate::cli) service: String,
    /// Generation of the contract.
    pub(in crate::cli) generation: u64,
    /// Placement mode of the contract.
    pub(in crate::cli) mode: String,
    /// The cluster whose contract counts; none: nobody declared one.
    #[serde(default)]
    pub(in crate::cli) contract_from: Option<String>,
    /// The ring's seed.
    pub(in crate::cli) seed: u64,
    /// The fingerprint that the gateway has of it, hexadecimal; none from manifests.
    #[serde(default)]
    pub(in crate::cli) ring: Option<String>,
    /// Its members.
    pub(in crate::cli) members: Vec<Member>,
}

/// A member of a ring.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(in crate::cli) struct Member {
    /// The cluster.
    pub(in crate::cli) cluster: String,
    /// Its region.
    pub(in crate::cli) region: String,
    /// In hundredths.
    pub(in crate::cli) weight: u32,
    /// Fingerprint of the ring that the cluster says it places by; none if it told none.
    #[serde(default)]
    pub(in crate::cli) ring: Option<String>,
}

/// Why there is no ring to speak of.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RingError {
    /// No placement contract for the service in the files.
    #[error("the manifests hold no TrafficPolicy with a placement for {0}")]
    NoContract(ServiceName),
    /// The contract leaves its members to be learned.
    #[error("the contract of {0} lists no members: who they are is known at run time only")]
    OpenMembers(ServiceName),
    /// A member's name is no cluster's.
    #[error(transparent)]
    Name(#[from] registry::model::BadLabel),
    /// The members make no ring.
    #[error("the members of {service} make no ring")]
    Ring {
        /// Whose contract.
        service: String,
        /// What the ring refuses.
        source: hashring::RingError,
    },
    /// The gateway has another ring of the same members.
    #[error("the gateway makes the ring {theirs} of these members, this command {ours}")]
    OtherVersion {
        /// The gateway's fingerprint.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// A change of a cluster that is no member.
    #[error("cluster `{0}` is no member of the ring")]
    NoMember(String),
    /// A cluster that is to be added is there.
    #[error("cluster `{0}` is a member of the ring already")]
    IsMember(String),
    /// Two rings under different seeds.
    #[error(
        "the seed changes from {before} to {after}: every key is hashed anew, and all of them are scattered"
    )]
    Seeds {
        /// Before.
        before: u64,
        /// After.
        after: u64,
    },
}

impl RingError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoContract(_) | Self::OpenMembers(_) => {
                Some("ask a running gateway instead of manifests: it knows the contract in force".into())
            }
            Self::OtherVersion { .. } => Some("use the `ringway` of the gateway's own version".into()),
            Self::NoMember(_) => Some("`ringway ring shares` lists the members; --add makes one".into()),
            Self::IsMember(_) => Some("change its weight with --weight".into()),
            Self::Seeds { .. } => {
                Some("leave `placement.seed` as it is, and only members and weights move keys".into())
            }
            Self::Name(_) | Self::Ring { .. } => None,
        }
    }
}

impl Declared {
    /// What the gateway behind `admin` places `service` by at the moment.
    pub(super) fn of_gateway(service: &ServiceName, admin: &Admin) -> Result<Self, Failure> {
        let target = format!("/v1/ring?service={}", query_value(service.to_string().as_bytes()));
        let (declared, _bytes) = block_on(Client::new(&admin.admin).get_json(&target))??;
        Ok(declared)
    }

    /// What manifests declare for `service`.
    pub(super) fn of_files(service: &ServiceName, files: &[PathBuf]) -> Result<Self, Failure> {
        let manifests = manifest::load(files).map_err(Failure::Manifests)?;
        let policy = manifests.declared.policies.get(service);
        let contract = policy.and_then(|policy| policy.placement.as_ref());
        let contract = contract.ok_or_else(|| RingError::NoContract(service.clone()))?;
        Ok(Self::of_contract(service, contract)?)
    }

    pub(super) fn of_contract(service: &ServiceName, contract: &Contract) -> Result<Self, RingError> {
        let members = contract.members.as_deref().ok_or_else(|| RingError::OpenMembers(service.clone()))?;
        let member = |member: &Declaration| Member {
            cluster: member.cluster.to_string(),
            region: member.region.clone(),
            weight: member.weight,
            ring: None,
        };
        Ok(Self {
            service: service.to_string(),
            generation: contract.generation,
            mode: match contract.mode {
                Mode::LocalFirst => "local-first".into(),
                Mode::Sharded => "sharded".into(),
            },
            contract_from: None,
            seed: contract.seed,
            ring: None,
            members: members.iter().map(member).collect(),
        })
    }

    /// The ring of clusters, as a gateway builds it.
    ///
    /// # Errors
    /// When the members make none, or the gateway that was asked makes another one of them.
    pub(super) fn ring(&self) -> Result<Arc<Ring>, RingError> {
        let member = |member: &Member| {
            Ok(Declaration {
                cluster: ClusterName::new(&member.cluster)?,
                region: member.region.clone(),
                weight: member.weight,
            })
        };
        let mut members = self.members.iter().map(member).collect::<Result<Vec<_>, RingError>>()?;
        members.sort_unstable_by(|a, b| a.cluster.cmp(&b.cluster));
        let ring = Rings::default()
            .get(&members, self.seed)
            .map_err(|source| RingError::Ring { service: self.service.clone(), source })?;
        let ours = format!("{:016x}", ring.fingerprint());
        match &self.ring {
            Some(theirs) if *theirs != ours => Err(RingError::OtherVersion { theirs: theirs.clone(), ours }),
            _ => Ok(ring),
        }
    }
}

/// A number of the 2^64 hashes as a part of all keys, 0 to 1: more digits than a double holds are of no use here.
pub(super) fn part(hashes: u128) -> f64 {
    hashes as f64 / 2_f64.powi(64)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `shop/cart` with these members, sharded, generation 1.
    pub(in super::super) fn declared(members: &[(&str, u32)]) -> Declared {
        let member = |(cluster, weight): &(&str, u32)| Member {
            cluster: (*cluster).into(),
            region: format!("us-{cluster}"),
            weight: *weight,
            ring: None,
        };
        Declared {
            service: "shop/cart".into(),
            generation: 1,
            mode: "sharded".into(),
            contract_from: None,
            seed: 0,
            ring: None,
            members: members.iter().map(member).collect(),
        }
    }

    #[test]
    fn open_members_are_not_guessed() {
        let cart = ServiceName::new("shop", "cart").unwrap();
        let refused = Declared::of_contract(&cart, &Contract::default()).unwrap_err();
        assert!(matches!(refused, RingError::OpenMembers(_)));
        assert!(refused.hint().is_some());
    }

    #[test]
    fn a_gateway_of_another_opinion_is_not_believed() {
        let cart = declared(&[("east", 100), ("west", 100)]);
        let fingerprint = format!("{:016x}", cart.ring().unwrap().fingerprint());
        assert!(Declared { ring: Some(fingerprint), ..cart.clone() }.ring().is_ok());
        let other = Declared { ring: Some("00000000000000ab".into()), ..cart };
        assert!(matches!(other.ring().unwrap_err(), RingError::OtherVersion { .. }));
    }
}
