//! The command line of the one binary, `ringway`.
//!
//! Each command is a module: its arguments, what it does, what it prints. Commands know files, the admin listener and
//! the rooms' public interfaces; nothing of requests in flight.

mod check;
mod client;
mod completion;
mod demo;
mod explain;
mod gateway;
mod log;
mod objects;
mod output;
mod pki;
mod register;
mod registry;
mod ring;
mod sidecar;
pub(crate) mod socket;
mod status;
mod validate;

use std::future::Future;
use std::io;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use ::registry::base::causes::chain;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

use output::{Format, Output, complain, complain_of, print_json};

/// Exit codes and the form of errors, shown below every long help.
const AFTER_HELP: &str = "\
Examples:
  ringway demo                                       three linked clusters, one killed, nothing lost
  ringway pki init --trust-domain acme.example --out pki/ca
  ringway pki issue --ca pki/ca --cluster west --gateway gw-1 --peer east --out pki/west
  ringway validate -f west.yaml                      check manifests, touch nothing
  ringway gateway -f west.yaml                       run until SIGTERM
  ringway sidecar -f west-sidecar.yaml               the same beside a workload
  ringway register --service shop/cart --port web=9001 -- ./cart
                                                     an endpoint for as long as it runs
  ringway status                                     peers, links and services of a running gateway
  ringway check                                      what is broken, why, and what to do
  ringway explain http://cart.shop.mesh/ -H 'x-user: ann'
                                                     what a gateway would do with this request, and why
  ringway apply -f cart.yaml                         change what a running gateway serves
  ringway apply -f cart.yaml --clusters west,east    the same in linked clusters that grant it
  ringway diff -f cart.yaml                          what that would change, and which keys it would move
  ringway get -o wide                                what is declared, in files and applied
  ringway ring locate shop/cart user-17              which cluster owns this key, and who is next
  ringway ring diff shop/cart --add south=100        which part of all keys a change would move

Exit codes: 0 worked, 1 failed, 2 wrong usage.
With -o json a command prints one JSON object on standard output; a failure is {\"error\":..,\"hint\":..}.";

/// Links clusters: mTLS QUIC tunnels, mirrored services, and every request placed on a consistent-hash ring.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, after_help = AFTER_HELP, propagate_version = true)]
struct Cli {
    /// The form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Gateway(gateway::Args),
    Sidecar(sidecar::Args),
    Register(register::Args),
    /// Make a certificate authority and certificates, for trials and small fleets.
    #[command(subcommand)]
    Pki(pki::Command),
    Validate(validate::Args),
    Status(status::Args),
    Check(check::Args),
    Explain(explain::Args),
    /// Ask where the ring places keys, who has how much of them, and what a change would move.
    #[command(subcommand)]
    Ring(ring::Command),
    /// Show what a running gateway holds.
    #[command(subcommand)]
    Registry(registry::Command),
    Apply(objects::apply::Args),
    Get(objects::get::Args),
    Delete(objects::delete::Args),
    Diff(objects::diff::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    DemoBackend(demo::backend::Args),
}

/// Which running gateway to ask.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Admin {
    /// Admin listener of the gateway, `listen.admin` of its manifest.
    #[arg(long, env = "RINGWAY_ADMIN", value_name = "HOST:PORT", default_value = "127.0.0.1:7490")]
    pub(crate) admin: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The gateway could not start, or stopped for a reason of its own.
    #[error("the gateway did not start")]
    Gateway(#[source] crate::app::StartError),
    /// The sidecar could not start.
    #[error("the sidecar did not start")]
    Sidecar(#[source] crate::app::StartError),
    /// Certificates could not be made.
    #[error("no certificate was made")]
    Pki(#[source] identity::pki::PkiError),
    /// Manifests are wrong.
    #[error("the manifests have errors")]
    Manifests(::registry::manifest::Problems),
    /// The gateway that was asked did not answer as it should.
    #[error("the gateway was not heard")]
    Admin(#[from] client::ClientError),
    /// The admin socket was not heard, or said no.
    #[error(transparent)]
    Objects(#[from] objects::ObjectsError),
    /// The gateway finds errors in manifests.
    #[error("the manifests have errors; nothing was changed")]
    Refused(Vec<objects::ProblemJson>),
    /// Standard input could not be read.
    #[error("standard input could not be read")]
    Stdin(#[source] io::Error),
    /// There is no ring that could be asked.
    #[error(transparent)]
    Ring(#[from] ring::RingError),
    /// An endpoint could not be registered.
    #[error("the endpoint was not registered")]
    Register(#[from] register::RegisterError),
    /// The demo could not run to its end.
    #[error(transparent)]
    Demo(#[from] demo::DemoError),
    /// The system gave no event loop.
    #[error("cannot start the event loop")]
    Runtime(#[source] io::Error),
}

/// A failure as programs read it.
#[derive(Serialize)]
struct FailureJson<'a> {
    error: String,
    hint: Option<String>,
    /// What is wrong with manifests, each with its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<ProblemsJson<'a>>,
}

/// Found here, or by a gateway.
#[derive(Serialize)]
#[serde(untagged)]
enum ProblemsJson<'a> {
    Here(&'a ::registry::manifest::Problems),
    There(&'a [objects::ProblemJson]),
}

impl Failure {
    /// What to do about it, where that is known.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Admin(error) => Some(admin_hint(error).into()),
            Self::Objects(error) => error.hint(),
            Self::Ring(error) => error.hint(),
            Self::Demo(error) => error.hint(),
            Self::Gateway(_)
            | Self::Sidecar(_)
            | Self::Pki(_)
            | Self::Manifests(_)
            | Self::Register(_)
            | Self::Refused(_)
            | Self::Stdin(_)
            | Self::Runtime(_) => None,
        }
    }

    fn report(&self, format: Format) {
        let hint = self.hint();
        if format == Format::Json {
            let error = chain(self);
            let problems = match self {
                Self::Manifests(problems) => Some(ProblemsJson::Here(problems)),
                Self::Refused(problems) => Some(ProblemsJson::There(problems)),
                _ => None,
            };
            print_json(&FailureJson { error, hint, problems });
            return;
        }
        if let Self::Manifests(problems) = self {
            complain_of(&problems.to_string());
        }
        if let Self::Refused(problems) = self {
            problems.iter().for_each(|problem| complain_of(&problem.text));
        }
        complain(&format!("error: {}", chain(self)));
        if let Some(hint) = hint {
            complain(&format!("hint: {hint}"));
        }
    }
}

fn admin_hint(error: &client::ClientError) -> &'static str {
    use client::ClientError as E;
    match error {
        E::Connect { .. } | E::Timeout { .. } => {
            "start one with `ringway gateway -f FILE`, or name its admin listener with --admin or RINGWAY_ADMIN"
        }
        E::Cut { .. } | E::Body { .. } | E::Json { .. } | E::Request { .. } => {
            "check that --admin names the admin listener of a gateway of this version"
        }
        E::Status { .. } => "the answer above says what the gateway misses",
    }
}

/// Parses the process's arguments, runs the command, and says how it went.
pub fn main() -> ExitCode {
    let Cli { output, command } = Cli::parse();
    if matches!(output, Output::Wide | Output::Yaml) && !matches!(command, Command::Get(_)) {
        let message = "`-o wide` and `-o yaml` are for `ringway get`";
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    match run(command, output) {
        Ok(code) => code,
        Err(failure) => {
            failure.report(output.format());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, output: Output) -> Result<ExitCode, Failure> {
    let format = output.format();
    match command {
        Command::Demo(args) => return demo::run(&args, format),
        Command::Gateway(args) => gateway::run(args, format)?,
        Command::Sidecar(args) => sidecar::run(args, format)?,
        Command::Register(args) => return register::run(&args, format),
        Command::Pki(command) => pki::run(command, format)?,
        Command::Validate(args) => validate::run(&args, format)?,
        Command::Status(args) => status::run(&args, format)?,
        Command::Check(args) => return check::run(&args, format),
        Command::Explain(args) => explain::run(&args, format)?,
        Command::Ring(command) => ring::run(command, format)?,
        Command::Registry(command) => registry::run(command, format)?,
        Command::Apply(args) => return objects::apply::run(&args, format),
        Command::Get(args) => return objects::get::run(&args, output),
        Command::Delete(args) => return objects::delete::run(&args, format),
        Command::Diff(args) => return objects::diff::run(&args, format),
        Command::Completion(args) => completion::run(&args, format),
        Command::DemoBackend(args) => demo::backend::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a short conversation on an event loop of its own.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    Ok(runtime.block_on(work))
}

/// Milliseconds since 1970, 0 for a clock set before that.
fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_output_form_may_stand_before_and_after_the_command() {
        for args in [["ringway", "-o", "json", "status"], ["ringway", "status", "-o", "json"]] {
            assert_eq!(Cli::try_parse_from(args).unwrap().output, Output::Json);
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for args in
            [&["ringway"][..], &["ringway", "gateway"], &["ringway", "pki", "issue"], &["ringway", "nosuch"]]
        {
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
        for args in
            ["ringway apply", "ringway delete", "ringway delete Link", "ringway delete Link east -f a.yaml"]
        {
            assert_eq!(Cli::try_parse_from(args.split(' ')).unwrap_err().exit_code(), 2, "{args}");
        }
        let both = "ringway pki issue --ca c --cluster west --gateway g --workload n/s --out o";
        assert_eq!(Cli::try_parse_from(both.split(' ')).unwrap_err().exit_code(), 2);
    }
}
