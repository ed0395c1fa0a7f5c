//! `healthCheck` of a MeshService.

use std::time::Duration;

use super::raw::{self, Field};
use super::scope::Scope;
use super::units::{self, Wrong, number};
use crate::model::{HealthCheck, Probe};

/// Shortest interval: more often is load, not health.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Longest interval: what is checked more rarely is not.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Most checks in a row that a change of mind may take.
const STREAK_MAX: i128 = 100;

/// Longest path: most servers refuse longer ones.
const PATH_BYTES_MAX: usize = 2048;

/// Reads `spec.healthCheck`; `Some(None)` if it was left out.
pub(super) fn read(
    field: &Field<raw::HealthCheck>,
    scope: &mut Scope<'_, '_>,
) -> Option<Option<HealthCheck>> {
    let Some(field) = field else { return Some(None) };
    let (at, raw) = (field.referenced, &field.value);
    let probe = match (&raw.http, &raw.tcp) {
        (Some(http), None) => self::http(&http.value, http.referenced, scope),
        (None, Some(_)) => Some(Probe::Tcp),
        (http, _) => {
            let wrong =
                if http.is_some() { "has both `http` and `tcp`" } else { "does not say what is asked" };
            let hint = "write `http: { path: /healthz }`, or `tcp: {}`";
            scope.error(at, format!("spec.healthCheck {wrong}"), hint);
            None
        }
    };
    let default = HealthCheck::default();
    let interval = scope.optional(&raw.interval, "spec.healthCheck.interval", interval);
    let timeout = scope.optional(&raw.timeout, "spec.healthCheck.timeout", units::duration);
    let streak = number::<u32>(1..=STREAK_MAX);
    let rise = scope.optional(&raw.rise, "spec.healthCheck.rise", &streak);
    let fall = scope.optional(&raw.fall, "spec.healthCheck.fall", &streak);
    let interval = interval?.unwrap_or(default.interval);
    let given = timeout?;
    if let (Some(timeout), Some(field)) = (given, &raw.timeout)
        && timeout > interval
    {
        let message = format!("spec.healthCheck.timeout: {timeout:?} is longer than the interval");
        scope.error(field.referenced, message, format!("write at most {interval:?}: checks do not overlap"));
        return None;
    }
    Some(Some(HealthCheck {
        probe: probe?,
        interval,
        timeout: given.unwrap_or(default.timeout.min(interval)),
        rise: rise?.unwrap_or(default.rise),
        fall: fall?.unwrap_or(default.fall),
        fail_open: raw.fail_open.as_ref().is_some_and(|f| f.value),
    }))
}

fn http(raw: &raw::HttpCheck, at: serde_saphyr::Location, scope: &mut Scope<'_, '_>) -> Option<Probe> {
    let path = scope.required(&raw.path, "spec.healthCheck.http.path", at, "path: /healthz", path);
    let statuses = number::<u16>(100..=599);
    let status = scope.optional(&raw.expected_status, "spec.healthCheck.http.expectedStatus", statuses);
    Some(Probe::Http { path: path?, expected_status: status? })
}

/// A path with or without a query, in origin form (RFC 9112, section 3.2.1).
fn path(text: &str) -> Result<String, Wrong> {
    let fits = |b: u8| b.is_ascii_graphic() && b != b'#';
    if text.starts_with('/') && text.len() <= PATH_BYTES_MAX && text.bytes().all(fits) {
        return Ok(text.into());
    }
    let hint = match text.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])) {
        Some(path) => format!("write `{path}`: host and port are the endpoint's"),
        None => "write a path that begins with `/`, percent-encoded, such as `/healthz`".into(),
    };
    Err(Wrong::new(format!("`{text}` is no path"), hint))
}

fn interval(text: &str) -> Result<Duration, Wrong> {
    let interval = units::duration(text)?;
    if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        return Ok(interval);
    }
    Err(Wrong::new(format!("`{text}` is out of range"), "write an interval from 100ms to 1h"))
}
