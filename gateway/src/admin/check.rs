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
use tokio::sync::Semaphore;

use admin_api::check::{Check, Report};

pub(crate) use self::files::of_files;
use super::{Admin, found, problem};

/// Disks that do not answer within this time are reported so.
const DISK_WAIT: Duration = Duration::from_secs(5);

/// Looks at disks.
static ON_DISK: LazyLock<Reader> = LazyLock::new(Reader::default);

/// Checks look at disks and dial addresses: one run at a time, whoever asks.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

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
        let now = admin.shared.clock.now();
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
}
