//! The processes: each reads its files, makes everything, starts it, takes what changes in its files, and drains it on
//! SIGTERM.

mod believe;
mod bind;
mod change;
mod files;
mod gateway;
mod load;
mod members;
mod open;
mod pace;
mod reload;
mod report;
pub mod sidecar;
mod systemd;
mod takeover;
mod tasks;
mod watcher;
mod workers;

use std::io;
use std::net::SocketAddr;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

pub use self::gateway::{Options, run};
pub use self::load::LoadError;
pub use self::takeover::TakeOverError;
use crate::proxy::worker::Shared;

/// Why a gateway did not start, or ended on its own.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The files cannot be used; nothing was touched.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] registry::tasks::state::StateError),
    /// The registry that is declared cannot be used.
    #[error("the registry cannot be used")]
    Registry(#[from] registry::store::OpenError),
    /// Another process of this cluster has our id.
    #[error(
        "another gateway of this cluster is called `{id}` ({other}); stop that one, or give this one a \
         `metadata.name` of its own"
    )]
    IdTaken {
        /// Ours.
        id: String,
        /// What it says of itself.
        other: String,
    },
    /// The registry does not say which cluster this is, or that it is another one.
    #[error("the registry does not serve this cluster")]
    Uid(#[from] registry::tasks::cluster::UidError),
    /// A TCP address cannot be bound.
    #[error("cannot bind {what} on {address}; is another process listening there? (`spec.listen.{what}`)")]
    Bind {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The tunnel's UDP address cannot be bound, or its TLS not be set up.
    #[error("cannot open the tunnel endpoint (`spec.listen.tunnel`)")]
    Tunnel(#[from] tunnel::EndpointError),
    /// A thread or runtime could not be made.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The process that runs was not taken over from.
    #[error("not taken over; the running gateway goes on, unless it was told to end")]
    TakeOver(#[from] TakeOverError),
    /// A worker ended without being told to.
    #[error("a worker thread ended; its log says why")]
    WorkerEnded,
}

/// The signals that mean something to a gateway; for the others the system's defaults stay.
struct Signals {
    end: EndSignals,
    /// Read everything again.
    hangup: Signal,
}

/// SIGTERM and SIGINT: drain; once more: do not wait.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on no signal ends the process by itself.
    fn listen() -> io::Result<Self> {
        let end = EndSignals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        Ok(Self { end, hangup: signal(SignalKind::hangup())? })
    }
}

/// What is under way is not waited for any longer: the process was told to end at once.
fn cut(shared: &Shared) {
    warn!(left = shared.in_progress.count(), "Told to end at once: aborting in-flight requests.");
    shared.cut.cancel();
}

impl EndSignals {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
