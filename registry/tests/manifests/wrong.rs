//! A table of wrong manifests and all that is said about each.

mod cluster;
mod listener;
mod policy;
mod service;
mod shape;
mod sidecar;

use registry::manifest::{self, FILE_BYTES_MAX, Problem, Problems, Severity, TOTAL_BYTES_MAX};
use registry::model::Reason;

use super::source;

/// A wrong file: its first lines, the others, and everything that is said, in order.
struct Case {
    head: &'static str,
    rest: &'static str,
    said: &'static [&'static str],
}

const WHOLE: &str = "";

const GATEWAY_HEAD: &str = "apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
";

const LINK_HEAD: &str = "apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
";

const SERVICE_HEAD: &str = "apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
";

const POLICY_HEAD: &str = "apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
";

const LISTENER_HEAD: &str = "apiVersion: ringway.dev/v1alpha1
kind: Listener
metadata: { name: db, namespace: shop }
";

/// The service that the policies and the listeners of the table are for.
const CART: &str = "apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec: { ports: [{ name: web, port: 80, protocol: http }] }
";

/// `line:column object: message => hint`, warnings marked.
fn said(problem: &Problem) -> String {
    let severity = if problem.severity == Severity::Warning { "warning: " } else { "" };
    let object = problem.object.as_ref().map(|o| format!("{o}: ")).unwrap_or_default();
    let hint = problem.hint.as_ref().map(|h| format!(" => {h}")).unwrap_or_default();
    format!("{}:{} {severity}{object}{}{hint}", problem.line, problem.column, problem.message)
}

fn all_said(result: &Result<manifest::Manifests, Problems>) -> Vec<String> {
    match result {
        Ok(manifests) => manifests.warnings.iter().map(said).collect(),
        Err(problems) => problems.iter().map(said).collect(),
    }
}

fn check(cases: &[Case]) {
    for Case { head, rest, said } in cases {
        let text = format!("{head}{rest}");
        let mut sources = vec![source("m.yaml", &text)];
        if [POLICY_HEAD, LISTENER_HEAD].contains(head) {
            sources.push(source("cart.yaml", CART));
        }
        assert_eq!(all_said(&manifest::parse(&sources)), *said, "\n{text}");
    }
}

#[test]
fn what_is_no_manifest_is_said_where_it_stops_being_one() {
    check(shape::SHAPE);
}

#[test]
fn a_wrong_gateway_or_link_names_every_wrong_field_at_once() {
    check(cluster::GATEWAY);
    check(sidecar::SIDECAR);
    check(cluster::LINK);
}

#[test]
fn a_wrong_service_names_every_wrong_field_at_once() {
    check(service::SERVICE);
}

#[test]
fn a_wrong_policy_names_every_wrong_field_at_once() {
    check(policy::POLICY);
}

#[test]
fn a_wrong_listener_names_every_wrong_field_at_once() {
    check(listener::LISTENER);
}

#[test]
fn a_reference_to_what_is_not_there_is_a_warning() {
    check(policy::REFERENCES);
}

#[test]
fn every_kind_and_field_whose_time_has_not_come_is_told_apart_from_an_unknown_one() {
    let kinds =
        ["AccessPolicy", "ClusterDrain", "HTTPRoute", "GRPCRoute", "ServiceExport", "Processor", "Pipeline"];
    for kind in kinds {
        let text = LINK_HEAD.replace("Link", kind);
        let said = all_said(&manifest::parse(&[source("m.yaml", &text)])).join("\n");
        assert!(said.starts_with(&format!("2:7 kind: `{kind}` is not available yet => ")), "{said}");
    }
    let algorithms = ["random", "weighted", "least-request", "aperture", "least-response-time"]
        .map(|a| format!("{POLICY_HEAD}spec: {{ service: cart, balance: {{ algorithm: {a} }} }}"));
    let keys = ["cookie: a", "path: {}", "metadata: b"]
        .map(|k| format!("{POLICY_HEAD}spec: {{ service: cart, placement: {{ hash: [{{ {k} }}] }} }}"));
    for text in algorithms.iter().chain(&keys) {
        let said = all_said(&manifest::parse(&[source("m.yaml", text)]));
        assert_eq!(said.iter().filter(|s| s.contains("is not available yet")).count(), 1, "{text}\n{said:?}");
    }
}

#[test]
fn a_method_that_is_nearly_one_of_http_is_told() {
    let text = format!(
        "{POLICY_HEAD}spec: {{ service: cart, retry: {{ methods: [POST, getUser, 'Store:get', post] }} }}"
    );
    let said = all_said(&manifest::parse(&[source("m.yaml", &format!("{text}\n---\n{CART}"))])).join("\n");
    assert!(
        said.contains("warning: TrafficPolicy shop/cart: spec.retry.methods: `post` is a method of Thrift")
            && said.matches("spec.retry.methods").count() == 1,
        "{said}"
    );
}

#[test]
fn what_is_not_available_yet_is_not_offered() {
    let placement = "spec: { service: cart, placement: { hash: [{ jwt: sub }] } }";
    let cases = [
        (POLICY_HEAD, placement, "`header`, `query`, `sourceIp`, `serverName` and `proxyTlv`"),
        (POLICY_HEAD, "spec: { quota: 1 }", "`service`, `placement`, `balance`, `retry` and `timeout`"),
        (GATEWAY_HEAD, "spec: { registry: { consul: {} } }", "`embedded` and `etcd`"),
    ];
    for (head, rest, offered) in cases {
        let said = all_said(&manifest::parse(&[source("m.yaml", &format!("{head}{rest}\n"))]));
        assert!(
            said.len() == 1 && said[0].ends_with(&format!("=> the fields here are {offered}")),
            "{said:?}"
        );
    }
}

#[test]
fn one_report_covers_all_documents_of_all_files() {
    let first = format!(
        "{LINK_HEAD}spec: {{ adresses: [] }}\n---\n{SERVICE_HEAD}spec: [\n---\n{GATEWAY_HEAD}spec: {{}}\n"
    );
    let second = format!("{POLICY_HEAD}spec: {{ service: cart, timeout: {{ head: 10 }} }}\n");
    let problems = manifest::parse(&[source("b.yaml", &first), source("a.yaml", &second)]).unwrap_err();
    let places: Vec<String> = problems.iter().map(Problem::place).collect();
    let mut expected = vec!["b.yaml:4:9", "b.yaml:9:7"];
    expected.extend(["b.yaml:14:7"; 5]);
    expected.push("a.yaml:4:41");
    assert_eq!(places, expected);
    assert_eq!(problems.count(), (8, 0));
}

#[test]
fn a_report_reads_like_a_compilers() {
    let text = format!("# west\n---\n{SERVICE_HEAD}spec:\n  helathCheck: {{}}\n");
    let problems = manifest::parse(&[source("east.yaml", &text)]).unwrap_err();
    let expected = "east.yaml:7:3: error: MeshService shop/cart: unknown field `helathCheck`\n    7 |   helathCheck: {}\n      \
                    |   ^\n      = hint: did you mean `healthCheck`?";
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn what_refers_to_nothing_has_a_condition() {
    let text = format!("{POLICY_HEAD}spec: {{ service: cart }}\n");
    let manifests = manifest::parse(&[source("m.yaml", &text)]).unwrap();
    let [condition] = manifests.conditions.as_slice() else { panic!("{:?}", manifests.conditions) };
    assert_eq!(condition.object.to_string(), "TrafficPolicy shop/cart");
    assert_eq!(condition.reason, Reason::BackendNotFound);
    assert_eq!(manifests.declared.policies.len(), 1, "it takes effect when the service comes");
}

#[test]
fn a_file_of_nothing_but_errors_has_a_bounded_report() {
    let text = format!("{LINK_HEAD}spec: {{ addresess: [] }}\n---\n").repeat(1000);
    let problems = manifest::parse(&[source("m.yaml", &text)]).unwrap_err();
    assert_eq!(problems.count().0, 201);
    assert!(problems.to_string().contains("more than 200 problems; the rest is not shown"));
}

#[test]
fn manifests_without_a_gateway_say_how_to_add_one() {
    let manifests = manifest::parse(&[source("m.yaml", CART)]).unwrap();
    let problems = manifests.require_gateway().unwrap_err().to_string();
    assert!(problems.starts_with("m.yaml: error: no Gateway is declared"), "{problems}");
    assert!(problems.contains("kind: Gateway"), "{problems}");
}

/// A manifest whose list, under `spec`, has `count` entries.
fn with_list(head: &str, before: &str, entry: impl Fn(usize) -> String, count: usize, after: &str) -> String {
    let entries: Vec<String> = (0..count).map(entry).collect();
    format!("{head}spec: {{ {before}[{}]{after} }}\n", entries.join(", "))
}

#[test]
fn every_list_has_a_limit() {
    const PORTS: &str = "ports: [{ name: web, port: 80, protocol: http }]";
    type Entry = fn(usize) -> String;
    let gateway = "cluster: west, region: us, trustDomain: a, identity: { directory: p }, state: { directory: s }, advertise: ";
    let service = format!("{PORTS}, endpoints: ");
    let export = format!("{PORTS}, export: {{ to: ");
    let placement = |list: &str| format!("service: cart, placement: {{ {list}: ");
    let [members, tiers, tier, hash] = ["members", "tiers", "tiers: [[any], ", "hash"].map(placement);
    let tier = tier.trim_end_matches(": ");
    let lists: [(&str, &str, Entry, usize, &str); 11] = [
        (GATEWAY_HEAD, gateway, |n| format!("gw-{n}:7443"), 16, ""),
        (LINK_HEAD, "addresses: ", |n| format!("gw-{n}:7443"), 64, ""),
        (LINK_HEAD, "import: ", |n| format!("{{ namespace: ns-{n} }}"), 256, ""),
        (SERVICE_HEAD, "ports: ", |n| format!("{{ name: p{n}, port: {}, protocol: http }}", n + 1), 64, ""),
        (SERVICE_HEAD, &service, |n| format!("{{ id: e{n}, host: a }}"), 10_000, ""),
        (SERVICE_HEAD, &export, |n| format!("c{n}"), 1024, " }"),
        (POLICY_HEAD, &members, |n| format!("{{ cluster: c{n}, region: r }}"), 256, " }"),
        (POLICY_HEAD, &tiers, |_| "[local]".into(), 64, " }"),
        (POLICY_HEAD, tier, |_| "local".into(), 64, "] }"),
        (POLICY_HEAD, &hash, |n| format!("{{ header: x-{n} }}"), 8, " }"),
        (POLICY_HEAD, "service: cart, retry: { on: ", |_| "connect".into(), 128, " }"),
    ];
    for (head, before, entry, most, after) in lists {
        let parse =
            |count| manifest::parse(&[source("m.yaml", &with_list(head, before, entry, count, after))]);
        assert!(parse(most).is_ok(), "{before}{most}: {:?}", all_said(&parse(most)));
        let said = all_said(&parse(most + 1)).join("\n");
        assert!(
            said.contains(&format!("{} entries", most + 1)) && said.contains(&most.to_string()),
            "{before}{said}"
        );
    }
}

#[test]
fn manifests_have_a_limit_in_all() {
    let full = format!("#{}\n", " ".repeat(FILE_BYTES_MAX - 2));
    let mut sources = vec![source("full.yaml", &full); TOTAL_BYTES_MAX / FILE_BYTES_MAX];
    assert!(manifest::parse(&sources).is_ok());
    sources.push(source("more.yaml", "#"));
    let problems = manifest::parse(&sources).unwrap_err().to_string();
    assert_eq!(problems, "more.yaml: error: with this file the manifests exceed 64 MiB");
}
