//! Who starts a process: the one before it, or systemd.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;

use e2e::manifest::{link, listener};
use e2e::mesh::{Gateway, Mesh};
use e2e::process::{Process, ringway, root};
use e2e::sidecar::{Sidecar, SidecarSite};
use e2e::wait::{SOON, wait_until};

use super::{World, address, echoes, ends_well, greeted};

/// A process that is not our child; killed with the test.
struct Stray(String);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", self.0)]).status();
    }
}

/// The value of `field` in the last line of a log with `part`.
fn field(log: &str, part: &str, field: &str) -> Option<String> {
    let line = log.lines().rfind(|line| line.contains(part))?;
    let value = line.split(&format!("{field}=")).nth(1)?;
    Some(value.split_whitespace().next()?.trim_matches('"').to_owned())
}

#[test]
fn a_signal_has_a_process_start_the_next() {
    let mut world = World::new();
    let traffic = world.traffic(8);
    let mut stream = greeted(world.at);

    // One that cannot start: its file is broken by now.
    let whole = std::fs::read(world.west.site.file()).unwrap();
    std::fs::write(world.west.site.file(), "kind: Gatewax\n").unwrap();
    world.west.process.ask_for_heir();
    world.west.process.wait_log(&["The process that was to take over has ended"]);
    std::fs::write(world.west.site.file(), whole).unwrap();

    world.west.process.ask_for_heir();
    wait_until("it is taken over", SOON, || {
        world.west.process.log().contains("taken_over=true").then_some(())
    });
    let heir = field(&world.west.process.log(), "Started a process", "process").unwrap();
    let _heir = Stray(heir.clone());
    echoes(&mut stream, b"still there");
    traffic.wait_more(50);
    ends_well(stream);
    assert!(world.west.process.wait_end().success());
    traffic.wait_more(50);
    traffic.stop().assert_none_failed();
    ends_well(greeted(world.at));
    let parent = std::fs::read_to_string(format!("/proc/{heir}/status")).unwrap();
    assert!(parent.contains("ringway"), "{parent}");
}

/// `ringway` as systemd starts it, with sockets that it has bound.
fn activated(sockets: &[String]) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("tests/clients/socket_activation.py")).args(sockets).arg("--").arg(ringway());
    command
}

/// What systemd would hear next.
fn told(socket: &UnixDatagram) -> String {
    let mut said = [0; 1024];
    let count = socket.recv(&mut said).expect("it says something");
    String::from_utf8(said[..count].to_vec()).unwrap()
}

#[test]
fn systemd_passes_sockets_and_hears_of_it() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["north"]).start(&[link("north", &[])]);
    let site = mesh.site("north", &["east"]);
    site.write(&[link("east", &[east.site.tunnel])]);
    let hears = mesh.dir().join("notify.sock");
    let notified = UnixDatagram::bind(&hears).unwrap();
    notified.set_read_timeout(Some(SOON)).unwrap();
    let start = |more: &[&str]| {
        let unused = address();
        let mut command = activated(&[
            format!("tcp:{}", site.tunnel),
            format!("udp:{}", site.tunnel),
            format!("tcp:{}", site.http),
            format!("tcp:{}", site.admin),
            format!("tcp:{unused}"),
        ]);
        command.args(["gateway", "-f"]).arg(site.file()).args(more);
        command.current_dir(&site.dir).env("NOTIFY_SOCKET", &hears);
        (Process::start("north", command, &site.dir.join("log")), unused)
    };
    let (process, unused) = start(&["--workers", "2"]);
    // Of one socket two workers take what comes.
    let north = Gateway { site: site.clone(), process };
    north.wait_ready();
    assert_eq!(told(&notified), format!("MAINPID={}\nREADY=1\n", north.process.pid()));
    north.process.wait_log(&["nothing is declared to listen there", &unused.to_string()]);
    north.wait_peer("east", "up");
    drop(north);

    // Nobody else may bind what systemd holds, and nobody has to.
    let (process, _) = start(&["--take-over"]);
    let mut north = Gateway { site: site.clone(), process };
    north.wait_ready();
    north.process.wait_log(&["No gateway runs here to take over from"]);
    assert!(told(&notified).contains("READY=1"));
    assert!(north.process.terminate().success());
    assert_eq!(told(&notified), "STOPPING=1\n");

    // It hears of the process that comes after one, or it would take the end of that for the service's.
    let (process, _) = start(&[]);
    north.process = process;
    north.wait_ready();
    assert!(told(&notified).contains("READY=1"));
    north.process.ask_for_heir();
    let heir = wait_until("it has started another", SOON, || {
        field(&north.process.log(), "Started a process", "process").map(Stray)
    });
    assert_eq!(told(&notified), format!("MAINPID={}\nREADY=1\n", heir.0));
    assert!(north.process.wait_end().success());
}

#[test]
fn a_process_that_spells_its_folder_in_another_way_takes_over_too() {
    let mut world = World::new();
    let start = |world: &World, file: &Path| {
        let mut command = Command::new(ringway());
        command.args(["gateway", "--take-over", "-f"]).arg(file).current_dir(&world.west.site.dir);
        let heir = Process::start("west", command, &world.west.site.dir.join("log"));
        heir.wait_log(&["taken_over=true"]);
        heir
    };
    let file = world.west.site.file();
    for file in [Path::new("../west").join(file.file_name().unwrap()), file] {
        let heir = start(&world, &file);
        assert!(std::mem::replace(&mut world.west.process, heir).wait_end().success());
        for socket in ["tunnel.sock", "admin.sock", "takeover.sock"] {
            UnixStream::connect(world.west.site.dir.join("state").join(socket)).unwrap();
        }
        UnixStream::connect(&world.unix).unwrap();
        ends_well(greeted(world.at));
        assert!(!world.west.process.log().contains("nothing is declared to listen there"));
        assert!(!world.west.process.log().contains("No gateway runs here"));
    }
}

#[test]
fn a_sidecar_takes_all_that_systemd_passes() {
    let world = World::new();
    let (at, unused) = (address(), address());
    let mut site = SidecarSite::new(&world.mesh, "web-1", "web", &world.west.site);
    site.objects = vec![listener("db", &at.to_string(), "protocol: tcp\n  service: db")];
    site.write();
    let sockets = [site.proxy, site.admin, at, unused].map(|address| format!("tcp:{address}"));
    let mut command = activated(&sockets);
    command.args(["sidecar", "-f"]).arg(site.file()).current_dir(&site.dir);
    let process = Process::start("web-1", command, &site.dir.join("log"));
    let sidecar = Sidecar { site, process };
    sidecar.wait_gateway("gw-1", "up");
    sidecar.process.wait_log(&["nothing is declared to listen there", &unused.to_string()]);
    // It could not bind that: systemd has it.
    ends_well(greeted(at));
}
