//! A disk that is full: what was taken stays, requests go on, what cannot be kept is refused with the reason, and once
//! there is room it is written again. The state directory of a gateway is a small disk of its own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use e2e::backend::Backend;
use e2e::manifest::{exported, link, service};
use e2e::mesh::{Gateway, Mesh, Site};
use e2e::pair::CART;
use e2e::process::{Process, Said, ringway};
use e2e::traffic::{Ask, Traffic};
use e2e::wait::SOON;
use e2e::wait_until;

/// A small disk in the place of a gateway's state directory, seen by those alone who are in the same room: nobody needs
/// to be root for it, and it is gone with them.
struct SmallDisk {
    /// Keeps the room.
    keeper: Process,
    site: Site,
}

impl SmallDisk {
    fn new(site: &Site) -> Self {
        let state = site.dir.join("state");
        fs::create_dir_all(&state).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c"]);
        command.arg("mount -t tmpfs -o size=4m,mode=700 none state && echo mounted && exec sleep infinity");
        command.current_dir(&site.dir);
        let keeper = Process::start("the disk", command, &site.dir.join("disk.log"));
        keeper.wait_log(&["mounted"]);
        Self { keeper, site: site.clone() }
    }

    /// Starts the gateway with its state there, and does not wait.
    fn spawn(&self) -> Gateway {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.pid().to_string(), "--user", "--mount"]);
        command.args(["--preserve-credentials", "--wd=."]).current_dir(&self.site.dir);
        command.arg(ringway()).args(["gateway", "-f"]).arg(self.site.file());
        let process = Process::start("west/gw-1", command, &self.site.dir.join("log"));
        Gateway { site: self.site.clone(), process }
    }

    /// A path in the state directory, as it looks from outside of the room.
    fn path(&self, name: &str) -> PathBuf {
        let state = self.site.dir.join("state");
        let root = format!("/proc/{}/root", self.keeper.pid());
        PathBuf::from(root).join(state.strip_prefix("/").unwrap()).join(name)
    }

    fn fill(&self) {
        let mut ballast = fs::File::create(self.path("ballast")).unwrap();
        for size in [65_536, 4096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }

    /// `ringway ARGS` by the admin socket, which is there, too.
    fn cli(&self, mesh: &Mesh, args: &[&str]) -> Said {
        mesh.cli(&[args, &["--admin-socket", self.path("admin.sock").to_str().unwrap()]].concat())
    }

    /// Applies `shop/NAME` and gives why it was refused, if it was.
    fn apply(&self, mesh: &Mesh, name: &str) -> Option<String> {
        let endpoints: Vec<_> =
            (0..100).map(|n| (format!("endpoint-{n}"), ([10, 0, 0, n], 9001).into())).collect();
        let endpoints: Vec<_> = endpoints.iter().map(|(id, at)| (id.as_str(), *at)).collect();
        fs::write(mesh.dir().join("applied.yaml"), exported(name, &endpoints, &[])).unwrap();
        let said = self.cli(mesh, &["apply", "-f", "applied.yaml"]);
        (said.code != Some(0)).then_some(said.err)
    }

    /// The services that were applied.
    fn applied(&self, mesh: &Mesh) -> Vec<String> {
        let said = self.cli(mesh, &["get", "MeshService", "-o", "json"]);
        let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let names = said["objects"].as_array().unwrap().iter().filter_map(|o| o["name"].as_str());
        names.map(String::from).collect()
    }
}

mod with_mounts {
    use super::*;

    #[test]
    fn a_full_disk_loses_nothing_stops_no_request_and_is_used_again() {
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let endpoint = [("a", backend.address())];
        let east = east.start(&[link("west", &[]), service("cart", &endpoint)]);
        west.write(&[link("east", &[east.site.tunnel])]);
        let disk = SmallDisk::new(&west);
        let mut west = disk.spawn();
        west.wait_ready();
        west.wait_service("shop/cart", &["east"]);
        let load = Traffic::start(west.site.http, 2, Ask::get(CART));
        assert_eq!(disk.apply(&mesh, "w00"), None);

        disk.fill();
        // Pages that the registry's file has already may take some more.
        let mut taken = vec!["w00".to_owned()];
        let refused = loop {
            let name = format!("w{:02}", taken.len());
            match disk.apply(&mesh, &name) {
                None => taken.push(name),
                Some(refused) => break refused,
            }
            assert!(taken.len() < 99, "the disk is never full");
        };
        assert!(refused.contains("No space left on device"), "{refused}");
        // What peers tell serves all the same.
        east.site.write(&[link("west", &[]), service("cart", &endpoint), service("basket", &endpoint)]);
        east.process.hang_up();
        west.wait_service("shop/basket", &["east"]);
        assert_eq!(disk.applied(&mesh), taken);
        load.wait_more(100);
        load.stop().assert_none_failed();

        // Started again on a disk that is still full.
        west.process.kill();
        let unsaved = |west: &Gateway| west.process.log().matches("Saving the last catalog failed").count();
        let before = unsaved(&west);
        west = disk.spawn();
        west.wait_ready();
        // What was refused may have been written all the same: nobody knows after a failed write.
        let kept = disk.applied(&mesh);
        assert!(taken.iter().all(|name| kept.contains(name)), "{kept:?}");
        west.wait_service("shop/basket", &["east"]);
        let load = Traffic::start(west.site.http, 2, Ask::get(CART));
        assert!(disk.apply(&mesh, "refused").is_some());

        // Both are tried again without a further change.
        wait_until("the last catalog is not saved", SOON, || (unsaved(&west) > before).then_some(()));
        disk.make_room();
        wait_until("the last catalog has the last import", SOON, || {
            let catalog = fs::read(disk.path("catalog")).ok()?;
            catalog.windows(6).any(|window| window == b"basket").then_some(())
        });
        wait_until("the registry has it, too", SOON, || {
            let dump = west.admin("/v1/registry")?.text();
            dump.contains("/ringway/v1/imports/east/shop/basket").then_some(())
        });
        wait_until("it takes changes again", SOON, || disk.apply(&mesh, "later").is_none().then_some(()));
        taken.push("later".into());
        load.wait_more(100);
        load.stop().assert_none_failed();
        west.process.kill();
        drop(east);
        west = disk.spawn();
        west.wait_ready();
        let kept = disk.applied(&mesh);
        assert!(taken.iter().all(|name| kept.contains(name)), "{kept:?}");
        assert_eq!(west.get("basket.shop.mesh", "/").status, 503, "known, and its cluster is gone");
    }
}
