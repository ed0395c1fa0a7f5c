//! `ringway delete`: takes back what was applied.

use std::path::PathBuf;
use std::process::ExitCode;

use registry::manifest;
use registry::model::Kind;

use super::clusters::Clusters;
use super::{ObjectsError, apply, connect, heard, kind, sources, taken};
use crate::cli::output::Format;
use crate::cli::socket::AdminSocket;
use crate::cli::{Failure, block_on};
use admin_api::rpc::{DeleteRequest, Name, ask};

/// Delete applied objects, by name or as manifests name them.
///
/// What a file of the gateway declares goes with its document there. With --clusters all of them are asked first whether
/// they would, as `ringway apply` does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway delete MeshService cart -n shop
  ringway delete -f cart.yaml --dry-run
  ringway delete -f cart.yaml --clusters west,east")]
pub(in crate::cli) struct Args {
    /// Link, MeshService or TrafficPolicy.
    #[arg(value_parser = kind, requires = "name", required_unless_present = "files")]
    kind: Option<Kind>,
    /// The object's name.
    name: Option<String>,
    /// Its namespace; a Link has none.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// A manifest file, a folder of them, or `-`: the objects that they name; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", conflicts_with_all = ["kind", "name"])]
    files: Vec<PathBuf>,
    /// Say what would be done, but do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    clusters: Clusters,
    #[command(flatten)]
    socket: AdminSocket,
}

/// Runs the command.
///
/// # Errors
/// When one of the objects is not applied, somebody else changed it, or no gateway answers.
pub(in crate::cli) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    let names = match (args.kind, &args.name) {
        (Some(kind), Some(name)) => {
            vec![Name { kind: kind.as_str().into(), namespace: args.namespace.clone(), name: name.clone() }]
        }
        _ => of_files(&args.files)?,
    };
    if !args.clusters.is_empty() {
        let delete = |dry_run| ask::Kind::Delete(DeleteRequest { names: names.clone(), dry_run });
        return args.clusters.change(&args.socket, args.dry_run, format, delete);
    }
    let request = DeleteRequest { names, dry_run: args.dry_run };
    let changed = block_on(async {
        let answer = connect(&args.socket).await?.delete(request).await.map_err(ObjectsError::from)?;
        Ok::<_, Failure>(heard::changed(answer.into_inner()))
    })??;
    let (changes, warnings) = taken(changed)?;
    apply::say(&changes, &warnings, args.dry_run, format);
    Ok(ExitCode::SUCCESS)
}

/// What manifests name.
fn of_files(files: &[PathBuf]) -> Result<Vec<Name>, Failure> {
    let sources: Vec<_> = sources(files)?
        .into_iter()
        .map(|source| manifest::Source { name: source.name.into(), text: source.text })
        .collect();
    let manifests = manifest::parse(&sources).map_err(Failure::Manifests)?;
    let name = |document: manifest::Document| Name {
        kind: document.kind.into(),
        namespace: document.namespace,
        name: document.name,
    };
    Ok(manifests.documents.into_iter().map(name).collect())
}
