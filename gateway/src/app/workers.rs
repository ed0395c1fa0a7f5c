//! The threads of the data plane.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Barrier, oneshot};
use tokio::task::JoinSet;
use tracing::error;
use tunnel::Port;

use super::StartError;
use crate::proxy::dataplane::{self, Control, Start};
use crate::proxy::worker::Shared;

/// The workers that run.
pub(super) struct Workers {
    /// Each waits for the end of one.
    ends: JoinSet<()>,
}

impl Workers {
    /// Starts a worker for each share of the tunnels' port, with listeners of its own; the first has the Unix socket, too; gives them once all can
    /// serve.
    ///
    /// # Errors
    /// When one of them cannot; the others then end with the process.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        control: &Arc<Control>,
        ports: Vec<Port>,
        tcp: Vec<TcpListener>,
        mut unix: Option<UnixListener>,
        http: Vec<TcpListener>,
    ) -> Result<Self, StartError> {
        let drained = Arc::new(Barrier::new(ports.len()));
        let mut ends = JoinSet::new();
        for ((port, tcp), http) in ports.into_iter().zip(tcp).zip(http) {
            let (ready, is_ready) = oneshot::channel();
            let (ended, has_ended) = oneshot::channel::<()>();
            let name = format!("worker-{}", port.worker());
            let start = Start {
                shared: shared.clone(),
                control: control.clone(),
                port,
                tcp,
                unix: unix.take(),
                http,
                drained: drained.clone(),
            };
            let run = move || {
                let _ended = ended;
                if let Err(failed) = dataplane::run(start, ready) {
                    error!(error = %failed, "The worker failed.");
                }
            };
            thread::Builder::new().name(name).spawn(run).map_err(StartError::Thread)?;
            is_ready.await.map_err(|_| StartError::WorkerEnded)??;
            ends.spawn(async move {
                // Never sent: dropped when the thread ends, however it does.
                let _ = has_ended.await;
            });
        }
        Ok(Self { ends })
    }

    /// Waits for the end of any of them.
    pub(super) async fn one_ended(&mut self) {
        self.ends.join_next().await;
    }

    /// Waits for the end of all of them.
    pub(super) async fn all_ended(&mut self) {
        while self.ends.join_next().await.is_some() {}
    }
}
