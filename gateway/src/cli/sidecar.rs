//! `ringway sidecar`: runs one sidecar in this process.

use std::path::PathBuf;

use super::output::Format;
use super::{Failure, gateway, log};
use crate::app::{self, LoadError, StartError};

/// Run a sidecar beside a workload until SIGTERM, then drain.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway pki issue --ca pki/ca --cluster west --workload shop/cart --out pki/west-shop-cart
  ringway sidecar -f west-sidecar.yaml
  curl --proxy http://127.0.0.1:7470 http://cart.shop.mesh/
  ringway status --admin 127.0.0.1:7471              its gateways, and the names in use

It balances over the endpoints of its own cluster itself, and sends the rest to a gateway of that cluster.
A changed certificate or bundle is taken while it runs, at once on SIGHUP. SIGTERM drains, a second
one does not wait. Logs as those of `ringway gateway`.")]
pub(super) struct Args {
    /// A manifest file, or a folder of them; may be repeated. Exactly one document is the Sidecar.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// Runs the command; returns when the sidecar has drained.
///
/// # Errors
/// When it cannot start.
pub(super) fn run(args: Args, format: Format) -> Result<(), Failure> {
    log::start(format);
    gateway::allow_files();
    app::sidecar::run(args.files).map_err(|error| match error {
        StartError::Load(LoadError::Manifests(problems)) => Failure::Manifests(problems),
        error => Failure::Sidecar(error),
    })
}
