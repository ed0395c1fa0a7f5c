//! The processes of the demo's clusters: started, watched and killed.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;

use tokio::process::{Child, Command};

use super::DemoError;
use super::layout::{ENDPOINT_IDS, Layout};
use super::plan::{Cluster, Service};

/// A process that is killed, however the demo ends: by the drop of this, or, when the demo itself is killed, because
/// the process's standard input then ends.
struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts this very binary with `args`; what it prints goes to its log.
    fn start(layout: &Layout, name: String, args: &[String]) -> Result<Self, DemoError> {
        let failed = |source| DemoError::Spawn { name: name.clone(), source };
        let log = OpenOptions::new().create(true).append(true).open(layout.log(&name)).map_err(failed)?;
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(args)
            .current_dir(&layout.folder)
            .env_remove("RINGWAY_ADMIN")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Its own group: Ctrl-C in the terminal is for the demo, which then ends the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name, child })
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends SIGKILL; a process that has ended already is no error.
    fn kill(&mut self) {
        let _ended_already = self.child.start_kill();
    }

    /// Waits for the end of a process that was killed.
    async fn ended(mut self) {
        let _status = self.child.wait().await;
    }
}

/// One cluster: a gateway, and the endpoints of both services.
pub(super) struct Processes {
    layout: Rc<Layout>,
    cluster: Cluster,
    gateway: Option<Process>,
    endpoints: [Vec<Process>; Service::ALL.len()],
}

impl Processes {
    /// A cluster of which nothing runs yet.
    pub(super) fn new(layout: Rc<Layout>, cluster: Cluster) -> Self {
        Self { layout, cluster, gateway: None, endpoints: [Vec::new(), Vec::new()] }
    }

    /// Starts the gateway. The endpoints should accept already: a gateway skips one that refused it for a second.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn start_gateway(&mut self) -> Result<(), DemoError> {
        let manifest = self.layout.manifest(self.cluster).display().to_string();
        let args = ["gateway".into(), "--end-with-stdin".into(), "-f".into(), manifest];
        let name = format!("{}-gateway", self.cluster.name());
        self.gateway = Some(Process::start(&self.layout, name, &args)?);
        Ok(())
    }

    /// Starts the endpoints of one service.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub(super) fn start_endpoints(&mut self, service: Service) -> Result<(), DemoError> {
        let addresses = self.layout.addresses(self.cluster).endpoints[service as usize];
        for (id, address) in ENDPOINT_IDS.iter().zip(addresses) {
            let (cluster, service_name) = (self.cluster.name(), service.name());
            let args = [
                "demo-backend",
                "--listen",
                &address.to_string(),
                "--cluster",
                cluster,
                "--service",
                service_name,
                "--id",
                id,
            ]
            .map(String::from);
            let process = Process::start(&self.layout, format!("{cluster}-{service_name}-{id}"), &args)?;
            self.endpoints[service as usize].push(process);
        }
        Ok(())
    }

    /// Waits until every endpoint that was started accepts connections.
    ///
    /// Cancel safe.
    pub(super) async fn endpoints_accept(&self) {
        for service in Service::ALL {
            if self.endpoints[service as usize].is_empty() {
                continue;
            }
            for address in self.layout.addresses(self.cluster).endpoints[service as usize] {
                while tokio::net::TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(super::GLANCE).await;
                }
            }
        }
    }

    /// Kills the endpoints of one service (SIGKILL) and waits until they are gone.
    pub(super) async fn kill_endpoints(&mut self, service: Service) {
        let mut dying = std::mem::take(&mut self.endpoints[service as usize]);
        dying.iter_mut().for_each(Process::kill);
        for process in dying {
            process.ended().await;
        }
    }

    /// Kills the whole cluster (SIGKILL), the gateway first, and waits until all of it is gone.
    pub(super) async fn kill(&mut self) {
        let mut dying: Vec<_> = self.gateway.take().into_iter().collect();
        dying.extend(self.endpoints.iter_mut().flat_map(std::mem::take));
        dying.iter_mut().for_each(Process::kill);
        for process in dying {
            process.ended().await;
        }
    }

    /// The error for a process that ended without being killed by us, if there is one.
    ///
    /// # Errors
    /// That one.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        for process in self.gateway.iter_mut().chain(self.endpoints.iter_mut().flatten()) {
            if let Some(status) = process.exited() {
                let log = self.layout.log(&process.name);
                return Err(DemoError::Exited { name: process.name.clone(), status, log: Log::read(log) });
            }
        }
        Ok(())
    }

    /// The log of the gateway.
    pub(super) fn gateway_log(&self) -> Log {
        Log::read(self.layout.log(&format!("{}-gateway", self.cluster.name())))
    }
}

/// The end of a process's log, as an error shows it.
#[derive(Debug)]
pub(in crate::cli) struct Log {
    path: PathBuf,
    tail: io::Result<String>,
}

impl Log {
    fn read(path: PathBuf) -> Self {
        let tail = super::layout::tail(&path);
        Self { path, tail }
    }
}

impl std::fmt::Display for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.tail {
            Ok(tail) if tail.is_empty() => write!(f, "{} is empty", self.path.display()),
            Ok(tail) => write!(f, "the end of {}:\n{tail}", self.path.display()),
            Err(error) => write!(f, "{} cannot be read: {error}", self.path.display()),
        }
    }
}
