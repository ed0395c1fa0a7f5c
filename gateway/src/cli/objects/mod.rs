//! `ringway apply`, `get`, `delete` and `diff`: what is declared, as a running gateway has it.

pub(super) mod apply;
mod clusters;
pub(super) mod delete;
pub(super) mod diff;
mod fields;
pub(super) mod get;
mod heard;
mod moves;

use std::io::{self, Read};
use std::path::PathBuf;

use registry::manifest::{self, FILE_BYTES_MAX};
use registry::model::Kind;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Failure;
use super::socket::{self, AdminSocket};
use admin_api::rpc::{Change, Changed, Name, OBJECTS_BYTES_MAX, ObjectsClient, Problem, Source};

/// Why the admin socket gave no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectsError {
    /// Nothing accepted the connection.
    #[error("cannot connect to the admin socket `{}`", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: tonic::transport::Error,
    },
    /// It does not answer.
    #[error("the gateway says nothing on its admin socket; what was asked of it may have been done")]
    Silent,
    /// It said no.
    #[error("{}", .0.message())]
    Said(Box<Status>),
}

impl From<Status> for ObjectsError {
    fn from(status: Status) -> Self {
        if socket::is_silence(&status) { Self::Silent } else { Self::Said(Box::new(status)) }
    }
}

impl ObjectsError {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { .. } => Some(
                "run this on the gateway's host, as its user or root; name the socket with --admin-socket"
                    .into(),
            ),
            Self::Said(status) if status.code() == Code::Unavailable => {
                Some("`ringway check` says how the registry is; what is applied serves on meanwhile".into())
            }
            Self::Silent => Some("is its process stopped? `ringway get` shows what is applied".into()),
            Self::Said(_) => None,
        }
    }
}

/// Connects to the gateway behind `socket`.
async fn connect(socket: &AdminSocket) -> Result<ObjectsClient<Channel>, Failure> {
    let path = socket.path().await?;
    let channel = socket::connect(path.clone()).await;
    let channel = channel.map_err(|source| ObjectsError::Connect { path, source })?;
    Ok(ObjectsClient::new(channel)
        .max_decoding_message_size(OBJECTS_BYTES_MAX)
        .max_encoding_message_size(OBJECTS_BYTES_MAX))
}

/// A problem of a manifest, as programs read it.
#[derive(Debug, Serialize)]
pub(super) struct ProblemJson {
    file: String,
    line: u32,
    column: u32,
    object: Option<String>,
    message: String,
    hint: Option<String>,
    severity: &'static str,
    /// All of it, for people.
    #[serde(skip)]
    pub(super) text: String,
}

impl From<Problem> for ProblemJson {
    fn from(problem: Problem) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        Self {
            file: problem.file,
            line: problem.line,
            column: problem.column,
            object: given(problem.object),
            message: problem.message,
            hint: given(problem.hint),
            severity: if problem.warning { "warning" } else { "error" },
            text: problem.text,
        }
    }
}

/// A change of one object, as programs read it.
#[derive(Serialize)]
struct ChangeJson<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    outcome: &'a str,
    generation: u64,
    resource_version: Option<String>,
}

fn changes_json(changes: &[Change]) -> Vec<ChangeJson<'_>> {
    changes.iter().map(change_json).collect()
}

fn change_json(change: &Change) -> ChangeJson<'_> {
    let (kind, namespace, name) =
        change.name.as_ref().map_or(("", "", ""), |name| (&name.kind, &name.namespace, &name.name));
    ChangeJson {
        kind,
        namespace,
        name,
        outcome: &change.outcome,
        generation: change.generation,
        resource_version: (change.revision > 0).then(|| change.revision.to_string()),
    }
}

/// The text of `files`; `-` is standard input.
fn sources(files: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let (stdin, paths): (Vec<_>, Vec<_>) = files.iter().cloned().partition(|file| file.as_os_str() == "-");
    let mut found = Vec::new();
    if !paths.is_empty() {
        found = manifest::sources(&paths).map_err(Failure::Manifests)?;
    }
    let mut sources: Vec<_> = found
        .into_iter()
        .map(|source| Source { name: source.name.display().to_string(), text: source.text })
        .collect();
    if !stdin.is_empty() {
        let mut text = String::new();
        // One byte more than allowed is enough for the gateway to say that it is too large.
        let most = FILE_BYTES_MAX as u64 + 1;
        io::stdin().take(most).read_to_string(&mut text).map_err(Failure::Stdin)?;
        sources.push(Source { name: "standard input".into(), text });
    }
    Ok(sources)
}

/// What was answered to a change, unless it was refused; and its warnings.
fn taken(changed: Changed) -> Result<(Vec<Change>, Vec<ProblemJson>), Failure> {
    let problems = changed.problems.into_iter().map(ProblemJson::from).collect();
    if changed.refused { Err(Failure::Refused(problems)) } else { Ok((changed.changes, problems)) }
}

/// As conditions name objects: `Kind namespace/name`, and `Link name`.
fn show(name: &Name) -> String {
    match Kind::of(&name.kind) {
        Some(Kind::Link) => format!("Link {}", name.name),
        _ => format!("{} {}/{}", name.kind, name.namespace, name.name),
    }
}

/// Reads a kind, in whatever letters.
fn kind(text: &str) -> Result<Kind, String> {
    let found = Kind::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("the kinds are {}", kinds.join(", "))
    })
}
