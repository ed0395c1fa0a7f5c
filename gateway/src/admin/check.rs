//! `/v1/check`: what an operator would look at when something does not work, each with its cause and what to do.
//!
//! A check fails for what is broken now, and warns of what will break, has no effect, or cannot be seen from here.

mod files;
mod links;
mod services;

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use registry::base::reader::Reader;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub(crate) use self::files::of_files;
use super::{Admin, found, problem};

/// Disks that do not answer within this time are reported so.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Looks at disks.
static ON_DISK: LazyLock<Reader> = LazyLock::new(Reader::default);

/// Checks look at disks and dial addresses: one run at a time, whoever asks.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// Every check: its id, which never changes, and what it asks.
pub(crate) const CHECKS: [(&str, &str); 31] = [
    ("manifests.accepted", "the manifests on disk are those in use"),
    (
        "identity.certificate",
        "our certificate and key can be used, fit each other, and stay valid for a while",
    ),
    ("identity.name", "our certificate is for this cluster, gateway id and trust domain"),
    ("trust.bundle", "each link has a bundle that says whom to believe"),
    ("clock", "this machine's clock is not behind what peers have seen"),
    ("state.writable", "the state directory can be written, and by nobody else"),
    ("ports.bound", "the listeners are bound"),
    ("process.files", "there are file descriptors left"),
    ("process.drain", "the process takes new requests"),
    ("link.resolves", "each address of a link resolves"),
    ("link.tcp", "each address of a link accepts TCP connections"),
    ("link.udp", "a tunnel runs over QUIC, which is UDP"),
    ("link.tunnel", "each link has a tunnel that is up"),
    ("link.budget", "each peer keeps within what it may cost"),
    ("registry.store", "the registry's store answers, in time"),
    ("registry.room", "the registry's store has room"),
    ("registry.owner", "the registry's store is of this cluster"),
    ("registry.member", "this gateway has its place among those of its cluster"),
    ("registry.elected", "a gateway is elected, which writes for the cluster"),
    ("registry.catalog", "what is served is what the registry has, and no older copy"),
    ("registry.removal", "no peer misses many of its services at once"),
    ("registry.age", "what is mirrored of each peer is fresh"),
    ("ring.agrees", "peers place each service by the same ring"),
    ("union.conflict", "a service has the same ports in every cluster that is joined under its name"),
    ("contract.conflict", "no two clusters declare different things of one service"),
    ("grant.export", "services are exported to clusters that exist, and to the members of their contract"),
    ("grant.denied", "peers let our requests in"),
    ("endpoints.ready", "each service of this cluster has an endpoint that takes requests"),
    ("orphan.policy", "each policy has a service, and takes effect"),
    ("orphan.import", "each import rule takes something in"),
    ("orphan.member", "each member of a contract can be reached"),
];

/// What came of all checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Cluster and id of the gateway that was looked at; empty where there was none.
    pub(crate) gateway: String,
    /// In the order of [`CHECKS`].
    pub(crate) checks: Vec<Check>,
}

/// One check of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Of [`CHECKS`].
    pub(crate) id: String,
    /// What was looked at.
    pub(crate) object: String,
    /// What came of it.
    pub(crate) result: Outcome,
    /// What was seen.
    pub(crate) cause: String,
    /// What to do about it; none where nothing is to be done.
    pub(crate) fix: Option<String>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It holds.
    Ok,
    /// It cannot be known from here.
    Unknown,
    /// It will not hold for long, or something is without effect.
    Warn,
    /// It does not hold.
    Fail,
}

impl Report {
    fn new(gateway: String, mut checks: Vec<Check>) -> Self {
        let place = |check: &Check| CHECKS.iter().position(|(id, _)| *id == check.id);
        checks.sort_by_cached_key(|check| (place(check), check.object.clone()));
        Self { gateway, checks }
    }
}

impl Check {
    fn new(id: &str, object: impl ToString, result: Outcome, cause: impl Into<String>) -> Self {
        let (id, object, cause) = (id.to_owned(), object.to_string(), cause.into());
        Self { id, object, result, cause, fix: None }
    }

    pub(super) fn ok(id: &str, object: impl ToString, seen: impl Into<String>) -> Self {
        Self::new(id, object, Outcome::Ok, seen)
    }

    pub(super) fn unknown(id: &str, object: impl ToString, why: impl Into<String>) -> Self {
        Self::new(id, object, Outcome::Unknown, why)
    }

    pub(super) fn warn(
        id: &str,
        object: impl ToString,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(id, object, Outcome::Warn, cause) }
    }

    pub(super) fn fail(
        id: &str,
        object: impl ToString,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(id, object, Outcome::Fail, cause) }
    }
}

/// Answers `/v1/check`.
pub(super) async fn answer(State(admin): State<Admin>) -> Response {
    let Ok(_permit) = ONE_AT_A_TIME.try_acquire() else {
        return problem(
            StatusCode::TOO_MANY_REQUESTS,
            "another check is under way; ask again in a moment".into(),
        );
    };
    let gateway = admin.gateway.clone();
    let view = admin.shared.view.load_full();
    let used = admin.shared.local.borrow().credentials.clone();
    let known = view.catalog.as_ref().map(|catalog| catalog.declared.links.clone()).unwrap_or_default();
    let (identity, state) = (gateway.identity_dir.clone(), gateway.state_dir.clone());
    let on_disk = ON_DISK.within(DISK_WAIT, move || {
        let mut checks = files::identity(&gateway, Some(&used), SystemTime::now());
        checks.extend(files::bundles(&gateway, known.values()));
        checks.push(files::state(&gateway));
        checks.push(files::descriptors());
        checks
    });
    let (on_disk, links, store) = tokio::join!(on_disk, links::checks(&admin), super::store::checks(&admin));
    let silent = || {
        let why = format!("the disk has not answered within {DISK_WAIT:?}");
        let unknown = |id, at: &Path| Check::unknown(id, at.display(), &*why);
        vec![unknown("identity.certificate", &identity), unknown("state.writable", &state)]
    };
    let mut checks = on_disk.unwrap_or_else(silent);
    checks.extend(links);
    checks.extend(store);
    found(move || {
        checks.extend(process(&admin));
        let now = admin.shared.clock.micros();
        let known = crate::control::sync::conditions(&admin.shared, &view, now);
        checks.extend(services::checks(&view, &known, &admin.gateway, now));
        let gateway = format!("{}/{}", admin.gateway.cluster, admin.gateway.id);
        Report::new(gateway, checks)
    })
    .await
}

fn process(admin: &Admin) -> [Check; 2] {
    let shared = &admin.shared;
    let listen = &admin.gateway.listen;
    let bound = format!("tunnel {}, http {}, admin {}", listen.tunnel, listen.http, listen.admin);
    let drain = if shared.stop.is_cancelled() {
        Check::warn(
            "process.drain",
            &admin.gateway.id,
            format!("it drains, with {} requests in progress", shared.in_progress.count()),
            "wait for its end, or send SIGTERM once more to end it at once",
        )
    } else {
        Check::ok("process.drain", &admin.gateway.id, "takes new requests")
    };
    [Check::ok("ports.bound", &admin.gateway.id, bound), drain]
}

/// A duration in words, to its largest unit.
pub(super) fn span(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_stands_in_the_order_of_the_list() {
        let checks = vec![
            Check::ok("orphan.import", "east", ""),
            Check::ok("clock", "west", ""),
            Check::ok("clock", "east", ""),
        ];
        let report = Report::new(String::new(), checks);
        let ids: Vec<_> = report.checks.iter().map(|c| format!("{} {}", c.id, c.object)).collect();
        assert_eq!(ids, ["clock east", "clock west", "orphan.import east"]);
    }

    #[test]
    fn spans_are_words() {
        let shown = [1, 119, 120, 7200, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(shown, ["1 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
