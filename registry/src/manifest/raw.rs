//! What was typed: the shape of each kind, every scalar with its place.
//!
//! Fields that DESIGN reserves are listed as [`Later`], so that they are told apart from typing errors. Nearly every
//! field is optional here: what is missing is reported together with whatever else is wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, IgnoredAny};
use serde_saphyr::Spanned;

use super::http_rules::Http;
use super::registry::Registry;

/// A field and its place, if given. A null is as good as none.
pub(super) type Field<T> = Option<Spanned<T>>;

/// A list whose entries have places.
pub(super) type List<T> = Field<Vec<Spanned<T>>>;

/// A field whose time has not come.
pub(super) type Later = Field<IgnoredAny>;

/// What every document starts with; the rest is looked at once the kind is known.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) api_version: Field<String>,
    pub(super) kind: Field<String>,
    pub(super) metadata: Field<Metadata<true>>,
}

/// `metadata`; when `LOOSE`, unknown fields are left for the second reading.
pub(super) struct Metadata<const LOOSE: bool> {
    pub(super) name: Field<String>,
    pub(super) namespace: Field<String>,
    pub(super) resource_version: Field<String>,
}

/// A whole document of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: Metadata<false>,
    pub(super) spec: Field<S>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GatewaySpec {
    pub(super) cluster: Field<String>,
    pub(super) region: Field<String>,
    pub(super) trust_domain: Field<String>,
    pub(super) identity: Field<Directory>,
    pub(super) state: Field<Directory>,
    pub(super) registry: Field<Registry>,
    pub(super) listen: Field<Listen>,
    pub(super) http: Field<Http>,
    pub(super) advertise: List<String>,
    pub(super) domain: Field<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Directory {
    pub(super) directory: Field<String>,
}

/// `{}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Listen {
    pub(super) tunnel: Field<String>,
    pub(super) http: Field<String>,
    pub(super) admin: Field<String>,
    pub(super) admin_hosts: List<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LinkSpec {
    pub(super) addresses: List<String>,
    pub(super) trust_domain: Field<String>,
    pub(super) import: List<Import>,
    pub(super) expire_after: Field<String>,
    pub(super) allow: Field<Allow>,
    pub(super) congestion: Field<String>,
    pub(super) max_rate: Field<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allow {
    pub(super) apply: List<ApplyRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyRule {
    pub(super) namespace: Field<String>,
    pub(super) kinds: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    pub(super) namespace: Field<String>,
    pub(super) union: Option<bool>,
    pub(super) placement: Field<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceSpec {
    pub(super) ports: List<Port>,
    pub(super) endpoints: List<Endpoint>,
    pub(super) health_check: Field<HealthCheck>,
    pub(super) export: Field<Export>,
    pub(super) registration: Field<Registration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Port {
    pub(super) name: Field<String>,
    pub(super) port: Field<Number>,
    pub(super) protocol: Field<String>,
    pub(super) proxy_header: Field<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoint {
    pub(super) id: Field<String>,
    pub(super) host: Field<String>,
    pub(super) ports: Field<BTreeMap<String, Spanned<Number>>>,
    pub(super) weight: Field<Number>,
    pub(super) zone: Field<String>,
    pub(super) capacity: Field<Number>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HealthCheck {
    pub(super) http: Field<HttpCheck>,
    pub(super) tcp: Field<Empty>,
    pub(super) interval: Field<String>,
    pub(super) timeout: Field<String>,
    pub(super) rise: Field<Number>,
    pub(super) fall: Field<Number>,
    pub(super) fail_open: Field<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpCheck {
    pub(super) path: Field<String>,
    pub(super) expected_status: Field<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    pub(super) hosts: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    pub(super) to: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicySpec {
    pub(super) service: Field<String>,
    pub(super) placement: Field<Placement>,
    pub(super) balance: Field<Balance>,
    pub(super) retry: Field<Retry>,
    pub(super) timeout: Field<Timeout>,
    pub(super) limits: Later,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Placement {
    pub(super) mode: Field<String>,
    pub(super) generation: Field<Number>,
    pub(super) members: List<Member>,
    pub(super) seed: Field<Number>,
    pub(super) tiers: List<Vec<Spanned<String>>>,
    pub(super) hash: List<Hash>,
    pub(super) on_owner_unavailable: Field<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) cluster: Field<String>,
    pub(super) region: Field<String>,
    pub(super) weight: Field<Number>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hash {
    pub(super) header: Field<String>,
    pub(super) query: Field<String>,
    pub(super) source_ip: Field<Empty>,
    pub(super) server_name: Field<Empty>,
    pub(super) proxy_tlv: Field<Number>,
    pub(super) cookie: Later,
    pub(super) path: Later,
    pub(super) metadata: Later,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balance {
    pub(super) algorithm: Field<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Retry {
    pub(super) attempts: Field<Number>,
    pub(super) budget: Field<String>,
    pub(super) min_per_second: Field<Number>,
    pub(super) on: List<String>,
    pub(super) methods: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeout {
    pub(super) connect: Field<String>,
    pub(super) head: Field<String>,
    pub(super) idle: Field<String>,
    pub(super) total: Field<String>,
}

impl<'de, const LOOSE: bool> Deserialize<'de> for Metadata<LOOSE> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Loose {
            name: Field<String>,
            namespace: Field<String>,
            resource_version: Field<String>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Strict {
            name: Field<String>,
            namespace: Field<String>,
            resource_version: Field<String>,
        }
        if LOOSE {
            let Loose { name, namespace, resource_version } = Loose::deserialize(deserializer)?;
            Ok(Self { name, namespace, resource_version })
        } else {
            let Strict { name, namespace, resource_version } = Strict::deserialize(deserializer)?;
            Ok(Self { name, namespace, resource_version })
        }
    }
}

/// A scalar where a number belongs: whether it is one, and fits, is a question of meaning.
pub(super) enum Number {
    /// An integer.
    Whole(i128),
    /// Anything else, as it was written, or nearly so.
    Other(String),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number::Whole(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number::Whole(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number::Other(value.to_string()))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Number, E> {
                Ok(Number::Other(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Number, E> {
                Ok(Number::Other(value.to_owned()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
