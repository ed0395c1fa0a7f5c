//! Checks of services: rings, contracts, grants, endpoints, and what is declared for nothing.

use registry::base::time::Tick;
use registry::model::{
    Catalog, ClusterName, Condition, ConditionKind, Gateway, Grant, Kind, Reason, ServiceName, Subject,
};

use crate::admin::explain::clusters::why_unreachable;
use crate::control::sync::{other_rings, told_ring};
use crate::telemetry::metrics::Outcome as Answered;
use crate::view::{LocalService, Server, Service, View};
use admin_api::check::Check;
use policy::balance::Eligibility;

/// All checks of services, of whose objects the conditions are `known`, at `now` of the process's clock.
pub(super) fn checks(view: &View, known: &[Condition], gateway: &Gateway, now: Tick) -> Vec<Check> {
    let mut checks = conditions(known, gateway);
    for service in view.services() {
        checks.push(ring(service, view, now));
        checks.push(denied(service));
        checks.extend(members(service, view, &gateway.cluster));
    }
    let mut locals: Vec<_> = view.locals().collect();
    locals.sort_by(|a, b| a.name.cmp(&b.name));
    for local in locals {
        checks.push(endpoints(local, now));
        checks.extend(view.catalog.as_ref().map(|catalog| export(local, catalog, view)));
    }
    checks.extend(view.catalog.iter().flat_map(|catalog| imports(catalog)));
    checks
}

/// What the objects themselves say; where they say nothing, that is said.
fn conditions(conditions: &[Condition], gateway: &Gateway) -> Vec<Check> {
    let mut checks = Vec::new();
    for condition in conditions {
        let said = format!("{}: {}", condition.reason, condition.message);
        let object = condition.object.to_string();
        let link = match &condition.object {
            Subject::Object(object) if object.kind() == Kind::Link => Some(object.name()),
            _ => None,
        };
        checks.extend(match (condition.kind(), condition.reason) {
            (_, Reason::Held) => {
                let fix = "write the missing services back, or send SIGHUP if they are to go";
                Some(Check::warn("manifests.accepted", object, said, fix))
            }
            (_, Reason::CertificateNotYetValid) => {
                let fix = "nothing, if this machine's clock is right: it is taken when its time comes";
                Some(Check::warn("manifests.accepted", object, said, fix))
            }
            (_, Reason::NotRead) => {
                let fix = "look whether the disk or the server that the files are on answers";
                Some(Check::fail("manifests.accepted", object, said, fix))
            }
            (ConditionKind::Accepted, _) => {
                let fix = "put right what the message names: the old state serves until then";
                Some(Check::fail("manifests.accepted", object, said, fix))
            }
            // A check of its own.
            (_, Reason::RingsDiffer) => None,
            (_, Reason::PortsDiffer) => Some(Check::fail(
                "union.conflict",
                object,
                said,
                "give it the same ports in every cluster, or leave it out of the union (`import`) and use pinned names",
            )),
            (ConditionKind::Conflict, _) => Some(Check::fail(
                "contract.conflict",
                object,
                said,
                "declare the same in every cluster, and raise `generation` with every change",
            )),
            (_, Reason::OverBudget | Reason::RecordsLeftOut) => {
                let fix = "ask its operator what it does; a peer that means harm is better not linked";
                Some(Check::warn("link.budget", link.unwrap_or(&object), said, fix))
            }
            (_, Reason::DeclarerSilent) => Some(Check::warn(
                "contract.conflict",
                object,
                said,
                "bring the link up, or declare the placement in every cluster that serves",
            )),
            // A bundle is a check of its own.
            _ if link.is_none() => {
                let fix = "declare what it refers to where the message says, or remove it";
                Some(Check::warn("orphan.policy", object, said, fix))
            }
            _ => None,
        });
    }
    for (id, nothing) in [
        ("manifests.accepted", "what is on disk is in use"),
        ("link.budget", "no peer goes over what it may cost"),
        ("union.conflict", "none"),
        ("contract.conflict", "none"),
        ("orphan.policy", "none"),
    ] {
        if !checks.iter().any(|check| check.id == id) {
            checks.push(Check::ok(id, &gateway.id, nothing));
        }
    }
    checks
}

fn ring(service: &Service, view: &View, now: Tick) -> Check {
    let others: Vec<String> = other_rings(view, now)
        .filter(|(other, _, _)| other.name == service.name)
        .map(|(_, peer, ring)| format!("{peer} places by {ring:016x}"))
        .collect();
    let ours = service.placement.ring().fingerprint();
    if !others.is_empty() {
        return Check::fail(
            "ring.agrees",
            &service.name,
            format!("{}, this cluster by {ours:016x}", others.join(", ")),
            "compare `ringway ring shares` of both; raise `generation` with every change of a placement",
        );
    }
    if service.placement.generation() == 0 {
        return Check::unknown(
            "ring.agrees",
            &service.name,
            "nobody declared a placement: nothing to agree on",
        );
    }
    let told = service.placement.nodes().filter(|(node, _)| told_ring(service, *node, now).is_some());
    let told: Vec<&str> = told.map(|(_, member)| member.cluster.as_str()).collect();
    if told.is_empty() {
        return Check::unknown("ring.agrees", &service.name, "no peer has told its ring");
    }
    Check::ok("ring.agrees", &service.name, format!("by {ours:016x}, as in {}", told.join(", ")))
}

fn denied(service: &Service) -> Check {
    match service.unanswered.count(Answered::Denied) {
        0 => Check::ok("grant.denied", &service.name, "no request was denied since the start"),
        n => Check::warn(
            "grant.denied",
            &service.name,
            format!("{n} requests since the start were denied by the cluster that serves it"),
            "look at `export` of the service there: it may have been withdrawn",
        ),
    }
}

/// Members of a contract that nothing can be sent to.
fn members(service: &Service, view: &View, here: &ClusterName) -> Vec<Check> {
    let unreachable = service
        .placement
        .nodes()
        .filter(|(node, member)| member.weight > 0 && matches!(service.server(*node), Server::Unreachable));
    let check = |(_, member): (_, &registry::model::Member)| {
        Check::warn(
            "orphan.member",
            format!("{} {}", service.name, member.cluster),
            why_unreachable(&service.name, &member.cluster, view, here),
            "until that is put right its keys go to the next cluster",
        )
    };
    let checks: Vec<_> = unreachable.map(check).collect();
    if checks.is_empty() {
        return vec![Check::ok("orphan.member", &service.name, "every member can be sent to")];
    }
    checks
}

fn endpoints(local: &LocalService, now: Tick) -> Check {
    let mut out = Vec::new();
    for (port, endpoints) in &local.ports {
        let ready = endpoints.iter().filter(|e| e.eligibility(now) == Eligibility::Eligible).count();
        if ready == 0 {
            let states: Vec<_> = endpoints.iter().map(|e| format!("{} {}", e.id(), e.word(now))).collect();
            let states = if states.is_empty() { "none declared".into() } else { states.join(", ") };
            out.push(format!("port {}: {states}", port.name));
        }
    }
    if out.is_empty() {
        return Check::ok("endpoints.ready", &local.name, "every port has one");
    }
    let fix = "start them, or see the last lines of the log for why their checks fail";
    Check::warn("endpoints.ready", &local.name, out.join("; "), fix)
}

/// Whether the grant fits the links and the contract.
fn export(local: &LocalService, catalog: &Catalog, view: &View) -> Check {
    let linked = |cluster| catalog.declared.links.contains_key(cluster);
    let members = local.placement.as_ref().map_or(&[][..], |placement| placement.members());
    let left_out: Vec<&str> = members
        .iter()
        .filter(|m| m.cluster != catalog.cluster && linked(&m.cluster) && !local.grant.allows(&m.cluster))
        .map(|member| member.cluster.as_str())
        .collect();
    // A contract that nobody declared lists whoever serves: they serve it themselves and need no grant.
    let declared = view.union_of(&local.name).is_some_and(|service| service.contract_from.is_some());
    if declared && !left_out.is_empty() {
        return Check::warn(
            "grant.export",
            &local.name,
            format!("members of its contract may not call it here: {}", left_out.join(", ")),
            "add them to `export.to`: a key that this cluster owns is answered elsewhere for them",
        );
    }
    match &local.grant {
        Grant::Nobody => Check::ok("grant.export", &local.name, "exported to nobody, as is the default"),
        Grant::Everyone => Check::ok("grant.export", &local.name, "exported to every linked cluster"),
        Grant::Clusters(to) => {
            let strangers: Vec<_> = to.iter().filter(|c| !linked(c)).map(|c| c.as_str()).collect();
            let to: Vec<_> = to.iter().map(|cluster| cluster.as_str()).collect();
            if strangers.is_empty() {
                return Check::ok("grant.export", &local.name, format!("exported to {}", to.join(", ")));
            }
            let cause = format!("exported to clusters without a link: {}", strangers.join(", "));
            Check::warn("grant.export", &local.name, cause, "declare a Link to them, or put the names right")
        }
    }
}

/// Import rules that nothing falls under.
fn imports(catalog: &Catalog) -> Vec<Check> {
    let mut checks = Vec::new();
    for (cluster, link) in &catalog.declared.links {
        let known = catalog.imports.get(cluster).filter(|imports| imports.synced_unix_ms > 0);
        let Some(known) = known else {
            checks.push(Check::unknown("orphan.import", cluster, "nothing was ever heard of its services"));
            continue;
        };
        let taken = |rule: &registry::model::ImportRule| {
            let falls = |name: &&ServiceName| link.import_rule(name) == Some(rule);
            known.services.keys().filter(falls).count()
        };
        let idle = link.import.iter().filter(|rule| taken(rule) == 0);
        let idle: Vec<String> = idle
            .map(|rule| match &rule.namespace {
                Some(namespace) => format!("namespace {namespace}"),
                None => "every namespace".into(),
            })
            .collect();
        checks.push(match idle.is_empty() {
            true => {
                Check::ok("orphan.import", cluster, format!("services taken in: {}", known.services.len()))
            }
            false => Check::warn(
                "orphan.import",
                cluster,
                format!("nothing falls under the rule for {}", idle.join(", ")),
                format!("look at `export` in {cluster}, or at the rule"),
            ),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use registry::manifest::{Source, parse};
    use registry::model::{Import, PeerImports};

    use super::*;
    use crate::peers::Peers;
    use crate::telemetry::metrics::Metrics;
    use crate::view::ViewBuilder;
    use admin_api::check::Outcome;

    const MANIFESTS: &str = "
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: { import: [{ namespace: shop, union: true }, { namespace: bank }] }
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec:
  ports: [{ name: web, port: 80, protocol: http }]
  endpoints: [{ id: a, host: 127.0.0.1, ports: { web: 9001 } }]
  export: { to: [north] }
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec:
  service: cart
  placement:
    generation: 2
    members: [{ cluster: east, region: us-east }, { cluster: west, region: us-west }, { cluster: south, region: eu }]
";

    /// What is said of `MANIFESTS` with `from` replaced, where east exports shop/web.
    fn looked(from: &str, to: &str) -> BTreeMap<String, Check> {
        let text = MANIFESTS.replace(from, to);
        let read = parse(&[Source { name: "west.yaml".into(), text }]).unwrap();
        let gateway = read.gateway.unwrap();
        let web = Import {
            name: ServiceName::new("shop", "web").unwrap(),
            ports: read.declared.services.values().next().unwrap().ports.clone(),
            region: "us-east".into(),
            contract: None,
            revision: 1,
        };
        let imports = PeerImports {
            epoch: 1,
            revision: 1,
            synced_unix_ms: 1,
            services: [(web.name.clone(), Arc::new(web))].into_iter().collect(),
            ..PeerImports::default()
        };
        let catalog = Catalog {
            revision: 1,
            cluster: gateway.cluster.clone(),
            region: gateway.region.clone(),
            imports: BTreeMap::from([(ClusterName::new("east").unwrap(), Arc::new(imports))]),
            declared: read.declared,
        };
        let stop = tokio_util::sync::CancellationToken::new();
        let peers = Peers::new(&gateway.cluster, &gateway.id, &catalog.declared.links, stop);
        let mut builder = ViewBuilder::new(gateway.cluster.clone(), gateway.region.clone());
        let view = builder.build(
            Arc::new(catalog),
            &peers,
            &Metrics::new(std::num::NonZeroU8::MIN),
            &View::default(),
            Tick::at(1),
        );
        let keyed = checks(&view, &view.conditions, &gateway, Tick::at(1))
            .into_iter()
            .map(|c| (format!("{} {}", c.id, c.object), c));
        keyed.collect()
    }

    #[test]
    fn what_is_declared_for_nothing_is_named() {
        let said = looked("", "");
        let result = |key: &str| said.get(key).unwrap_or_else(|| panic!("{key}: {said:#?}")).result;
        // East exports cart not at all, south is not even linked.
        assert_eq!(result("orphan.member shop/cart east"), Outcome::Warn);
        assert_eq!(result("orphan.member shop/cart south"), Outcome::Warn);
        assert_eq!(result("orphan.member shop/web"), Outcome::Ok);
        assert_eq!(result("orphan.import east"), Outcome::Warn);
        assert!(said["orphan.import east"].cause.contains("namespace bank"));
        // East is a member and linked, and may not call; north may, and is not linked.
        assert_eq!(result("grant.export shop/cart"), Outcome::Warn);
        assert!(said["grant.export shop/cart"].cause.contains("east"));
        assert_eq!(result("endpoints.ready shop/cart"), Outcome::Ok);
        assert_eq!(result("ring.agrees shop/cart"), Outcome::Unknown);
        assert_eq!(result("contract.conflict gw-1"), Outcome::Ok);
        let ids: BTreeSet<_> = said.values().map(|check| &*check.id).collect();
        for id in ids {
            assert!(admin_api::check::CHECKS.iter().any(|(listed, _)| *listed == id), "{id} is not listed");
        }
    }

    #[test]
    fn a_grant_to_a_stranger_is_named() {
        let said = looked("to: [north]", "to: [north, east]");
        assert!(said["grant.export shop/cart"].cause.contains("without a link: north"));
        let said = looked("to: [north]", "to: [east]");
        assert_eq!(said["grant.export shop/cart"].result, Outcome::Ok);
    }

    #[test]
    fn conditions_become_checks() {
        let said = looked("service: cart\n", "service: nothing\n");
        let policy = &said["orphan.policy TrafficPolicy shop/cart"];
        assert_eq!(policy.result, Outcome::Warn, "{policy:?}");
    }
}
