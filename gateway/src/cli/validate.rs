//! `ringway validate`: reads manifests as a gateway would, and touches nothing.

use std::path::PathBuf;

use registry::manifest::{self, Manifests, Problem};
use serde::Serialize;

use super::Failure;
use super::output::{Format, lines, print, print_json, table};

/// Check manifests, and show what was read.
///
/// Reports everything that is wrong at once, with file, line, column and what to do about it. Warnings do not fail:
/// they tell what is without effect.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway validate -f west.yaml
  ringway validate -f manifests/ -o json             a folder means every .yaml in it")]
pub(super) struct Args {
    /// A manifest file, or a folder of them; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// What was read, as programs read it.
#[derive(Serialize)]
struct ValidJson<'a> {
    objects: Vec<ObjectJson<'a>>,
    warnings: &'a [Problem],
}

#[derive(Serialize)]
struct ObjectJson<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    file: String,
    line: u32,
}

/// Runs the command.
///
/// # Errors
/// When the manifests cannot be used.
pub(super) fn run(args: &Args, format: Format) -> Result<(), Failure> {
    let manifests = manifest::load(&args.files).map_err(Failure::Manifests)?;
    match format {
        Format::Json => {
            let objects = manifests
                .documents
                .iter()
                .map(|d| ObjectJson {
                    kind: d.kind,
                    namespace: &d.namespace,
                    name: &d.name,
                    file: d.file.display().to_string(),
                    line: d.line,
                })
                .collect();
            print_json(&ValidJson { objects, warnings: &manifests.warnings });
        }
        Format::Text => print(&describe(&manifests)),
    }
    Ok(())
}

fn describe(manifests: &Manifests) -> String {
    let mut text: String = manifests.warnings.iter().map(|warning| format!("{warning}\n")).collect();
    let mut objects = table(&["KIND", "NAME", "READ FROM"]);
    for document in &manifests.documents {
        let name = match &*document.namespace {
            "" => document.name.clone(),
            namespace => format!("{namespace}/{}", document.name),
        };
        objects.add_row([
            document.kind.into(),
            name,
            format!("{}:{}", document.file.display(), document.line),
        ]);
    }
    text += &lines(&objects, "");
    if manifests.gateway.is_none() && manifests.sidecar.is_none() {
        text += "no Gateway among them: `ringway gateway` needs one\n";
    }
    text += &match manifests.warnings.len() {
        0 => "valid\n".to_owned(),
        1 => "valid, with one warning\n".to_owned(),
        n => format!("valid, with {n} warnings\n"),
    };
    text
}
