//! From the death of the elected gateway until the other one writes what a peer exports.

use std::time::{Duration, Instant};

use e2e::duo::{Duo, wait_answered, wait_standing};
use e2e::etcd::{Etcd, in_path};
use e2e::pause;

use super::{LIMIT, Size, print};

pub(super) fn run(size: &Size) -> Result<(), String> {
    let Some(etcd) = in_path() else {
        eprintln!("etcd is not installed, takeover is left out: apt-get install etcd-server");
        return Ok(());
    };
    let mut duo = Duo::on(Etcd::start(&etcd, 1));
    let mut times = Vec::new();
    for death in 1..=size.deaths {
        let (name, end) = (format!("t{death}"), format!("/t{death}"));
        let killed = Instant::now();
        duo.first.process.kill();
        duo.serve(&name);
        while !duo.stored.imports().is_some_and(|all| all.iter().any(|entry| entry.key.ends_with(&end))) {
            if killed.elapsed() > LIMIT {
                return Err(format!("no takeover within {LIMIT:?}"));
            }
            pause(Duration::from_millis(5));
        }
        times.push(killed.elapsed());
        eprintln!("death {death} of {}: {:.1} s", size.deaths, killed.elapsed().as_secs_f64());
        wait_standing(&duo.second, "elected");
        duo.first.restart();
        wait_answered(&duo.first);
        duo.first.wait_service(&format!("shop/{name}"), &["east"]);
        std::mem::swap(&mut duo.first, &mut duo.second);
    }
    let slowest = times.into_iter().max().unwrap_or_default();
    print("takeover_ms", slowest.as_secs_f64() * 1e3, 0, "ms");
    Ok(())
}
