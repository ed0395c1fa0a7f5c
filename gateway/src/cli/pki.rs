//! `ringway pki`: an authority and certificates for those who have no PKI of their own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::ArgGroup;
use identity::Role;
use identity::pki::{self, Issue, Made, Validity};
use serde::Serialize;

use super::output::{Format, print, print_json};
use super::{Failure, unix_ms};

const DAY: u64 = 24 * 60 * 60;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Init(InitArgs),
    Issue(IssueArgs),
}

/// Make a certificate authority: ca.crt and ca.key.
///
/// Never overwrites one. Keep ca.key where no gateway runs: who has it can be any cluster of the trust domain.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringway pki init --trust-domain acme.example --out pki/ca")]
pub(super) struct InitArgs {
    /// SPIFFE trust domain that the authority signs for.
    #[arg(long, value_name = "D")]
    trust_domain: String,
    /// Folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Issue a certificate: tls.crt, tls.key and the bundles that say whom to believe.
///
/// Issuing again into the same folder renews the certificate; running gateways are not disturbed.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("role").required(true), after_help = "\
Examples:
  ringway pki issue --ca pki/ca --cluster west --gateway gw-1 --peer east --out pki/west
  ringway pki issue --ca pki/ca --cluster west --gateway gw-1 --peer east=east-ca.crt --out pki/west
                                                     east has an authority of its own
  ringway pki issue --ca pki/ca --cluster west --workload shop/checkout --out pki/checkout")]
pub(super) struct IssueArgs {
    /// Folder of the authority, with ca.crt and ca.key.
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The cluster that the process belongs to.
    #[arg(long, value_name = "C")]
    cluster: String,
    /// For a gateway: the `metadata.name` of its Gateway manifest.
    #[arg(long, value_name = "ID", group = "role")]
    gateway: Option<String>,
    /// For a sidecar: namespace and service account of its workload.
    #[arg(long, value_name = "NS/SA", group = "role", value_parser = workload)]
    workload: Option<Workload>,
    /// A peer cluster to believe, and the file with its authority's certificates (this authority's unless given);
    /// may be repeated.
    #[arg(long = "peer", value_name = "NAME[=FILE]", value_parser = peer)]
    peers: Vec<Peer>,
    /// Folder to write to.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Trust domain, for an authority whose certificate does not name it.
    #[arg(long, value_name = "D")]
    trust_domain: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Workload {
    namespace: String,
    service_account: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer {
    cluster: String,
    bundle: Option<PathBuf>,
}

fn workload(text: &str) -> Result<Workload, &'static str> {
    let (namespace, service_account) =
        text.split_once('/').ok_or("write namespace and service account as NS/SA, such as shop/checkout")?;
    Ok(Workload { namespace: namespace.into(), service_account: service_account.into() })
}

fn peer(text: &str) -> Result<Peer, &'static str> {
    match text.split_once('=') {
        None => Ok(Peer { cluster: text.into(), bundle: None }),
        Some((_, "")) => Err("name the file after `=`, or leave `=` out for this authority's own"),
        Some((cluster, file)) => Ok(Peer { cluster: cluster.into(), bundle: Some(file.into()) }),
    }
}

/// What was made, as programs read it.
#[derive(Serialize)]
struct MadeJson {
    id: String,
    not_after_unix_ms: u64,
    files: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When a name is invalid, or a file cannot be read or written.
pub(super) fn run(command: Command, format: Format) -> Result<(), Failure> {
    let now = SystemTime::now();
    let made = match command {
        Command::Init(args) => pki::init(&args.trust_domain, &args.out, now),
        Command::Issue(args) => pki::issue(&args.into_issue(now)),
    };
    let made = made.map_err(Failure::Pki)?;
    match format {
        Format::Json => print_json(&MadeJson {
            id: made.uri,
            not_after_unix_ms: unix_ms(made.not_after),
            files: made.files,
        }),
        Format::Text => print(&describe(&made, now)),
    }
    Ok(())
}

impl IssueArgs {
    fn into_issue(self, now: SystemTime) -> Issue {
        let role = match (self.gateway, self.workload) {
            (Some(id), _) => Role::Gateway { id },
            (None, workload) => {
                let Workload { namespace, service_account } =
                    workload.expect("the group `role` requires exactly one of --gateway and --workload");
                Role::Workload { namespace, service_account }
            }
        };
        Issue {
            ca_dir: self.ca,
            cluster: self.cluster,
            role,
            peers: self.peers.into_iter().map(|peer| (peer.cluster, peer.bundle)).collect(),
            out_dir: self.out,
            trust_domain: self.trust_domain,
            validity: Validity::from_now(now, pki::DEFAULT_VALID),
        }
    }
}

fn describe(made: &Made, now: SystemTime) -> String {
    let left = made.not_after.duration_since(now).unwrap_or(Duration::ZERO);
    let mut text = format!("{}, valid for {} days\n", made.uri, left.as_secs() / DAY);
    for file in &made.files {
        text += &format!("  wrote {}\n", file.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_names_with_or_without_a_file() {
        assert_eq!(peer("east"), Ok(Peer { cluster: "east".into(), bundle: None }));
        assert_eq!(peer("east=a=b.pem"), Ok(Peer { cluster: "east".into(), bundle: Some("a=b.pem".into()) }));
        assert!(peer("east=").is_err());
    }

    #[test]
    fn workloads_have_two_parts() {
        let (namespace, service_account) = ("shop".into(), "checkout".into());
        assert_eq!(workload("shop/checkout"), Ok(Workload { namespace, service_account }));
        assert!(workload("checkout").is_err());
    }
}
