//! Manifests that are right, and what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use registry::manifest::{self, Manifests};
use registry::model::{
    Algorithm, Backend, ClusterName, Contract, Endpoint, Gateway, GatewayAddress, Grant, HashKey,
    HealthCheck, HostPort, HostRule, Hosts, ImportRule, Kind, Link, Listen, Member, Mode, ObjectName,
    OnOwnerUnavailable, Placement, Policy, Port, Probe, Protocol, Retry, RetryOn, Service, ServiceName,
    Sidecar, Tier, Timeout,
};
use registry::model::{EtcdOptions, EtcdUser};

use super::source;

/// The example of the design, without what is not available yet.
pub(crate) const EXAMPLE: &str = r#"# West links to east.
apiVersion: ringway.dev/v1alpha1
kind: Gateway                               # one process; only ever a file
metadata: { name: gw-1 }
spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki/west }         # tls.crt, tls.key (0600), bundles/<cluster>.pem; watched
  state: { directory: /var/lib/ringway }    # keys, last catalog, embedded registry
  registry: { embedded: {} }
  listen: { tunnel: 0.0.0.0:7443, http: 127.0.0.1:7480, admin: 127.0.0.1:7490 }   # tunnel: UDP and TCP
  advertise: [gw.west.example:7443]
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }                    # the peer's cluster name
spec:
  addresses: [gw.east.example:7443, "[2001:db8::1]:7443"]
  trustDomain: acme.example                 # default: our own
  import: [{ namespace: shop, union: true }]
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec:
  ports: [{ name: web, port: 80, protocol: http }]
  endpoints: [{ id: a, host: 127.0.0.1, ports: { web: 9001 }, weight: 100, zone: a, capacity: 64 }]
  healthCheck: { http: { path: /healthz }, interval: 2s, timeout: 500ms, rise: 2, fall: 3 }
  export: { to: ["*"] }                     # the grant, checked at every inbound request; none by default
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec:
  service: cart
  placement:                                # the contract
    mode: local-first
    generation: 1
    members: [{ cluster: west, region: us-west, weight: 100 }, { cluster: east, region: us-east, weight: 100 }]
    seed: 0
    tiers: [[local], [same-region], [any]]
    hash: [{ header: X-User }, { query: id }, { sourceIp: {} }]
    onOwnerUnavailable: next                # or fail
  balance: { algorithm: p2c-ewma }
  retry: { attempts: 3, budget: 20%, minPerSecond: 10, on: [connect, refused, reset, "502", "503", "504", unavailable] }
  timeout: { head: 10s, idle: 60s }
"#;

fn read(text: &str) -> Manifests {
    let manifests = manifest::parse(&[source("etc/west.yaml", text)]).unwrap_or_else(|p| panic!("{p}"));
    assert_eq!((&*manifests.warnings, &*manifests.conditions), (&[][..], &[][..]));
    manifests
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn at(host: &str, port: u16) -> HostPort {
    HostPort { host: host.into(), port }
}

fn member(name: &str, region: &str) -> Member {
    Member { cluster: cluster(name), region: region.into(), weight: 100 }
}

#[test]
fn the_example_of_the_design_means_what_the_design_says() {
    let manifests = read(EXAMPLE);
    let gateway = Gateway {
        id: "gw-1".into(),
        cluster: cluster("west"),
        region: "us-west".into(),
        trust_domain: "acme.example".into(),
        identity_dir: "etc/pki/west".into(),
        state_dir: "/var/lib/ringway".into(),
        registry: Backend::Embedded,
        listen: Listen {
            tunnel: "0.0.0.0:7443".parse().unwrap(),
            http: "127.0.0.1:7480".parse().unwrap(),
            admin: "127.0.0.1:7490".parse().unwrap(),
            admin_hosts: Vec::new(),
        },
        http: Default::default(),
        advertise: vec![at("gw.west.example", 7443)],
        domain: "mesh".into(),
    };
    assert_eq!(manifests.require_gateway(), Ok(&gateway));
    let link = Link {
        cluster: cluster("east"),
        addresses: vec![at("gw.east.example", 7443), at("2001:db8::1", 7443)],
        trust_domain: "acme.example".into(),
        import: vec![ImportRule {
            namespace: Some("shop".into()),
            union: true,
            placement: Placement::Accept,
        }],
        expire_after: registry::model::EXPIRE_AFTER,
        congestion: registry::model::Congestion::default(),
        max_rate: None,
        allow_apply: Vec::new(),
    };
    assert_eq!(manifests.declared.links, BTreeMap::from([(cluster("east"), link)]));
    let service = Service {
        name: cart(),
        ports: [Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false }]
            .into(),
        endpoints: vec![Endpoint {
            id: "a".into(),
            host: "127.0.0.1".into(),
            ports: [("web", 9001)].into(),
            weight: 100,
            zone: "a".into(),
            capacity: Some(64),
        }],
        health_check: Some(HealthCheck {
            probe: Probe::Http { path: "/healthz".into(), expected_status: None },
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            fail_open: false,
        }),
        export: Grant::Everyone,
        registration: Hosts::default(),
    };
    assert_eq!(manifests.declared.services, [(cart(), service.into())].into_iter().collect());
    let contract = Contract {
        generation: 1,
        mode: Mode::LocalFirst,
        members: Some(vec![member("east", "us-east"), member("west", "us-west")]),
        seed: 0,
        tiers: Some(vec![vec![Tier::Local], vec![Tier::SameRegion], vec![Tier::Any]]),
        hash: vec![HashKey::Header("x-user".into()), HashKey::Query("id".into()), HashKey::SourceIp],
        on_owner_unavailable: OnOwnerUnavailable::Next,
    };
    let policy = Policy {
        name: "cart".into(),
        service: cart(),
        placement: Some(contract),
        balance: Algorithm::P2cEwma,
        retry: Retry::default(),
        timeout: Timeout { idle: Some(Duration::from_secs(60)), ..Timeout::default() },
    };
    assert_eq!(manifests.declared.policies, [(cart(), policy.into())].into_iter().collect());
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let manifests = read(
        "
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec: { cluster: west, region: us, trustDomain: acme.example, identity: { directory: pki }, state: { directory: s } }
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: {}
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart }
spec:
  ports: [{ name: web, port: 80, protocol: http }]
  endpoints: [{ host: '::1' }, { host: cart.internal, ports: { web: 9001 } }]
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: any-name }
spec: { service: cart, placement: {} }
",
    );
    let gateway = manifests.require_gateway().unwrap();
    assert_eq!(gateway.listen.tunnel, "0.0.0.0:7443".parse().unwrap());
    assert_eq!(gateway.listen.http, "127.0.0.1:7480".parse().unwrap());
    assert_eq!(gateway.listen.admin, "127.0.0.1:7490".parse().unwrap());
    assert_eq!((gateway.advertise.len(), gateway.domain.as_str()), (0, "mesh"));
    let link = &manifests.declared.links[&cluster("east")];
    assert_eq!((link.addresses.len(), link.trust_domain.as_str()), (0, "acme.example"));
    assert_eq!(link.import, [ImportRule { namespace: None, union: false, placement: Placement::Accept }]);
    let name = ServiceName::new("default", "cart").unwrap();
    let service = &manifests.declared.services[&name];
    assert_eq!(service.export, Grant::Nobody);
    let endpoints: Vec<_> = service
        .endpoints
        .iter()
        .map(|e| (&*e.id, e.ports.get("web").unwrap(), e.weight, &*e.zone, e.capacity))
        .collect();
    assert_eq!(endpoints, [("[::1]:80", 80, 100, "", None), ("cart.internal:9001", 9001, 100, "", None)]);
    let policy = &manifests.declared.policies[&name];
    assert_eq!(policy.placement, Some(Contract { generation: 1, ..Contract::default() }));
    assert_eq!((&policy.retry, &policy.timeout), (&Retry::default(), &Timeout::default()));
}

#[test]
fn everything_that_a_link_can_say_is_understood() {
    let manifests = read(
        "
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: { trustDomain: east.example, import: [{ namespace: shop, placement: accept }, { union: true, placement: ignore }] }
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: north }
spec:
  import: []
  allow: { apply: [{ namespace: shop }, { namespace: '*', kinds: [Link, TrafficPolicy] }] }
",
    );
    let east = &manifests.declared.links[&cluster("east")];
    assert_eq!(east.trust_domain, "east.example");
    let rule = |name: &ServiceName| east.import_rule(name).map(|rule| (rule.union, rule.placement));
    assert_eq!(rule(&cart()), Some((false, Placement::Accept)));
    assert_eq!(rule(&ServiceName::new("other", "cart").unwrap()), Some((true, Placement::Ignore)));
    let north = &manifests.declared.links[&cluster("north")];
    assert_eq!(north.import_rule(&cart()), None);
    assert_eq!(east.allow_apply, []);
    let allows = |kind, namespace| {
        let object = ObjectName::new(kind, namespace, "cart");
        north.allow_apply.iter().any(|rule| rule.allows(&object))
    };
    assert!(allows(Kind::MeshService, "shop") && !allows(Kind::MeshService, "bank"));
    assert!(allows(Kind::TrafficPolicy, "bank") && allows(Kind::Link, ""));
    assert!(!north.allow_apply[0].kinds.contains(&Kind::Link), "never without being named");
}

#[test]
fn a_service_is_exported_to_those_that_it_names() {
    let manifests = read(
        "
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: { import: [] }
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec:
  ports: [{ name: web, port: 80, protocol: http }]
  export: { to: [east] }
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: web, namespace: shop }
spec: { ports: [{ name: web, port: 80, protocol: http }], export: { to: [] } }
",
    );
    let export = |name: &ServiceName| &manifests.declared.services[name].export;
    assert_eq!(*export(&cart()), Grant::Clusters(BTreeSet::from([cluster("east")])));
    assert_eq!(*export(&ServiceName::new("shop", "web").unwrap()), Grant::Nobody);
}

#[test]
fn everything_that_a_policy_can_say_is_understood() {
    let manifests = read(
        "
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec: { ports: [{ name: web, port: 80, protocol: http }] }
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec:
  service: cart
  placement:
    mode: sharded
    generation: 18446744073709551615
    seed: 18446744073709551615
    hash: [{ header: x-user }]
    members: [{ cluster: west, region: us, weight: 0 }, { cluster: east, region: us, weight: 10000 }]
    onOwnerUnavailable: fail
  balance: { algorithm: round-robin }
  retry: { attempts: 1, budget: 0%, minPerSecond: 0, on: [503, '500', 503], methods: [POST] }
  timeout: { head: 500ms, idle: 2m, total: 24h }
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: web, namespace: shop }
spec: { ports: [{ name: web, port: 80, protocol: http }] }
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: web, namespace: shop }
spec:
  service: web
  placement: { members: [{ cluster: east, region: us }], tiers: [[local, east], [any]] }
",
    );
    let policy = &manifests.declared.policies[&cart()];
    let contract = policy.placement.clone().unwrap();
    assert_eq!((contract.generation, contract.seed, contract.mode), (u64::MAX, u64::MAX, Mode::Sharded));
    assert_eq!(contract.on_owner_unavailable, OnOwnerUnavailable::Fail);
    assert_eq!(contract.members.unwrap().iter().map(|m| m.weight).collect::<Vec<_>>(), [10_000, 0]);
    assert_eq!(policy.balance, Algorithm::RoundRobin);
    let on = RetryOn { statuses: vec![500, 503], ..RetryOn::default() };
    let retry = Retry { attempts: 1, budget_percent: 0, min_per_second: 0, on, methods: vec!["POST".into()] };
    assert_eq!(policy.retry, retry);
    let (head, idle, total) =
        (Duration::from_millis(500), Some(Duration::from_secs(120)), Duration::from_secs(86_400));
    assert_eq!(policy.timeout, Timeout { head, idle, total: Some(total), ..Timeout::default() });
    let web = ServiceName::new("shop", "web").unwrap();
    let tiers = manifests.declared.policies[&web].placement.clone().unwrap().tiers.unwrap();
    assert_eq!(tiers, [vec![Tier::Local, Tier::Cluster(cluster("east"))], vec![Tier::Any]]);
}

#[test]
fn documents_keep_their_original_bytes() {
    let documents = read(EXAMPLE).documents;
    let joined: String = documents.iter().map(|d| d.bytes.as_str()).collect();
    assert_eq!(joined, EXAMPLE);
    let names: Vec<_> = documents.iter().map(|d| (d.kind, &*d.namespace, &*d.name, d.line)).collect();
    let expected = [
        ("Gateway", "", "gw-1", 1),
        ("Link", "default", "east", 14),
        ("MeshService", "shop", "cart", 22),
        ("TrafficPolicy", "shop", "cart", 31),
    ];
    assert_eq!(names, expected);
    // Each can be stored and read again by itself.
    for document in &documents {
        manifest::parse(&[source("stored.yaml", &document.bytes)]).unwrap_or_else(|p| panic!("{p}"));
    }
}

#[test]
fn anchors_byte_order_marks_and_carriage_returns_are_yaml_too() {
    let text = EXAMPLE
        .replace("{ cluster: west, region: us-west, weight: 100 }", "&w { cluster: west, region: us-west }");
    assert_eq!(read(&text).declared, read(EXAMPLE).declared);
    let text = format!("\u{feff}{}", EXAMPLE.replace('\n', "\r\n"));
    assert_eq!(read(&text).declared, read(EXAMPLE).declared);
}

#[test]
fn a_health_check_needs_only_to_say_what_is_asked() {
    let read = |check: &str| {
        let spec =
            format!("spec: {{ ports: [{{ name: web, port: 80, protocol: http }}], healthCheck: {check} }}");
        let head = "apiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: { name: cart, namespace: shop }\n";
        read(&format!("{head}{spec}\n")).declared.services[&cart()].health_check.clone()
    };
    assert_eq!(read("{ tcp: {} }"), Some(HealthCheck::default()));
    let probe = Probe::Http { path: "/up?deep=1".into(), expected_status: Some(204) };
    let http = HealthCheck { probe, ..HealthCheck::default() };
    assert_eq!(read("{ http: { path: \"/up?deep=1\", expectedStatus: 204 } }"), Some(http));
    // The timeout that is not given fits into the interval.
    let quick = Duration::from_millis(200);
    assert_eq!(
        read("{ tcp: {}, interval: 200ms }"),
        Some(HealthCheck { interval: quick, timeout: quick, ..HealthCheck::default() })
    );
}

#[test]
fn every_algorithm_has_its_word() {
    for (word, algorithm) in
        [("p2c-ewma", Algorithm::P2cEwma), ("round-robin", Algorithm::RoundRobin), ("ring", Algorithm::Ring)]
    {
        let text = EXAMPLE.replace("algorithm: p2c-ewma", &format!("algorithm: {word}"));
        assert_eq!(read(&text).declared.policies[&cart()].balance, algorithm);
    }
}

#[test]
fn a_sidecar_is_read_with_its_defaults() {
    let text = "apiVersion: ringway.dev/v1alpha1
kind: Sidecar
metadata: { name: cart-1 }
spec:
  cluster: west
  trustDomain: acme.example
  identity: { directory: pki/west-shop-cart }
  gateways: [{ unix: state/west/tunnel.sock }, { address: gw2.west.example:7443 }]
";
    let read_it = |text: &str| read(text).require_sidecar().unwrap().clone();
    let sidecar = read_it(text);
    let expected = Sidecar {
        id: "cart-1".into(),
        cluster: cluster("west"),
        trust_domain: "acme.example".into(),
        identity_dir: "etc/pki/west-shop-cart".into(),
        gateways: vec![
            GatewayAddress::Unix("etc/state/west/tunnel.sock".into()),
            GatewayAddress::Tcp(at("gw2.west.example", 7443)),
        ],
        proxy: "127.0.0.1:7470".parse().unwrap(),
        http: Default::default(),
        admin: "127.0.0.1:7471".parse().unwrap(),
        admin_hosts: Vec::new(),
        passthrough: false,
        domain: "mesh".into(),
        register: Vec::new(),
    };
    assert_eq!(sidecar, expected);

    let rest = "  listen: { proxy: 127.0.0.1:1080, admin: 127.0.0.1:1081, adminHosts: [Cart.shop.example] }
  passthrough: true
  domain: internal.acme.example
  register:
    - { service: shop/cart, ports: { web: 9001 } }
    - { service: shop/cart, ports: { web: 9001 }, host: '::1', id: two, weight: 50, zone: b, capacity: 8 }
";
    let sidecar = read_it(&format!("{text}{rest}"));
    assert_eq!((sidecar.proxy.port(), sidecar.admin.port()), (1080, 1081));
    assert_eq!(sidecar.admin_hosts, ["cart.shop.example"]);
    assert!(sidecar.passthrough);
    assert_eq!(sidecar.domain, "internal.acme.example");
    let endpoint = |id: &str, host: &str, weight, zone: &str, capacity| {
        let ports = [("web", 9001)].into();
        let endpoint =
            Endpoint { id: id.into(), host: host.into(), ports, weight, zone: zone.into(), capacity };
        (cart(), endpoint)
    };
    let expected =
        [endpoint("127.0.0.1:9001", "127.0.0.1", 100, "", None), endpoint("two", "::1", 50, "b", Some(8))];
    assert_eq!(sidecar.register, expected);
    let said = read(EXAMPLE).require_sidecar().unwrap_err().to_string();
    assert!(said.contains("no Sidecar is declared"), "{said}");
}

#[test]
fn the_admin_port_has_names_of_its_own() {
    let hosts = "admin: 127.0.0.1:7490, adminHosts: [GW.west.example, ops.west.example]";
    let manifests = read(&EXAMPLE.replace("admin: 127.0.0.1:7490", hosts));
    let gateway = manifests.require_gateway().unwrap();
    assert_eq!(gateway.listen.admin_hosts, ["gw.west.example", "ops.west.example"]);
}

#[test]
fn a_gateway_keeps_its_registry_in_etcd() {
    let registry = |text: &str| {
        let manifests = read(&EXAMPLE.replace("registry: { embedded: {} }", text));
        manifests.require_gateway().unwrap().registry.clone()
    };
    assert_eq!(registry("registry: {}"), Backend::Embedded);
    let plain = EtcdOptions { endpoints: vec!["http://127.0.0.1:2379".into()], ..EtcdOptions::default() };
    assert_eq!(
        registry("registry: { etcd: { endpoints: ['http://127.0.0.1:2379/'] } }"),
        Backend::Etcd(plain)
    );
    let whole = registry(
        "registry:
    etcd:
      endpoints: ['https://etcd-1.example:2379', 'https://[2001:db8::1]:2379']
      prefix: /acme/west
      tls: { directory: pki/etcd }
      user: ringway
      passwordFile: /run/secrets/etcd",
    );
    let user = EtcdUser { name: "ringway".into(), password_file: "/run/secrets/etcd".into() };
    let options = EtcdOptions {
        endpoints: vec!["https://etcd-1.example:2379".into(), "https://[2001:db8::1]:2379".into()],
        prefix: "/acme/west".into(),
        tls: Some("etc/pki/etcd".into()),
        user: Some(user),
    };
    assert_eq!(whole, Backend::Etcd(options));
}

#[test]
fn a_service_says_where_workloads_may_register_from_elsewhere() {
    let text = "apiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: { name: cart, namespace: shop }\nspec:\n  \
                ports: [{ name: web, port: 80, protocol: http }]\n  \
                registration: { hosts: [10.1.0.0/16, 192.0.2.7, \"*.pods.example\"] }\n";
    let services = read(text).declared.services;
    let registration = &services.get(&cart()).unwrap().registration;
    let network = |address: [u8; 4], prefix| HostRule::Network(address.into(), prefix);
    let expected =
        vec![network([10, 1, 0, 0], 16), network([192, 0, 2, 7], 32), HostRule::Under("pods.example".into())];
    assert_eq!(registration, &Hosts(expected));
}
