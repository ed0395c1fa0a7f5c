//! `kind: TrafficPolicy`, without its placement contract.

use serde_saphyr::Location;

use super::placement;
use super::raw::{self, Field, PolicySpec};
use super::scope::{Scope, Target};
use super::units::{self, Wrong, number};
use crate::model::{Algorithm, Policy, Retry, RetryOn, ServiceName, Timeout};

/// Most clusters tried for one request: each further one costs the caller's time.
const ATTEMPTS_MAX: i128 = 10;

/// Most retries a second that no budget bounds.
const MIN_PER_SECOND_MAX: i128 = 100_000;

/// Most entries of `retry.on` and of `retry.methods`.
const RETRY_LIST_MAX: usize = 128;

/// Reads the TrafficPolicy `name` of `namespace`; also gives the place of `spec.service`.
pub(super) fn read(
    namespace: &str,
    name: &str,
    spec: &Field<PolicySpec>,
    at: Location,
    scope: &mut Scope<'_, '_>,
) -> Option<(Policy, Location)> {
    let spec = scope.present(spec, "spec", at, "spec: { service: cart }")?;
    let (at, spec) = (spec.referenced, &spec.value);
    scope.later(&spec.limits, "spec.limits");
    let service = scope.required(&spec.service, "spec.service", at, "service: cart", |name: &str| {
        let name = units::label(name)?;
        ServiceName::new(namespace, &name).map_err(|e| Wrong { message: e.to_string(), hint: None })
    });
    let at = spec.service.as_ref().map_or(at, |s| s.referenced);
    if let Some(service) = &service {
        scope.refers(at, Target::Service(service.clone(), "policy"));
    }
    let placement = match &spec.placement {
        None => Some(None),
        Some(placement) => placement::read(placement, scope).map(Some),
    };
    let balance = balance(&spec.balance, scope);
    let retry = retry(&spec.retry, scope);
    let timeout = timeout(&spec.timeout, scope);
    let policy = Policy {
        name: name.into(),
        service: service?,
        placement: placement?,
        balance: balance?,
        retry: retry?,
        timeout: timeout?,
    };
    Some((policy, at))
}

fn balance(field: &Field<raw::Balance>, scope: &mut Scope<'_, '_>) -> Option<Algorithm> {
    const LATER: [&str; 5] = ["random", "weighted", "least-request", "aperture", "least-response-time"];
    let known =
        [("p2c-ewma", Algorithm::P2cEwma), ("round-robin", Algorithm::RoundRobin), ("ring", Algorithm::Ring)];
    let Some(balance) = field else { return Some(Algorithm::P2cEwma) };
    let word = units::word(&known, &LATER);
    let algorithm = scope.optional(&balance.value.algorithm, "spec.balance.algorithm", word);
    Some(algorithm?.unwrap_or(Algorithm::P2cEwma))
}

fn retry(field: &Field<raw::Retry>, scope: &mut Scope<'_, '_>) -> Option<Retry> {
    let default = Retry::default();
    let Some(raw) = field.as_ref().map(|f| &f.value) else { return Some(default) };
    let attempts = scope.optional(&raw.attempts, "spec.retry.attempts", number::<u8>(1..=ATTEMPTS_MAX));
    let budget = scope.optional(&raw.budget, "spec.retry.budget", units::percent);
    let least = number::<u32>(0..=MIN_PER_SECOND_MAX);
    let min_per_second = scope.optional(&raw.min_per_second, "spec.retry.minPerSecond", least);
    let on = if raw.on.is_some() { retry_on(raw, scope) } else { Some(default.on) };
    let methods = methods(raw, scope);
    Some(Retry {
        attempts: attempts?.unwrap_or(default.attempts),
        budget_percent: budget?.unwrap_or(default.budget_percent),
        min_per_second: min_per_second?.unwrap_or(default.min_per_second),
        on: on?,
        methods: methods?,
    })
}

fn methods(raw: &raw::Retry, scope: &mut Scope<'_, '_>) -> Option<Vec<String>> {
    const NAME: &str = "spec.retry.methods";
    let list = scope.list(&raw.methods, NAME, RETRY_LIST_MAX)?;
    for (method, upper) in list.iter().filter_map(|m| Some((m, units::nearly_http(&m.value)?))) {
        let message =
            format!("{NAME}: `{}` is a method of Thrift, for those of HTTP are upper case", method.value);
        scope.warning(method.referenced, message, format!("write `{upper}` if that is meant"));
    }
    let methods: Vec<String> = list.iter().filter_map(|m| scope.read(m, NAME, units::method)).collect();
    (methods.len() == list.len()).then_some(methods)
}

/// `retry.on`: words, and status codes of the server's kind.
fn retry_on(raw: &raw::Retry, scope: &mut Scope<'_, '_>) -> Option<RetryOn> {
    const WORDS: [(&str, On); 4] = [
        ("connect", On::Connect),
        ("refused", On::Refused),
        ("reset", On::Reset),
        ("unavailable", On::Unavailable),
    ];
    let parse = |text: &str| match text.parse::<u16>() {
        Ok(status @ 500..=599) if text.len() == 3 => Ok(On::Status(status)),
        Ok(_) => Err(Wrong::new(
            format!("`{text}` is no status that can be tried again"),
            "write one from \"500\" to \"599\": other answers are the service's last word",
        )),
        Err(_) if text.eq_ignore_ascii_case("5xx") => Err(Wrong::new(
            format!("`{text}` is not known"),
            "list the codes, such as \"502\", \"503\", \"504\"",
        )),
        Err(_) => units::word(&WORDS, &[])(text),
    };
    let mut on = RetryOn::default();
    let mut whole = true;
    for entry in scope.list(&raw.on, "spec.retry.on", RETRY_LIST_MAX)? {
        match scope.read(entry, "spec.retry.on", parse) {
            Some(On::Connect) => on.connect = true,
            Some(On::Refused) => on.refused = true,
            Some(On::Reset) => on.reset = true,
            Some(On::Unavailable) => on.unavailable = true,
            Some(On::Status(status)) if on.statuses.contains(&status) => {}
            Some(On::Status(status)) => on.statuses.push(status),
            None => whole = false,
        }
    }
    on.statuses.sort_unstable();
    whole.then_some(on)
}

/// One entry of `retry.on`.
#[derive(Clone, Copy)]
enum On {
    Connect,
    Refused,
    Reset,
    Unavailable,
    Status(u16),
}

fn timeout(field: &Field<raw::Timeout>, scope: &mut Scope<'_, '_>) -> Option<Timeout> {
    let default = Timeout::default();
    let Some(raw) = field.as_ref().map(|f| &f.value) else { return Some(default) };
    let connect = scope.optional(&raw.connect, "spec.timeout.connect", units::duration);
    let head = scope.optional(&raw.head, "spec.timeout.head", units::duration);
    let idle = scope.optional(&raw.idle, "spec.timeout.idle", units::duration);
    let total = scope.optional(&raw.total, "spec.timeout.total", units::duration);
    Some(Timeout {
        connect: connect?.unwrap_or(default.connect),
        head: head?.unwrap_or(default.head),
        idle: idle?,
        total: total?,
    })
}
