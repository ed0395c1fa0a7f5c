//! `/v1/explain`: every decision that a request would meet at this moment. It decides nothing itself: it asks what the
//! path of a request asks, and says what came of it.

pub(super) mod clusters;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use hashring::NodeIndex;
use identity::Identity;
use registry::base::time::Tick;
use registry::model::{Algorithm, Gateway, Grant, HashKey, OnOwnerUnavailable, Protocol, RetryOn};
use serde::Deserialize;

use super::status::mode;
use super::{Admin, problem};
use crate::http::fields;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::outbound;
use crate::view::{LocalService, Server, Service};
use admin_api::explain::{
    Cluster, Contract, Endpoint, Explanation, Key, Local, Name, Rejected, Request, Rules, Way,
};
use policy::balance::{Eligibility, Endpoints};
use policy::retry::Failure;
use policy::{grpc, retry, route};

/// A request, told in a query.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    /// `http://authority/path?query`.
    url: String,
    method: Option<String>,
    /// Lines of `name: value`.
    headers: Option<String>,
    /// Address of the caller; loopback unless given.
    source: Option<IpAddr>,
    /// `namespace/service-account` of the workload whose sidecar asks; nobody's unless given.
    workload: Option<String>,
}

/// What is explained.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    source: IpAddr,
    /// The identity that its sidecar's certificate proves.
    caller: Option<Identity>,
}

/// Answers `/v1/explain`.
pub(super) async fn answer(State(admin): State<Admin>, Query(asked): Query<Asked>) -> Response {
    match Head::read(&asked, &admin.gateway) {
        Ok(head) => Json(explain(&admin, head)).into_response(),
        Err(wrong) => problem(StatusCode::BAD_REQUEST, wrong),
    }
}

impl Head {
    fn read(asked: &Asked, gateway: &Gateway) -> Result<Self, String> {
        let method = asked.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
        let uri: Uri = asked.url.parse().map_err(|e| format!("`{}` is no URL: {e}", asked.url))?;
        if uri.authority().is_none() || uri.scheme_str() != Some("http") {
            return Err(format!("`{}` is no URL of the mesh, such as http://cart.shop.mesh/path", asked.url));
        }
        let mut headers = HeaderMap::new();
        for line in asked.headers.iter().flat_map(|lines| lines.lines()).filter(|line| !line.is_empty()) {
            let wrong = || format!("`{line}` is no header field: write it as `name: value`");
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong())?;
            headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
        }
        let source = asked.source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let caller = asked.workload.as_deref().map(|workload| identity_of(workload, gateway)).transpose()?;
        Ok(Self { method, uri, headers, source, caller })
    }
}

/// The identity of a workload of this cluster.
fn identity_of(workload: &str, gateway: &Gateway) -> Result<Identity, String> {
    let (trust_domain, cluster) = (&gateway.trust_domain, &gateway.cluster);
    let uri = match workload.split_once('/') {
        Some((namespace, account)) => {
            format!("spiffe://{trust_domain}/cluster/{cluster}/ns/{namespace}/sa/{account}")
        }
        None => return Err(format!("`{workload}` is no workload: write it as NAMESPACE/SERVICE-ACCOUNT")),
    };
    uri.parse().map_err(|e| format!("`{workload}` is no workload: {e}"))
}

/// Who the caller is to the mesh.
fn caller_text(caller: Option<&Identity>) -> String {
    match caller {
        None => "anonymous: it comes without a sidecar, so no certificate says who it is".into(),
        Some(caller) => format!(
            "{caller}, by its sidecar's certificate; this gateway tells it to the one that serves the request, which \
             believes it of this cluster's workloads only and has it in its access log"
        ),
    }
}

impl Head {
    fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }
}

fn explain(admin: &Admin, head: Head) -> Explanation {
    let mut told = Explanation {
        gateway: format!("{}/{}", admin.gateway.cluster, admin.gateway.id),
        request: Request {
            method: head.method.to_string(),
            authority: head.authority().into(),
            target: head.target().into(),
            source: head.source.to_string(),
        },
        caller: caller_text(head.caller.as_ref()),
        ..Explanation::default()
    };
    if let Err(rejection) = decide(admin, &head, &mut told) {
        told.rejected = Some(rejected(&rejection));
    }
    told
}

/// Tells the decisions one after the other, up to the one that would refuse the request.
fn decide(admin: &Admin, head: &Head, told: &mut Explanation) -> Result<(), Rejection> {
    let (view, now) = (admin.shared.view.load_full(), admin.shared.clock.now());
    if head.method == Method::CONNECT {
        return Err(Rejection::new(ProxyError::HttpMethodUnsupported, "CONNECT is not served here"));
    }
    let (service, port) = outbound::find(&view, &admin.gateway.domain, head.authority())?;
    let mut headers = head.headers.clone();
    fields::strip_hop_by_hop(&mut headers);
    if let Ok(host) = HeaderValue::from_str(head.authority()) {
        headers.insert(header::HOST, host);
    }
    let placement = &service.placement;
    told.name = Some(name(&service, port));
    told.contract = Some(contract(&service));
    told.key_sources = service.hash.iter().map(source_text).collect();
    let value = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let key = |sources: &[HashKey]| {
        let key = route::key(sources, value, head.target(), head.source)?;
        let text = match key {
            route::Key::Value(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            route::Key::V4(_) | route::Key::V6(_) => head.source.to_canonical().to_string(),
        };
        Some((placement.hash(&key), text))
    };
    let hash = key(&service.hash).map(|(hash, _)| hash);
    // The same question, source by source, tells which of them gave the key.
    told.key = service.hash.iter().find_map(|source| {
        let (hash, value) = key(std::slice::from_ref(source))?;
        Some(Key { source: source_text(source), value, hash: format!("{hash:016x}") })
    });
    told.owner = hash.and_then(|hash| placement.owner(hash)).map(ToString::to_string);

    let asks = clusters::Asks { service: &service, port, hash, now };
    let order = asks.order(&mut fastrand::Rng::new());
    told.clusters = asks.clusters(&order, &view, &admin.gateway.cluster);
    let is_grpc = grpc::is_grpc(&headers);
    let replayable = retry::replayable_method(
        head.method.as_str(),
        headers.contains_key(HeaderName::from_static("idempotency-key")),
        &service.retry,
    );
    told.rules = Some(rules(&service, replayable, outbound::total(&service, is_grpc, &headers), now));
    let nobody = || Rejection::from_failure(Failure::Unavailable, &service.name);
    let &first = order.first().ok_or_else(nobody)?;
    told.chosen = Some(placement.cluster(first).to_string());
    way(admin, &service, (port, hash), first, now, told);
    Ok(())
}

/// Tells how the request would get to where it is sent first.
fn way(
    admin: &Admin,
    service: &Service,
    (port, hash): (u16, Option<u64>),
    first: NodeIndex,
    now: Tick,
    told: &mut Explanation,
) {
    match service.server(first) {
        Server::Local(local) => {
            told.local = local.endpoints(port).map(|endpoints| balance(endpoints, hash, now));
            told.grant = Some(format!("needs none: it is served here; {}", exported(local)));
        }
        Server::Peer(peer, _) => {
            let imports = admin.knowledge.imports(&peer.name);
            let revision = imports.and_then(|imports| Some(imports.services.get(&service.name)?.revision));
            told.grant = Some(match revision {
                Some(revision) => format!(
                    "{} has granted it to this cluster, as of its revision {revision}; it checks again at every request",
                    peer.name
                ),
                None => format!("unknown: nothing of it is mirrored from {} any more", peer.name),
            });
            told.way = peer.pick(None).map(|(gateway, tunnel)| Way {
                gateway: gateway.id.clone(),
                carrier: tunnel.carrier().as_str().into(),
                address: tunnel.remote_address().to_string(),
                rtt_ms: gateway.rtt().as_secs_f64() * 1000.0,
                outstanding: tunnel.outstanding(),
            });
        }
        // A gateway reaches nothing by way of another.
        Server::Via(..) | Server::Unreachable => {}
    }
}

fn rejected(rejection: &Rejection) -> Rejected {
    let (error, status) = rejection.error.wire();
    Rejected { status: status.as_u16(), error: error.into(), details: rejection.details.clone() }
}

fn name(service: &Service, port: u16) -> Name {
    let declared = service.port(Some(port));
    Name {
        service: service.name.to_string(),
        pinned: service.pinned,
        port,
        port_name: declared.map_or_else(String::new, |port| port.name.to_string()),
        protocol: declared.map_or(Protocol::Http, |port| port.protocol).as_str().into(),
    }
}

fn contract(service: &Service) -> Contract {
    let placement = &service.placement;
    Contract {
        mode: mode(placement.mode()).into(),
        generation: placement.generation(),
        from: service.contract_from.as_ref().map(ToString::to_string),
        ring: format!("{:016x}", placement.ring().fingerprint()),
        on_owner_unavailable: match placement.on_owner_unavailable() {
            OnOwnerUnavailable::Next => "next".into(),
            OnOwnerUnavailable::Fail => "fail".into(),
        },
    }
}

/// A source of the key as people name it.
fn source_text(source: &HashKey) -> String {
    match source {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Query(name) => format!("query parameter {name}"),
        HashKey::SourceIp => "source address".into(),
        HashKey::ServerName => "server name".into(),
        HashKey::ProxyTlv(kind) => format!("PROXY TLV {kind}"),
    }
}

fn exported(local: &LocalService) -> String {
    match &local.grant {
        Grant::Nobody => "exported to nobody".into(),
        Grant::Everyone => "exported to every linked cluster".into(),
        Grant::Clusters(clusters) => {
            let clusters: Vec<_> = clusters.iter().map(|cluster| cluster.as_str()).collect();
            format!("exported to {}", clusters.join(", "))
        }
    }
}

/// How the endpoints of a port stand, in the order in which the key tries them where it decides.
fn balance(endpoints: &Endpoints, hash: Option<u64>, now: Tick) -> Local {
    let ring = endpoints.ring().zip(hash);
    let mut list: Vec<_> = endpoints.iter().collect();
    if let Some((ring, hash)) = ring {
        let order: Vec<_> = ring.near(hashring::inner(hash)).map(|node| ring.node(node).id).collect();
        list.sort_by_key(|endpoint| order.iter().position(|id| *id == endpoint.id().as_bytes()));
    }
    let (algorithm, why) = match (endpoints.algorithm(), ring) {
        (Algorithm::Ring, Some(_)) => {
            ("ring", "the key's order on the ring of endpoints; the first that is ready and has room")
        }
        (Algorithm::Ring, None) => (
            "ring",
            "without a key as p2c-ewma: of two drawn by weight, the one with the smaller latency times load",
        ),
        (Algorithm::P2cEwma, _) => {
            ("p2c-ewma", "of two drawn by weight, the one with the smaller latency times load")
        }
        (Algorithm::RoundRobin, _) => ("round-robin", "in turn, by weight"),
    };
    let endpoint = |endpoint: &std::sync::Arc<policy::balance::EndpointState>| Endpoint {
        id: endpoint.id().into(),
        address: endpoint.address().to_string(),
        state: endpoint.word(now).into(),
        takes: endpoint.eligibility(now) == Eligibility::Eligible,
        in_flight: endpoint.in_flight(),
        latency_ms: endpoint.latency_micros(now).map(|micros| micros / 1000.0),
    };
    Local {
        algorithm: algorithm.into(),
        endpoints: list.into_iter().map(endpoint).collect(),
        why: why.into(),
    }
}

fn rules(service: &Service, replayable: bool, total: Option<Duration>, now: Tick) -> Rules {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let retry = &service.retry;
    Rules {
        replayable,
        attempts: retry.attempts,
        on: outcomes(&retry.on),
        budget_percent: retry.budget_percent,
        min_per_second: retry.min_per_second,
        spent: service.budgets.retries().spent(now) + service.budgets.hedges().spent(now),
        hedged: replayable && retry.attempts > 1,
        head_ms: ms(service.timeout.head),
        idle_ms: ms(service.timeout.idle()),
        total_ms: total.map(ms),
    }
}

/// `retry.on` as manifests write it.
fn outcomes(on: &RetryOn) -> Vec<String> {
    let words = [
        ("connect", on.connect),
        ("refused", on.refused),
        ("reset", on.reset),
        ("unavailable", on.unavailable),
    ];
    let words = words.into_iter().filter(|(_, wanted)| *wanted).map(|(word, _)| word.to_owned());
    words.chain(on.statuses.iter().map(u16::to_string)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(url: &str, headers: &str) -> Result<Head, String> {
        let (url, headers) = (url.to_owned(), Some(headers.to_owned()));
        Head::read(&Asked { url, method: None, headers, source: None, workload: None }, &gateway())
    }

    fn gateway() -> Gateway {
        let text = "apiVersion: ringway.dev/v1alpha1\nkind: Gateway\nmetadata: { name: gw-1 }\n\
            spec: { cluster: west, region: us-west, trustDomain: acme.example, identity: { directory: pki }, \
            state: { directory: state } }";
        let source = registry::manifest::Source { name: "gateway.yaml".into(), text: text.into() };
        registry::manifest::parse(&[source]).unwrap().gateway.unwrap()
    }

    #[test]
    fn a_workload_is_of_this_cluster() {
        let told = |workload| identity_of(workload, &gateway()).map(|caller| caller_text(Some(&caller)));
        let caller = "spiffe://acme.example/cluster/west/ns/shop/sa/checkout, ";
        assert!(told("shop/checkout").unwrap().starts_with(caller));
        for wrong in ["checkout", "shop/", "/x", "shop/a/b", "SHOP/x"] {
            assert!(told(wrong).unwrap_err().contains("is no workload"), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_told_as_a_caller_would_send_it() {
        let head = read("http://cart.shop.mesh/x?id=7", "X-User: 7\naccept:*/*\n").unwrap();
        assert_eq!((head.method, &*head.uri.to_string()), (Method::GET, "http://cart.shop.mesh/x?id=7"));
        assert_eq!(
            (&head.headers["x-user"], &head.headers["accept"]),
            (&"7".parse().unwrap(), &"*/*".parse().unwrap())
        );
        for (url, headers) in [
            ("cart.shop.mesh/x", ""),
            ("/x", ""),
            ("https://cart.shop.mesh/", ""),
            ("http://cart.shop.mesh/", "no colon"),
            ("http://cart.shop.mesh/", "bad name: x"),
        ] {
            assert!(read(url, headers).is_err(), "{url} {headers}");
        }
    }

    #[test]
    fn outcomes_read_as_in_a_manifest() {
        let on = registry::model::Retry::default().on;
        assert_eq!(outcomes(&on).join(" "), "connect refused reset unavailable 502 503 504");
    }
}
