//! How the registry's store is, and our place among the gateways that share it: for `/v1/status` and `/v1/check`.

use std::time::Duration;

use admin_api::check::Check;
use admin_api::status::{Held, Registry};
use registry::model::{Backend, ClusterName};
use registry::store::{Room, Store, keys};
use registry::tasks::election::Standing;
use registry::tasks::owned::Owner;
use tokio::time::{Instant, timeout};

use super::Admin;
use crate::base::clock::span;

/// How long a check waits for the store: longer than one that is well ever takes.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// A process that was started while the store did not answer: until it does, the last catalog is all that it has.
#[derive(Clone, Copy, Debug)]
pub struct StartedWithout {
    /// Since when it does not answer.
    pub since: Instant,
    /// When the last catalog was written, Unix milliseconds.
    pub saved_unix_ms: u64,
}

/// How it is now.
pub(super) fn registry(admin: &Admin) -> Registry {
    let standing = admin.standing.borrow().clone();
    let silent_since = standing.unknown_since();
    let silent_seconds = silent_since.map_or(0, |since| since.elapsed().as_secs());
    let kept = admin.started_without.filter(|without| silent_since == Some(without.since));
    let (catalog, catalog_age_seconds) = match (silent_since, kept) {
        (None, _) => ("registry", 0),
        (Some(_), None) => ("memory", silent_seconds),
        (Some(_), Some(kept)) => {
            ("last-catalog", crate::base::clock::unix_ms().saturating_sub(kept.saved_unix_ms) / 1000)
        }
    };
    let elected = match &standing {
        Standing::Elected(_) => Some(admin.gateway.id.clone()),
        Standing::Member(elected) => elected.clone(),
        Standing::Unknown { .. } | Standing::IdTaken(_) => None,
    };
    let held = |(peer, services, since_unix_ms): (ClusterName, usize, u64)| Held {
        peer: peer.to_string(),
        services,
        since_unix_ms,
    };
    Registry {
        store: match &admin.gateway.registry {
            Backend::Embedded => "embedded".into(),
            Backend::Etcd(etcd) => format!("etcd {}", etcd.endpoints.join(", ")),
        },
        up: silent_since.is_none(),
        silent_seconds,
        trouble: standing.unknown_why().map(Into::into),
        owner: match &*admin.registry.owner().borrow() {
            Owner::Ours => "ours".into(),
            Owner::Nobody => "nobody".into(),
            Owner::Other(uid) => uid.clone(),
        },
        standing: standing.as_str().into(),
        elected,
        gateways: admin.members.borrow().keys().cloned().collect(),
        catalog: catalog.into(),
        catalog_age_seconds,
        held: admin.knowledge.held().into_iter().map(held).collect(),
        unwritten: admin.knowledge.unwritten(),
    }
}

/// Every check of it.
pub(super) async fn checks(admin: &Admin) -> Vec<Check> {
    let asked = Instant::now();
    let store = admin.registry.inner();
    let (answer, room) =
        tokio::join!(timeout(ANSWER_WAIT, store.get(keys::CLUSTER)), timeout(ANSWER_WAIT, store.room()));
    let answer = match answer {
        Ok(Ok(_)) => Ok(asked.elapsed()),
        Ok(Err(error)) => Err(registry::base::causes::chain(&error)),
        Err(_) => Err(format!("no answer within {ANSWER_WAIT:?}")),
    };
    let other = match &*admin.standing.borrow() {
        Standing::IdTaken(other) => Some(other.clone()),
        _ => None,
    };
    let room = room.ok().and_then(Result::ok);
    let registry = registry(admin);
    let mut checks = judge(&admin.gateway.id, &registry, answer, other, crate::base::clock::unix_ms());
    checks.push(judge_room(&registry, room));
    checks
}

/// What to say of a registry that is as full as this; none: it does not say.
fn judge_room(registry: &Registry, room: Option<Room>) -> Check {
    let (id, store) = ("registry.room", &registry.store);
    let Some(room) = room else {
        return Check::unknown(id, store, "it does not say how full it is");
    };
    let mib = |bytes: u64| bytes / (1024 * 1024);
    let seen = format!("{} of {} MiB are in use", mib(room.used), mib(room.max));
    if room.full {
        let fix = "make room: compact and defragment an etcd or raise `--quota-backend-bytes`, then `etcdctl alarm \
                   disarm`; until then nothing can be applied or registered";
        return Check::fail(id, store, format!("it is full, and takes nothing: {seen}"), fix);
    }
    if registry.unwritten > 0 || room.for_others() == 0 {
        let fix = "make room (compact and defragment an etcd), or import less; what is left is kept for what this cluster \
                   declares and for its leases";
        let seen = format!("{seen}: {} records of peers are served and not written", registry.unwritten);
        return Check::warn(id, store, seen, fix);
    }
    Check::ok(id, store, seen)
}

/// What to say of a registry that gave this `answer`, and why none, while another process has our id (`taken_by`).
fn judge(
    us: &str,
    registry: &Registry,
    answer: Result<Duration, String>,
    taken_by: Option<String>,
    now_unix_ms: u64,
) -> Vec<Check> {
    let mut checks = vec![judge_store(&registry.store, answer), judge_owner(registry)];
    checks.push(judge_member(us, registry, taken_by));
    checks.push(judge_election(registry));
    checks.push(judge_catalog(us, registry));
    checks.extend(judge_removals(us, registry, now_unix_ms));
    checks
}

fn judge_store(store: &str, answer: Result<Duration, String>) -> Check {
    match answer {
        Ok(took) => Check::ok("registry.store", store, format!("answers in {} ms", took.as_millis())),
        Err(why) => Check::fail(
            "registry.store",
            store,
            why,
            "bring it up, or put `spec.registry` right; until then what is known serves on and nothing can be changed",
        ),
    }
}

fn judge_owner(registry: &Registry) -> Check {
    let store = &registry.store;
    match &*registry.owner {
        "ours" => Check::ok("registry.owner", store, "it is of this cluster"),
        "nobody" => Check::warn(
            "registry.owner",
            store,
            "it has no cluster's UID: it was wiped",
            "ask again in a moment: it is taken again, and what was applied is put back",
        ),
        uid => Check::fail(
            "registry.owner",
            store,
            format!("it is of another cluster, of UID {uid}: nothing is read from it or written to it"),
            "put the right store back, or `spec.registry` right; or restart this gateway to take that cluster's place",
        ),
    }
}

fn judge_member(us: &str, registry: &Registry, taken_by: Option<String>) -> Check {
    let silent = span(Duration::from_secs(registry.silent_seconds));
    match (&*registry.standing, taken_by) {
        (_, Some(other)) => Check::fail(
            "registry.member",
            us,
            format!("another process of this cluster has this id: {other}"),
            "stop that one, or give one of them a `metadata.name` of its own",
        ),
        ("unknown", None) => Check::fail(
            "registry.member",
            us,
            format!(
                "it has no lease in the registry for {silent}: {}",
                registry.trouble.as_deref().unwrap_or("no answer")
            ),
            "see `registry.store` and `registry.owner`; it comes back by itself",
        ),
        (standing, None) => Check::ok("registry.member", us, format!("it is {standing}")),
    }
}

fn judge_election(registry: &Registry) -> Check {
    match (&registry.elected, registry.up) {
        (Some(elected), _) => Check::ok("registry.elected", elected, "it writes for the cluster"),
        (None, true) => Check::fail(
            "registry.elected",
            "-",
            "no gateway is elected: imports and conditions are not written",
            "ask again in 10 s; if nobody is elected then, look at the logs of the gateways for why",
        ),
        (None, false) => Check::unknown("registry.elected", "-", "the registry does not answer"),
    }
}

fn judge_catalog(us: &str, registry: &Registry) -> Check {
    let age = span(Duration::from_secs(registry.catalog_age_seconds));
    let stays = "bring the registry up: what was applied or registered since is not known here";
    match &*registry.catalog {
        "registry" => Check::ok("registry.catalog", us, "what is served is what the registry has"),
        "memory" => Check::warn("registry.catalog", us, format!("as the registry was {age} ago"), stays),
        _ => Check::warn(
            "registry.catalog",
            us,
            format!(
                "of the state directory, written {age} ago: the registry has not answered since the start"
            ),
            stays,
        ),
    }
}

fn judge_removals(us: &str, registry: &Registry, now_unix_ms: u64) -> Vec<Check> {
    if registry.held.is_empty() {
        return vec![Check::ok("registry.removal", us, "nothing is held")];
    }
    let judge = |held: &Held| {
        let since = span(Duration::from_millis(now_unix_ms.saturating_sub(held.since_unix_ms)));
        let seen = format!(
            "{} of its services are missing at once since {since}: they are held for 60 s",
            held.services
        );
        let fix = "look whether that cluster is as it should be: what is missing then is removed";
        Check::warn("registry.removal", &held.peer, seen, fix)
    };
    registry.held.iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use admin_api::check::Outcome;

    fn well() -> Registry {
        Registry {
            store: "etcd http://a:2379".into(),
            up: true,
            silent_seconds: 0,
            trouble: None,
            owner: "ours".into(),
            standing: "member".into(),
            elected: Some("gw-1".into()),
            gateways: vec!["gw-1".into(), "gw-2".into()],
            catalog: "registry".into(),
            catalog_age_seconds: 0,
            held: Vec::new(),
            unwritten: 0,
        }
    }

    #[test]
    fn a_store_that_fills_up_is_told_of_before_it_is_full() {
        let room = |used, full| Some(Room { used, max: 1_000, full });
        let result = |unwritten, room| judge_room(&Registry { unwritten, ..well() }, room).result;
        assert_eq!(result(0, room(749, false)), Outcome::Ok);
        assert_eq!(result(0, room(750, false)), Outcome::Warn);
        assert_eq!(result(1, room(10, false)), Outcome::Warn);
        assert_eq!(result(0, room(999, true)), Outcome::Fail);
        assert_eq!(result(0, None), Outcome::Unknown);
    }

    fn bad(
        registry: &Registry,
        answer: Result<Duration, String>,
        other: Option<String>,
    ) -> Vec<(String, Outcome)> {
        let checks = judge("gw-2", registry, answer, other, 100_000);
        let bad = checks.into_iter().filter(|check| check.result != Outcome::Ok);
        bad.map(|check| (check.id, check.result)).collect()
    }

    #[test]
    fn each_check_of_the_registry_fails_for_its_own_cause() {
        let ok = || Ok(Duration::from_millis(3));
        let one = |id: &str, outcome| vec![(id.to_owned(), outcome)];
        assert_eq!(bad(&well(), ok(), None), []);
        assert_eq!(bad(&well(), Err("refused".into()), None), one("registry.store", Outcome::Fail));
        let other = Registry { owner: "00ff".into(), ..well() };
        assert_eq!(bad(&other, ok(), None), one("registry.owner", Outcome::Fail));
        let wiped = Registry { owner: "nobody".into(), ..well() };
        assert_eq!(bad(&wiped, ok(), None), one("registry.owner", Outcome::Warn));
        assert_eq!(bad(&well(), ok(), Some("boot 1".into())), one("registry.member", Outcome::Fail));
        let nobody = Registry { elected: None, ..well() };
        assert_eq!(bad(&nobody, ok(), None), one("registry.elected", Outcome::Fail));
        let held = Held { peer: "east".into(), services: 6, since_unix_ms: 90_000 };
        let held = Registry { held: vec![held], ..well() };
        assert_eq!(bad(&held, ok(), None), one("registry.removal", Outcome::Warn));
        for catalog in ["memory", "last-catalog"] {
            let gone = Registry {
                up: false,
                standing: "unknown".into(),
                elected: None,
                catalog: catalog.into(),
                ..well()
            };
            assert_eq!(
                bad(&gone, Err("refused".into()), None),
                [
                    ("registry.store".to_owned(), Outcome::Fail),
                    ("registry.member".to_owned(), Outcome::Fail),
                    ("registry.elected".to_owned(), Outcome::Unknown),
                    ("registry.catalog".to_owned(), Outcome::Warn),
                ]
            );
        }
    }
}
