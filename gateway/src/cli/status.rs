//! `ringway status`: what a running gateway knows, and the types in which it says so.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use admin_api::status::{
    Condition, Endpoint, Held, Member, Peer, Registry, Service, Sidecar, Status, Tunnel,
};
use bytes::Bytes;
use serde::Deserialize;

use super::client::{Client, ClientError};
use super::output::{Format, Table, lines, print, table};
use super::{Admin, Failure, block_on};

/// The status of either kind of process.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Any {
    Gateway(Box<Status>),
    Sidecar(Box<Sidecar>),
}

/// Asks the gateway behind `client`; also the bytes of the answer.
///
/// # Errors
/// When it does not answer with a status.
pub(crate) async fn read(client: &mut Client) -> Result<(Status, Bytes), ClientError> {
    client.get_json("/v1/status").await
}

/// Show the peers, links, services, endpoints and conditions of a running gateway, or what a sidecar has of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway status
  ringway status --admin 127.0.0.1:8490
  ringway status --admin 127.0.0.1:7471                         a sidecar
  ringway status -o json | jq '.peers[] | {cluster, state, reason}'")]
pub(super) struct Args {
    #[command(flatten)]
    admin: Admin,
}

/// Runs the command.
///
/// # Errors
/// When the gateway does not answer.
pub(super) fn run(args: &Args, format: Format) -> Result<(), Failure> {
    let (status, bytes) = block_on(Client::new(&args.admin.admin).get_json::<Any>("/v1/status"))??;
    let now = super::unix_ms(SystemTime::now());
    match format {
        Format::Json => print(&(String::from_utf8_lossy(&bytes).trim_end().to_owned() + "\n")),
        Format::Text => print(&match status {
            Any::Gateway(status) => render(&status, now),
            Any::Sidecar(status) => render_sidecar(&status, now),
        }),
    }
    Ok(())
}

/// The status of a sidecar for people, seen at `now` (Unix milliseconds).
fn render_sidecar(status: &Sidecar, now: u64) -> String {
    let readiness = if status.ready { "ready" } else { "not ready" };
    let Sidecar { version, cluster, sidecar, identity, .. } = status;
    let up = since(status.started_unix_ms, now);
    let mut text = format!(
        "sidecar {sidecar} of cluster {cluster}: {readiness}, up {up}\nringway {version}, {identity}\n"
    );
    let error = status.last_error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
    let none = format!("none was reached yet{error}");
    section(&mut text, "gateways", &peers(&status.gateways, now), &none);
    section(&mut text, "services", &services(&status.services), "no name was used lately");
    section(&mut text, "endpoints", &endpoints(&status.services), "none of this cluster's own");
    section(&mut text, "conditions", &conditions(&status.conditions), "nothing to report");
    text
}

/// The status for people, seen at `now` (Unix milliseconds).
fn render(status: &Status, now: u64) -> String {
    let mut text = String::new();
    let readiness = if status.ready { "ready" } else { "not ready" };
    let Status { cluster, gateway, region, version, uid, .. } = status;
    let up = since(status.started_unix_ms, now);
    let _infallible =
        writeln!(text, "gateway {gateway} of cluster {cluster} ({region}): {readiness}, up {up}");
    let _infallible = writeln!(text, "ringway {version}, cluster uid {uid}");

    if let Some(registry) = &status.registry {
        text.push_str(&describe_registry(registry, now));
    }

    section(&mut text, "peers", &peers(&status.peers, now), "no peer gateway was reached yet");

    let mut links = table(&["CLUSTER", "STATE", "IMPORTED", "AGE", "ADDRESSES", "LAST ERROR"]);
    for link in &status.links {
        let age = link.age_seconds.map_or_else(|| "-".into(), |s| duration(Duration::from_secs(s)));
        let addresses =
            if link.addresses.is_empty() { "accept only".into() } else { link.addresses.join(", ") };
        let error = link.last_error.clone().unwrap_or_default();
        links.add_row([
            link.cluster.clone(),
            link.state.to_string(),
            link.imported.to_string(),
            age,
            addresses,
            error,
        ]);
    }
    section(&mut text, "links", &links, "none declared");

    section(&mut text, "services", &services(&status.services), "none declared, none imported");

    section(&mut text, "endpoints", &endpoints(&status.services), "none of this cluster's own");

    section(&mut text, "conditions", &conditions(&status.conditions), "nothing to report");
    text
}

fn conditions(conditions: &[Condition]) -> Table {
    let mut rows = table(&["OBJECT", "CONDITION", "REASON", "MESSAGE"]);
    for c in conditions {
        let state = format!("{}={}", c.kind, if c.status { "True" } else { "False" });
        rows.add_row([&*c.object, &*state, &*c.reason, &*c.message]);
    }
    rows
}

/// The registry in a few lines.
fn describe_registry(registry: &Registry, now: u64) -> String {
    let seconds = |seconds| duration(Duration::from_secs(seconds));
    let Registry { store, standing, .. } = registry;
    let connected = match &*registry.owner {
        "ours" if registry.up => "connected".into(),
        "ours" => format!("not connected for {}", seconds(registry.silent_seconds)),
        "nobody" => "wiped, is taken again".into(),
        uid => format!("not used for {}: of another cluster, uid {uid}", seconds(registry.silent_seconds)),
    };
    let elected = registry.elected.as_deref().unwrap_or("nobody known");
    let gateways = or_dash(registry.gateways.join(", "));
    let age = seconds(registry.catalog_age_seconds);
    let catalog = match &*registry.catalog {
        "registry" => "as the registry has it".into(),
        "memory" => format!("as the registry was {age} ago"),
        _ => format!("of the state directory, written {age} ago"),
    };
    let mut text = format!(
        "\nregistry {store}: {connected}\n  this gateway is {standing}, elected is {elected}, gateways {gateways}\n  \
         catalog {catalog}\n"
    );
    for held in &registry.held {
        let Held { peer, services, since_unix_ms } = held;
        let lasted = since(*since_unix_ms, now);
        let _infallible = writeln!(text, "  {peer} misses {services} services for {lasted}: they are held");
    }
    text
}

fn peers(of: &[Peer], now: u64) -> Table {
    let mut peers = table(&["CLUSTER", "GATEWAY", "STATE", "FOR", "TUNNELS", "REASON"]);
    for peer in of {
        let tunnels: Vec<_> = peer.tunnels.iter().map(describe_tunnel).collect();
        let lasted = since(peer.since_unix_ms, now);
        peers.add_row([
            &*peer.cluster,
            &*peer.gateway,
            &*peer.state,
            &*lasted,
            &*or_dash(tunnels.join(", ")),
            &*peer.reason,
        ]);
    }
    peers
}

fn services(of: &[Service]) -> Table {
    let mut services = table(&["NAME", "MODE", "GENERATION", "RING", "ENDPOINTS", "MEMBERS"]);
    for service in of {
        let ready = service.endpoints.iter().filter(|e| e.ready).count();
        let endpoints = match service.endpoints.len() {
            0 => "-".into(),
            all => format!("{ready} of {all} ready"),
        };
        let members: Vec<_> = service.members.iter().map(describe_member).collect();
        let (name, mode, ring) = (service.name.clone(), service.mode.to_string(), service.ring.clone());
        services.add_row([name, mode, service.generation.to_string(), ring, endpoints, members.join(", ")]);
    }
    services
}

fn endpoints(of: &[Service]) -> Table {
    let mut endpoints = table(&["SERVICE", "ENDPOINT", "ADDRESS", "STATE", "IN FLIGHT"]);
    for service in of {
        for endpoint in &service.endpoints {
            let Endpoint { id, address, state, in_flight, .. } = endpoint;
            endpoints.add_row([&*service.name, &**id, &**address, &**state, &*in_flight.to_string()]);
        }
    }
    endpoints
}

fn section(text: &mut String, title: &str, table: &Table, when_empty: &str) {
    if table.row_count() == 0 {
        let _infallible = write!(text, "\n{title}: {when_empty}\n");
    } else {
        let _infallible = write!(text, "\n{title}\n{}", lines(table, "  "));
    }
}

fn describe_tunnel(tunnel: &Tunnel) -> String {
    let Tunnel { carrier, address, dialled_by, .. } = tunnel;
    let rtt = tunnel.rtt_ms.map_or_else(String::new, |ms| format!(" {ms:.2} ms"));
    let path = tunnel.path.as_ref().filter(|path| path.rate_mbit > 0.0).map_or_else(String::new, |path| {
        let loss =
            if path.loss_pct >= 0.05 { format!(", {:.1} % lost", path.loss_pct) } else { String::new() };
        format!(", {:.0} Mbit/s{loss}", path.rate_mbit)
    });
    format!("{carrier} {address}{rtt}{path} (dialled by {dialled_by})")
}

fn describe_member(member: &Member) -> String {
    let Member { cluster, state, .. } = member;
    let weight =
        if member.weight == 100 { String::new() } else { format!("*{}", f64::from(member.weight) / 100.0) };
    let state = if member.serves { state } else { "does not serve" };
    format!("{cluster}{weight} ({state})")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

fn since(then_unix_ms: u64, now_unix_ms: u64) -> String {
    duration(Duration::from_millis(now_unix_ms.saturating_sub(then_unix_ms)))
}

/// A duration with its two largest units.
fn duration(d: Duration) -> String {
    match d.as_secs() {
        0 => format!("{} ms", d.as_millis()),
        s @ 1..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s @ 3600..86400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s => format!("{} d {} h", s / 86400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STATUS: &str = r#"{"version":"0.1.0","cluster":"west","gateway":"gw-1","region":"us-west","uid":"00ff",
        "boot":"12","started_unix_ms":1000,"ready":true,"added later":{},
        "registry":{"store":"etcd http://a:2379","up":false,"silent_seconds":70,"owner":"ours","standing":"unknown",
            "elected":null,"gateways":["gw-1","gw-2"],"catalog":"last-catalog","catalog_age_seconds":3700,
            "held":[{"peer":"east","services":6,"since_unix_ms":71000}]},
        "peers":[{"cluster":"east","gateway":"gw-1","state":"up","since_unix_ms":61000,"reason":"tunnel up",
            "tunnels":[{"carrier":"quic","address":"127.0.0.1:8443","rtt_ms":0.314,"dialled_by":"us"}]},
            {"cluster":"north","gateway":"gw-1","state":"down","since_unix_ms":91000,"reason":"silent","tunnels":[]}],
        "links":[{"cluster":"east","addresses":["127.0.0.1:8443"],"state":"up","last_error":null,"imported":2,
            "epoch":"1","revision":4,"age_seconds":3}],
        "services":[{"name":"shop/cart","local":true,"generation":1,"mode":"sharded","contract_from":"east",
            "members":[{"cluster":"east","region":"us-east","weight":100,"serves":true,"state":"up"},
                       {"cluster":"west","region":"us-west","weight":50,"serves":false,"state":"up"}],
            "ring":"00000000000000ab",
            "endpoints":[{"id":"a","address":"127.0.0.1:9001","ready":true,"state":"ready","in_flight":2},
                {"id":"b","address":"127.0.0.1:9002","ready":false,"state":"check-failed"}]}],
        "conditions":[]}"#;

    #[test]
    fn a_status_reads_as_tables() {
        let status: Status = serde_json::from_str(STATUS).unwrap();
        let expected = "\
gateway gw-1 of cluster west (us-west): ready, up 1 min 40 s
ringway 0.1.0, cluster uid 00ff

registry etcd http://a:2379: not connected for 1 min 10 s
  this gateway is unknown, elected is nobody known, gateways gw-1, gw-2
  catalog of the state directory, written 1 h 1 min ago
  east misses 6 services for 30 s: they are held

peers
  CLUSTER   GATEWAY   STATE   FOR    TUNNELS                                       REASON
  east      gw-1      up      40 s   quic 127.0.0.1:8443 0.31 ms (dialled by us)   tunnel up
  north     gw-1      down    10 s   -                                             silent

links
  CLUSTER   STATE   IMPORTED   AGE   ADDRESSES        LAST ERROR
  east      up      2          3 s   127.0.0.1:8443

services
  NAME        MODE      GENERATION   RING               ENDPOINTS      MEMBERS
  shop/cart   sharded   1            00000000000000ab   1 of 2 ready   east (up), west*0.5 (does not serve)

endpoints
  SERVICE     ENDPOINT   ADDRESS          STATE          IN FLIGHT
  shop/cart   a          127.0.0.1:9001   ready          2
  shop/cart   b          127.0.0.1:9002   check-failed   0

conditions: nothing to report
";
        assert_eq!(render(&status, 101_000), expected);
        assert_eq!(status.peer("north").unwrap().state, "down");
    }

    #[test]
    fn durations_show_two_units() {
        let shown = |s| duration(Duration::from_secs(s));
        assert_eq!(duration(Duration::from_millis(999)), "999 ms");
        assert_eq!(
            [shown(59), shown(61), shown(3600), shown(90_000)],
            ["59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]
        );
    }
}
