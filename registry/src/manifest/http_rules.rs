//! `http:` of gateways, sidecars and listeners.

use std::sync::Arc;

use proto::limits::{HEAD_BYTES_MAX, MESSAGE_FIELDS_MAX};
use serde::Deserialize;

use super::raw::{Field, Number};
use super::scope::Scope;
use super::units::{number, word};
use crate::model::{Forwarded, HttpRules};

/// Most proxies in front that may be believed.
const TRUSTED_HOPS_MAX: i128 = 16;
/// What any request needs: a request line and a Host field.
const HEAD_BYTES_LEAST: i128 = 1_024;
/// What any target and any Host field needs.
const LINE_BYTES_LEAST: i128 = 256;
const FIELDS_LEAST: i128 = 8;
/// Most streams of one connection of HTTP/2.
const STREAMS_MAX: i128 = 256;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Http {
    forwarded: Field<String>,
    x_forwarded: Field<String>,
    trusted_hops: Field<Number>,
    head_bytes: Field<Number>,
    line_bytes: Field<Number>,
    fields: Field<Number>,
    body_bytes: Field<Number>,
    streams: Field<Number>,
}

/// Reads `spec.http`.
pub(super) fn read(field: &Field<Http>, scope: &mut Scope<'_, '_>) -> Option<Arc<HttpRules>> {
    let Some(raw) = field.as_ref().map(|field| &field.value) else { return Some(Arc::default()) };
    let words = word(&Forwarded::WORDS, &[]);
    let forwarded = scope.optional(&raw.forwarded, "spec.http.forwarded", &words);
    let x_forwarded = scope.optional(&raw.x_forwarded, "spec.http.xForwarded", &words);
    let hops = number::<u8>(0..=TRUSTED_HOPS_MAX);
    let trusted_hops = scope.optional(&raw.trusted_hops, "spec.http.trustedHops", hops);
    let bytes = number::<u32>(HEAD_BYTES_LEAST..=HEAD_BYTES_MAX as i128);
    let head_bytes = scope.optional(&raw.head_bytes, "spec.http.headBytes", bytes);
    let line = number::<u32>(LINE_BYTES_LEAST..=HEAD_BYTES_MAX as i128);
    let line_bytes = scope.optional(&raw.line_bytes, "spec.http.lineBytes", line);
    let fields = number::<u16>(FIELDS_LEAST..=MESSAGE_FIELDS_MAX as i128);
    let fields = scope.optional(&raw.fields, "spec.http.fields", fields);
    let body_bytes =
        scope.optional(&raw.body_bytes, "spec.http.bodyBytes", number::<u64>(0..=i128::from(u64::MAX)));
    let streams = scope.optional(&raw.streams, "spec.http.streams", number::<u32>(1..=STREAMS_MAX));
    Some(Arc::new(HttpRules {
        forwarded: forwarded?.unwrap_or_default(),
        x_forwarded: x_forwarded?.unwrap_or_default(),
        trusted_hops: trusted_hops?.unwrap_or(0),
        head_bytes: head_bytes?,
        line_bytes: line_bytes?,
        fields: fields?,
        body_bytes: body_bytes?,
        streams: streams?,
    }))
}
