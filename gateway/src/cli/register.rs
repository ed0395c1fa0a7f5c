//! `ringway register`: an endpoint is registered for as long as this runs.

mod child;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgAction;
use proto::register::{Phase, Say, Told};
use registry::model::default_id;
use registry::model::{Endpoint, ServiceName};
use registry::pure::registration::{Begin, TTL_LEAST};
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use self::child::{Child, Signals, Told as Signal};
use super::output::{Format, json};
use super::socket::{self, AdminSocket};
use super::{Failure, block_on};
use crate::base::line::Line;
use crate::sidecar::registrar::{self, Ended, Ending, News, Seen, word};
use admin_api::rpc::AdminClient;
use registry::base::causes::chain;

/// Messages of the conversation that wait on either side.
const QUEUE: usize = 8;

/// Register an endpoint of a service for as long as this runs, or as COMMAND does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway register --service shop/cart --port web=9001 --state state/west
  ringway register --service shop/cart --port web=9001 -- python3 -m http.server 9001
  ringway register --service shop/cart --port web=9001 --host 10.0.0.7 --id cart-7 --zone a --weight 50

With COMMAND it is registered once every port accepts a connection. COMMAND has a process group of
its own, so that Ctrl-C drains first, and reads nothing from a terminal; signals are passed on, and the
exit code is its own. Under systemd set KillMode=mixed: else it is told to end before it has drained.
SIGTERM and SIGINT drain: the endpoint gets nothing new; once nothing is under way, or after --grace, it
is taken off, and only then COMMAND is told to end. A second one does not wait. If this process dies
the endpoint goes within --ttl; if only the gateway does, it stays its own and is registered again. Every
change is a line on standard output, with COMMAND on standard error.")]
pub(super) struct Args {
    /// The service, with its namespace.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = service)]
    service: ServiceName,
    /// A port of the service and the number that it has here; one for each.
    #[arg(long = "port", value_name = "NAME=NUMBER", required = true, value_parser = port, action = ArgAction::Append)]
    ports: Vec<(String, u16)>,
    /// Where the gateways and sidecars of the cluster reach it.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Its id, unique in the service [default: HOST:NUMBER of the first port].
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Its share of the requests, in hundredths.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    weight: u32,
    /// Its zone within the cluster.
    #[arg(long, value_name = "ZONE", default_value = "")]
    zone: String,
    /// Requests that it can hold at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    capacity: Option<u32>,
    /// How long it lives after the last sign of this process; at least 3s.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = ttl)]
    ttl: Duration,
    /// How long what is under way may take once it drains.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = registry::manifest::duration)]
    grace: Duration,
    #[command(flatten)]
    socket: AdminSocket,
    /// What to run, and to register while it runs.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Why nothing is registered.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    /// The gateway says no.
    #[error("the gateway refuses it: {0}")]
    Refused(String),
    /// COMMAND cannot be started or waited for.
    #[error("cannot run `{command}`")]
    Command {
        /// The program.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no signals.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
}

/// One change, as programs read it.
#[derive(Serialize)]
struct Change<'a> {
    event: &'a str,
    service: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'a str,
}

/// Runs the command; returns when the endpoint is taken off.
///
/// # Errors
/// When the gateway refuses the endpoint, or there is none to ask; when COMMAND cannot be run.
pub(super) fn run(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    block_on(register(args, format))?
}

async fn register(args: &Args, format: Format) -> Result<ExitCode, Failure> {
    let mut signals = Signals::listen(!args.command.is_empty()).map_err(RegisterError::Signals)?;
    let path = args.socket.path().await?;
    let begin = args.begin();
    let mut child = Child::start(&args.command)?;
    if let Some(child) = &mut child
        && let Some(code) = child.until_it_accepts(&begin.endpoints[0].1, &mut signals).await?
    {
        return Ok(code);
    }

    let ending = Ending { grace: args.grace, ..Ending::default() };
    let show = Show { format, service: args.service.to_string(), id: args.id(), beside: child.is_some() };
    let mut seen = Seen::default();
    let mut lost = String::new();
    let on_news = |news: News<'_>| match news {
        News::Told(told) => {
            lost.clear();
            for (_, phase, why) in seen.changes(told) {
                show.change(word(phase), &why);
            }
        }
        News::Refused(why) => show.change(word(Phase::Refused), why),
        News::Lost(why) if why != lost => {
            show.change("lost", why);
            why.clone_into(&mut lost);
            // What is found again is news.
            seen = Seen::default();
        }
        News::Lost(_) => {}
    };
    let connect = async || converse(path.clone()).await;
    let mut registering = std::pin::pin!(registrar::run(begin, connect, ending.clone(), on_news));
    let mut end = None;
    let ended = loop {
        tokio::select! {
            ended = &mut registering => break ended,
            code = exited(&mut child) => {
                // Nobody is there to finish anything.
                ending.now.cancel();
                registering.await;
                return code;
            }
            signal = signals.next() => match (signal, &child) {
                (Signal::End(signal), _) if end.is_none() => {
                    end = Some(signal);
                    ending.drain.cancel();
                }
                (Signal::End(_), _) => ending.now.cancel(),
                (Signal::Other(signal), Some(child)) => child.tell(signal),
                (Signal::Other(_), None) => {}
            },
        }
    };
    let code = match &mut child {
        Some(child) => child.end(end, &mut signals).await?,
        None => ExitCode::SUCCESS,
    };
    match ended {
        Ended::Left => Ok(code),
        Ended::Refused(why) => Err(RegisterError::Refused(why).into()),
    }
}

/// Waits for the end of COMMAND, if there is one.
async fn exited(child: &mut Option<Child>) -> Result<ExitCode, Failure> {
    match child {
        Some(child) => Ok(child.exited().await?),
        None => std::future::pending().await,
    }
}

/// A conversation with the gateway behind the socket at `path`.
async fn converse(path: PathBuf) -> Result<Line<Told, Say>, String> {
    let at = path.display().to_string();
    let channel = socket::connect(path).await.map_err(|error| format!("{at}: {}", chain(&error)))?;
    let mut client = AdminClient::new(channel);
    let (say, said) = mpsc::channel(QUEUE);
    let (tell, told) = mpsc::channel(QUEUE);
    let answer = client.register(ReceiverStream::new(said)).await;
    let mut answers = answer.map_err(|status| format!("{at}: {}", status.message()))?.into_inner();
    // Ends with the gateway, or with our half of the conversation.
    tokio::spawn(async move {
        loop {
            let next = tokio::select! {
                next = answers.message() => next,
                () = tell.closed() => return,
            };
            let Ok(Some(message)) = next else { return };
            if tell.send(message).await.is_err() {
                return;
            }
        }
    });
    Ok(Line::Queues(told, say))
}

impl Args {
    fn id(&self) -> String {
        let first = self.ports.first().map_or(0, |(_, number)| *number);
        self.id.clone().unwrap_or_else(|| default_id(&self.host, first))
    }

    fn begin(&self) -> Begin {
        let endpoint = Endpoint {
            id: self.id().into(),
            host: self.host.as_str().into(),
            ports: self.ports.iter().map(|(name, number)| (name.as_str().into(), *number)).collect(),
            weight: self.weight,
            zone: self.zone.as_str().into(),
            capacity: self.capacity,
        };
        let endpoints = vec![(self.service.clone(), endpoint)];
        Begin { registrar: registrar::random_id(), ttl: self.ttl, endpoints, draining: false }
    }
}

/// How changes are shown.
struct Show {
    format: Format,
    service: String,
    id: String,
    /// Beside a COMMAND, whose standard output is its own.
    beside: bool,
}

impl Show {
    fn change(&self, event: &str, why: &str) {
        let Self { format, service, id, beside } = self;
        let line = match format {
            Format::Json => json(&Change { event, service, endpoint: id, why }),
            Format::Text if why.is_empty() => format!("{event} {service} {id}"),
            Format::Text => format!("{event} {service} {id}: {why}"),
        };
        if *beside {
            super::output::complain(&line);
        } else {
            super::output::print(&(line + "\n"));
        }
    }
}

/// `namespace/name`.
fn service(text: &str) -> Result<ServiceName, String> {
    let (namespace, name) = text.split_once('/').ok_or("write namespace and name, such as `shop/cart`")?;
    ServiceName::new(namespace, name).map_err(|error| error.to_string())
}

/// `name=number`.
fn port(text: &str) -> Result<(String, u16), String> {
    let (name, number) = text.split_once('=').ok_or("write name and number, such as `web=9001`")?;
    match number.parse() {
        Ok(number) if number > 0 => Ok((name.into(), number)),
        _ => Err(format!("`{number}` is no port: write one from 1 to 65535")),
    }
}

/// A time to live.
fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = registry::manifest::duration(text)?;
    if (TTL_LEAST..=registry::store::TTL_MAX).contains(&ttl) {
        Ok(ttl)
    } else {
        Err(format!("an endpoint lives {TTL_LEAST:?} to {:?} after the last sign", registry::store::TTL_MAX))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_typed_is_read() {
        assert_eq!(service("shop/cart").unwrap().to_string(), "shop/cart");
        assert_eq!(port("web=9001"), Ok(("web".into(), 9001)));
        assert_eq!(ttl("3s"), Ok(Duration::from_secs(3)));
        assert!(service("cart").is_err() && service("shop/Cart").is_err());
        for text in ["web", "web=", "web=0", "web=65536", "web=http"] {
            assert!(port(text).is_err(), "{text}");
        }
        for text in ["2s", "2h", "10", ""] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }
}
