//! `kind: Link`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_saphyr::Location;

use super::raw::{Allow, ApplyRule as RawApplyRule, Field, LinkSpec};
use super::scope::Scope;
use super::suggest;
use super::units::{self, Wrong};
use crate::model::EXPIRE_AFTER;
use crate::model::{ApplyRule, ClusterName, Congestion, Gateway, ImportRule, Kind, Link, Placement};

/// Most addresses of one peer.
const ADDRESSES_MAX: usize = 64;

/// Shortest `expireAfter`.
const EXPIRE_AFTER_MIN: Duration = Duration::from_secs(1);

/// Most import rules of one link: every record of the peer is held against them.
const IMPORT_RULES_MAX: usize = 256;

/// Most rules of what a peer may apply: every object that it applies is held against them.
const APPLY_RULES_MAX: usize = 256;

/// What may be in flight to the peer.
const CONGESTION: [(&str, Congestion); 4] = [
    ("ringway", Congestion::Ringway),
    ("cubic", Congestion::Cubic),
    ("newreno", Congestion::NewReno),
    ("bbr", Congestion::Bbr),
];

/// What a rule without kinds grants. Never a Link: that says whom this cluster believes and what they may change here, so
/// whoever may change Links may grant itself the rest.
const USUAL_KINDS: [Kind; 2] = [Kind::MeshService, Kind::TrafficPolicy];

/// Reads the Link to `cluster`, none where its name is wrong; `gateway` is ours, if there is one.
pub(super) fn read(
    cluster: Option<ClusterName>,
    spec: &Field<LinkSpec>,
    at: Location,
    gateway: Option<&Gateway>,
    scope: &mut Scope<'_, '_>,
) -> Option<Link> {
    if let (Some(cluster), true) = (&cluster, cluster.as_ref() == gateway.map(|g| &g.cluster)) {
        let message = format!("metadata.name: `{cluster}` is our own cluster");
        scope.error(at, message, "a Link is named after the peer it leads to");
    }
    let spec = scope.present(spec, "spec", at, "spec: { addresses: [gw.east.example:7443] }")?;
    let spec = &spec.value;
    let addresses: Option<Vec<_>> = scope
        .list(&spec.addresses, "spec.addresses", ADDRESSES_MAX)
        .map(|list| list.iter().filter_map(|a| scope.read(a, "spec.addresses", units::host_port)).collect());
    let trust_domain = scope.optional(&spec.trust_domain, "spec.trustDomain", units::trust_domain);
    let import = import(spec, scope);
    let expire_after = scope.optional(&spec.expire_after, "spec.expireAfter", expiry);
    let allow_apply = allow_apply(&spec.allow, scope);
    let congestion = units::word(&CONGESTION, &[]);
    let congestion = scope.optional(&spec.congestion, "spec.congestion", congestion);
    let max_rate = scope.optional(&spec.max_rate, "spec.maxRate", units::bit_rate);
    Some(Link {
        cluster: cluster?,
        addresses: addresses?,
        trust_domain: trust_domain?.or_else(|| gateway.map(|g| g.trust_domain.clone())).unwrap_or_default(),
        import: import?,
        expire_after: expire_after?.unwrap_or(EXPIRE_AFTER),
        allow_apply: allow_apply?,
        congestion: congestion?.unwrap_or_default(),
        max_rate: max_rate?,
    })
}

/// Shorter than a link takes to come up, and every restart of a peer would empty the catalog.
fn expiry(text: &str) -> Result<Duration, Wrong> {
    let duration = units::duration(text)?;
    if duration >= EXPIRE_AFTER_MIN {
        return Ok(duration);
    }
    let hint = "at least 1s; what is mirrored of a peer that is only away for a while shall stay";
    Err(Wrong::new(format!("`{text}` is out of range"), hint))
}

/// The import rules; left out: everything, by pinned names only.
fn import(spec: &LinkSpec, scope: &mut Scope<'_, '_>) -> Option<Vec<ImportRule>> {
    if spec.import.is_none() {
        return Some(vec![ImportRule { namespace: None, union: false, placement: Placement::Accept }]);
    }
    let mut rules: Vec<ImportRule> = Vec::new();
    let list = scope.list(&spec.import, "spec.import", IMPORT_RULES_MAX)?;
    let mut whole = true;
    for entry in list {
        let namespace = scope.optional(&entry.value.namespace, "spec.import.namespace", units::label);
        let placements = [("accept", Placement::Accept), ("ignore", Placement::Ignore)];
        let placement = units::word(&placements, &[]);
        let placement = scope.optional(&entry.value.placement, "spec.import.placement", placement);
        whole &= namespace.is_some() && placement.is_some();
        let rule = ImportRule {
            namespace: namespace.flatten(),
            union: entry.value.union.unwrap_or(false),
            placement: placement.flatten().unwrap_or_default(),
        };
        if rules.iter().any(|r| r.namespace.is_none() || r.namespace == rule.namespace) {
            let hint = "the first rule that fits wins: put the general rule last";
            scope.warning(entry.referenced, "spec.import: this rule is never reached", hint);
        }
        rules.push(rule);
    }
    whole.then_some(rules)
}

/// What the peer may apply: nothing unless given.
fn allow_apply(field: &Field<Allow>, scope: &mut Scope<'_, '_>) -> Option<Vec<ApplyRule>> {
    const NAME: &str = "spec.allow.apply";
    let Some(allow) = field else { return Some(Vec::new()) };
    let example = "apply: [{ namespace: shop }]";
    scope.present(&allow.value.apply, NAME, allow.referenced, example)?;
    let list = scope.list(&allow.value.apply, NAME, APPLY_RULES_MAX)?;
    let rules: Vec<_> =
        list.iter().filter_map(|entry| apply_rule(&entry.value, entry.referenced, scope)).collect();
    (rules.len() == list.len()).then_some(rules)
}

fn apply_rule(rule: &RawApplyRule, at: Location, scope: &mut Scope<'_, '_>) -> Option<ApplyRule> {
    const NAME: &str = "spec.allow.apply.kinds";
    let every = |text: &str| if text == "*" { Ok(None) } else { units::label(text).map(Some) };
    let namespace =
        scope.required(&rule.namespace, "spec.allow.apply.namespace", at, "namespace: shop", every);
    let kinds = match &rule.kinds {
        None => Some(BTreeSet::from(USUAL_KINDS)),
        Some(given) if given.value.is_empty() => {
            scope.error(given.referenced, format!("{NAME} is empty"), "leave the rule out to grant nothing");
            None
        }
        Some(_) => {
            let list = scope.list(&rule.kinds, NAME, Kind::ALL.len())?;
            let read: Vec<_> = list.iter().filter_map(|entry| scope.read(entry, NAME, kind)).collect();
            (read.len() == list.len()).then(|| read.into_iter().collect())
        }
    };
    Some(ApplyRule { namespace: namespace?, kinds: kinds? })
}

/// A kind that may be granted; there is no word for all of them.
fn kind(text: &str) -> Result<Kind, Wrong> {
    Kind::of(text).ok_or_else(|| match text {
        "*" => Wrong::new(
            "kinds are named one by one",
            "leave `kinds` out for MeshService and TrafficPolicy; a Link must be named, for it grants, and a Listener, for it opens ports",
        ),
        "Gateway" | "Sidecar" => {
            Wrong::new(format!("a {text} is a process, and only ever a file"), "leave it out")
        }
        _ => Wrong::new(
            format!("there is no kind `{text}` that can be applied"),
            suggest::hint(text, &Kind::ALL.map(Kind::as_str), "the kinds are"),
        ),
    })
}
