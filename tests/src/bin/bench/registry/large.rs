//! Ten thousand services of one peer: the first sync, the memory, the rest, requests beside changes, a restart.

use std::time::{Duration, Instant};

use e2e::exporter::Exporter;
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pause;

use super::{Size, at_rest, print, resident, until};
use crate::chain::{Chain, THREADS};
use crate::figures::median;
use crate::load::Tool;
use crate::noise::Moment;

/// Services that east exports.
const MANY: usize = 10_000;
/// The last of them in the order in which a snapshot tells them.
const LAST: &str = "s09999.shop.east.mesh";
/// Services that north changes, and how often it does each second.
const CHANGING: usize = 1_000;
const CHANGES_PER_SECOND: usize = 20;
/// Requests a second beside the changes.
const RATE: u32 = 500;

pub(super) fn run(size: &Size) -> Result<(), String> {
    let tool = Tool::find();
    let mesh = Mesh::new();
    let (backend, address) = tool.backend(&mesh, "e");
    let (west, east) = (mesh.site("west", &["east", "north"]), mesh.site("east", &["west"]));
    mesh.issue("ca", "north", &["west"], &mesh.dir().join("north"));
    let mut objects = vec![link("west", &[])];
    objects.extend((0..MANY).map(|n| service(&format!("s{n:05}"), &[("e", address)])));
    let workers = THREADS.to_string();
    let start = |site: &e2e::mesh::Site| -> Result<Gateway, String> {
        let gateway = site.spawn_with(["--workers", &workers]);
        until(site.admin, "localhost", |_| true)?;
        gateway.wait_ready();
        Ok(gateway)
    };
    east.write(&objects);
    let east = start(&east)?;
    west.write(&[link("north", &[])]);
    let mut west = start(&west)?;
    let changing: Vec<_> = (0..CHANGING).map(|n| format!("n{n:04}")).collect();
    let target = ("west", west.site.tunnel);
    let north = Exporter::link(&mesh.dir().join("north"), target, "north", changing.iter().cloned())?;
    until(west.site.http, "n0999.shop.north.mesh", |status| status != 404)?;

    let before = resident(&west)?;
    west.site.write(&[link("north", &[]), link("east", &[east.site.tunnel])]);
    west.process.hang_up();
    print("sync10k_s", until(west.site.http, LAST, |status| status == 200)?, 2, "s");
    print("import10k_mib", (resident(&west)? - before) / f64::from(1 << 20), 1, "MiB");
    print("idle_cpu_pct", at_rest(&west, size.rest)?, 2, "%");
    print("exporter_idle_cpu_pct", at_rest(&east, size.rest)?, 2, "%");

    let host = "s05000.shop.mesh";
    let chain = Chain { name: "west", address: west.site.http, host, keys: 0, pids: Vec::new() };
    let p99 = || tool.open(&chain, RATE, size.seconds)?.value("p99");
    let ours = [std::process::id(), backend.pid(), west.process.pid(), east.process.pid()];
    let (mut rest, mut changing_too) = (Vec::new(), Vec::new());
    let before = Moment::now(&ours)?;
    for round in 1..=size.rounds {
        eprintln!("round {round} of {}", size.rounds);
        // Each goes first in turn: what the machine does besides comes and goes.
        let first_at_rest = round % 2 == 1;
        if first_at_rest {
            rest.push(p99()?);
        }
        changing_too.push(churn(&north, &changing, p99)?);
        if !first_at_rest {
            rest.push(p99()?);
        }
    }
    let [rest, changing_too] = [rest, changing_too].map(|p99| median(&p99).unwrap_or(f64::NAN));
    eprintln!("p99 at rest {rest} us, beside changes {changing_too} us");
    print("p99_under_churn.ratio", changing_too / rest, 2, "x");
    print("p99_under_churn.noise", Moment::now(&ours)?.others_since(&before), 0, "%");

    west.process.kill();
    let started = Instant::now();
    west = west.site.spawn_with(["--workers", &workers]);
    until(west.site.http, LAST, |status| status == 200)?;
    print("restart10k_s", started.elapsed().as_secs_f64(), 2, "s");
    Ok(())
}

/// What `measure` gives while `exporter` changes a thousand services a second, a few at a time.
fn churn<T>(exporter: &Exporter, names: &[String], measure: impl FnOnce() -> T) -> T {
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let started = Instant::now();
            let pieces = names.chunks(names.len().div_ceil(CHANGES_PER_SECOND)).cycle();
            for (piece, at) in pieces.zip(1_u32..) {
                exporter.change(piece.iter().cloned());
                let next = started + at * Duration::from_secs(1) / CHANGES_PER_SECOND as u32;
                pause(next.saturating_duration_since(Instant::now()));
                if stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Empty) {
                    break;
                }
            }
        });
        let measured = measure();
        drop(stop);
        measured
    })
}
