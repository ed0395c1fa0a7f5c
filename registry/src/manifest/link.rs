//! `kind: Link`.

use std::time::Duration;

use serde_saphyr::Location;

use super::raw::{Field, LinkSpec};
use super::scope::Scope;
use super::units::{self, Wrong};
use crate::mirror::EXPIRE_AFTER;
use crate::model::{ClusterName, Gateway, ImportRule, Link};

/// Most addresses of one peer.
const ADDRESSES_MAX: usize = 64;

/// Shortest `expireAfter`.
const EXPIRE_AFTER_MIN: Duration = Duration::from_secs(1);

/// Most import rules of one link: every record of the peer is held against them.
const IMPORT_RULES_MAX: usize = 256;

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
    Some(Link {
        cluster: cluster?,
        addresses: addresses?,
        trust_domain: trust_domain?.or_else(|| gateway.map(|g| g.trust_domain.clone())).unwrap_or_default(),
        import: import?,
        expire_after: expire_after?.unwrap_or(EXPIRE_AFTER),
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
        return Some(vec![ImportRule { namespace: None, union: false }]);
    }
    let mut rules: Vec<ImportRule> = Vec::new();
    let list = scope.list(&spec.import, "spec.import", IMPORT_RULES_MAX)?;
    let mut whole = true;
    for entry in list {
        let namespace = scope.optional(&entry.value.namespace, "spec.import.namespace", units::label);
        whole &= namespace.is_some();
        let rule = ImportRule { namespace: namespace.flatten(), union: entry.value.union.unwrap_or(false) };
        if rules.iter().any(|r| r.namespace.is_none() || r.namespace == rule.namespace) {
            let hint = "the first rule that fits wins: put the general rule last";
            scope.warning(entry.referenced, "spec.import: this rule is never reached", hint);
        }
        rules.push(rule);
    }
    whole.then_some(rules)
}
