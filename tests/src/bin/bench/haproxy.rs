//! Two HAProxy processes with mutual TLS 1.3 and HTTP/2 between them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use e2e::process::Process;
use wan::Namespace;

use crate::chain::{Chain, Ends, THREADS, start};
use crate::identity::Identity;

const NAME: &str = "haproxy_h2";

/// Starts both: connections are reused as freely as it can.
pub(crate) fn two(program: &Path, identity: &Identity, ends: &Ends<'_>) -> (Chain, Vec<Process>) {
    let &Ends { near, far, backend, inside } = ends;
    let (both, ca) = (identity.both.display(), identity.authority.display());
    // It can ask for a DNS name in the certificate, not for a URI: so it checks the authority alone.
    let tls = format!("ssl crt {both} ca-file {ca} verify required alpn h2");
    let west = configuration(near, "", &format!("{far} {tls}"));
    let east = configuration(far, &tls, &backend.to_string());
    run(NAME, program, identity, near, inside, [east, west])
}

/// The same for connections as they are: each is one of TLS between the two.
pub(crate) fn connections(
    name: &'static str,
    program: &Path,
    identity: &Identity,
    ends: &Ends<'_>,
) -> (Chain, Vec<Process>) {
    let &Ends { near, far, backend, inside } = ends;
    let (both, ca) = (identity.both.display(), identity.authority.display());
    let tls = format!("ssl crt {both} ca-file {ca} verify required");
    let proxy = |listen: SocketAddr, tls: &str, server: &str| {
        format!(
            "global\n  nbthread {THREADS}\n  maxconn 8000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
             ssl-default-server-options ssl-min-ver TLSv1.3\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
             listen all\n  bind {listen} {tls}\n  server one {server}\n"
        )
    };
    let east = proxy(far, &tls, &backend.to_string());
    let west = proxy(near, "", &format!("{far} {tls}"));
    run(name, program, identity, near, inside, [east, west])
}

/// Starts both with their configurations, east's first.
fn run(
    name: &'static str,
    program: &Path,
    identity: &Identity,
    near: SocketAddr,
    inside: [Option<&Namespace>; 2],
    [east, west]: [String; 2],
) -> (Chain, Vec<Process>) {
    let run = |role: &str, inside, text: String| {
        let file = identity.dir.join(format!("{name}-{role}.cfg"));
        std::fs::write(&file, text).expect("a file in our own folder");
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(file);
        start(inside, &identity.dir, name, role, command)
    };
    let processes = vec![run("east", inside[1], east), run("west", inside[0], west)];
    let pids = processes.iter().map(Process::pid).collect();
    (Chain { name, address: near, host: "cart.shop.mesh", keys: 0, pids }, processes)
}

/// One proxy from `listen` to `server`.
fn configuration(listen: SocketAddr, tls: &str, server: &str) -> String {
    format!(
        "global\n  nbthread {THREADS}\n  maxconn 8000\n  tune.h2.initial-window-size 16777216\n  \
         tune.h2.max-concurrent-streams 1000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  \
         ssl-default-server-options ssl-min-ver TLSv1.3\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         listen all\n  bind {listen} {tls}\n  http-reuse always\n  server one {server} pool-max-conn 1000\n"
    )
}
