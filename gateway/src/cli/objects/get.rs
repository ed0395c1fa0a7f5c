//! `ringway get`: what is declared, in files and applied.

use std::process::ExitCode;
use std::time::SystemTime;

use registry::model::Kind;
use registry::tasks::status;
use serde::Serialize;

use super::clusters::{Clusters, Reply, reason};
use super::{ObjectsError, connect, heard, kind};
use crate::cli::output::{Output, complain, lines, print, print_json, table};
use crate::cli::socket::AdminSocket;
use crate::cli::{Failure, block_on, unix_ms};
use admin_api::rpc::{Ask, Condition, Found, GetRequest, Object, answer, ask};

/// Show what a running gateway declares: objects of its files, and those that were applied.
///
/// Of two of one name that of the file counts, and the other one says so. `-o yaml` shows the documents as they were
/// written, ready to be changed and applied again. With --clusters a linked cluster shows what it grants to this one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway get
  ringway get MeshService -n shop -o wide
  ringway get Link east -o yaml")]
pub(in crate::cli) struct Args {
    /// Link, MeshService or TrafficPolicy; left out: all of them.
    #[arg(value_parser = kind)]
    kind: Option<Kind>,
    /// The object's name.
    #[arg(requires = "kind")]
    name: Option<String>,
    /// Only of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    clusters: Clusters,
    #[command(flatten)]
    socket: AdminSocket,
}

#[derive(Serialize)]
struct FoundJson<'a> {
    objects: Vec<ObjectJson<'a>>,
}

/// What several clusters declare, as programs read it.
#[derive(Serialize)]
struct RepliesJson<'a> {
    clusters: Vec<ReplyJson<'a>>,
}

#[derive(Serialize)]
struct ReplyJson<'a> {
    cluster: &'a str,
    /// Why it did not say.
    error: Option<&'a str>,
    objects: Vec<ObjectJson<'a>>,
}

/// An object, as programs read it.
#[derive(Serialize)]
struct ObjectJson<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    /// Where it stands in a file; none: it was applied.
    file: Option<&'a str>,
    generation: Option<u64>,
    resource_version: Option<String>,
    applied_by: Option<&'a str>,
    applied_unix_ms: Option<u64>,
    conditions: Vec<ConditionJson<'a>>,
    document: &'a str,
}

#[derive(Serialize)]
struct ConditionJson<'a> {
    kind: &'a str,
    status: bool,
    reason: &'a str,
    message: &'a str,
    observed_generation: Option<u64>,
    /// When `status` changed last.
    since_unix_ms: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such object, or no gateway answers.
pub(in crate::cli) fn run(args: &Args, output: Output) -> Result<ExitCode, Failure> {
    let request = GetRequest {
        kind: args.kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        namespace: args.namespace.clone().unwrap_or_default(),
        name: args.name.clone().unwrap_or_default(),
    };
    if !args.clusters.is_empty() {
        let ask = Ask { operator: String::new(), kind: Some(ask::Kind::Get(request)) };
        let replies = block_on(async {
            let client = connect(&args.socket).await?;
            Ok::<_, Failure>(args.clusters.ask(&client, &ask, found).await)
        })??;
        return Ok(say_all(&replies, output));
    }
    let named = args.name.is_some();
    let found = block_on(async {
        let answer = connect(&args.socket).await?.get(request).await.map_err(ObjectsError::from)?;
        Ok::<_, Failure>(heard::found(answer.into_inner()))
    })??;
    if found.objects.is_empty() && named {
        let missing = tonic::Status::not_found("there is no such object; `ringway get` lists what there is");
        return Err(ObjectsError::from(missing).into());
    }
    match output {
        Output::Json => {
            print_json(&FoundJson { objects: found.objects.iter().map(|object| json(object)).collect() });
        }
        Output::Yaml => print(&(stated(&found.objects) + &documents(&found.objects))),
        Output::Text | Output::Wide => {
            print(&describe(&found.objects, output == Output::Wide, unix_ms(SystemTime::now())));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn found(kind: answer::Kind) -> Option<Found> {
    match kind {
        answer::Kind::Found(found) => Some(heard::found(found)),
        _ => None,
    }
}

/// Says what several clusters declare; it fails where one of them did not say.
fn say_all(replies: &[Reply<Found>], output: Output) -> ExitCode {
    let now = unix_ms(SystemTime::now());
    if output == Output::Json {
        print_json(&RepliesJson { clusters: replies.iter().map(reply_json).collect() });
    }
    for Reply { cluster, said } in replies.iter().filter(|_| output != Output::Json) {
        match said {
            Ok(found) if output == Output::Yaml => {
                print(&format!(
                    "# cluster {cluster}\n{}{}",
                    stated(&found.objects),
                    documents(&found.objects)
                ));
            }
            Ok(found) => {
                print(&format!(
                    "cluster {cluster}\n{}",
                    describe(&found.objects, output == Output::Wide, now)
                ));
            }
            Err(refusal) => {
                complain(&format!("error: cluster {cluster}: {}: {}", reason(refusal), refusal.message));
            }
        }
    }
    if replies.iter().all(|reply| reply.said.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn reply_json(reply: &Reply<Found>) -> ReplyJson<'_> {
    let (objects, error) = match &reply.said {
        Ok(found) => (found.objects.iter().map(json).collect(), None),
        Err(refusal) => (Vec::new(), Some(&*refusal.message)),
    };
    ReplyJson { cluster: &reply.cluster, error, objects }
}

fn json(object: &Object) -> ObjectJson<'_> {
    let applied = object.file.is_empty();
    let (kind, namespace, name) = parts(object);
    ObjectJson {
        kind,
        namespace,
        name,
        file: (!applied).then_some(&object.file),
        generation: applied.then_some(object.generation),
        resource_version: applied.then(|| object.revision.to_string()),
        applied_by: applied.then_some(&object.by),
        applied_unix_ms: applied.then_some(object.applied_unix_ms),
        conditions: object.conditions.iter().map(condition).collect(),
        document: &object.document,
    }
}

fn condition(condition: &Condition) -> ConditionJson<'_> {
    ConditionJson {
        kind: &condition.kind,
        status: condition.status,
        reason: &condition.reason,
        message: &condition.message,
        observed_generation: (condition.observed_generation > 0).then_some(condition.observed_generation),
        since_unix_ms: (condition.since_unix_ms > 0).then_some(condition.since_unix_ms),
    }
}

fn parts(object: &Object) -> (&str, &str, &str) {
    object.name.as_ref().map_or(("", "", ""), |name| (&name.kind, &name.namespace, &name.name))
}

/// How the objects are, as comments in a document of their own: none of them is part of what is applied again.
fn stated(objects: &[Object]) -> String {
    let line = |object: &Object| {
        let (kind, namespace, name) = parts(object);
        let words: Vec<_> = object.conditions.iter().map(word).collect();
        let observed = match object.generation {
            0 => format!("of {}", object.file),
            _ => format!("observedGeneration {}", observed(object)),
        };
        format!("# {kind} {namespace}/{name}: {}; {observed}\n", words.join(", "))
    };
    format!("---\n{}", objects.iter().map(line).collect::<String>())
}

/// The generation that the conditions are of; 0: of a file.
fn observed(object: &Object) -> u64 {
    object.conditions.first().map_or(0, |condition| condition.observed_generation)
}

fn word(condition: &Condition) -> String {
    status::word(&condition.kind, condition.status, &condition.reason)
}

/// The documents, each with its marker.
fn documents(objects: &[Object]) -> String {
    let document = |object: &Object| {
        let text = object.document.trim_end();
        let marker = if text.starts_with("---") { "" } else { "---\n" };
        format!("{marker}{text}\n")
    };
    objects.iter().map(document).collect()
}

/// Whether a condition is a complaint: `Conflict` is one when it holds, the others when they do not.
fn is_bad(condition: &Condition) -> bool {
    (condition.kind == "Conflict") == condition.status
}

fn describe(objects: &[Object], wide: bool, now_unix_ms: u64) -> String {
    let mut titles = vec!["KIND", "NAMESPACE", "NAME", "SOURCE", "GENERATION", "READY", "AGE"];
    if wide {
        titles.extend(["REVISION", "BY", "OBSERVED", "CONDITIONS"]);
    }
    let mut rows = table(&titles);
    for object in objects {
        let (kind, namespace, name) = parts(object);
        let applied = object.file.is_empty();
        let or_none = |text: String| if applied { text } else { "-".into() };
        let bad: Vec<&Condition> = object.conditions.iter().filter(|c| is_bad(c)).collect();
        let mut row = vec![
            kind.to_owned(),
            namespace.to_owned(),
            name.to_owned(),
            if applied { "applied".into() } else { object.file.clone() },
            or_none(object.generation.to_string()),
            bad.first().map_or_else(|| "True".into(), |c| c.reason.clone()),
            or_none(age(now_unix_ms.saturating_sub(object.applied_unix_ms) / 1000)),
        ];
        if wide {
            let mut said: Vec<String> = object.conditions.iter().map(word).collect();
            // What only follows from another one says nothing more.
            let first =
                |c: &&&Condition| !bad.iter().take_while(|b| b.kind != c.kind).any(|b| b.reason == c.reason);
            said.extend(bad.iter().filter(first).map(|c| format!("{}: {}", c.reason, c.message)));
            row.extend([
                or_none(object.revision.to_string()),
                or_none(object.by.clone()),
                or_none(observed(object).to_string()),
                said.join(", "),
            ]);
        }
        rows.add_row(row);
    }
    if objects.is_empty() { "nothing is declared\n".into() } else { lines(&rows, "") }
}

/// Seconds, in the largest unit that leaves at least two.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin_api::rpc::Name;

    #[test]
    fn files_and_applied_objects_stand_in_one_table() {
        let object = |name: &str, file: &str| Object {
            name: Some(Name { kind: "MeshService".into(), namespace: "shop".into(), name: name.into() }),
            file: file.into(),
            document: "kind: MeshService\n".into(),
            ..Object::default()
        };
        let inert = Condition {
            kind: "Accepted".into(),
            reason: "DeclaredInFile".into(),
            message: "declared in west.yaml:3".into(),
            observed_generation: 3,
            ..Condition::default()
        };
        let follows = Condition { kind: "Ready".into(), reason: "DeclaredInFile".into(), ..inert.clone() };
        let applied = Object {
            generation: 3,
            by: "uid 0".into(),
            revision: 17,
            applied_unix_ms: 1_000,
            conditions: vec![inert, follows],
            ..object("cart", "")
        };
        let objects = [object("cart", "west.yaml:3"), applied];
        let expected = "\
KIND          NAMESPACE   NAME   SOURCE        GENERATION   READY            AGE
MeshService   shop        cart   west.yaml:3   -            True             -
MeshService   shop        cart   applied       3            DeclaredInFile   5m
";
        assert_eq!(describe(&objects, false, 301_000), expected);
        let wide = describe(&objects, true, 301_000);
        let said = "17         uid 0   3          Accepted=False (DeclaredInFile), Ready=False (DeclaredInFile), \
                    DeclaredInFile: declared in west.yaml:3\n";
        assert!(wide.ends_with(said), "{wide}");
        let expected = "\
---
# MeshService shop/cart: ; of west.yaml:3
# MeshService shop/cart: Accepted=False (DeclaredInFile), Ready=False (DeclaredInFile); observedGeneration 3
";
        assert_eq!(stated(&objects), expected);
        assert_eq!(documents(&objects), "---\nkind: MeshService\n---\nkind: MeshService\n");
    }
}
