//! Checks of what is on this machine's disk and of this process's limits. They block.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use files::{FileError, PrivateDir};
use identity::{Credentials, IdentityError, Trust};
use registry::manifest::Manifests;
use registry::model::{Gateway, Link};

use admin_api::check::{Check, Report};

use crate::base::clock::span;
use crate::base::descriptors::{for_operators, limit};
use registry::base::causes::chain;

/// A certificate of which less than this part of its life is left is to be renewed.
const LIFE_LEFT_MIN: f64 = 0.1;
/// Soft limits of file descriptors below this are for desktops: every connection and every tunnel needs one.
const DESCRIPTORS_MIN: u64 = 4096;

/// Everything that can be told of manifests without a running gateway.
pub(crate) fn of_files(manifests: &Manifests, now: SystemTime) -> Report {
    let mut checks = Vec::new();
    for condition in &manifests.conditions {
        checks.push(Check::warn("orphan.policy", &condition.object, &condition.message, "see the message"));
    }
    let Some(gateway) = &manifests.gateway else {
        checks.push(Check::unknown("identity.certificate", "-", "no Gateway among the manifests"));
        return Report::new(String::new(), checks);
    };
    checks.push(Check::ok("manifests.accepted", &gateway.id, "the manifests have no errors"));
    checks.extend(identity(gateway, None, now));
    checks.extend(bundles(gateway, manifests.declared.links.values()));
    checks.push(state(gateway));
    checks.push(ports(gateway));
    checks.push(descriptors());
    Report::new(format!("{}/{}", gateway.cluster, gateway.id), checks)
}

/// The certificate and key on disk, beside those in `used`.
pub(super) fn identity(gateway: &Gateway, used: Option<&Credentials>, now: SystemTime) -> Vec<Check> {
    let place = gateway.identity_dir.display();
    let renew = format!(
        "issue a new one into {place}: `ringway pki issue --cluster {} --gateway {} --out {place} --ca DIR`; a \
         running gateway takes it",
        gateway.cluster, gateway.id
    );
    let credentials = match Credentials::load_at(&gateway.identity_dir, now) {
        Ok(credentials) => credentials,
        Err(error @ IdentityError::NotYetValid { .. }) if used.is_some_and(|used| used.not_after() > now) => {
            let fix = "nothing, if this machine's clock is right: the one in use stays until then";
            return vec![Check::warn("identity.certificate", place, chain(&error), fix)];
        }
        Err(error) => {
            let fix = match &error {
                IdentityError::NotYetValid { .. } => "set this machine's clock".to_owned(),
                _ => renew,
            };
            return vec![Check::fail("identity.certificate", place, chain(&error), fix)];
        }
    };
    let left = credentials.not_after().duration_since(now).unwrap_or(Duration::ZERO);
    let life = credentials.not_after().duration_since(credentials.not_before()).unwrap_or(left);
    let valid = format!("valid for {}", span(left));
    let other = used.is_some_and(|used| used.chain() != credentials.chain());
    let certificate = if left.as_secs_f64() < life.as_secs_f64() * LIFE_LEFT_MIN {
        Check::warn("identity.certificate", place, format!("only {valid}"), renew)
    } else if other {
        let fix = "wait a second, or send SIGHUP; `manifests.accepted` says why it is refused, if it is";
        Check::warn("identity.certificate", place, "on disk is another certificate than the one in use", fix)
    } else {
        Check::ok("identity.certificate", place, format!("key fits, {valid}"))
    };
    vec![certificate, name(gateway, &credentials)]
}

fn name(gateway: &Gateway, credentials: &Credentials) -> Check {
    let found = credentials.identity();
    let ours = found.cluster == gateway.cluster.as_str()
        && found.trust_domain == gateway.trust_domain
        && found.gateway() == Some(gateway.id.as_str());
    if ours {
        return Check::ok("identity.name", &gateway.id, found.to_string());
    }
    Check::fail(
        "identity.name",
        &gateway.id,
        format!(
            "the certificate is for {found}, the manifest says gateway `{}` of cluster `{}` in `{}`",
            gateway.id, gateway.cluster, gateway.trust_domain
        ),
        "issue one for the names of the manifest, or put the manifest right",
    )
}

/// The bundle of each link.
pub(super) fn bundles<'a>(gateway: &Gateway, links: impl Iterator<Item = &'a Link>) -> Vec<Check> {
    let links: Vec<_> = links.map(|link| (link.cluster.as_str(), link.trust_domain.as_str())).collect();
    let (trust, problems) = Trust::load(&gateway.identity_dir, links.iter().copied());
    let now = SystemTime::now();
    let good = trust.clusters().map(|cluster| match trust.believed_until(cluster) {
        Some(until) if until < now => Check::fail(
            "trust.bundle",
            cluster,
            format!("every authority in it has expired, the last on {}", identity::utc(until)),
            format!("make cluster `{cluster}` a new authority, and put its ca.crt into the bundle"),
        ),
        _ => Check::ok("trust.bundle", cluster, "can be used"),
    });
    let bad = problems.iter().map(|(cluster, problem)| {
        let fix = format!(
            "put the ca.crt of cluster `{cluster}` into {}",
            gateway.identity_dir.join("bundles").join(format!("{cluster}.pem")).display()
        );
        Check::fail("trust.bundle", cluster, chain(problem), fix)
    });
    good.chain(bad).collect()
}

/// Whether the state directory can be written, and by nobody else.
pub(super) fn state(gateway: &Gateway) -> Check {
    let directory = &gateway.state_dir;
    match write(directory) {
        Ok(()) => Check::ok("state.writable", directory.display(), "can be written, and by nobody else"),
        Err(error) if error.is_missing() => Check::warn(
            "state.writable",
            directory.display(),
            "it is not there",
            "the first start makes it; after that its loss means a new cluster UID",
        ),
        Err(error @ (FileError::Owner { .. } | FileError::Writable { .. })) => Check::fail(
            "state.writable",
            directory.display(),
            error.to_string(),
            "do what the message says: the next start is refused else",
        ),
        Err(error) => Check::fail(
            "state.writable",
            directory.display(),
            chain(&error),
            "make it writable for the gateway's user, and look whether the disk is full",
        ),
    }
}

fn write(directory: &Path) -> Result<(), FileError> {
    const NAME: &str = "check.tmp";
    files::check_private(directory)?;
    let directory = PrivateDir::open(directory)?;
    let path = directory.join(NAME);
    let written = directory.create(NAME)?.write_all(b"written by a check\n");
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(FileError::io("write", &path))
}

/// Whether the ports can be had; for a gateway that does not run.
fn ports(gateway: &Gateway) -> Check {
    let listen = &gateway.listen;
    let tcp = |address: SocketAddr| TcpListener::bind(address).map(drop);
    let udp = |address: SocketAddr| UdpSocket::bind(address).map(drop);
    let tried = [
        ("tunnel", listen.tunnel, udp(listen.tunnel).and(tcp(listen.tunnel))),
        ("http", listen.http, tcp(listen.http)),
        ("admin", listen.admin, tcp(listen.admin)),
    ];
    let taken: Vec<String> = tried
        .into_iter()
        .filter_map(|(what, address, tried)| Some(format!("{what} {address}: {}", tried.err()?)))
        .collect();
    if taken.is_empty() {
        return Check::ok("ports.bound", &gateway.id, "all of them are free");
    }
    Check::warn(
        "ports.bound",
        &gateway.id,
        taken.join("; "),
        "if that is this gateway running, ask it: `ringway check`; else free them or set `spec.listen`",
    )
}

/// How many file descriptors are left.
pub(super) fn descriptors() -> Check {
    // Looked at above all when there are none left.
    let used = for_operators(|| fs::read_dir("/proc/self/fd").map(|entries| entries.count() as u64));
    match used {
        Ok(used) => judge_descriptors(used, limit()),
        Err(_) => Check::unknown("process.files", "this process", "the system does not tell (no /proc)"),
    }
}

fn judge_descriptors(used: u64, limit: u64) -> Check {
    let seen = format!("{used} of {limit} are open");
    let fix = "raise the limit: `ulimit -n 65536`, or LimitNOFILE= of the unit";
    match limit {
        _ if used >= limit / 10 * 9 => Check::fail("process.files", "this process", seen, fix),
        0..DESCRIPTORS_MIN => {
            Check::warn("process.files", "this process", format!("{seen}: every connection needs one"), fix)
        }
        _ => Check::ok("process.files", "this process", seen),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use identity::Role;
    use identity::pki::{Issue, Validity, init, issue};
    use registry::manifest::{Source, parse};

    use super::*;
    use admin_api::check::Outcome;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A gateway `id` in `dir` whose certificate is for `gw-1` of west, valid for ten days.
    fn gateway(dir: &Path, id: &str) -> Gateway {
        let now = SystemTime::now();
        init("acme.example", &dir.join("ca"), now).unwrap();
        issue(&Issue {
            ca_dir: dir.join("ca"),
            cluster: "west".into(),
            role: Role::Gateway { id: "gw-1".into() },
            peers: vec![("east".into(), None)],
            out_dir: dir.join("pki"),
            trust_domain: None,
            validity: Validity::from_now(now, 10 * DAY),
        })
        .unwrap();
        let text = format!(
            "apiVersion: ringway.dev/v1alpha1\nkind: Gateway\nmetadata: {{ name: {id} }}\nspec:\n  cluster: west\n  \
             region: us-west\n  trustDomain: acme.example\n  identity: {{ directory: pki }}\n  \
             state: {{ directory: . }}\n"
        );
        let read = parse(&[Source { name: dir.join("x.yaml"), text }]).unwrap();
        read.gateway.unwrap()
    }

    fn results(checks: &[Check]) -> Vec<(&str, Outcome)> {
        checks.iter().map(|check| (&*check.id, check.result)).collect()
    }

    #[test]
    fn a_certificate_is_judged_by_its_times_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let right = gateway(dir.path(), "gw-1");
        let looked = |gateway: &Gateway, now| identity(gateway, None, now);
        let (certificate, name) = ("identity.certificate", "identity.name");
        assert_eq!(results(&looked(&right, now)), [(certificate, Outcome::Ok), (name, Outcome::Ok)]);
        let late = looked(&right, now + DAY * 19 / 2);
        assert_eq!(late[0].result, Outcome::Warn, "{late:?}");
        assert!(late[0].fix.as_ref().unwrap().contains("pki issue --cluster west --gateway gw-1"));
        assert_eq!(results(&looked(&right, now + 11 * DAY)), [(certificate, Outcome::Fail)]);
        let early = looked(&right, now - DAY);
        assert_eq!(
            (early[0].result, early[0].fix.as_deref()),
            (Outcome::Fail, Some("set this machine's clock"))
        );

        let used = Credentials::load_at(&right.identity_dir, now).unwrap();
        let beside = identity(&right, Some(&used), now - DAY);
        assert_eq!(results(&beside), [(certificate, Outcome::Warn)], "it is taken when its time comes");

        let other = Gateway { id: "gw-2".into(), ..right };
        assert_eq!(results(&looked(&other, now)), [(certificate, Outcome::Ok), (name, Outcome::Fail)]);
    }

    #[test]
    fn a_state_directory_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let here = gateway(dir.path(), "gw-1");
        let here = Gateway { state_dir: dir.path().join("state"), ..here };
        assert_eq!(state(&here).result, Outcome::Warn, "the first start makes it");
        fs::create_dir(&here.state_dir).unwrap();
        assert_eq!(state(&here).result, Outcome::Ok);
        assert_eq!(fs::read_dir(&here.state_dir).unwrap().count(), 0, "nothing is left behind");
        fs::set_permissions(&here.state_dir, fs::Permissions::from_mode(0o777)).unwrap();
        let open = state(&here);
        assert!(open.result == Outcome::Fail && open.cause.contains("chmod go-w"), "{open:?}");
        let file = Gateway { state_dir: dir.path().join("x"), ..here };
        fs::write(&file.state_dir, "a file").unwrap();
        assert_eq!(state(&file).result, Outcome::Fail);
    }

    #[test]
    fn descriptors_are_judged_by_what_is_left() {
        let judged = |used, limit| judge_descriptors(used, limit).result;
        assert_eq!(
            [judged(10, 1024), judged(10, 65_536), judged(60_000, 65_536)],
            [Outcome::Warn, Outcome::Ok, Outcome::Fail]
        );
    }
}
