//! One cluster as an exporter: what it declares, its process, its disk and its clock.

use registry::base::shared_map::SharedMap;
use registry::model::{ClusterName, Declared, Grant, Hosts, Port, Position, Protocol, Service, ServiceName};
use registry::pure::export::{Export, random_epoch};

/// Services that a cluster ever declares.
const SERVICES: usize = 16;

/// When the simulation begins.
pub(crate) const START_UNIX_MS: u64 = 1_700_000_000_000;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub(crate) struct Cluster {
    pub(crate) name: ClusterName,
    /// Its manifests.
    declared: Declared,
    pub(crate) export: Export,
    /// What its state directory holds: at times older than what was told.
    saved: Position,
    backup: (Declared, Position),
    /// Its clock, in Unix milliseconds.
    pub(crate) now_unix_ms: u64,
}

/// The name of the `index`th cluster.
pub(crate) fn name(index: usize) -> ClusterName {
    ClusterName::new(&format!("c{index}")).unwrap()
}

/// Whether a service is one of `owner`'s: each carries its owner's name, so that whatever travels further shows.
pub(crate) fn owns(owner: &ClusterName, service: &ServiceName) -> bool {
    service.name.split('-').next() == Some(owner.as_str())
}

impl Cluster {
    pub(crate) fn new(index: usize, peers: usize, rng: &mut fastrand::Rng) -> Self {
        let saved = Position { epoch: random_epoch(rng), revision: 0 };
        let declared = Declared::default();
        let mut cluster = Self {
            name: name(index),
            export: Export::new(saved, &declared, "here", START_UNIX_MS, rng),
            backup: (declared.clone(), saved),
            declared,
            saved,
            now_unix_ms: START_UNIX_MS,
        };
        cluster.set_clock(rng);
        // Enough for a mass of them to vanish.
        for _ in 0..8 {
            cluster.declare(peers, rng);
        }
        cluster
    }

    /// One or, seldom, all services come, change or go; the change may or may not be saved.
    pub(crate) fn declare(&mut self, peers: usize, rng: &mut fastrand::Rng) {
        if rng.u8(..40) == 0 {
            self.declared.services = SharedMap::default();
        }
        let many = rng.u8(..10) == 0;
        for _ in 0..if many { 2 * SERVICES } else { rng.usize(1..5) } {
            let index = rng.usize(..SERVICES);
            let namespace = if index.is_multiple_of(2) { "shop" } else { "bank" };
            let name = ServiceName::new(namespace, &format!("{}-{index}", self.name)).unwrap();
            let export = match rng.u8(..8) {
                0 if !many => {
                    self.declared.services.remove(&name);
                    continue;
                }
                1 => Grant::Nobody,
                2 | 3 => Grant::Clusters([self::name(rng.usize(..peers))].into()),
                _ => Grant::Everyone,
            };
            let ports = [Port {
                name: "web".into(),
                number: rng.u16(1..4),
                protocol: Protocol::Http,
                proxy_header: false,
            }]
            .into();
            let service = Service {
                name: name.clone(),
                ports,
                endpoints: Vec::new(),
                health_check: None,
                export,
                registration: Hosts::default(),
            };
            self.declared.services.insert(name, service.into());
        }
        self.export.update(&self.declared, "here");
    }

    /// Its state reaches its disk.
    pub(crate) fn save(&mut self) {
        self.saved = self.export.position();
    }

    /// The process starts again from what was saved, which may be a good deal older than what peers know. `half`: it
    /// has read only some of its manifests when peers come, and reads the others with its next change.
    pub(crate) fn restart(&mut self, half: bool, rng: &mut fastrand::Rng) {
        let mut read = self.declared.clone();
        if half {
            let kept = read.services.iter().skip(3).step_by(4);
            read.services = kept.map(|(name, service)| (name.clone(), service.clone())).collect();
        }
        self.export = Export::new(self.saved, &read, "here", self.now_unix_ms, rng);
    }

    pub(crate) fn read_everything(&mut self) {
        self.export.update(&self.declared, "here");
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = (self.declared.clone(), self.saved);
    }

    /// Its disk is as it was when it was backed up; a restart follows.
    pub(crate) fn restore(&mut self) {
        (self.declared, self.saved) = self.backup.clone();
    }

    /// The clock is wrong from now on: a little, by days, or as far back as on a machine without a battery.
    pub(crate) fn set_clock(&mut self, rng: &mut fastrand::Rng) {
        self.now_unix_ms = match rng.u8(..4) {
            0 => START_UNIX_MS - 300 * DAY_MS + rng.u64(..1000),
            1 => START_UNIX_MS + rng.u64(..2 * DAY_MS),
            _ => START_UNIX_MS - DAY_MS + rng.u64(..DAY_MS) + rng.u64(..DAY_MS),
        };
    }

    /// The clock is later than it ever was.
    pub(crate) fn mend_clock(&mut self) {
        self.now_unix_ms = START_UNIX_MS + 1000 * DAY_MS;
    }
}
