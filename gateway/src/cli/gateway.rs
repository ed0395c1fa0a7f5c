//! `ringway gateway`: runs one gateway in this process.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process;
use std::thread;

use super::Failure;

/// Run a gateway until SIGTERM, then drain.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway gateway -f west.yaml
  ringway gateway -f gateway.yaml -f services/       a folder means every .yaml in it

All manifests are checked before a port is bound; `ringway validate` does only that.")]
pub(super) struct Args {
    /// A manifest file, or a folder of them; may be repeated. Exactly one document is the Gateway.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// End when standard input ends: set by a parent that must not leave this process behind.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

/// Runs the command; returns when the gateway has drained.
///
/// # Errors
/// When the gateway cannot start.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    if args.end_with_stdin {
        end_with_stdin();
    }
    crate::app::run(crate::app::Options { files: args.files }).map_err(Failure::Gateway)
}

/// Ends this process once standard input is at its end, which is when its parent is gone however that died.
///
/// At once and without draining: nobody is left who could be served.
pub(super) fn end_with_stdin() {
    thread::spawn(|| {
        let mut ignored = [0; 64];
        loop {
            match io::stdin().read(&mut ignored) {
                Ok(0) => process::exit(0),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => process::exit(0),
                Ok(_) | Err(_) => {}
            }
        }
    });
}
