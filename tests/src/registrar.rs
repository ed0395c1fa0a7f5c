//! A real `ringway register` beside the endpoints of a test.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::mesh::{Mesh, Site};
use crate::process::{Process, ringway};

/// Starts `ringway register ARGS` for an endpoint of `shop/SERVICE` at `address`, with the gateway of `site`. `ttl` is how
/// long it lives after the last sign: long where it shall live, so that a busy machine does not end it.
///
/// # Panics
/// When it cannot be started.
pub fn register(
    mesh: &Mesh,
    site: &Site,
    (service, id, address): (&str, &str, SocketAddr),
    ttl: &str,
    args: &[&str],
) -> Process {
    let mut command = Command::new(ringway());
    // As a shell starts it: with its own process group.
    command.process_group(0);
    command.args(["register", "--service", &format!("shop/{service}"), "--ttl", ttl, "--id", id]);
    command.args(["--host", &address.ip().to_string(), "--port", &format!("web={}", address.port())]);
    command.arg("--admin-socket").arg(site.dir.join("state/admin.sock")).args(args);
    Process::start(&format!("registrar {id}"), command, &mesh.dir().join(format!("register-{id}.log")))
}
