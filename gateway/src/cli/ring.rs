//! `ringway ring`: where the ring places keys.

use std::fmt::Write as _;
use std::path::PathBuf;

use hashring::RingError;
use registry::manifest;
use registry::model::{BadLabel, Contract, ServiceName};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::output::{Format, print, print_json};
use super::{Admin, Failure, block_on};
use crate::placement::Rings;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Locate(LocateArgs),
}

/// Show which cluster owns a key, and which take it when the owner cannot.
///
/// Asks a running gateway, which knows contracts of its peers too; with -f works it out from manifests alone, for a
/// contract that lists its members. Both give the same answer wherever they are asked, for that is the contract.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway ring locate shop/cart user-17
  ringway ring locate shop/cart user-17 -f west.yaml")]
pub(super) struct LocateArgs {
    /// The service, as NAMESPACE/NAME (or NAME, in the namespace `default`).
    #[arg(value_parser = service)]
    service: ServiceName,
    /// The key: the value of the header or parameter that the contract hashes.
    key: String,
    /// Manifests to work it out from, instead of asking a gateway; may be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    admin: Admin,
}

fn service(text: &str) -> Result<ServiceName, BadLabel> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ServiceName::new(namespace, name)
}

/// Why manifests alone do not tell where a key belongs.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocateError {
    /// No placement contract for the service in the files.
    #[error("the manifests hold no TrafficPolicy with a placement for {0}")]
    NoContract(ServiceName),
    /// The contract leaves its members to be learned.
    #[error("the contract of {0} lists no members: who they are is known at run time only")]
    OpenMembers(ServiceName),
    /// The members make no ring.
    #[error("the members of {service} make no ring")]
    Ring {
        /// Whose contract.
        service: ServiceName,
        /// What the ring refuses.
        source: RingError,
    },
}

impl LocateError {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::NoContract(_) | Self::OpenMembers(_) => {
                Some("leave -f out to ask a running gateway, which knows the contract in force".into())
            }
            Self::Ring { .. } => None,
        }
    }
}

/// Where a key belongs: what `GET /v1/ring/locate` answers, and what manifests give.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Location {
    /// `namespace/name`.
    service: String,
    /// The key.
    key: String,
    /// Its hash, hexadecimal.
    hash: String,
    /// The ring's fingerprint, hexadecimal.
    ring: String,
    /// Generation of the contract.
    generation: u64,
    /// The cluster whose key it is; none if no member has weight.
    owner: Option<String>,
    /// The order in which clusters are tried, the owner first.
    near: Vec<String>,
    /// The part of all keys that the owner owns, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// When no gateway answers, or the manifests do not tell.
pub(super) fn run(Command::Locate(args): Command, format: Format) -> Result<(), Failure> {
    let location = if args.files.is_empty() { online(&args)? } else { offline(&args)? };
    match format {
        Format::Json => print_json(&location),
        Format::Text => print(&describe(&location)),
    }
    Ok(())
}

fn online(args: &LocateArgs) -> Result<Location, Failure> {
    let key = query_value(args.key.as_bytes());
    let target =
        format!("/v1/ring/locate?service={}&key={key}", query_value(args.service.to_string().as_bytes()));
    let (location, _bytes) = block_on(Client::new(&args.admin.admin).get_json(&target))??;
    Ok(location)
}

fn offline(args: &LocateArgs) -> Result<Location, Failure> {
    let manifests = manifest::load(&args.files).map_err(Failure::Manifests)?;
    let policy = manifests.declared.policies.get(&args.service);
    let contract = policy.and_then(|policy| policy.placement.as_ref());
    let contract = contract.ok_or_else(|| LocateError::NoContract(args.service.clone()))?;
    Ok(locate(&args.service, contract, &args.key)?)
}

/// Works the place of `key` out from a contract that lists its members.
fn locate(service: &ServiceName, contract: &Contract, key: &str) -> Result<Location, LocateError> {
    let members = contract.members.as_deref().ok_or_else(|| LocateError::OpenMembers(service.clone()))?;
    let ring = Rings::default()
        .get(members, contract.seed)
        .map_err(|source| LocateError::Ring { service: service.clone(), source })?;
    let hash = ring.hash(key.as_bytes());
    let name = |node| String::from_utf8_lossy(ring.node(node).id).into_owned();
    let owner = ring.owner(hash);
    // A share of all 2^64 hashes: more digits than a double holds are of no use here.
    let share = |node: hashring::NodeIndex| ring.shares()[node.get()] as f64 / 2_f64.powi(64);
    Ok(Location {
        service: service.to_string(),
        key: key.into(),
        hash: format!("{hash:016x}"),
        ring: format!("{:016x}", ring.fingerprint()),
        generation: contract.generation,
        owner: owner.map(name),
        near: ring.near(hash).map(name).collect(),
        share: owner.map(share),
    })
}

fn describe(location: &Location) -> String {
    let Location { service, key, hash, ring, generation, owner, near, share } = location;
    let share =
        share.map_or_else(String::new, |part| format!(", which owns {:.1} % of all keys", part * 100.0));
    let owner = owner.as_deref().unwrap_or("nobody: no member has weight");
    let mut text = format!("key `{key}` of {service} belongs to {owner}{share}\n");
    let _infallible = writeln!(text, "  order     {}", near.join(", "));
    let _infallible = writeln!(text, "  hash      {hash}");
    let _infallible = writeln!(text, "  ring      {ring}, contract generation {generation}");
    text
}

/// `bytes` as a value in a query (RFC 3986, section 2.3: only unreserved characters stand for themselves).
fn query_value(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use registry::model::{ClusterName, Member};

    fn members(names: &[&str]) -> Option<Vec<Member>> {
        let member = |name: &&str| Member {
            cluster: ClusterName::new(name).unwrap(),
            region: format!("us-{name}"),
            weight: 100,
        };
        Some(names.iter().map(member).collect())
    }

    fn cart() -> ServiceName {
        service("shop/cart").unwrap()
    }

    #[test]
    fn a_contract_alone_tells_the_place() {
        let contract =
            Contract { generation: 3, members: members(&["east", "north", "west"]), ..Contract::default() };
        let location = locate(&cart(), &contract, "user-17").unwrap();
        assert_eq!(location.near.len(), 3);
        assert_eq!(location.owner.as_ref(), location.near.first());
        assert_eq!((location.generation, location.hash.len(), location.ring.len()), (3, 16, 16));
        let share = location.share.unwrap();
        assert!((0.2..0.5).contains(&share), "{share}");

        let other_order = Contract { members: members(&["west", "east", "north"]), ..contract };
        assert_eq!(locate(&cart(), &other_order, "user-17").unwrap(), location);
    }

    #[test]
    fn open_members_are_not_guessed() {
        let refused = locate(&cart(), &Contract::default(), "user-17").unwrap_err();
        assert!(matches!(refused, LocateError::OpenMembers(_)));
        assert!(refused.hint().is_some());
    }

    #[test]
    fn keys_survive_the_query() {
        assert_eq!(query_value("a b&c=d/é~".as_bytes()), "a%20b%26c%3Dd%2F%C3%A9~");
    }

    #[test]
    fn a_service_without_a_namespace_is_in_default() {
        assert_eq!(service("cart").unwrap().to_string(), "default/cart");
        assert!(service("shop/Cart").is_err());
    }
}
