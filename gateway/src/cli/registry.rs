//! `ringway registry`: what a running gateway holds.

use std::fmt::Write as _;

use super::client::Client;
use super::output::{Format, lines, print, table};
use super::{Admin, Failure, block_on};
use admin_api::registry::Dump;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Dump(DumpArgs),
}

/// Show all that a running gateway holds: what is declared, exported and mirrored, the keys of its registry, and what
/// does not hold.
///
/// Slow facts only; how peers and endpoints are at the moment is what `ringway status` shows.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway registry dump
  ringway registry dump -o json | jq '.imports[] | {peer, revision, age_seconds}'")]
pub(super) struct DumpArgs {
    #[command(flatten)]
    admin: Admin,
}

/// Runs the command.
///
/// # Errors
/// When no gateway answers.
pub(super) fn run(Command::Dump(args): Command, format: Format) -> Result<(), Failure> {
    let (dump, bytes) = block_on(Client::new(&args.admin.admin).get_json::<Dump>("/v1/registry"))??;
    match format {
        Format::Json => print(&(String::from_utf8_lossy(&bytes).trim_end().to_owned() + "\n")),
        Format::Text => print(&describe(&dump)),
    }
    Ok(())
}

fn describe(dump: &Dump) -> String {
    let mut text = format!("cluster {}, revision {}\n\ndeclared\n", dump.cluster, dump.revision);
    let mut declared = table(&["KIND", "NAME", "SAYS"]);
    for object in &dump.declared {
        declared.add_row([&object.kind, &object.name, &object.says]);
    }
    text += &lines(&declared, "  ");

    let exports = &dump.exports;
    let _infallible = writeln!(text, "\nexports, epoch {}, revision {}", exports.epoch, exports.revision);
    let mut services = table(&["NAME", "TO", "REACHES"]);
    for service in &exports.services {
        services.add_row([&service.name, &service.to.join(", "), &service.reaches.join(", ")]);
    }
    text += &lines(&services, "  ");

    for imports in &dump.imports {
        let age =
            imports.age_seconds.map_or_else(|| "never heard".into(), |age| format!("heard {age} s ago"));
        let _infallible = writeln!(
            text,
            "\nimports of {}, epoch {}, revision {}, {age}",
            imports.peer, imports.epoch, imports.revision
        );
        let mut services = table(&["NAME", "JOINS", "PORTS", "REGION", "REVISION", "CONTRACT"]);
        for service in &imports.services {
            services.add_row([
                service.name.clone(),
                if service.union { "the union" } else { "pinned only" }.into(),
                service.ports.join(", "),
                service.region.clone(),
                service.revision.to_string(),
                service.contract.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
        text += &lines(&services, "  ");
    }

    let mut stored = table(&["KEY", "MODIFIED", "BYTES", "SAYS"]);
    for entry in &dump.stored {
        stored.add_row([
            entry.key.clone(),
            entry.modified.to_string(),
            entry.bytes.to_string(),
            entry.says.clone().unwrap_or_else(|| "not known to this version".into()),
        ]);
    }
    let _infallible = write!(text, "\nkeys of the registry in the state directory\n{}", lines(&stored, "  "));

    let mut conditions = table(&["OBJECT", "CONDITION", "REASON", "MESSAGE"]);
    for c in &dump.conditions {
        let state = format!("{}={}", c.kind, if c.status { "True" } else { "False" });
        conditions.add_row([&*c.object, &*state, &*c.reason, &*c.message]);
    }
    if conditions.row_count() > 0 {
        let _infallible = write!(text, "\nconditions\n{}", lines(&conditions, "  "));
    }
    text
}
