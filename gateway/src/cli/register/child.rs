//! The command beside which an endpoint is registered, and the signals that reach both.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use registry::model::Endpoint;
use tokio::net::TcpStream;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{sleep, timeout};

use super::RegisterError;

/// How often it is looked whether the command accepts connections.
const LOOK: Duration = Duration::from_millis(50);
/// How long one look may take.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// What a signal asks for.
pub(super) enum Told {
    /// To end.
    End(Signal),
    /// Whatever the command makes of it.
    Other(Signal),
}

/// The signals that are listened for.
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    /// Those that are only passed on; none without a command, so that they do what the system does.
    others: Option<[unix::Signal; 4]>,
}

impl Signals {
    /// From here on they do nothing by themselves; `others`: those that do not ask for the end, too.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn listen(others: bool) -> io::Result<Self> {
        let all = || {
            Ok::<_, io::Error>([
                unix::signal(SignalKind::hangup())?,
                unix::signal(SignalKind::quit())?,
                unix::signal(SignalKind::user_defined1())?,
                unix::signal(SignalKind::user_defined2())?,
            ])
        };
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            others: others.then(all).transpose()?,
        })
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&mut self) -> Told {
        let other = async {
            let Some([hangup, quit, first, second]) = &mut self.others else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = hangup.recv() => Signal::SIGHUP,
                _ = quit.recv() => Signal::SIGQUIT,
                _ = first.recv() => Signal::SIGUSR1,
                _ = second.recv() => Signal::SIGUSR2,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Told::End(Signal::SIGTERM),
            _ = self.interrupt.recv() => Told::End(Signal::SIGINT),
            signal = other => Told::Other(signal),
        }
    }
}

/// The command, running.
pub(super) struct Child {
    process: tokio::process::Child,
    name: String,
}

impl Child {
    /// Starts it, if there is one, in a process group of its own: Ctrl-C goes to a whole group, and it must not end before
    /// its endpoint has drained. From a terminal it reads nothing: whoever is not in the foreground there and tries is
    /// stopped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(command: &[OsString]) -> Result<Option<Self>, RegisterError> {
        let Some((program, args)) = command.split_first() else { return Ok(None) };
        let name = program.to_string_lossy().into_owned();
        let mut command = tokio::process::Command::new(program);
        command.args(args).process_group(0);
        if io::stdin().is_terminal() {
            command.stdin(Stdio::null());
        }
        match command.spawn() {
            Ok(process) => Ok(Some(Self { process, name })),
            Err(source) => Err(RegisterError::Command { command: name, source }),
        }
    }

    /// Waits until every port of `endpoint` accepts a connection; its exit code if it ends before. Signals go to it.
    ///
    /// # Errors
    /// As [`Self::exited`].
    pub(super) async fn until_it_accepts(
        &mut self,
        endpoint: &Endpoint,
        signals: &mut Signals,
    ) -> Result<Option<ExitCode>, RegisterError> {
        let accepts = async {
            for (_, number) in endpoint.ports.iter() {
                let address = (&*endpoint.host, number);
                while !matches!(timeout(LOOK_WAIT, TcpStream::connect(address)).await, Ok(Ok(_))) {
                    sleep(LOOK).await;
                }
            }
        };
        let mut accepts = std::pin::pin!(accepts);
        loop {
            tokio::select! {
                () = &mut accepts => return Ok(None),
                code = self.exited() => return code.map(Some),
                Told::End(signal) | Told::Other(signal) = signals.next() => self.tell(signal),
            }
        }
    }

    /// Waits for its end. Cancel safe.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub(super) async fn exited(&mut self) -> Result<ExitCode, RegisterError> {
        let status = self.process.wait().await;
        status.map(code).map_err(|source| RegisterError::Command { command: self.name.clone(), source })
    }

    /// Tells it to end, by `signal` or SIGTERM, and waits for that; further signals go to it.
    ///
    /// # Errors
    /// As [`Self::exited`].
    pub(super) async fn end(
        &mut self,
        signal: Option<Signal>,
        signals: &mut Signals,
    ) -> Result<ExitCode, RegisterError> {
        self.tell(signal.unwrap_or(Signal::SIGTERM));
        loop {
            tokio::select! {
                code = self.exited() => return code,
                Told::End(signal) | Told::Other(signal) = signals.next() => self.tell(signal),
            }
        }
    }

    /// Sends it a signal, if it still runs.
    pub(super) fn tell(&self, signal: Signal) {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may just have ended: then there is nobody to be told.
            let _ = signal::kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Its exit code; that of a shell where a signal ended it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
