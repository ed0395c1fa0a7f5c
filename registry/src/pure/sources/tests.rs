#![allow(clippy::unwrap_used)]

use super::*;
use crate::manifest::{Manifests, Source, parse};
use crate::model::{ClusterName, Endpoint, Kind};

const CART: &str = "
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec:
  ports: [{ name: web, port: 80, protocol: http }]
  endpoints: [{ id: a, host: 127.0.0.1, ports: { web: 9001 } }]
  export: { to: [east] }
";
const EAST: &str = "
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: { trustDomain: acme.example }
";

fn read(text: &str) -> Manifests {
    parse(&[Source { name: "west.yaml".into(), text: text.into() }]).unwrap()
}

fn files(text: &str) -> Arc<Files> {
    let Manifests { declared, documents, .. } = read(text);
    Arc::new(Files::new(declared, documents))
}

fn policy(name: &str) -> String {
    format!(
        "
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: {{ name: {name}, namespace: shop }}
spec: {{ service: cart, placement: {{ mode: sharded, generation: 1, members: [{{ cluster: north, region: n }}] }} }}
"
    )
}

fn applied(texts: &[&str]) -> AppliedObjects {
    let one = |text: &&str| {
        let object = read(text).declared.objects().next().unwrap();
        let stored =
            Stored { text: (*text).into(), generation: 1, by: "root".into(), unix_ms: 1, revision: 1 };
        let applied = Applied { stored: stored.into(), object: Ok(object.clone()) };
        (object.name(), Arc::new(applied))
    };
    texts.iter().map(one).collect()
}

fn merge(sources: &Sources) -> (Declared, Vec<String>) {
    let merged = sources.merge(&ClusterName::new("west").unwrap());
    let said = |c: &Condition| format!("{} {} {}: {}", c.object, c.kind(), c.reason, c.message);
    let conditions = merged.conditions().map(said).collect();
    (merged.declared, conditions)
}

fn endpoint(id: &str, port: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        host: "127.0.0.2".into(),
        ports: [(port, 9002)].into(),
        weight: 100,
        zone: "".into(),
        capacity: None,
    }
}

fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

#[test]
fn files_and_applied_objects_are_one_declaration() {
    let all = files(&format!("{CART}---{EAST}"));
    let joined = Sources { files: files(EAST), applied: applied(&[CART]), ..Sources::default() };
    assert_eq!(merge(&joined), (all.declared.clone(), vec![]));
    let joined = Sources { files: files(CART), applied: applied(&[EAST]), ..Sources::default() };
    assert_eq!(merge(&joined), (all.declared.clone(), vec![]));
}

#[test]
fn what_a_file_declares_counts_and_the_other_says_so() {
    let other = CART.replace("9001", "9009");
    let sources = Sources {
        files: files(&format!("{CART}---{EAST}")),
        applied: applied(&[&other]),
        ..Sources::default()
    };
    let (declared, said) = merge(&sources);
    assert_eq!(declared.services[&cart()].endpoints[0].ports.get("web"), Some(9001));
    let expected = "MeshService shop/cart Accepted DeclaredInFile: declared in west.yaml:1, which counts: delete \
                    one of the two";
    assert_eq!(said, [expected]);
}

#[test]
fn the_policy_of_a_file_counts_before_an_applied_one_of_another_name() {
    let both = |files: Arc<Files>| Sources { files, applied: applied(&[&policy("b")]), ..Sources::default() };
    let (declared, said) = merge(&both(files(&policy("c").replace("north", "west"))));
    assert_eq!(&*declared.policies[&cart()].name, "c");
    assert!(said[0].starts_with("TrafficPolicy shop/b Accepted SecondPolicy"), "{said:?}");
    assert_eq!(said.len(), 1);
    // Of two that were applied the first by name counts.
    let sources = Sources { applied: applied(&[&policy("b"), &policy("a")]), ..Sources::default() };
    assert_eq!(&*merge(&sources).0.policies[&cart()].name, "a");
}

#[test]
fn what_refers_to_nothing_says_so_until_any_source_brings_it() {
    let mut sources =
        Sources { files: files(CART), applied: applied(&[&policy("cart")]), ..Sources::default() };
    let expected = [
        "MeshService shop/cart ResolvedRefs LinkNotFound: spec.export.to: no Link leads to the cluster `east`",
        "TrafficPolicy shop/cart ResolvedRefs LinkNotFound: spec.placement.members: no Link leads to the cluster \
         `north`",
    ];
    assert_eq!(merge(&sources).1, expected);
    sources.applied.extend(applied(&[EAST, &EAST.replace("east", "north")]));
    assert_eq!(merge(&sources).1, [""; 0]);
}

#[test]
fn what_cannot_be_read_is_inert_and_kept() {
    let mut sources = Sources { applied: applied(&[CART, EAST]), ..Sources::default() };
    let name = ObjectName::new(Kind::MeshService, "shop", "cart");
    let newer =
        Applied { object: Err("unknown field `spec.magic`".into()), ..(*sources.applied[&name]).clone() };
    sources.applied.insert(name, newer.into());
    let (declared, said) = merge(&sources);
    assert!(declared.services.is_empty());
    assert_eq!(said, ["MeshService shop/cart Accepted NotReadable: unknown field `spec.magic`"]);
}

#[test]
fn registered_endpoints_join_those_that_their_service_declares() {
    let registered = |endpoints: &[Endpoint]| {
        let by_id = endpoints.iter().map(|endpoint| (endpoint.id.clone(), endpoint.clone()));
        RegisteredEndpoints::from([(cart(), by_id.collect())])
    };
    let both = files(&format!("{CART}---{EAST}"));
    let mut sources = Sources {
        files: both,
        registered: registered(&[endpoint("a", "web"), endpoint("b", "web"), endpoint("c", "api")]),
        ..Sources::default()
    };
    let (declared, said) = merge(&sources);
    let found: Vec<_> = declared.services[&cart()].endpoints.iter().map(|e| (&*e.id, &*e.host)).collect();
    assert_eq!(found, [("a", "127.0.0.1"), ("b", "127.0.0.2")]);
    let expected = "MeshService shop/cart ResolvedRefs EndpointsMisfit: the registered endpoints c wait: service \
                    shop/cart has no port `api`; its ports are web";
    assert_eq!(said, [expected]);
    // What the files declare is as it was.
    assert_eq!(sources.files.declared.services[&cart()].endpoints.len(), 1);

    let many: Vec<_> = (0..8).map(|n| endpoint(&format!("e{n}"), "web")).collect();
    (sources.files, sources.registered) = (files(EAST), registered(&many));
    let expected = "MeshService shop/cart ResolvedRefs ServiceNotDeclared: the registered endpoints e0, e1, e2, e3, \
                    e4 and 3 more wait: no MeshService shop/cart is declared";
    assert_eq!(merge(&sources).1, [expected]);
}

#[test]
fn a_service_has_no_more_endpoints_than_a_sidecar_can_be_told() {
    let all: Endpoints = (0..=LOOKUP_ENDPOINTS_MAX)
        .map(|n| endpoint(&format!("e{n:05}"), "web"))
        .map(|endpoint| (endpoint.id.clone(), endpoint))
        .collect();
    let files = files(&format!("{CART}---{EAST}"));
    let mut merged = Sources { files, registered: [(cart(), all.clone())].into(), ..Sources::default() }
        .merge(&ClusterName::new("west").unwrap());
    let count = |merged: &Merged| merged.declared.services[&cart()].endpoints.len();
    let said = |merged: &Merged| merged.conditions().map(|c| c.message.clone()).collect::<Vec<_>>();
    // One is declared.
    assert_eq!(count(&merged), LOOKUP_ENDPOINTS_MAX);
    let expected = "the registered endpoints e09999, e10000 wait: a service has 10000 endpoints and no more";
    assert_eq!(said(&merged), [expected]);
    // They come in when there is room.
    let fewer: Endpoints = all.into_iter().skip(3).collect();
    assert!(merged.register(&cart(), &fewer));
    assert_eq!((count(&merged), said(&merged)), (LOOKUP_ENDPOINTS_MAX - 1, vec![]));
}

#[test]
fn what_registers_changes_its_own_service_alone() {
    let own = ClusterName::new("west").unwrap();
    let other = ServiceName::new("shop", "other").unwrap();
    let both = files(&format!("{CART}---{EAST}---{}", CART.replace("cart", "other")));
    let of = |ids: &[(&str, &str)]| -> Endpoints {
        ids.iter().map(|(id, port)| endpoint(id, port)).map(|e| (e.id.clone(), e)).collect()
    };
    let mut sources = Sources { files: both, ..Sources::default() };
    sources.registered.insert(other.clone(), of(&[("x", "web")]));
    let mut merged = sources.merge(&own);
    let untouched = merged.declared.services[&other].clone();
    let steps: [(&[(&str, &str)], bool); 7] = [
        (&[("b", "web")], true),
        (&[("b", "web")], false),
        (&[("a", "web"), ("b", "web"), ("c", "web")], true),
        // One that does not fit.
        (&[("b", "web"), ("d", "api")], true),
        (&[("b", "web")], true),
        (&[], true),
        (&[], false),
    ];
    for (registered, changes) in steps {
        let before = merged.declared.services[&cart()].clone();
        assert_eq!(merged.register(&cart(), &of(registered)), changes, "{registered:?}");
        sources.registered.insert(cart(), of(registered));
        sources.registered.retain(|_, endpoints| !endpoints.is_empty());
        assert_eq!(merged, sources.merge(&own), "{registered:?}");
        assert!(Arc::ptr_eq(&merged.declared.services[&other], &untouched), "{registered:?}");
        assert!(changes || Arc::ptr_eq(&merged.declared.services[&cart()], &before));
    }
    // Of a service that nobody declares, too.
    let nobody = ServiceName::new("shop", "nobody").unwrap();
    assert!(merged.register(&nobody, &of(&[("a", "web")])));
    assert_eq!(merged.conditions().count(), 1);
    assert!(merged.register(&nobody, &Endpoints::new()));
    assert_eq!(merged, sources.merge(&own));
}
