//! Where a hostile cluster does its worst, and what must not come of it: west is linked to east, which is hostile, and to
//! north, which is not; each of the two serves the other's callers all the time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Carrier, Hostile};
use crate::backend::Backend;
use crate::client::{Request, fetch};
use crate::etcd::Etcd;
use crate::manifest::{link, object, service};
use crate::mesh::{Gateway, Mesh, find};
use crate::peer::hello;
use crate::process::memory_kib;
use crate::traffic::{Ask, Traffic};
use crate::wait::{AT_ONCE, SOON, pause, wait_until};

/// How often the admin port is asked.
const LOOK: Duration = Duration::from_millis(20);

/// Time between two requests of the others' callers.
const PACE: Duration = Duration::from_millis(5);

/// What varies between stages.
#[derive(Debug, Default)]
pub struct Setup<'a> {
    /// The spec of west's Link to east; none: accept only, everything imported by its pinned name.
    pub link: Option<String>,
    /// What else west declares.
    pub objects: Vec<String>,
    /// What keeps west's registry; none: its state directory.
    pub etcd: Option<&'a Etcd>,
}

/// The stage. Fields are dropped in this order.
#[derive(Debug)]
pub struct Stage {
    traffic: Vec<Traffic>,
    admin: AdminWatch,
    /// Whom east is linked to.
    pub west: Gateway,
    /// Who must be served whatever east does.
    pub north: Gateway,
    /// West's `shop/cart` and north's `shop/good`.
    pub backends: [Backend; 2],
    /// The folder of it all.
    pub mesh: Mesh,
}

/// Asks the admin port all the time, and keeps how long it took at most.
#[derive(Debug)]
struct AdminWatch {
    stop: Arc<AtomicBool>,
    worst_ms: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl AdminWatch {
    fn start(west: &Gateway) -> Self {
        let (stop, worst_ms) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (address, stopped, worst) = (west.site.admin, stop.clone(), worst_ms.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answered = fetch(address, &Request::get("localhost", "/live")).is_ok();
                let took = if answered { asked.elapsed() } else { Duration::from_secs(3600) };
                worst.fetch_max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                pause(LOOK);
            }
        });
        Self { stop, worst_ms, thread: Some(thread) }
    }
}

impl Drop for AdminWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Stage {
    /// As `setup` says, up, with callers on both sides.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn set(setup: Setup<'_>) -> Self {
        let mesh = Mesh::new();
        let backends = ["west/a", "north/a"].map(Backend::start);
        // South is only there if a test has it declared.
        let peers = ["east", "north", "south"];
        let west = match setup.etcd {
            Some(etcd) => mesh.site_of("west", "gw-1", &peers, etcd),
            None => mesh.site("west", &peers),
        };
        let link_east = setup.link.unwrap_or_else(|| "addresses: []".into());
        let own = [
            object("Link", "east", &link_east),
            link("north", &[]),
            service("cart", &[("a", backends[0].address())]),
        ];
        let west = west.start(&[&own[..], &setup.objects].concat());
        let north = mesh.site("north", &["west"]);
        let north = north
            .start(&[link("west", &[west.site.tunnel]), service("good", &[("a", backends[1].address())])]);
        // By its pinned name, whatever the contract of the union says.
        for (caller, host) in [(&north, "cart.shop.west.mesh"), (&west, "good.shop.north.mesh")] {
            wait_until("each of the two is served by the other", SOON, || {
                (caller.get(host, "/").status == 200).then_some(())
            });
        }
        let ask = |host: &str| Ask { pace: PACE, ..Ask::get(host) };
        let traffic = vec![
            Traffic::start(north.site.http, 1, ask("cart.shop.west.mesh")),
            Traffic::start(west.site.http, 1, ask("good.shop.north.mesh")),
        ];
        let admin = AdminWatch::start(&west);
        mesh.identity("east", "gw-1", &["west"]);
        Self { traffic, admin, west, north, backends, mesh }
    }

    /// The stage with the Link that operators write first.
    pub fn plain() -> Self {
        Self::set(Setup::default())
    }

    /// The gateway `gw-1` of east, linked.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn east(&self, carrier: Carrier) -> Hostile {
        self.gateway("gw-1", carrier).expect("a valid certificate is believed")
    }

    /// Another gateway of east, linked.
    ///
    /// # Errors
    /// When the tunnel does not come up.
    pub fn gateway(&self, id: &str, carrier: Carrier) -> Result<Hostile, String> {
        let hello =
            proto::control::Hello { gateway: id.into(), boot: fastrand::u64(..), ..hello("east", [7; 16]) };
        Hostile::dial(&self.identity(id), ("west", self.west.site.tunnel), &hello, carrier)
    }

    /// The identity of a gateway of east.
    fn identity(&self, id: &str) -> PathBuf {
        let dir = self.mesh.dir().join(format!("east-{id}-pki"));
        if dir.exists() { dir } else { self.mesh.identity("east", id, &["west"]) }
    }

    /// West's status.
    ///
    /// # Panics
    /// When it gives none.
    pub fn status(&self) -> Value {
        wait_until("west gives its status", SOON, || self.west.status())
    }

    /// The most memory that west ever used, in MiB.
    ///
    /// # Panics
    /// When it does not run.
    pub fn memory_mib(&self) -> u64 {
        memory_kib(self.west.process.pid(), "VmHWM").expect("west runs") / 1024
    }

    /// Waits until west says this of its Link to east, and `ringway check` names east with it.
    pub fn wait_shown(&self, reason: &str, words: &str) {
        self.west.wait_status(&format!("{reason} of east is shown"), SOON, |status| {
            let conditions = status["conditions"].as_array()?;
            let shown = conditions.iter().any(|condition| {
                condition["object"] == "Link east"
                    && condition["reason"] == reason
                    && condition["message"].as_str().is_some_and(|message| message.contains(words))
            });
            shown.then_some(())
        });
        let report = self
            .west
            .admin("/v1/check")
            .and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
        let report = report.expect("`/v1/check` answers");
        let budget = find(&report["checks"], "id", "link.budget").expect("a check of the budgets");
        assert_eq!((&budget["object"], &budget["result"]), (&"east".into(), &"warn".into()), "{budget}");
    }

    /// East has harmed nobody: the admin port answered all the time, the callers of the others were answered, west can be
    /// changed and has kept its lease, and it never used more memory than `most_mib`.
    ///
    /// # Panics
    /// When it has.
    pub fn assert_unharmed(&mut self, most_mib: u64) {
        self.assert_applies("web");
        for (whose, traffic) in ["west's `cart`", "north's `good`"].into_iter().zip(self.traffic.drain(..)) {
            traffic.wait_more(50);
            let report = traffic.stop();
            let [median, p99] = [0.5, 0.99].map(|share| report.quantile(share));
            let (count, slowest) = (report.done.len(), report.slowest());
            println!("{whose}: {count} requests, median {median:?}, p99 {p99:?}, slowest {slowest:?}");
            report.assert_none_failed();
        }
        let worst = Duration::from_millis(self.admin.worst_ms.load(Ordering::Relaxed));
        let used = self.memory_mib();
        println!("west: at most {used} MiB, the admin port answered within {worst:?}");
        assert!(worst < AT_ONCE, "the admin port took {worst:?}");
        assert!(used <= most_mib, "{used} MiB are more than {most_mib}");
        let log = self.west.process.log();
        assert!(!log.contains("No lease in the registry store"), "west lost its lease");
        assert_eq!(self.status()["registry"]["standing"], "elected");
    }

    /// A change of what west declares is taken, and counts.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_applies(&self, name: &str) {
        let file = self.mesh.dir().join(format!("{name}.yaml"));
        std::fs::write(&file, service(name, &[("a", self.backends[0].address())])).expect("a file of ours");
        let said = self.mesh.cli_at(&self.west, &["apply", "-f", &file.to_string_lossy()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let host = format!("{name}.shop.west.mesh");
        wait_until("what was applied is served", SOON, || {
            (self.west.get(&host, "/").status == 200).then_some(())
        });
    }
}
