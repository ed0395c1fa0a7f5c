//! What a process does about its files: a reason to refuse them that passes is waited for, what is half written takes
//! nothing away, and nothing that somebody puts there, or a disk that hangs, holds anything up.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use e2e::backend::Backend;
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::{CART, Pair};
use e2e::process::{Process, cli, ringway};
use e2e::sidecar::SidecarSite;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::SOON;
use e2e::wait_until;
use identity::Role;
use identity::pki::{Issue, Validity, issue};

/// Waits until what `gateway` says of itself has something with every one of `parts`, and gives it.
fn wait_complaint(gateway: &Gateway, parts: &[&str]) -> String {
    let object = format!("Gateway {}", gateway.site.gateway);
    wait_until(&format!("a complaint with {parts:?}"), SOON, || {
        let complaints = gateway.complaints(&object);
        complaints.into_iter().find(|complaint| parts.iter().all(|part| complaint.contains(part)))
    })
}

fn wait_no_complaint(gateway: &Gateway) {
    let object = format!("Gateway {}", gateway.site.gateway);
    wait_until("no complaint", SOON, || gateway.complaints(&object).is_empty().then_some(()));
}

/// Issues a new certificate of the pair's west, valid from `from` on.
fn issue_from(pair: &Pair, from: SystemTime) {
    let west = Issue {
        ca_dir: pair.mesh.dir().join("ca"),
        cluster: "west".into(),
        role: Role::Gateway { id: "gw-1".into() },
        peers: vec![("east".into(), None)],
        out_dir: pair.west.site.dir.join("pki"),
        trust_domain: None,
        validity: Validity { not_before: from, not_after: from + Duration::from_secs(3600) },
    };
    issue(&west).unwrap();
}

/// A FIFO at `path`, in the place of what is there, that nobody ever writes to.
fn put_fifo(path: &Path) {
    let fifo = path.with_added_extension("fifo");
    assert!(Command::new("mkfifo").arg("-m").arg("600").arg(&fifo).status().unwrap().success());
    fs::rename(fifo, path).unwrap();
}

fn endpoints(backend: &Backend) -> [(&'static str, std::net::SocketAddr); 1] {
    [("a", backend.address())]
}

#[test]
fn a_renewed_certificate_is_taken_when_its_time_has_come() {
    let pair = Pair::new();
    let traffic = Traffic::start(pair.west.site.http, 2, Ask::get(CART));
    // Certificates know whole seconds only.
    let soon = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + Duration::from_secs(15);
    let from = SystemTime::UNIX_EPOCH + Duration::from_secs(soon.as_secs());
    issue_from(&pair, from);
    let said = wait_complaint(&pair.west, &["Accepted CertificateNotYetValid", "valid only from", " UTC"]);
    assert!(said.contains(&identity::utc(from)), "{said}");
    // It holds nothing else up.
    let search = service("search", &endpoints(pair.backend()));
    pair.west.site.write(&[link("east", &[pair.east.site.tunnel]), search]);
    pair.west.wait_service("shop/search", &["west"]);
    wait_complaint(&pair.west, &["CertificateNotYetValid"]);
    assert!(SystemTime::now() < from, "this machine is too slow for this test");
    assert!(!pair.west.process.log().contains("certificate changed"));

    pair.west.process.wait_log(&["Audit", "certificate changed"]);
    assert!(SystemTime::now() >= from);
    wait_no_complaint(&pair.west);
    traffic.wait_more(100);
    traffic.stop().assert_none_failed();
}

#[test]
fn a_manifest_written_in_two_steps_takes_nothing_away() {
    let pair = Pair::new();
    let search = service("search", &endpoints(pair.backend()));
    let first = [pair.east.site.manifest(), link("west", &[])].join("---\n");
    let whole = [&*first, &*service("cart", &endpoints(pair.backend())), &*search].join("---\n");
    wait_until("a machine that writes both in time", SOON, || {
        let traffic = Traffic::start(pair.west.site.http, 4, Ask::get(CART));
        traffic.wait_more(50);
        let began = Instant::now();
        fs::write(pair.east.site.file(), &first).unwrap();
        e2e::wait::pause(Duration::from_millis(400));
        fs::write(pair.east.site.file(), &whole).unwrap();
        let in_time = began.elapsed() < Duration::from_millis(800);
        pair.west.wait_service("shop/search", &["east"]);
        traffic.wait_more(100);
        let traffic = traffic.stop();
        in_time.then(|| traffic.assert_none_failed())
    });
    assert!(!pair.east.process.log().contains("MeshService shop/cart removed"));
}

/// The manifest of a gateway with a link to `west` and the services `s00` to `s11`, or the first of them.
fn many(backend: &Backend, count: usize) -> Vec<String> {
    let services = (0..count).map(|n| service(&format!("s{n:02}"), &endpoints(backend)));
    std::iter::once(link("west", &[])).chain(services).collect()
}

#[test]
fn a_change_that_takes_most_services_away_is_held_until_the_operators_word() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let east = mesh.site("east", &["west"]).start(&many(&backend, 12));
    // Half of them at once is believed, as from a peer.
    east.site.write(&many(&backend, 6));
    wait_until("six are gone", SOON, || (east.get("s06.shop.mesh", "/").status == 404).then_some(()));
    east.site.write(&many(&backend, 12));
    wait_until("they are back", SOON, || (east.get("s11.shop.mesh", "/").status == 200).then_some(()));

    east.site.write(&many(&backend, 5));
    let said = wait_complaint(&east, &["Accepted Held", "7 of 12 services"]);
    assert!(said.contains(" UTC") && said.contains("SIGHUP takes it now"), "{said}");
    assert_eq!(east.get("s11.shop.mesh", "/").status, 200);
    let said = mesh.cli_at(&east, &["check"]).out;
    assert!(said.contains("manifests.accepted") && said.contains("send SIGHUP if they are to go"), "{said}");
    // Written to its end after all.
    east.site.write(&many(&backend, 12));
    wait_no_complaint(&east);
    assert_eq!(east.process.log().matches("files: MeshService shop/s11 removed").count(), 1);

    east.site.write(&many(&backend, 5));
    wait_complaint(&east, &["Accepted Held"]);
    east.process.hang_up();
    east.process.wait_log(&["Audit", "MeshService shop/s05 removed", "SIGHUP"]);
    assert_eq!(east.get("s11.shop.mesh", "/").status, 404);
    wait_no_complaint(&east);
}

#[test]
fn a_change_that_is_held_is_taken_when_its_time_is_over() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let east = mesh.site("east", &["west"]).start(&many(&backend, 12));
    east.site.write(&many(&backend, 2));
    wait_complaint(&east, &["Accepted Held", "10 of 12 services"]);
    let held = Instant::now();
    wait_until("they are gone", SOON * 2, || (east.get("s11.shop.mesh", "/").status == 404).then_some(()));
    assert!(held.elapsed() > Duration::from_secs(40), "{:?}", held.elapsed());
    wait_no_complaint(&east);
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_named_and_holds_nothing_up() {
    let mut pair = Pair::new();
    let pki = pair.east.site.dir.join("pki");
    for (file, reason) in [
        ("tls.crt", "InvalidIdentity"),
        ("tls.key", "InvalidIdentity"),
        ("bundles/west.pem", "InvalidBundle"),
    ] {
        let path = pki.join(file);
        let kept = path.with_added_extension("kept");
        fs::rename(&path, &kept).unwrap();
        put_fifo(&path);
        wait_complaint(&pair.east, &[&format!("Accepted {reason}"), "is a FIFO", &path.to_string_lossy()]);
        fs::rename(&kept, &path).unwrap();
        wait_no_complaint(&pair.east);
    }
    let manifest = pair.east.site.file();
    put_fifo(&manifest);
    wait_complaint(&pair.east, &["Accepted InvalidManifests", "this is a FIFO"]);
    assert_eq!(pair.get("/").status, 200);
    assert!(pair.east.process.terminate().success());

    // Nor does a start wait for one.
    let said = cli(&pair.east.site.dir, &["gateway", "-f", manifest.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("this is a FIFO"), "{said:?}");
}

#[test]
fn a_sidecar_names_what_it_cannot_take_and_ends_whatever_its_files_are() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west"]).start(&[link("west", &[])]);
    let mut sidecar = SidecarSite::new(&mesh, "cart", "cart", &east.site).start_up();
    let bundle = sidecar.site.dir.join("pki/bundles/east.pem");
    let kept = fs::read(&bundle).unwrap();
    let complains = |sidecar: &e2e::sidecar::Sidecar, part: &str| {
        let conditions = sidecar.status().unwrap_or_default()["conditions"].to_string();
        conditions.contains(part).then_some(())
    };
    put_fifo(&bundle);
    wait_until("it is named", SOON, || complains(&sidecar, "is a FIFO"));
    let shown = mesh.cli(&["status", "--admin", &sidecar.site.admin.to_string()]).out;
    assert!(shown.contains("Sidecar cart") && shown.contains("InvalidBundle"), "{shown}");
    fs::remove_file(&bundle).unwrap();
    fs::write(&bundle, kept).unwrap();
    wait_until("it is taken", SOON, || {
        (sidecar.status()?["conditions"].as_array()?.is_empty()).then_some(())
    });
    put_fifo(&bundle);
    wait_until("it is named", SOON, || complains(&sidecar, "is a FIFO"));
    assert!(sidecar.process.terminate().success());
}

#[test]
fn a_state_directory_that_others_can_write_to_stops_the_start_and_the_remedy_is_named() {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["west"]);
    site.write(&[]);
    let state = site.dir.join("state");
    let start = || {
        let said = cli(&site.dir, &["gateway", "-f", site.file().to_str().unwrap()]);
        assert_eq!(said.code, Some(1), "{said:?}");
        said.err
    };
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    let said = start();
    assert!(said.contains("mode 0777") && said.contains("chmod go-w"), "{said}");

    // What was planted while it was open leads nowhere.
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let precious = site.dir.join("precious");
    fs::write(&precious, "").unwrap();
    for file in ["lock", "catalog", "registry.lock", "registry.redb", "tunnel-keys"] {
        symlink(&precious, state.join(file)).unwrap();
        let said = start();
        assert!(said.contains(&format!("state/{file}` is a symbolic link")), "{said}");
        fs::remove_file(state.join(file)).unwrap();
    }
    for file in ["catalog.new", "registry.redb.new", "tunnel-keys.new", "tunnel.sock", "admin.sock"] {
        let _ = fs::remove_file(state.join(file));
        symlink(&precious, state.join(file)).unwrap();
    }
    let east = site.start(&[]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "");
    assert_eq!(fs::metadata(&precious).unwrap().permissions().mode() & 0o777, 0o644);
    drop(east);
}

mod with_mounts {
    use super::*;

    /// A gateway in a room of its own, in which file systems can be mounted by whoever is root there.
    struct Room {
        keeper: Process,
        gateway: Gateway,
    }

    impl Room {
        fn enter(keeper: &Process) -> Command {
            let mut command = Command::new("nsenter");
            command.args([
                "--target",
                &keeper.pid().to_string(),
                "--user",
                "--mount",
                "--preserve-credentials",
            ]);
            command
        }

        fn start(site: &e2e::mesh::Site, objects: &[String]) -> Self {
            site.write(objects);
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--mount", "sh", "-c", "echo here && exec sleep infinity"]);
            let keeper = Process::start("the room", command, &site.dir.join("room.log"));
            keeper.wait_log(&["here"]);
            let mut command = Self::enter(&keeper);
            command.arg(ringway()).args(["gateway", "-f"]).arg(site.file());
            let process = Process::start("west/gw-1", command, &site.dir.join("log"));
            let gateway = Gateway { site: site.clone(), process };
            gateway.wait_ready();
            Self { keeper, gateway }
        }

        /// Mounts a file system at `place` that never answers, until what is given is dropped.
        fn hang(&self, place: &Path) -> Process {
            let mut command = Self::enter(&self.keeper);
            let script = "exec 9<>/dev/fuse; \
                          mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 none \"$0\" && echo hangs && \
                          exec sleep infinity";
            command.args(["sh", "-c", script]).arg(place);
            let holder = Process::start("what hangs", command, &self.gateway.site.dir.join("hangs.log"));
            holder.wait_log(&["hangs"]);
            holder
        }

        fn unmount(&self, place: &Path) {
            assert!(Self::enter(&self.keeper).arg("umount").arg(place).status().unwrap().success());
        }
    }

    #[test]
    fn a_file_system_that_hangs_is_named_and_holds_up_neither_changes_nor_the_end() {
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let east = mesh.site("east", &["west"]);
        let east = east.start(&[link("west", &[]), service("cart", &endpoints(&backend))]);
        let site = mesh.site("west", &["east", "north"]);
        let mut room = Room::start(&site, &[link("east", &[east.site.tunnel])]);
        room.gateway.wait_service("shop/cart", &["east"]);
        let traffic = Traffic::start(site.http, 2, Ask::get(CART));
        let pki = site.dir.join("pki");
        let hanging = room.hang(&pki);
        wait_complaint(&room.gateway, &["Accepted NotRead", "does their file system hang?"]);

        // What is applied is taken: a service at once, a link without its bundle, which is there behind the mount.
        let apply = |text: &str| {
            fs::write(mesh.dir().join("applied.yaml"), text).unwrap();
            let said = mesh.cli_at(&room.gateway, &["apply", "-f", "applied.yaml"]);
            assert_eq!(said.code, Some(0), "{said:?}");
        };
        apply(&service("web", &endpoints(&backend)));
        room.gateway.wait_service("shop/web", &["west"]);
        apply(&link("north", &[]));
        wait_until("the link says why it is down", SOON, || {
            let complaints = room.gateway.complaints("Link north");
            complaints.iter().any(|c| c.contains("its trust bundle was not read")).then_some(())
        });
        assert_eq!(mesh.cli_at(&room.gateway, &["check"]).code, Some(1));

        // It answers again.
        drop(hanging);
        room.unmount(&pki);
        wait_no_complaint(&room.gateway);
        wait_until("the link has its bundle", SOON, || {
            room.gateway.complaints("Link north").is_empty().then_some(())
        });
        traffic.wait_more(100);
        traffic.stop().assert_none_failed();

        let _hanging = room.hang(&pki);
        wait_complaint(&room.gateway, &["Accepted NotRead"]);
        room.gateway.process.ask_to_end();
        let ended = wait_until("the end", SOON, || room.gateway.process.ended());
        assert!(ended.success(), "{ended}");
    }

    #[test]
    fn a_second_sigterm_ends_a_start_and_a_run_that_wait_for_a_disk() {
        let mesh = Mesh::new();
        let site = mesh.site("west", &["east"]);
        let mut room = Room::start(&site, &[]);
        let state = site.dir.join("state");
        let _hanging = room.hang(&state);
        room.gateway.process.ask_to_end();
        room.gateway.process.wait_log(&["Draining"]);
        room.gateway.process.ask_to_end();
        wait_until("the end", SOON, || room.gateway.process.ended());

        let mut command = Room::enter(&room.keeper);
        command.arg(ringway()).args(["gateway", "-f"]).arg(site.file());
        let mut waiting = Process::start("west/gw-1", command, &site.dir.join("waiting.log"));
        waiting.wait_log(&["Still waiting for the disk", "state directory"]);
        waiting.terminate();
    }
}
