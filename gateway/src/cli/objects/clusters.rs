//! `--clusters`: the same of several clusters, through the gateway of this one.

use std::process::ExitCode;

use registry::model::{BadLabel, ClusterName};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::{ChangeJson, ProblemJson, changes_json, connect, heard, show};
use crate::cli::output::{Format, complain, lines, print, print_json, table};
use crate::cli::socket::AdminSocket;
use crate::cli::{Failure, block_on};
use admin_api::rpc::{ApplyRequest, Ask, AskRequest, Change, Changed, ObjectsClient, Refusal, answer, ask};

/// Which clusters are to do it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Clusters {
    /// Do it in these linked clusters, through the gateway of this one, which may be among them. Each must grant it to
    /// this cluster (`spec.allow.apply` of its Link).
    #[arg(long, value_name = "CLUSTER,...", value_delimiter = ',', value_parser = cluster)]
    clusters: Vec<ClusterName>,
}

/// What one cluster answered.
pub(super) struct Reply<T> {
    /// The cluster.
    pub(super) cluster: String,
    /// What it said, or why it did not.
    pub(super) said: Result<T, Refusal>,
}

/// What became of a change in one cluster.
struct Part {
    cluster: String,
    changes: Vec<Change>,
    problems: Vec<ProblemJson>,
    /// Why it was not made; none: it was, or would be.
    refused: Option<Refusal>,
}

/// What became of a change in all of them, as programs read it.
#[derive(Serialize)]
struct PartsJson<'a> {
    /// Whether it was only checked.
    dry_run: bool,
    /// What was not done; none: everything was.
    error: Option<String>,
    clusters: Vec<PartJson<'a>>,
}

#[derive(Serialize)]
struct PartJson<'a> {
    cluster: &'a str,
    /// `applied`, `would apply`, `not applied` (because of another cluster), or `failed`.
    result: &'static str,
    /// Why it failed, as gRPC names it, such as `permission denied`.
    reason: Option<&'static str>,
    error: Option<&'a str>,
    changes: Vec<ChangeJson<'a>>,
    problems: &'a [ProblemJson],
}

impl Clusters {
    /// Whether any was named.
    pub(super) fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Asks all of them at once; the replies are in the order in which they were named.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        client: &ObjectsClient<Channel>,
        ask: &Ask,
        read: fn(answer::Kind) -> Option<T>,
    ) -> Vec<Reply<T>> {
        let mut names: Vec<String> = Vec::new();
        for name in &self.clusters {
            if !names.iter().any(|known| known == name.as_str()) {
                names.push(name.to_string());
            }
        }
        let mut asking = JoinSet::new();
        for (place, cluster) in names.iter().enumerate() {
            let request = AskRequest { cluster: cluster.clone(), ask: Some(ask.clone()) };
            let mut client = client.clone();
            asking.spawn(async move { (place, client.ask(request).await) });
        }
        let unheard = || refused(Code::Internal, "no answer");
        let mut said: Vec<_> = names.iter().map(|_| Err(unheard())).collect();
        while let Some(asked) = asking.join_next().await {
            let Ok((place, answer)) = asked else { continue };
            said[place] = match answer.map(|answer| answer.into_inner().kind) {
                Ok(Some(answer::Kind::Refusal(refusal))) => Err(heard::refusal(refusal)),
                Ok(kind) => {
                    kind.and_then(read).ok_or_else(|| refused(Code::Internal, "no answer known here"))
                }
                Err(status) => Err(refused(status.code(), status.message())),
            };
        }
        names.into_iter().zip(said).map(|(cluster, said)| Reply { cluster, said }).collect()
    }

    /// Makes a change in all of them, if each of them says first that it would; `change` makes it of whether it is only
    /// to be checked.
    pub(super) fn change(
        &self,
        socket: &AdminSocket,
        dry_run: bool,
        format: Format,
        change: impl Fn(bool) -> ask::Kind,
    ) -> Result<ExitCode, Failure> {
        let ask = |dry_run| Ask { operator: String::new(), kind: Some(change(dry_run)) };
        let (parts, made) = block_on(async {
            let client = connect(socket).await?;
            let checked = parts(self.ask(&client, &ask(true), changed).await);
            if dry_run || checked.iter().any(|part| part.refused.is_some()) {
                return Ok::<_, Failure>((checked, false));
            }
            Ok((parts(self.ask(&client, &ask(false), changed).await), true))
        })??;
        let error = verdict(&parts, made);
        match format {
            Format::Json => print_json(&json(&parts, made, dry_run, error.clone())),
            Format::Text => print(&describe(&parts, made, error.is_some() && !dry_run)),
        }
        Ok(match error {
            None => ExitCode::SUCCESS,
            Some(error) => {
                if format == Format::Text {
                    complain(&format!("error: {error}"));
                }
                ExitCode::FAILURE
            }
        })
    }
}

fn cluster(text: &str) -> Result<ClusterName, BadLabel> {
    ClusterName::new(text)
}

/// The same of an apply.
pub(super) fn apply(sources: Vec<admin_api::rpc::Source>, dry_run: bool) -> ask::Kind {
    ask::Kind::Apply(ApplyRequest { sources, dry_run })
}

/// The answer to a change.
pub(super) fn changed(kind: answer::Kind) -> Option<Changed> {
    match kind {
        answer::Kind::Changed(changed) => Some(heard::changed(changed)),
        _ => None,
    }
}

fn refused(code: Code, message: &str) -> Refusal {
    Refusal { code: code as u32, message: message.into() }
}

/// Why, as gRPC names it.
pub(super) fn reason(refusal: &Refusal) -> &'static str {
    let code = i32::try_from(refusal.code).map_or(Code::Unknown, Code::from_i32);
    match code {
        Code::InvalidArgument => "invalid",
        Code::NotFound => "not found",
        Code::PermissionDenied => "denied",
        Code::Aborted => "conflict",
        Code::FailedPrecondition => "failed precondition",
        Code::ResourceExhausted => "too much",
        Code::Unimplemented => "not known to its version",
        Code::Unavailable => "unavailable",
        Code::DeadlineExceeded => "deadline exceeded",
        _ => "internal",
    }
}

fn parts(replies: Vec<Reply<Changed>>) -> Vec<Part> {
    let part = |Reply { cluster, said }| match said {
        Ok(Changed { changes, problems, refused: wrong, .. }) => Part {
            cluster,
            changes,
            problems: problems.into_iter().map(ProblemJson::from).collect(),
            refused: wrong.then(|| refused(Code::InvalidArgument, "the manifests have errors")),
        },
        Err(refusal) => Part { cluster, changes: Vec::new(), problems: Vec::new(), refused: Some(refusal) },
    };
    replies.into_iter().map(part).collect()
}

/// What is to be said of a change that was not made everywhere.
fn verdict(parts: &[Part], made: bool) -> Option<String> {
    let names = |refused: bool| {
        let of = parts.iter().filter(|part| part.refused.is_some() == refused);
        of.map(|part| part.cluster.as_str()).collect::<Vec<_>>().join(", ")
    };
    match (names(true), names(false)) {
        (failed, _) if failed.is_empty() => None,
        (failed, done) if made && !done.is_empty() => {
            Some(format!("applied in {done}, and failed in {failed} after all had said that they would"))
        }
        (failed, _) if made => Some(format!("failed in {failed} after all had said that they would")),
        (failed, _) => Some(format!("nothing was changed anywhere, because of {failed}")),
    }
}

/// In a word: what became of it in one cluster, if it was `made` or only checked, and `stopped` by another one.
fn result(part: &Part, made: bool, stopped: bool) -> &'static str {
    match (&part.refused, made, stopped) {
        (Some(_), ..) => "failed",
        (None, true, _) => "applied",
        (None, false, true) => "not applied",
        (None, false, false) => "would apply",
    }
}

fn json(parts: &[Part], made: bool, dry_run: bool, error: Option<String>) -> PartsJson<'_> {
    let stopped = error.is_some() && !dry_run;
    let clusters = parts.iter().map(|part| PartJson {
        cluster: &part.cluster,
        result: result(part, made, stopped),
        reason: part.refused.as_ref().map(reason),
        error: part.refused.as_ref().map(|refusal| &*refusal.message),
        changes: changes_json(&part.changes),
        problems: &part.problems,
    });
    PartsJson { dry_run, clusters: clusters.collect(), error }
}

fn describe(parts: &[Part], made: bool, stopped: bool) -> String {
    let mut text = String::new();
    for part in parts {
        text += &format!("{}: {}", part.cluster, result(part, made, stopped));
        text += &match &part.refused {
            Some(refusal) => format!(", {}: {}\n", reason(refusal), refusal.message),
            None => "\n".into(),
        };
        text.extend(part.problems.iter().map(|problem| format!("{}\n", problem.text)));
        if part.changes.is_empty() {
            continue;
        }
        let mut rows = table(&["OBJECT", "OUTCOME", "GENERATION"]);
        for change in &part.changes {
            let name = show(&change.name.clone().unwrap_or_default());
            rows.add_row([name, change.outcome.clone(), change.generation.to_string()]);
        }
        text += &lines(&rows, "  ");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use admin_api::rpc::Name;

    fn reply(cluster: &str, said: Result<Changed, Refusal>) -> Reply<Changed> {
        Reply { cluster: cluster.into(), said }
    }

    fn created() -> Changed {
        let name = Name { kind: "MeshService".into(), namespace: "shop".into(), name: "cart".into() };
        let change =
            Change { name: Some(name), outcome: "created".into(), generation: 1, ..Change::default() };
        Changed { changes: vec![change], ..Changed::default() }
    }

    #[test]
    fn a_table_for_each_cluster_and_a_sentence_for_what_was_not_done() {
        let denied = refused(Code::PermissionDenied, "MeshService shop/cart is not granted");
        let checked = parts(vec![reply("east", Ok(created())), reply("north", Err(denied))]);
        let error = verdict(&checked, false).unwrap();
        assert_eq!(error, "nothing was changed anywhere, because of north");
        let expected = "\
east: not applied
  OBJECT                  OUTCOME   GENERATION
  MeshService shop/cart   created   1
north: failed, denied: MeshService shop/cart is not granted
";
        assert_eq!(describe(&checked, false, true), expected);
        assert_eq!(result(&checked[0], false, false), "would apply");

        let lost = refused(Code::Unavailable, "no answer");
        let made = parts(vec![reply("east", Ok(created())), reply("north", Err(lost))]);
        let error = verdict(&made, true).unwrap();
        assert_eq!(error, "applied in east, and failed in north after all had said that they would");
        let json = serde_json::to_value(json(&made, true, false, Some(error))).unwrap();
        assert_eq!(json["clusters"][0]["result"], "applied");
        assert_eq!(json["clusters"][1]["reason"], "unavailable");
        let made = parts(vec![reply("east", Ok(created()))]);
        assert_eq!(verdict(&made, true), None);
        let wrong = Changed { refused: true, ..Changed::default() };
        assert!(parts(vec![reply("east", Ok(wrong))])[0].refused.is_some());
    }
}
