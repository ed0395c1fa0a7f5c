//! What can go wrong, one at a time.

use std::time::Duration;

use e2e::relay::{self, Toward};
use e2e::trio::CLUSTERS;
use e2e::wait::pause;

use crate::World;

/// A fault, drawn whole, so that a seed gives the same ones again.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Whom it strikes.
    pub(crate) cluster: &'static str,
    kind: Kind,
    /// How long it lasts.
    time: Duration,
}

#[derive(Debug)]
enum Kind {
    /// Its gateway gets SIGKILL.
    Kill,
    /// Its gateway gets SIGTERM.
    Drain,
    /// Its gateway is stopped, and goes on.
    Freeze,
    /// Nothing passes between it and edge, both ways or one.
    Cut(Option<Toward>),
    /// Some of what passes between it and edge is lost, and all of it is late.
    Lossy,
    /// One of its endpoints dies.
    Endpoint(usize),
}

impl Fault {
    /// The next one.
    pub(crate) fn draw(random: &mut fastrand::Rng) -> Self {
        let kind = match random.u8(..7) {
            0 => Kind::Kill,
            1 => Kind::Drain,
            2 => Kind::Freeze,
            3 => Kind::Cut(None),
            4 => Kind::Cut(Some(if random.bool() { Toward::Target } else { Toward::Client })),
            5 => Kind::Lossy,
            _ => Kind::Endpoint(random.usize(..2)),
        };
        let mortal = matches!(kind, Kind::Kill | Kind::Drain);
        let among: Vec<_> = CLUSTERS.into_iter().filter(|c| !mortal || *c != "west").collect();
        let cluster = among[random.usize(..among.len())];
        Self { cluster, kind, time: Duration::from_millis(random.u64(50..3_000)) }
    }

    /// Strikes, lasts its time, and is undone.
    pub(crate) fn strike(&self, world: &mut World) {
        let Self { cluster, time, .. } = *self;
        let relay = &world.relays[cluster];
        match self.kind {
            Kind::Kill => {
                world.trio.gateway(cluster).process.kill();
                pause(time);
                world.trio.gateway(cluster).restart();
            }
            Kind::Drain => {
                let ended = world.trio.gateway(cluster).process.terminate();
                assert!(ended.success(), "{cluster}: {ended}");
                pause(time);
                world.trio.gateway(cluster).restart();
            }
            Kind::Freeze => {
                world.trio.gateway(cluster).process.freeze();
                pause(time);
                world.trio.gateway(cluster).process.thaw();
            }
            Kind::Cut(toward) => {
                match toward {
                    None => relay.cut(),
                    Some(toward) => relay.set(toward, relay::Fault { silent: true, ..Default::default() }),
                }
                pause(time);
                relay.heal();
            }
            Kind::Lossy => {
                let lossy =
                    relay::Fault { loss: 0.02, delay: Duration::from_millis(5), ..Default::default() };
                relay.set(Toward::Target, lossy);
                relay.set(Toward::Client, lossy);
                pause(time);
                relay.heal();
            }
            Kind::Endpoint(index) => {
                let Some(endpoints) = world.trio.backends.get_mut(cluster) else { return };
                endpoints[index].stop();
                pause(time);
                endpoints[index].start_again();
            }
        }
    }
}
