//! `ringway gateway`: runs one gateway in this process.

use std::io::{self, Read};
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::PathBuf;
use std::process;
use std::thread;

use tracing::warn;

use super::output::Format;
use super::{Failure, log};
use crate::app::{self, LoadError, Options, StartError};
use crate::base::descriptors;

/// Run a gateway until SIGTERM, then drain.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway gateway -f west.yaml
  ringway gateway -f gateway.yaml -f services/       a folder means every .yaml in it

All manifests are checked before a port is bound; `ringway validate` does only that.
Changed manifests, certificates and bundles are taken while it runs, at once on SIGHUP; a change
that cannot be used is refused whole. SIGTERM drains, a second one does not wait.
With --take-over a new process (of another version, too) is handed the sockets of the running one,
serves once its tunnels are up, and the old one drains; SIGUSR2 to the running one starts it.
Logs go to standard error, with -o json one object a line. RINGWAY_LOG says what is logged:
`info` unless set; `debug`, or `warn,ringway::sync=debug` for one part.")]
pub(super) struct Args {
    /// A manifest file, or a folder of them; may be repeated. Exactly one document is the Gateway.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Threads of the data plane, each with its own listeners, tunnels and pools [default: one for each core].
    #[arg(long, value_name = "N", value_parser = workers)]
    workers: Option<NonZeroU8>,
    /// Take over from the gateway that works with the same state directory, without a request lost.
    #[arg(long)]
    take_over: bool,
    /// End when standard input ends: set by a parent that must not leave this process behind.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

/// Runs the command; returns when the gateway has drained.
///
/// # Errors
/// When the gateway cannot start.
pub(super) fn run(args: Args, format: Format) -> Result<(), Failure> {
    log::start(format);
    if args.end_with_stdin {
        end_with_stdin();
    }
    allow_files();
    let workers = args.workers.unwrap_or_else(cores);
    app::run(Options { files: args.files, workers, take_over: args.take_over }).map_err(|error| match error {
        StartError::Load(LoadError::Manifests(problems)) => Failure::Manifests(problems),
        error => Failure::Gateway(error),
    })
}

/// A number of workers as it is typed.
fn workers(text: &str) -> Result<NonZeroU8, String> {
    let range = "a number of threads, from 1 to 255";
    text.parse().map_err(|_| range.to_owned())
}

/// The cores that this process may use.
fn cores() -> NonZeroU8 {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u8::try_from(cores).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX)
}

/// Takes as many open files as there are to be had: see [`descriptors::allow`].
pub(super) fn allow_files() {
    if let Err(error) = descriptors::allow() {
        warn!(%error, "Cannot set the limit of open files: it bounds the connections that this process takes.");
    }
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
