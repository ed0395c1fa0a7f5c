//! `ringway ring locate`: the owner of a key, and who comes next.

use std::fmt::Write as _;
use std::path::PathBuf;

use registry::model::ServiceName;
use serde::{Deserialize, Serialize};

use super::declared::{Declared, RingError, part};
use super::service;
use crate::cli::client::{Client, query_value};
use crate::cli::output::{Format, print, print_json};
use crate::cli::{Admin, Failure, block_on};

/// Show which cluster owns a key, and which take it when the owner cannot.
///
/// Asks a running gateway, which knows contracts of its peers too; with -f works it out from manifests alone, for a
/// contract that lists its members. Both give the same answer wherever they are asked, for that is the contract.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway ring locate shop/cart user-17
  ringway ring locate shop/cart user-17 -f west.yaml")]
pub(in crate::cli) struct LocateArgs {
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
pub(super) fn run(args: &LocateArgs, format: Format) -> Result<(), Failure> {
    let location = if args.files.is_empty() { online(args)? } else { offline(args)? };
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
    let declared = Declared::of_files(&args.service, &args.files)?;
    Ok(locate(&declared, &args.key)?)
}

/// Works the place of `key` out from what declares a ring.
fn locate(declared: &Declared, key: &str) -> Result<Location, RingError> {
    let ring = declared.ring()?;
    let hash = ring.hash(key.as_bytes());
    let name = |node| String::from_utf8_lossy(ring.node(node).id).into_owned();
    let owner = ring.owner(hash);
    Ok(Location {
        service: declared.service.clone(),
        key: key.into(),
        hash: format!("{hash:016x}"),
        ring: format!("{:016x}", ring.fingerprint()),
        generation: declared.generation,
        owner: owner.map(name),
        near: ring.near(hash).map(name).collect(),
        share: owner.map(|node| part(ring.shares()[node.get()])),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::ring::declared::tests::declared;

    #[test]
    fn a_contract_alone_tells_the_place() {
        let cart = Declared { generation: 3, ..declared(&[("east", 100), ("north", 100), ("west", 100)]) };
        let location = locate(&cart, "user-17").unwrap();
        assert_eq!(location.near.len(), 3);
        assert_eq!(location.owner.as_ref(), location.near.first());
        assert_eq!((location.generation, location.hash.len(), location.ring.len()), (3, 16, 16));
        let share = location.share.unwrap();
        assert!((0.2..0.5).contains(&share), "{share}");

        let other_order =
            Declared { generation: 3, ..declared(&[("west", 100), ("east", 100), ("north", 100)]) };
        assert_eq!(locate(&other_order, "user-17").unwrap(), location);
    }
}
