//! `ringway ring shares`: how much of the key space each cluster owns.

use std::fmt::Write as _;
use std::path::PathBuf;

use registry::model::ServiceName;
use serde::Serialize;

use super::declared::{Declared, RingError, part};
use super::service;
use crate::cli::output::{Format, lines, print, print_json, table};
use crate::cli::{Admin, Failure};

/// Width of the bar of a cluster that owns everything.
const BAR_WIDTH: f64 = 50.0;

/// Show how much of the key space each cluster owns, exactly, beside its weight.
///
/// A share is counted from the ring's intervals, not sampled. Beside it stands what the cluster's weight alone would
/// give it, and whether the cluster places by the same ring, as its digests tell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway ring shares shop/cart
  ringway ring shares shop/cart -f west.yaml         from manifests alone
  ringway ring shares shop/cart -o json")]
pub(in crate::cli) struct SharesArgs {
    /// The service, as NAMESPACE/NAME (or NAME, in the namespace `default`).
    #[arg(value_parser = service)]
    service: ServiceName,
    /// Manifests to work it out from, instead of asking a gateway; may be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    admin: Admin,
}

/// The answer, as programs read it.
#[derive(Debug, Serialize)]
struct Shares {
    service: String,
    generation: u64,
    mode: String,
    contract_from: Option<String>,
    seed: u64,
    ring: String,
    members: Vec<Share>,
}

/// What one cluster owns.
#[derive(Debug, Serialize)]
struct Share {
    cluster: String,
    region: String,
    weight: u32,
    /// Of the 2^64 hashes, exact: as text, because most readers of JSON hold no such number.
    hashes: String,
    /// The same as a part of all, 0 to 1.
    share: f64,
    /// The part that its weight alone would give it.
    fair: f64,
    /// The ring that it says it places by; none: it told none.
    ring: Option<String>,
    /// Whether that is this ring; none: it told none.
    agrees: Option<bool>,
}

/// Runs the command.
///
/// # Errors
/// When no gateway answers, or the manifests do not tell.
pub(super) fn run(args: &SharesArgs, format: Format) -> Result<(), Failure> {
    let declared = match &*args.files {
        [] => Declared::of_gateway(&args.service, &args.admin)?,
        files => Declared::of_files(&args.service, files)?,
    };
    let shares = shares(&declared)?;
    match format {
        Format::Json => print_json(&shares),
        Format::Text => print(&describe(&shares)),
    }
    Ok(())
}

fn shares(declared: &Declared) -> Result<Shares, RingError> {
    let ring = declared.ring()?;
    let fingerprint = format!("{:016x}", ring.fingerprint());
    let total: f64 = declared.members.iter().map(|member| f64::from(member.weight)).sum();
    let owned = ring.shares();
    let share = |member: &super::declared::Member| {
        let node = ring.index_of(member.cluster.as_bytes());
        let hashes = node.map_or(0, |node| owned[node.get()]);
        Share {
            cluster: member.cluster.clone(),
            region: member.region.clone(),
            weight: member.weight,
            hashes: hashes.to_string(),
            share: part(hashes),
            fair: if total > 0.0 { f64::from(member.weight) / total } else { 0.0 },
            agrees: member.ring.as_ref().map(|ring| *ring == fingerprint),
            ring: member.ring.clone(),
        }
    };
    Ok(Shares {
        service: declared.service.clone(),
        generation: declared.generation,
        mode: declared.mode.clone(),
        contract_from: declared.contract_from.clone(),
        seed: declared.seed,
        members: declared.members.iter().map(share).collect(),
        ring: fingerprint,
    })
}

fn describe(shares: &Shares) -> String {
    let Shares { service, generation, mode, seed, ring, .. } = shares;
    let from = shares.contract_from.as_ref().map_or_else(String::new, |from| format!(" of cluster {from}"));
    let mut text =
        format!("{service}: ring {ring}, seed {seed}, contract generation {generation}{from}, {mode}\n");
    let mut rows = table(&["CLUSTER", "REGION", "WEIGHT", "FAIR", "SHARE", "", "ITS RING"]);
    for member in &shares.members {
        let theirs = match (member.agrees, &member.ring) {
            (Some(true), _) => "the same".into(),
            (Some(false), Some(ring)) => format!("ANOTHER: {ring}"),
            _ => "-".into(),
        };
        rows.add_row([
            member.cluster.clone(),
            member.region.clone(),
            member.weight.to_string(),
            format!("{:.2} %", member.fair * 100.0),
            format!("{:.2} %", member.share * 100.0),
            bar(member.share),
            theirs,
        ]);
    }
    let _infallible = write!(text, "\n{}", lines(&rows, "  "));
    if shares.members.iter().any(|member| member.agrees == Some(false)) {
        text += "\nclusters place by different rings: compare their policies, and raise `generation` with every change\n";
    }
    if mode == "local-first" {
        text += "\nmode local-first: a share says where a key goes among clusters of one tier, not before\n";
    }
    text
}

/// A bar for a part from 0 to 1.
fn bar(part: f64) -> String {
    "#".repeat((part * BAR_WIDTH).round() as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::ring::declared::tests::declared;

    #[test]
    fn shares_are_exact_and_stand_beside_weights() {
        let mut cart = declared(&[("east", 100), ("west", 300)]);
        let ring = format!("{:016x}", cart.ring().unwrap().fingerprint());
        cart.members[0].ring = Some(ring.clone());
        cart.members[1].ring = Some("00000000000000ab".into());
        let shares = shares(&cart).unwrap();
        let all: u128 = shares.members.iter().map(|m| m.hashes.parse::<u128>().unwrap()).sum();
        assert_eq!(all, 1 << 64);
        assert_eq!([shares.members[0].fair, shares.members[1].fair], [0.25, 0.75]);
        assert!((shares.members[0].share - 0.25).abs() < 0.05, "{shares:?}");
        assert_eq!([shares.members[0].agrees, shares.members[1].agrees], [Some(true), Some(false)]);
        let text = describe(&shares);
        for words in ["the same", "ANOTHER: 00000000000000ab", "75.00 %", "##########", &ring] {
            assert!(text.contains(words), "`{words}` is missing in\n{text}");
        }
    }

    #[test]
    fn a_member_without_weight_owns_nothing() {
        let shares = shares(&declared(&[("east", 0), ("west", 100)])).unwrap();
        assert_eq!((shares.members[0].hashes.as_str(), shares.members[1].share), ("0", 1.0));
    }
}
