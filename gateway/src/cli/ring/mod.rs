//! `ringway ring`: where the ring of clusters places keys, how much each cluster has, and what a change would move.

mod declared;
mod diff;
mod locate;
mod shares;

use registry::model::{BadLabel, ServiceName};

use super::Failure;
use super::output::Format;

pub(super) use declared::{Declared, Member, RingError};
pub(super) use diff::{Cluster, Difference, Flow, difference, flows, scattered};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Locate(locate::LocateArgs),
    Shares(shares::SharesArgs),
    Diff(diff::DiffArgs),
}

/// Runs the command.
///
/// # Errors
/// When no gateway answers, or the manifests do not tell.
pub(super) fn run(command: Command, format: Format) -> Result<(), Failure> {
    match command {
        Command::Locate(args) => locate::run(&args, format),
        Command::Shares(args) => shares::run(&args, format),
        Command::Diff(args) => diff::run(&args, format),
    }
}

/// A service as the command line names it.
fn service(text: &str) -> Result<ServiceName, BadLabel> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    ServiceName::new(namespace, name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_service_without_a_namespace_is_in_default() {
        assert_eq!(service("cart").unwrap().to_string(), "default/cart");
        assert!(service("shop/Cart").is_err());
    }
}
