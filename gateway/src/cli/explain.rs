//! `ringway explain`: what a running gateway would do with a request, decision by decision.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::client::{Client, query_value};
use super::output::{Format, lines, print, table};
use super::{Admin, Failure, block_on};
use admin_api::explain::{Cluster, Explanation, Local, Rules};

/// Show each decision that a running gateway would take about a request, now, and why.
///
/// Name, contract, key, owner, the order of clusters and why some are skipped, the choice of an endpoint, what is tried
/// again. The gateway asks the same functions as for a real request; nothing is sent to an endpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringway explain http://cart.shop.mesh/
  ringway explain http://cart.shop.mesh/basket?id=7 -H 'x-user: ann' -X POST
  ringway explain http://cart.shop.mesh/ --workload shop/checkout
  ringway explain http://cart.shop.east.mesh/ -o json | jq '.clusters[] | {cluster, why}'")]
pub(super) struct Args {
    /// The URL, as a caller would write it.
    url: String,
    /// A header field, as `name: value`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The method.
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// The caller's address, for contracts that hash it.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    source: IpAddr,
    /// The workload whose sidecar asks, as namespace and service account; without it the caller is anonymous.
    #[arg(long, value_name = "NS/SA")]
    workload: Option<String>,
    #[command(flatten)]
    admin: Admin,
}

/// Runs the command.
///
/// # Errors
/// When no gateway answers, or what was asked about is no request.
pub(super) fn run(args: &Args, format: Format) -> Result<(), Failure> {
    // A scheme is more than people type.
    let url = if args.url.contains("://") { args.url.clone() } else { format!("http://{}", args.url) };
    let value = |text: &str| query_value(text.as_bytes());
    let mut target = format!(
        "/v1/explain?url={}&method={}&source={}&headers={}",
        value(&url),
        value(&args.method),
        args.source,
        value(&args.headers.join("\n")),
    );
    if let Some(workload) = &args.workload {
        let _infallible = write!(target, "&workload={}", value(workload));
    }
    let (told, bytes) = block_on(Client::new(&args.admin.admin).get_json::<Explanation>(&target))??;
    match format {
        Format::Json => print(&(String::from_utf8_lossy(&bytes).trim_end().to_owned() + "\n")),
        Format::Text => print(&describe(&told)),
    }
    Ok(())
}

fn describe(told: &Explanation) -> String {
    let request = &told.request;
    let mut text = format!(
        "{} http://{}{} from {}, at gateway {}\n\n",
        request.method, request.authority, request.target, request.source, told.gateway
    );
    let mut say = |what: &str, how: &str| {
        let _infallible = writeln!(text, "  {what:<10} {how}");
    };
    if let Some(name) = &told.name {
        let of = if name.pinned { "pinned to one cluster" } else { "the union over clusters" };
        say(
            "name",
            &format!("{}, {of}; port {} ({}, {})", name.service, name.port, name.port_name, name.protocol),
        );
    }
    if let Some(contract) = &told.contract {
        let from = match &contract.from {
            Some(from) => format!("generation {}, declared by {from}", contract.generation),
            None => "nobody declared one".into(),
        };
        say("contract", &format!("{}, {from}; ring {}", contract.mode, contract.ring));
    }
    match &told.key {
        Some(key) => say("key", &format!("`{}` from {}, hash {}", key.value, key.source, key.hash)),
        None if told.name.is_none() => {}
        None if told.key_sources.is_empty() => say("key", "none: the contract hashes nothing"),
        None => say("key", &format!("none: no value in {}", told.key_sources.join(", "))),
    }
    if told.key.is_some() {
        say("owner", told.owner.as_deref().unwrap_or("nobody: no member has weight"));
    }
    match (&told.chosen, &told.way) {
        (Some(chosen), Some(way)) => say(
            "goes to",
            &format!(
                "{chosen}, through {} {} to its gateway {}: {:.2} ms, {} requests on it",
                way.carrier, way.address, way.gateway, way.rtt_ms, way.outstanding
            ),
        ),
        (Some(chosen), None) if told.local.is_some() => {
            say("goes to", &format!("{chosen}, which is this cluster"))
        }
        (Some(chosen), None) => {
            say("goes to", &format!("{chosen}, to which there is no tunnel at this moment"))
        }
        (None, _) => {}
    }
    if let Some(rejected) = &told.rejected {
        say("answer", &format!("{} {}: {}", rejected.status, rejected.error, rejected.details));
    }
    if let Some(rules) = &told.rules {
        say("retries", &retries(rules));
        say("timeouts", &timeouts(rules));
    }
    if let Some(grant) = &told.grant {
        say("grant", grant);
    }
    say("caller", &told.caller);
    if !told.clusters.is_empty() {
        let _infallible = write!(text, "\nclusters\n{}", clusters(&told.clusters));
    }
    if let Some(local) = &told.local {
        let _infallible =
            write!(text, "\nendpoints, {}: {}\n{}", local.algorithm, local.why, endpoints(local));
    }
    text
}

fn retries(rules: &Rules) -> String {
    let method = if rules.replayable {
        "the method may be sent twice"
    } else {
        "the method may not be sent twice: only after what is certified to be unprocessed"
    };
    let hedge = if rules.hedged { ", hedged while its peer is suspect" } else { "" };
    format!(
        "{} clusters at most, on {}; {method}{hedge}; budget {} % or {} a second, {} spent in 10 s",
        rules.attempts,
        rules.on.join(", "),
        rules.budget_percent,
        rules.min_per_second,
        rules.spent
    )
}

fn timeouts(rules: &Rules) -> String {
    let shown = |ms: u64| format!("{:?}", Duration::from_millis(ms));
    let total = rules.total_ms.map_or_else(|| "none".into(), shown);
    format!("head {}, idle {}, total {total}", shown(rules.head_ms), shown(rules.idle_ms))
}

fn clusters(clusters: &[Cluster]) -> String {
    let mut rows = table(&["TRY", "CLUSTER", "REGION", "WEIGHT", "TIER", "STATE", "READY", "WHY"]);
    let number = |n: Option<String>| n.unwrap_or_else(|| "-".into());
    for cluster in clusters {
        rows.add_row([
            number(cluster.place.map(|place| place.to_string())),
            cluster.cluster.clone(),
            cluster.region.clone(),
            cluster.weight.to_string(),
            number(cluster.tier.map(|tier| tier.to_string())),
            cluster.availability.clone(),
            number(cluster.ready.map(|ready| ready.to_string())),
            cluster.why.clone(),
        ]);
    }
    lines(&rows, "  ")
}

fn endpoints(local: &Local) -> String {
    let mut rows = table(&["ENDPOINT", "ADDRESS", "STATE", "IN FLIGHT", "LATENCY"]);
    for endpoint in &local.endpoints {
        let latency = endpoint.latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.2} ms"));
        rows.add_row([
            endpoint.id.clone(),
            endpoint.address.clone(),
            endpoint.state.clone(),
            endpoint.in_flight.to_string(),
            latency,
        ]);
    }
    lines(&rows, "  ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_that_is_none_is_explained_as_an_answer() {
        let told: Explanation = serde_json::from_str(
            r#"{"gateway":"west/gw-1","request":{"method":"GET","authority":"x.mesh","target":"/","source":"::1"},
            "rejected":{"status":404,"error":"destination_not_found","details":"`x.mesh`: no"},"name":null,
            "contract":null,"key":null,"key_sources":[],"owner":null,"clusters":[],"chosen":null,"local":null,
            "way":null,"rules":null,"grant":null,"caller":"anonymous","added later":1}"#,
        )
        .unwrap();
        let expected = "\
GET http://x.mesh/ from ::1, at gateway west/gw-1

  answer     404 destination_not_found: `x.mesh`: no
  caller     anonymous
";
        assert_eq!(describe(&told), expected);
    }
}
