//! `Sidecar.spec.register`: the endpoints that a sidecar registers for its workload.

use std::collections::{BTreeMap, BTreeSet};

use proto::limits::{REGISTER_ENDPOINTS_MAX, REGISTER_PORTS_MAX};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::raw::{Field, List, Number};
use super::scope::Scope;
use super::service::{CAPACITY_MAX, WEIGHT_MAX};
use super::units::{self, Wrong, number};
use crate::model::default_id;
use crate::model::{Endpoint, PortNumbers, ServiceName};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    service: Field<String>,
    ports: Field<BTreeMap<String, Spanned<Number>>>,
    host: Field<String>,
    id: Field<String>,
    weight: Field<Number>,
    zone: Field<String>,
    capacity: Field<Number>,
}

/// Reads `spec.register`; none given: nothing is registered.
pub(super) fn read(
    list: &List<Registration>,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<(ServiceName, Endpoint)>> {
    let entries = scope.list(list, "spec.register", REGISTER_ENDPOINTS_MAX)?;
    let mut known = BTreeSet::new();
    let mut registrations = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some((service, endpoint)) = registration(entry, scope) else { continue };
        if known.insert((service.clone(), endpoint.id.clone())) {
            registrations.push((service, endpoint));
        } else {
            let message = format!("spec.register: two endpoints of {service} have the id `{}`", endpoint.id);
            scope.error(entry.referenced, message, "give each endpoint its own id");
        }
    }
    (registrations.len() == entries.len()).then_some(registrations)
}

fn registration(entry: &Spanned<Registration>, scope: &mut Scope<'_, '_>) -> Option<(ServiceName, Endpoint)> {
    let (at, raw) = (entry.referenced, &entry.value);
    let service =
        scope.required(&raw.service, "spec.register.service", at, "service: shop/cart", service_name);
    let ports = ports(&raw.ports, at, scope);
    let host = scope.optional(&raw.host, "spec.register.host", units::host);
    let id = scope.optional(&raw.id, "spec.register.id", units::endpoint_id);
    let weight = scope.optional(&raw.weight, "spec.register.weight", number::<u32>(1..=WEIGHT_MAX));
    let zone = scope.optional(&raw.zone, "spec.register.zone", units::zone);
    let capacity = scope.optional(&raw.capacity, "spec.register.capacity", number::<u32>(1..=CAPACITY_MAX));
    let (ports, first) = ports?;
    let host = host?.unwrap_or_else(|| "127.0.0.1".into());
    let endpoint = Endpoint {
        id: id?.unwrap_or_else(|| default_id(&host, first)).into(),
        host: host.into(),
        ports,
        weight: weight?.unwrap_or(100),
        zone: zone?.unwrap_or_default().into(),
        capacity: capacity?,
    };
    Some((service?, endpoint))
}

/// Port numbers by name, at least one, and that of the first name.
fn ports(
    field: &Field<BTreeMap<String, Spanned<Number>>>,
    parent: Location,
    scope: &mut Scope<'_, '_>,
) -> Option<(PortNumbers, u16)> {
    const NAME: &str = "spec.register.ports";
    const EXAMPLE: &str = "ports: { web: 9001 }";
    let given = scope.present(field, NAME, parent, EXAMPLE)?;
    if given.value.is_empty() || given.value.len() > REGISTER_PORTS_MAX {
        let message = format!("{NAME} has {} entries", given.value.len());
        scope.error(given.referenced, message, format!("1 to {REGISTER_PORTS_MAX} are allowed: `{EXAMPLE}`"));
        return None;
    }
    let mut ports = Vec::new();
    for (name, value) in &given.value {
        let label = units::label(name).map_err(|wrong| {
            scope.error(
                value.referenced,
                format!("{NAME}: {}", wrong.message),
                wrong.hint.unwrap_or_default(),
            );
        });
        let number = scope.read(value, &format!("{NAME}.{name}"), number::<u16>(1..=65_535));
        if let (Ok(name), Some(number)) = (label, number) {
            ports.push((name.into(), number));
        }
    }
    // By ascending name, as they were read.
    let first = ports.first()?.1;
    (ports.len() == given.value.len()).then(|| (ports.into_iter().collect(), first))
}

/// A service with its namespace: `shop/cart`.
fn service_name(text: &str) -> Result<ServiceName, Wrong> {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    ServiceName::new(namespace, name).map_err(|_| {
        let message = format!("`{text}` is no service");
        Wrong::new(message, "write namespace and name, such as `shop/cart`")
    })
}
