//! `ringway diff`: what an apply would change.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use proto::text::escape;
use registry::manifest;
use registry::model::Kind;
use serde::Serialize;
use serde_json::Value;

use super::clusters::{self, Clusters, Reply, reason};
use super::fields::{Field, differing};
use super::moves::Moves;
use super::{ObjectsError, ProblemJson, connect, heard, show, sources, taken};
use crate::cli::output::{Format, complain, complain_of, print, print_json};
use crate::cli::socket::AdminSocket;
use crate::cli::{Failure, block_on};
use admin_api::rpc::{ApplyRequest, Ask, Change, Changed};

/// Show what `ringway apply` would change, field by field, and which part of all keys a placement would move.
///
/// Everything is checked as by `apply`, and nothing is done. The parts are counted from the rings by which the gateway
/// places now and would place then, with the contracts of peers and, where none lists members, the clusters that serve:
/// exact. A change of the seed scatters all keys; of that the part is what is to be expected. Exits with 0 whether or not something differs: `-o json` says so in `changed`.
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
    /// What moves of services that no object here is about, as a Link makes it.
    moves: Vec<Moves>,
    /// How many more services would be placed otherwise.
    moves_left_out: u32,
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
    /// What it moves of its service; none: it is placed as before.
    moves: Option<Moves>,
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
        Ok::<_, Failure>(heard::changed(answer.into_inner()))
    })??;
    let diff = diff(changed)?;
    match format {
        Format::Json => print_json(&diff),
        Format::Text => print(&describe(&diff)),
    }
    Ok(ExitCode::SUCCESS)
}

/// What would change; or what is wrong with the manifests.
fn diff(mut changed: Changed) -> Result<DiffJson, Failure> {
    let placements = std::mem::take(&mut changed.placements);
    let moves_left_out = changed.placements_left_out;
    let mut moves: BTreeMap<String, Moves> =
        placements.into_iter().map(Moves::of).map(|moves| (moves.service.clone(), moves)).collect();
    let (changes, warnings) = taken(changed)?;
    let mut objects: Vec<_> = changes.iter().map(object).collect();
    // A policy is what moves the keys of its service, if there is one.
    for of in [Kind::TrafficPolicy, Kind::MeshService] {
        for (change, object) in changes.iter().zip(&mut objects) {
            let service = service(change, of);
            object.moves = object.moves.take().or_else(|| moves.remove(&service?));
        }
    }
    let changed = objects.iter().any(|object| object.outcome != "unchanged");
    Ok(DiffJson { changed, objects, moves: moves.into_values().collect(), moves_left_out, warnings })
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
            problems.iter().for_each(|problem| complain_of(&problem.text));
            if let Some(error) = error {
                complain(&format!("error: cluster {cluster}: {error}"));
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
        moves: None,
    }
}

/// The service that an object of the kind `of` is about.
fn service(change: &Change, of: Kind) -> Option<String> {
    let name = change.name.as_ref().filter(|name| name.kind == of.as_str())?;
    if of == Kind::MeshService {
        return Some(format!("{}/{}", name.namespace, name.name));
    }
    let text = if change.after.is_empty() { &change.before } else { &change.after };
    let source = manifest::Source { name: "applied".into(), text: text.clone() };
    let manifests = manifest::parse(&[source]).ok()?;
    manifests.declared.policies.keys().next().map(ToString::to_string)
}

fn describe(diff: &DiffJson) -> String {
    let mut text: String = diff.warnings.iter().map(|warning| format!("{}\n", warning.text)).collect();
    for object in diff.objects.iter().filter(|object| object.outcome != "unchanged") {
        let _infallible = writeln!(text, "{} {}", object.object, object.outcome);
        let value = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".into(), Value::to_string);
        for field in &object.fields {
            let (before, after) = (value(&field.before), value(&field.after));
            let _infallible = writeln!(text, "  {}: {before} -> {after}", escape(&field.path));
        }
        text.extend(object.moves.iter().map(indented));
    }
    text.extend(diff.moves.iter().map(indented));
    if diff.moves_left_out > 0 {
        let _infallible = writeln!(text, "  and {} more services are placed otherwise", diff.moves_left_out);
    }
    if !diff.changed {
        text += "nothing would change\n";
    }
    text
}

fn indented(moves: &Moves) -> String {
    moves.describe().lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use admin_api::rpc::{Member, Name, Placed, Placement};

    fn policy(generation: u64, members: &str) -> String {
        format!(
            "apiVersion: ringway.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: rule, namespace: shop }}\n\
             spec:\n  service: cart\n  placement: {{ mode: sharded, generation: {generation}, members: [{members}] }}\n"
        )
    }

    fn change(kind: &str, name: &str) -> Change {
        let name = Name { kind: kind.into(), namespace: "shop".into(), name: name.into() };
        Change { name: Some(name), outcome: "changed".into(), ..Change::default() }
    }

    fn placement(name: &str) -> Placement {
        let member = |cluster: &str| Member { cluster: cluster.into(), region: "r".into(), weight: 100 };
        let placed = |members: &[&str]| Placed {
            generation: 1,
            mode: "sharded".into(),
            members: members.iter().map(|cluster| member(cluster)).collect(),
            in_force: true,
            ..Placed::default()
        };
        Placement {
            namespace: "shop".into(),
            name: name.into(),
            before: Some(placed(&["east"])),
            after: Some(placed(&["east", "west"])),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_placement_shows_its_fields_and_the_keys_that_move() {
        let east = "{ cluster: east, region: e }";
        let changed = Change {
            before: policy(1, east),
            after: policy(2, &format!("{east}, {{ cluster: west, region: w }}")),
            ..change("TrafficPolicy", "rule")
        };
        // The service is there as well; what no object is about stands at the end.
        let diff = diff(Changed {
            changes: vec![change("MeshService", "cart"), change("MeshService", "web"), changed],
            placements: vec![placement("cart"), placement("linked"), placement("web")],
            placements_left_out: 3,
            ..Changed::default()
        });
        let diff = diff.unwrap();
        let moved: Vec<_> =
            diff.objects.iter().map(|object| object.moves.as_ref().map(|moves| &*moves.service)).collect();
        assert_eq!(moved, [None, Some("shop/web"), Some("shop/cart")]);
        assert_eq!(diff.moves.len(), 1);
        let paths: Vec<_> = diff.objects[2].fields.iter().map(|field| &*field.path).collect();
        assert_eq!(paths, ["spec.placement.generation", "spec.placement.members[west]"]);
        let text = describe(&diff);
        assert!(
            text.contains("TrafficPolicy shop/rule changed\n  spec.placement.generation: 1 -> 2\n"),
            "{text}"
        );
        assert!(text.contains("  shop/cart: ") && text.contains("% of all keys move"), "{text}");
        assert!(
            text.contains("  shop/linked: ") && text.ends_with("and 3 more services are placed otherwise\n")
        );
    }

    #[test]
    fn nothing_new_is_said_so() {
        let diff = diff(Changed::default()).unwrap();
        assert_eq!(describe(&diff), "nothing would change\n");
    }
}
