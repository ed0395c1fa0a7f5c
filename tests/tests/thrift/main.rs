//! Calls of Thrift, with Debian's library for Python at both ends: each is placed and balanced by itself.
#![allow(clippy::unwrap_used)]

mod calls_with_thrift;
mod failures_with_thrift;

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

    fn spawn(dir: &Path, name: &str, at: SocketAddr, Form(transport, protocol): Form) -> Process {
        let mut command = Command::new(PYTHON);
        command.arg(root().join("tests/clients/thrift_server.py")).arg(generated());
        command.args([name, &at.port().to_string(), transport, protocol]);
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
    mesh: Mesh,
}

impl World {
    /// With so many endpoints, and lines of a policy on both sides.
    fn new(endpoints: usize, form: Form, rest: &str) -> Self {
        let mesh = Mesh::new();
        let stores: Vec<_> =
            ["a", "b"][..endpoints].iter().map(|name| Store::start(mesh.dir(), name, form)).collect();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let endpoints: Vec<_> = stores.iter().map(|store| (&*store.name, store.at)).collect();
        let with = |mut objects: Vec<String>| {
            if !rest.is_empty() {
                objects.push(policy("store", rest));
            }
            objects
        };
        let east =
            east.start(&with(vec![link("west", &[]), of_connections("store", "thrift", &endpoints, "")]));
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let west = west.start(&with(vec![
            link("east", &[east.site.tunnel]),
            listener("store", &at.to_string(), "protocol: thrift\n  service: store"),
        ]));
        west.wait_service("shop/store", &["east"]);
        Self { west, east, at, stores, mesh }
    }

    /// A sidecar in west, and where it listens for `shop/store`.
    fn sidecar(&self) -> (Sidecar, SocketAddr) {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        site.objects = vec![listener("store", &at.to_string(), "protocol: thrift\n  service: store")];
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
