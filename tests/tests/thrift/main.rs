//! Calls of Thrift, with Debian's library for Python at both ends, and of Mux, with Scales as the client: each is placed and
//! balanced by itself.
#![allow(clippy::unwrap_used)]

mod calls_with_thrift;
mod failures_with_thrift;
mod mux_by_hand;
mod mux_with_scales;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use e2e::manifest::{link, listener, of_connections, policy};
use e2e::mesh::{Gateway, Mesh};
use e2e::port::free_port;
use e2e::process::{Process, Said, root, run};
use e2e::sidecar::{Sidecar, SidecarSite};
use e2e::wait::{SOON, wait_until};

/// The longest that a check may take.
const CHECK_MAX: Duration = Duration::from_secs(120);
/// Python with Debian's library of Thrift.
const PYTHON: &str = "/usr/bin/python3";

/// Where the code is that `thrift` makes of the interface.
fn generated() -> &'static Path {
    static MADE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut thrift = Command::new("thrift");
        thrift.args(["--gen", "py", "-out"]).arg(dir.path()).arg(root().join("tests/clients/store.thrift"));
        let said = run(thrift, CHECK_MAX);
        assert_eq!(said.code, Some(0), "{said:?}: `tests/run` installs thrift-compiler and python3-thrift");
        dir
    });
    dir.path()
}

/// How messages follow each other, and how they are written.
#[derive(Clone, Copy, Debug)]
struct Form(&'static str, &'static str);

const FRAMED: Form = Form("framed", "binary");
/// By Mux.
const MUX: Form = Form("mux", "binary");

impl Form {
    /// What its port speaks.
    fn protocol(self) -> &'static str {
        if self.0 == "mux" { "mux" } else { "thrift" }
    }

    /// A listener of that at an address, for the service.
    fn listener(self, at: SocketAddr) -> String {
        listener("store", &at.to_string(), &format!("protocol: {}\n  service: store", self.protocol()))
    }
}

/// A server.
struct Store {
    name: String,
    at: SocketAddr,
    form: Form,
    dir: PathBuf,
    process: Process,
}

impl Store {
    fn start(dir: &Path, name: &str, form: Form) -> Self {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let process = Self::spawn(dir, name, at, form);
        Self { name: name.into(), at, form, dir: dir.into(), process }
    }

    fn spawn(dir: &Path, name: &str, at: SocketAddr, form: Form) -> Process {
        let mut command = Command::new(PYTHON);
        let program = format!("tests/clients/{}_server.py", form.protocol());
        command.arg(root().join(program)).arg(generated()).args([name, &at.port().to_string()]);
        if form.protocol() == "thrift" {
            command.args([form.0, form.1]);
        }
        let process = Process::start(name, command, &dir.join(format!("{name}.log")));
        wait_until(&format!("{name} listens"), SOON, || TcpStream::connect(at).ok());
        process
    }

    fn start_again(&mut self) {
        self.process = Self::spawn(&self.dir, &self.name, self.at, self.form);
    }
}

/// East serves `shop/store`, west listens for it.
struct World {
    west: Gateway,
    east: Gateway,
    at: SocketAddr,
    stores: Vec<Store>,
    form: Form,
    mesh: Mesh,
}

impl World {
    /// With so many endpoints, and lines of a policy on both sides.
    fn new(endpoints: usize, form: Form, rest: &str) -> Self {
        Self::of(&["a", "b"][..endpoints], form, rest)
    }

    /// With endpoints of these names.
    fn of(names: &[&str], form: Form, rest: &str) -> Self {
        let mesh = Mesh::new();
        let stores: Vec<_> = names.iter().map(|name| Store::start(mesh.dir(), name, form)).collect();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let endpoints: Vec<_> = stores.iter().map(|store| (&*store.name, store.at)).collect();
        let with = |mut objects: Vec<String>| {
            if !rest.is_empty() {
                objects.push(policy("store", rest));
            }
            objects
        };
        let east = east
            .start(&with(vec![link("west", &[]), of_connections("store", form.protocol(), &endpoints, "")]));
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let west = west.start(&with(vec![link("east", &[east.site.tunnel]), form.listener(at)]));
        west.wait_service("shop/store", &["east"]);
        Self { west, east, at, stores, form, mesh }
    }

    /// Another cluster that serves it, linked with west.
    fn with_north(&mut self) -> (Store, Gateway) {
        let other = Store::start(self.mesh.dir(), "other", self.form);
        let north = self.mesh.site("north", &["west"]);
        let serves = of_connections("store", self.form.protocol(), &[("a", other.at)], "");
        let north = north.start(&[link("west", &[]), serves]);
        let mut objects = std::fs::read_to_string(self.west.site.file()).unwrap();
        objects.push_str("---\n");
        objects.push_str(&link("north", &[north.site.tunnel]));
        self.mesh.issue("ca", "west", &["east", "north"], &self.west.site.dir.join("pki"));
        std::fs::write(self.west.site.file(), objects).unwrap();
        self.west.process.hang_up();
        self.west.wait_service("shop/store", &["east", "north"]);
        (other, north)
    }

    /// A sidecar in west, and where it listens for `shop/store`.
    fn sidecar(&self) -> (Sidecar, SocketAddr) {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        site.objects = vec![self.form.listener(at)];
        (site.start_up(), at)
    }
}

/// A client that checks something.
fn checking(at: SocketAddr, Form(transport, protocol): Form, check: &str) -> Command {
    let mut command = Command::new(PYTHON);
    command.arg(root().join("tests/clients/thrift_client.py")).arg(generated());
    command.args([&at.port().to_string(), transport, protocol, check]);
    command
}

/// What a client says whose check holds.
fn client(at: SocketAddr, form: Form, check: &str, rest: &[&str]) -> String {
    let mut command = checking(at, form, check);
    command.args(rest);
    let Said { code, out, err } = run(command, CHECK_MAX);
    assert_eq!(code, Some(0), "{check} of {form:?}: {err}");
    out
}
