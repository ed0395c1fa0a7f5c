//! `ringway diff`: what an apply would change.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use registry::manifest;
use registry::model::{Contract, Policy};
use serde::Serialize;
use serde_json::Value;

use super::clusters::{self, Clusters, Reply, reason};
use super::fields::{Field, differing};
use super::{ObjectsError, ProblemJson, connect, show, sources, taken};
use crate::cli::output::{Format, print, print_json};
use crate::cli::ring::{Difference, describe as describe_ring, moved};
use crate::cli::socket::AdminSocket;
use crate::cli::{Failure, block_on};
use crate::rpc::{ApplyRequest, Ask, Change, Changed};

/// Show what `ringway apply` would change, field by field, and which part of all keys a placement would move.
///
/// Everything is checked as by `apply`, and nothing is done. The parts are counted from the rings of both contracts:
/// exact. Exits with 0 whether or not something differs: `-o json` says so in `changed`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway diff -f cart.yaml
  ringway diff --clusters west,east -f cart.yaml
  ringway diff -f manifests/ -o json | jq .changed")]
pub(in crate::cli) struct Args {
    /// A manifest file, a folder of them, or `-` for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    clusters: Clusters,
    #[command(flatten)]
    socket: AdminSocket,
}

/// What would change, as programs read it.
#[derive(Serialize)]
struct DiffJson {
    changed: bool,
    objects: Vec<ObjectJson>,
    warnings: Vec<ProblemJson>,
}

/// The same of several clusters.
#[derive(Serialize)]
struct DiffsJson {
    clusters: Vec<OfCluster>,
}

#[derive(Serialize)]
struct OfCluster {
    cluster: String,
    /// Why it did not say.
    error: Option<String>,
    /// What is wrong with the manifests.
    problems: Vec<ProblemJson>,
    diff: Option<DiffJson>,
}

#[derive(Serialize)]
struct ObjectJson {
    /// `Kind namespace/name`.
    object: String,
    outcome: String,
    fields: Vec<Field>,
    /// What the change of a placement moves; none: it is none, or its rings are known at run time only.
    moves: Option<Difference>,
}

/// Runs the command.
///
/// # Errors
/// When the manifests are wrong, or no gateway answers.
pub(in crate::cli) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    let sources = sources(&args.files)?;
    if !args.clusters.is_empty() {
        let ask = Ask { operator: String::new(), kind: Some(clusters::apply(sources, true)) };
        let replies = block_on(async {
            let client = connect(&args.socket).await?;
            Ok::<_, Failure>(args.clusters.ask(&client, &ask, clusters::changed).await)
        })??;
        return Ok(say_all(replies, format));
    }
    let request = ApplyRequest { sources, dry_run: true };
    let changed = block_on(async {
        let answer = connect(&args.socket).await?.apply(request).await.map_err(ObjectsError::from)?;
        Ok::<_, Failure>(answer.into_inner())
    })??;
    let diff = diff(changed)?;
    match format {
        Format::Json => print_json(&diff),
        Format::Text => print(&describe(&diff)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What would change; or what is wrong with the manifests.
fn diff(changed: Changed) -> Result<DiffJson, Failure> {
    let (changes, warnings) = taken(changed)?;
    let objects: Vec<_> = changes.iter().map(object).collect();
    let changed = objects.iter().any(|object| object.outcome != "unchanged");
    Ok(DiffJson { changed, objects, warnings })
}

/// Says what would change in several clusters; it fails where one of them would not take it.
fn say_all(replies: Vec<Reply<Changed>>, format: Format) -> ExitCode {
    let of_cluster = |Reply { cluster, said }: Reply<Changed>| {
        let (error, problems, diff) = match said.map(diff) {
            Ok(Ok(diff)) => (None, Vec::new(), Some(diff)),
            Ok(Err(Failure::Refused(problems))) => {
                (Some("the manifests have errors".to_owned()), problems, None)
            }
            Ok(Err(failure)) => (Some(failure.to_string()), Vec::new(), None),
            Err(refusal) => (Some(format!("{}: {}", reason(&refusal), refusal.message)), Vec::new(), None),
        };
        OfCluster { cluster, error, problems, diff }
    };
    let all: Vec<_> = replies.into_iter().map(of_cluster).collect();
    let failed = all.iter().any(|one| one.error.is_some());
    if format == Format::Json {
        print_json(&DiffsJson { clusters: all });
    } else {
        for OfCluster { cluster, error, problems, diff } in &all {
            if let Some(diff) = diff {
                print(&format!("cluster {cluster}\n{}", describe(diff)));
            }
            problems.iter().for_each(|problem| eprintln!("{}", problem.text));
            if let Some(error) = error {
                eprintln!("error: cluster {cluster}: {error}");
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn object(change: &Change) -> ObjectJson {
    ObjectJson {
        object: show(&change.name.clone().unwrap_or_default()),
        outcome: change.outcome.clone(),
        fields: differing(&change.before, &change.after),
        moves: moves(&change.before, &change.after),
    }
}

/// What the change of a policy moves, where both rings are declared.
fn moves(before: &str, after: &str) -> Option<Difference> {
    let (before, after) = (policy(before)?, policy(after)?);
    let contract = |policy: &Policy| -> Option<Contract> { policy.placement.clone() };
    let (old, new) = (contract(&before)?, contract(&after)?);
    if before.service != after.service || old.members == new.members && old.seed == new.seed {
        return None;
    }
    moved(&after.service, &old, &new).ok()
}

/// The policy that a document declares.
fn policy(text: &str) -> Option<Arc<Policy>> {
    let source = manifest::Source { name: "applied".into(), text: text.into() };
    let manifests = manifest::parse(&[source]).ok()?;
    manifests.declared.policies.values().next().cloned()
}

fn describe(diff: &DiffJson) -> String {
    let mut text: String = diff.warnings.iter().map(|warning| format!("{}\n", warning.text)).collect();
    for object in diff.objects.iter().filter(|object| object.outcome != "unchanged") {
        let _infallible = writeln!(text, "{} {}", object.object, object.outcome);
        let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".into(), Value::to_string);
        for field in &object.fields {
            let (before, after) = (value(&field.before), value(&field.after));
            let _infallible = writeln!(text, "  {}: {before} -> {after}", field.path);
        }
        if let Some(moves) = &object.moves {
            text.extend(
                describe_ring(moves).lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n"),
            );
        }
    }
    if !diff.changed {
        text += "nothing would change\n";
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rpc::Name;

    fn policy(generation: u64, members: &str) -> String {
        format!(
            "apiVersion: ringway.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: cart, namespace: shop }}\n\
             spec:\n  service: cart\n  placement: {{ mode: sharded, generation: {generation}, members: [{members}] }}\n"
        )
    }

    #[test]
    fn a_placement_shows_its_fields_and_the_keys_that_move() {
        let east = "{ cluster: east, region: e }";
        let change = Change {
            name: Some(Name { kind: "TrafficPolicy".into(), namespace: "shop".into(), name: "cart".into() }),
            outcome: "changed".into(),
            before: policy(1, east),
            after: policy(2, &format!("{east}, {{ cluster: west, region: w }}")),
            ..Change::default()
        };
        let object = object(&change);
        let paths: Vec<_> = object.fields.iter().map(|field| &*field.path).collect();
        assert_eq!(paths, ["spec.placement.generation", "spec.placement.members[west]"]);
        let diff = DiffJson { changed: true, objects: vec![object], warnings: Vec::new() };
        let text = describe(&diff);
        assert!(
            text.starts_with("TrafficPolicy shop/cart changed\n  spec.placement.generation: 1 -> 2\n"),
            "{text}"
        );
        assert!(text.contains("% of all keys move"), "{text}");
        // Without another ring nothing moves.
        assert!(moves(&policy(1, east), &policy(2, east)).is_none());
    }

    #[test]
    fn nothing_new_is_said_so() {
        let diff = DiffJson { changed: false, objects: Vec::new(), warnings: Vec::new() };
        assert_eq!(describe(&diff), "nothing would change\n");
    }
}
