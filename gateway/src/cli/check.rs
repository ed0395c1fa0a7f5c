//! `ringway check`: named checks of a running gateway, or of manifests, each with its cause and what to do.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use registry::manifest;
use serde::Serialize;

use super::client::Client;
use super::output::{Format, lines, print, print_json, table};
use super::{Admin, Failure, block_on};
use crate::admin::check;
use admin_api::check::{CHECKS, Check, Outcome, Report};

/// Look for what is broken, will break soon, or has no effect, and say what to do about it.
///
/// Asks a running gateway, which looks at its own files, links, peers and services; with -f looks at what manifests
/// alone tell, before a gateway is started. Warnings do not fail.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway check
  ringway check --all                                those that hold, too
  ringway check -f west.yaml                         before a start: files, certificates, ports
  ringway check -o json | jq '.checks[] | select(.result == \"fail\")'

Exit codes: 0 nothing failed, 1 something failed or no gateway answered, 2 wrong usage.")]
pub(super) struct Args {
    /// Show the checks that hold, too.
    #[arg(short, long)]
    all: bool,
    /// List the ids of all checks and what they ask, and check nothing.
    #[arg(long, conflicts_with_all = ["all", "files"])]
    list: bool,
    /// Manifests to look at instead of a running gateway; may be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    admin: Admin,
}

/// The answer, as programs read it.
#[derive(Serialize)]
struct Answer<'a> {
    /// Whether nothing failed.
    ok: bool,
    failed: usize,
    warned: usize,
    #[serde(flatten)]
    report: &'a Report,
}

/// One line of `--list`.
#[derive(Serialize)]
struct Listed {
    id: &'static str,
    asks: &'static str,
}

/// What `--list` says.
#[derive(Serialize)]
struct List {
    checks: Vec<Listed>,
}

/// Runs the command; the exit code says whether anything failed.
///
/// # Errors
/// When no gateway answers, or the manifests cannot be read.
pub(super) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    if args.list {
        list(format);
        return Ok(ExitCode::SUCCESS);
    }
    let report = if args.files.is_empty() {
        block_on(Client::new(&args.admin.admin).get_json::<Report>("/v1/check"))??.0
    } else {
        check::of_files(&manifest::load(&args.files).map_err(Failure::Manifests)?, SystemTime::now())
    };
    let (failed, warned) = (count(&report, Outcome::Fail), count(&report, Outcome::Warn));
    match format {
        Format::Json => print_json(&Answer { ok: failed == 0, failed, warned, report: &report }),
        Format::Text => print(&describe(&report, args.all)),
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(format: Format) {
    match format {
        Format::Json => {
            let checks = CHECKS.iter().map(|&(id, asks)| Listed { id, asks }).collect();
            print_json(&List { checks });
        }
        Format::Text => {
            let mut rows = table(&["ID", "ASKS WHETHER"]);
            for (id, asks) in CHECKS {
                rows.add_row([id, asks]);
            }
            print(&lines(&rows, ""));
        }
    }
}

fn count(report: &Report, result: Outcome) -> usize {
    report.checks.iter().filter(|check| check.result == result).count()
}

fn describe(report: &Report, all: bool) -> String {
    let mut text = match &*report.gateway {
        "" => String::new(),
        gateway => format!("gateway {gateway}\n"),
    };
    for check in &report.checks {
        if all || check.result >= Outcome::Warn {
            say(&mut text, check);
        }
    }
    let n = |result| count(report, result);
    let _infallible = writeln!(
        text,
        "{} checks: {} hold, {} fail, {} warn, {} cannot be known from here{}",
        report.checks.len(),
        n(Outcome::Ok),
        n(Outcome::Fail),
        n(Outcome::Warn),
        n(Outcome::Unknown),
        if all { "" } else { " (--all shows every one)" }
    );
    text
}

fn say(text: &mut String, check: &Check) {
    let word = match check.result {
        Outcome::Ok => "ok",
        Outcome::Unknown => "unknown",
        Outcome::Warn => "WARN",
        Outcome::Fail => "FAIL",
    };
    let _infallible = writeln!(text, "{word:<8} {} {}: {}", check.id, check.object, check.cause);
    if let Some(fix) = &check.fix {
        let _infallible = writeln!(text, "         fix: {fix}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_report_shows_what_is_wrong_and_counts_the_rest() {
        let report: Report = serde_json::from_str(
            r#"{"gateway":"west/gw-1","checks":[
            {"id":"clock","object":"east","result":"ok","cause":"fine","fix":null},
            {"id":"link.tunnel","object":"east","result":"fail","cause":"timed out","fix":"look there"},
            {"id":"link.tcp","object":"east","result":"warn","cause":"refused","fix":null}]}"#,
        )
        .unwrap();
        let expected = "\
gateway west/gw-1
FAIL     link.tunnel east: timed out
         fix: look there
WARN     link.tcp east: refused
3 checks: 1 hold, 1 fail, 1 warn, 0 cannot be known from here (--all shows every one)
";
        assert_eq!(describe(&report, false), expected);
        assert!(describe(&report, true).contains("ok       clock east: fine\n"));
    }
}
