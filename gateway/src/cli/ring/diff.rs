//! `ringway ring diff`: what a change of a ring would move.

use std::fmt::Write as _;
use std::path::PathBuf;

use hashring::NodeIndex;
use registry::model::{ClusterName, ServiceName};
use serde::Serialize;

use super::declared::{Declared, Member, RingError, part};
use super::service;
use crate::cli::output::{Format, Table, lines, print, print_json, table};
use crate::cli::{Admin, Failure};

/// Show which part of all keys a change of the ring would move, from where to where.
///
/// Before is what a running gateway places by, or what the manifests of --from declare; after is what the manifests of
/// -f declare, or what --add, --remove and --weight make of it. Counted from the intervals of both rings: exact.
/// Nothing is changed by this command.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("after").required(true).multiple(true), after_help = "\
Examples:
  ringway ring diff shop/cart -f new.yaml            the running ring against a manifest
  ringway ring diff shop/cart --add south=100        a fourth cluster
  ringway ring diff shop/cart --remove east --weight west=50
  ringway ring diff shop/cart --from west.yaml -f new.yaml
                                                     without a gateway")]
pub(in crate::cli) struct DiffArgs {
    /// The service, as NAMESPACE/NAME (or NAME, in the namespace `default`).
    #[arg(value_parser = service)]
    service: ServiceName,
    /// Manifests with the placement to come; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", group = "after", conflicts_with_all = ["add", "remove", "weight"])]
    files: Vec<PathBuf>,
    /// A cluster that joins, with its weight in hundredths; may be repeated.
    #[arg(long, value_name = "CLUSTER=WEIGHT", group = "after", value_parser = weighted)]
    add: Vec<Weighted>,
    /// A cluster that leaves; may be repeated.
    #[arg(long, value_name = "CLUSTER", group = "after")]
    remove: Vec<String>,
    /// Another weight of a cluster, in hundredths; may be repeated.
    #[arg(long, value_name = "CLUSTER=WEIGHT", group = "after", value_parser = weighted)]
    weight: Vec<Weighted>,
    /// Manifests with the placement before, instead of asking a gateway; may be repeated.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    admin: Admin,
}

/// A cluster with a weight in hundredths.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Weighted {
    cluster: String,
    weight: u32,
}

fn weighted(text: &str) -> Result<Weighted, String> {
    let (cluster, weight) =
        text.split_once('=').ok_or("write cluster and weight as CLUSTER=WEIGHT, such as south=100")?;
    let cluster = ClusterName::new(cluster).map_err(|bad| bad.to_string())?.to_string();
    let weight =
        weight.parse().map_err(|_| format!("`{weight}` is no weight: a whole number of hundredths"))?;
    Ok(Weighted { cluster, weight })
}

/// The answer, as programs read it.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Difference {
    service: String,
    pub(in crate::cli) before: Side,
    pub(in crate::cli) after: Side,
    /// The part of all keys that gets another owner, 0 to 1.
    pub(in crate::cli) moved: f64,
    /// The same of the 2^64 hashes, exact, as text; none: it is only to be expected.
    pub(in crate::cli) moved_hashes: Option<String>,
    pub(in crate::cli) flows: Vec<Flow>,
    pub(in crate::cli) clusters: Vec<Cluster>,
}

/// One of the two rings.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Side {
    /// Its fingerprint.
    pub(in crate::cli) ring: String,
    generation: u64,
}

/// Keys that one cluster hands to another.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Flow {
    /// None: nobody owned them.
    pub(in crate::cli) from: Option<String>,
    /// None: nobody owns them.
    pub(in crate::cli) to: Option<String>,
    hashes: String,
    share: f64,
}

/// What one cluster has before and after.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Cluster {
    pub(in crate::cli) cluster: String,
    pub(in crate::cli) before: f64,
    pub(in crate::cli) after: f64,
}

/// Runs the command.
///
/// # Errors
/// When no gateway answers, the manifests do not tell, or the change fits the ring not.
pub(super) fn run(args: &DiffArgs, format: Format) -> Result<(), Failure> {
    let before = match &*args.from {
        [] => Declared::of_gateway(&args.service, &args.admin)?,
        files => Declared::of_files(&args.service, files)?,
    };
    let after = match &*args.files {
        [] => changed(&before, args)?,
        files => Declared::of_files(&args.service, files)?,
    };
    let difference = difference(&before, &after)?;
    match format {
        Format::Json => print_json(&difference),
        Format::Text => print(&describe(&difference)),
    }
    Ok(())
}

/// `before` with the changes of the command line: first who leaves, so that one may come again under its name.
fn changed(before: &Declared, args: &DiffArgs) -> Result<Declared, RingError> {
    let mut after = Declared { ring: None, ..before.clone() };
    for cluster in &args.remove {
        let place = place(&after, cluster)?;
        after.members.remove(place);
    }
    for Weighted { cluster, weight } in &args.weight {
        let place = place(&after, cluster)?;
        after.members[place].weight = *weight;
    }
    for Weighted { cluster, weight } in &args.add {
        if place(&after, cluster).is_ok() {
            return Err(RingError::IsMember(cluster.clone()));
        }
        // Its region decides who comes next, not who owns.
        let (cluster, region) = (cluster.clone(), String::new());
        after.members.push(Member { cluster, region, weight: *weight, ring: None });
    }
    Ok(after)
}

fn place(declared: &Declared, cluster: &str) -> Result<usize, RingError> {
    let place = declared.members.iter().position(|member| member.cluster == cluster);
    place.ok_or_else(|| RingError::NoMember(cluster.into()))
}

/// What moves from one ring to the other, counted from their intervals.
///
/// # Errors
/// When one of them makes no ring, or their seeds differ.
pub(in crate::cli) fn difference(before: &Declared, after: &Declared) -> Result<Difference, RingError> {
    if before.seed != after.seed {
        return Err(RingError::Seeds { before: before.seed, after: after.seed });
    }
    let (old, new) = (before.ring()?, after.ring()?);
    let flows =
        old.diff(&new).map_err(|source| RingError::Ring { service: after.service.clone(), source })?;
    let name = |ring: &hashring::Ring, node: Option<NodeIndex>| {
        node.map(|node| String::from_utf8_lossy(ring.node(node).id).into_owned())
    };
    let moved: u128 = flows.iter().map(|flow| flow.hashes).sum();
    let flow = |flow: &hashring::Flow| Flow {
        from: name(&old, flow.from),
        to: name(&new, flow.to),
        hashes: flow.hashes.to_string(),
        share: part(flow.hashes),
    };
    Ok(Difference {
        service: after.service.clone(),
        before: side(before, &old),
        after: side(after, &new),
        moved: part(moved),
        moved_hashes: Some(moved.to_string()),
        flows: flows.iter().map(flow).collect(),
        clusters: clusters(before, &old, after, &new),
    })
}

/// The same of two rings under different seeds: every key is hashed anew, and what moves is what is to be expected of
/// owners that have nothing to do with each other.
///
/// # Errors
/// When one of them makes no ring.
pub(in crate::cli) fn scattered(before: &Declared, after: &Declared) -> Result<Difference, RingError> {
    let (old, new) = (before.ring()?, after.ring()?);
    let clusters = clusters(before, &old, after, &new);
    let stays: f64 = clusters.iter().map(|cluster| cluster.before * cluster.after).sum();
    Ok(Difference {
        service: after.service.clone(),
        before: side(before, &old),
        after: side(after, &new),
        moved: 1.0 - stays,
        moved_hashes: None,
        flows: Vec::new(),
        clusters,
    })
}

fn side(declared: &Declared, ring: &hashring::Ring) -> Side {
    Side { ring: format!("{:016x}", ring.fingerprint()), generation: declared.generation }
}

/// What each cluster has before and after.
fn clusters(before: &Declared, old: &hashring::Ring, after: &Declared, new: &hashring::Ring) -> Vec<Cluster> {
    let (old_shares, new_shares) = (old.shares(), new.shares());
    let share = |ring: &hashring::Ring, shares: &[u128], cluster: &str| {
        ring.index_of(cluster.as_bytes()).map_or(0.0, |node| part(shares[node.get()]))
    };
    let mut names: Vec<&str> =
        before.members.iter().chain(&after.members).map(|member| member.cluster.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let cluster = |cluster: &str| Cluster {
        before: share(old, &old_shares, cluster),
        after: share(new, &new_shares, cluster),
        cluster: cluster.into(),
    };
    names.into_iter().map(cluster).collect()
}

/// A table of who hands keys to whom.
pub(in crate::cli) fn flows(flows: &[Flow]) -> Table {
    let mut rows = table(&["FROM", "TO", "OF ALL KEYS"]);
    let nobody = || "nobody".to_owned();
    for flow in flows {
        let share = format!("{:.3} %", flow.share * 100.0);
        rows.add_row([
            flow.from.clone().unwrap_or_else(nobody),
            flow.to.clone().unwrap_or_else(nobody),
            share,
        ]);
    }
    rows
}

fn describe(difference: &Difference) -> String {
    let Difference { service, before, after, moved, .. } = difference;
    let mut text = format!("{service}: {:.3} % of all keys move\n", moved * 100.0);
    let side = |side: &Side| format!("ring {}, contract generation {}", side.ring, side.generation);
    let _infallible = writeln!(text, "  before   {}\n  after    {}", side(before), side(after));

    let flows = flows(&difference.flows);
    if flows.row_count() > 0 {
        let _infallible = write!(text, "\n{}", lines(&flows, "  "));
    }

    let mut clusters = table(&["CLUSTER", "SHARE BEFORE", "AFTER"]);
    for cluster in &difference.clusters {
        let percent = |part: f64| format!("{:.3} %", part * 100.0);
        clusters.add_row([cluster.cluster.clone(), percent(cluster.before), percent(cluster.after)]);
    }
    let _infallible = write!(text, "\n{}", lines(&clusters, "  "));
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::ring::declared::tests::declared;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DiffArgs,
    }

    /// What `ring diff shop/cart LINE` makes of a ring of three equal clusters.
    fn after(line: &str) -> Result<Difference, RingError> {
        let args = ["diff", "shop/cart"].into_iter().chain(line.split(' '));
        let args = Line::try_parse_from(args).unwrap().args;
        let before = declared(&[("east", 100), ("north", 100), ("west", 100)]);
        difference(&before, &changed(&before, &args)?)
    }

    #[test]
    fn only_what_a_cluster_leaves_or_takes_moves() {
        let removed = after("--remove east").unwrap();
        assert!(removed.flows.iter().all(|flow| flow.from.as_deref() == Some("east")), "{removed:?}");
        let east = removed.clusters.iter().find(|c| c.cluster == "east").unwrap();
        assert_eq!((east.before, east.after), (removed.moved, 0.0));

        let added = after("--add south=100").unwrap();
        assert!(added.flows.iter().all(|flow| flow.to.as_deref() == Some("south")), "{added:?}");
        let moved: u128 = added.flows.iter().map(|flow| flow.hashes.parse::<u128>().unwrap()).sum();
        assert_eq!(Some(moved.to_string()), added.moved_hashes);

        let lighter = after("--weight west=50").unwrap();
        assert!(lighter.flows.iter().all(|flow| flow.from.as_deref() == Some("west")), "{lighter:?}");
        assert!((0.1..0.25).contains(&lighter.moved), "{}", lighter.moved);
    }

    #[test]
    fn nothing_moves_when_nothing_changes() {
        let same = after("--weight west=100").unwrap();
        assert_eq!((same.moved_hashes.as_deref(), same.flows.len()), (Some("0"), 0));
        assert!(describe(&same).starts_with("shop/cart: 0.000 % of all keys move\n"));
    }

    #[test]
    fn a_change_that_does_not_fit_is_refused_with_a_hint() {
        for (line, words) in [
            ("--remove south", "no member"),
            ("--weight south=1", "no member"),
            ("--add east=100", "member of the ring already"),
        ] {
            let refused = after(line).unwrap_err();
            assert!(refused.to_string().contains(words) && refused.hint().is_some(), "{refused}");
        }
        let before = declared(&[("east", 100)]);
        let refused = difference(&before, &Declared { seed: 7, ..before.clone() }).unwrap_err();
        assert!(matches!(refused, RingError::Seeds { before: 0, after: 7 }));
    }

    #[test]
    fn wrong_usage_is_told() {
        for line in ["--add south", "--add So=1", "--weight west=heavy", "-f a.yaml --remove east"] {
            let args = ["diff", "shop/cart"].into_iter().chain(line.split(' '));
            assert!(Line::try_parse_from(args).is_err(), "{line}");
        }
        assert!(Line::try_parse_from(["diff", "shop/cart"]).is_err(), "no change at all");
    }
}
