//! `ringway apply`: changes what a running gateway declares.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::clusters::{self, Clusters};
use super::{ChangeJson, ObjectsError, ProblemJson, changes_json, connect, heard, show, sources, taken};
use crate::cli::output::{Format, print, print_json};
use crate::cli::socket::AdminSocket;
use crate::cli::{Failure, block_on};
use admin_api::rpc::{ApplyRequest, Change};

/// Apply manifests to a running gateway, and so to every gateway of its cluster.
///
/// All of them are taken, or none; more than 128 objects or 1 MiB are written in parts, and a failure says how far it
/// came. Wrong ones are named with file, line and column, as `ringway validate` does, and checked against what is there,
/// before anything is written. What `ringway get -o yaml` shows has a `resourceVersion`: applied again with it, a
/// change that somebody else made meanwhile is not overwritten. What a file of the gateway declares cannot be applied.
///
/// With --clusters every cluster checks the manifests first, against its own grant, its own files and what is applied
/// there; unless all of them would take them, nothing is applied anywhere. Then each applies them by itself, all of them
/// or none. There is no transaction over clusters: what changes between the check and the apply, a link or a registry
/// that fails just then among it, can leave them applied in some clusters and not in others. The answer says in which;
/// apply again what is left.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway apply -f cart.yaml
  ringway apply -f manifests/ --dry-run              say what would be done
  ringway apply --clusters west,east -f cart.yaml    here (west) and in the linked cluster east
  ringway get MeshService cart -n shop -o yaml | sed s/9001/9002/ | ringway apply -f -")]
pub(in crate::cli) struct Args {
    /// A manifest file, a folder of them, or `-` for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Check everything and say what would be done, but do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    clusters: Clusters,
    #[command(flatten)]
    socket: AdminSocket,
}

/// What was done, as programs read it.
#[derive(Serialize)]
struct ChangedJson<'a> {
    dry_run: bool,
    changes: Vec<ChangeJson<'a>>,
    warnings: &'a [ProblemJson],
}

/// Runs the command.
///
/// # Errors
/// When the manifests are wrong, somebody else changed an object, or no gateway answers.
pub(in crate::cli) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    let sources = sources(&args.files)?;
    if !args.clusters.is_empty() {
        let apply = |dry_run| clusters::apply(sources.clone(), dry_run);
        return args.clusters.change(&args.socket, args.dry_run, format, apply);
    }
    let request = ApplyRequest { sources, dry_run: args.dry_run };
    let changed = block_on(async {
        let answer = connect(&args.socket).await?.apply(request).await.map_err(ObjectsError::from)?;
        Ok::<_, Failure>(heard::changed(answer.into_inner()))
    })??;
    let (changes, warnings) = taken(changed)?;
    say(&changes, &warnings, args.dry_run, format);
    Ok(ExitCode::SUCCESS)
}

/// Says what was done, or would be.
pub(super) fn say(changes: &[Change], warnings: &[ProblemJson], dry_run: bool, format: Format) {
    if format == Format::Text {
        let mut text: String = warnings.iter().map(|warning| format!("{}\n", warning.text)).collect();
        let so = if dry_run { " (dry run)" } else { "" };
        let named = |change: &Change| show(&change.name.clone().unwrap_or_default());
        text.extend(changes.iter().map(|c| format!("{} {}{so}\n", named(c), c.outcome)));
        print(&text);
        return;
    }
    print_json(&ChangedJson { dry_run, changes: changes_json(changes), warnings });
}
