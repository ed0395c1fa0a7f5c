//! All clusters and the links between them, and what happens to them.

use std::collections::BTreeMap;

use registry::model::EXPIRE_AFTER;
use registry::pure::mirror::HOLD;

use crate::cluster::{Cluster, name};
use crate::link::{EVERYTHING, SimLink};

pub(crate) struct World {
    rng: fastrand::Rng,
    clusters: Vec<Cluster>,
    /// By (importer, exporter).
    links: BTreeMap<(usize, usize), SimLink>,
    seen: Seen,
}

/// How often what was tried came about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    crashes: usize,
    restores: usize,
    lies: usize,
    partitions: usize,
    held: usize,
    released: usize,
    expired: usize,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.restores += other.restores;
        self.lies += other.lies;
        self.partitions += other.partitions;
        self.held += other.held;
        self.released += other.released;
        self.expired += other.expired;
    }

    pub(crate) fn everything(&self) -> bool {
        let Self { crashes, restores, lies, partitions, held, released, expired } = *self;
        [crashes, restores, lies, partitions, held, released, expired].iter().all(|&count| count > 100)
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(2..=4);
        let clusters = (0..count).map(|index| Cluster::new(index, count, &mut rng)).collect();
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let links = pairs.map(|pair| (pair, SimLink::new(name(pair.0), name(pair.1)))).collect();
        Self { rng, clusters, links, seen: Seen::default() }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen
    }

    pub(crate) fn step(&mut self) {
        let passed_ms = self.rng.u64(1..200);
        self.pass(passed_ms);
        let pair = self.any_pair();
        match self.rng.u16(..1000) {
            0..120 => self.declare(pair.1),
            120..180 => self.clusters[pair.1].save(),
            180..240 => self.link(pair).save(),
            240..253 => self.crash(pair.1, false),
            253..260 => self.crash(pair.1, true),
            260..265 => self.back_up(pair.1),
            265..270 => self.restore(pair.1),
            270..276 => self.clusters[pair.1].set_clock(&mut self.rng),
            276..290 => self.links.get_mut(&pair).unwrap().change_selection(&mut self.rng),
            290..310 => self.cut(pair, true),
            310..325 => self.cut(pair, false),
            325..330 => self.part(pair.1),
            330..360 => self.tick(),
            360..362 => self.pass(HOLD.as_millis() as u64),
            362 => self.pass(EXPIRE_AFTER.as_millis() as u64),
            363..400 => self.connect(pair),
            400..480 => self.work(pair),
            480..600 => drop(self.send(pair)),
            _ => drop(self.deliver(pair)),
        }
    }

    fn any_pair(&mut self) -> (usize, usize) {
        let at = self.rng.usize(..self.links.len());
        *self.links.keys().nth(at).unwrap()
    }

    fn link(&mut self, pair: (usize, usize)) -> &mut SimLink {
        self.links.get_mut(&pair).unwrap()
    }

    fn pass(&mut self, milliseconds: u64) {
        self.clusters.iter_mut().for_each(|cluster| cluster.now_unix_ms += milliseconds);
    }

    fn declare(&mut self, at: usize) {
        let peers = self.clusters.len();
        self.clusters[at].declare(peers, &mut self.rng);
    }

    /// The process of a cluster dies between two writes and starts again.
    fn crash(&mut self, at: usize, half: bool) {
        self.seen.crashes += 1;
        self.clusters[at].restart(half, &mut self.rng);
        for (&(importer, exporter), link) in &mut self.links {
            if importer == at {
                link.restart();
            } else if exporter == at {
                link.disconnect();
            }
        }
    }

    fn back_up(&mut self, at: usize) {
        self.clusters[at].back_up();
        self.links_into(at).for_each(SimLink::back_up);
    }

    fn restore(&mut self, at: usize) {
        self.seen.restores += 1;
        self.clusters[at].restore();
        // Often on another machine.
        if self.rng.bool() {
            self.clusters[at].set_clock(&mut self.rng);
        }
        self.links_into(at).for_each(SimLink::restore);
        self.crash(at, false);
    }

    fn links_into(&mut self, at: usize) -> impl Iterator<Item = &mut SimLink> {
        self.links.iter_mut().filter(move |((importer, _), _)| *importer == at).map(|(_, link)| link)
    }

    fn cut(&mut self, pair: (usize, usize), cut: bool) {
        let link = self.link(pair);
        link.cut = cut;
        link.disconnect();
    }

    /// One cluster loses all the others.
    fn part(&mut self, at: usize) {
        self.seen.partitions += 1;
        for ((importer, exporter), link) in &mut self.links {
            if *importer == at || *exporter == at {
                link.cut = true;
                link.disconnect();
            }
        }
    }

    fn connect(&mut self, pair: (usize, usize)) {
        let export = &self.clusters[pair.1].export;
        let lies = self.links.get_mut(&pair).unwrap().connect(export, &mut self.rng);
        self.seen.lies += usize::from(lies);
    }

    fn send(&mut self, pair: (usize, usize)) -> bool {
        self.links.get_mut(&pair).unwrap().send(&self.clusters[pair.1].export, &mut self.rng)
    }

    fn deliver(&mut self, pair: (usize, usize)) -> bool {
        let now_unix_ms = self.clusters[pair.0].now_unix_ms;
        let link = self.link(pair);
        let held = link.mirror.held().count();
        let delivered = link.deliver(now_unix_ms);
        let held = link.mirror.held().count().saturating_sub(held);
        self.seen.held += held;
        delivered
    }

    /// A link does its work for a while.
    fn work(&mut self, pair: (usize, usize)) {
        self.connect(pair);
        for _ in 0..self.rng.usize(..30) {
            self.send(pair);
            self.deliver(pair);
            self.deliver(pair);
        }
        if self.rng.bool() {
            self.link(pair).save();
        }
    }

    fn tick(&mut self) {
        for ((importer, _), link) in &mut self.links {
            let (released, expired) = link.tick(self.clusters[*importer].now_unix_ms);
            self.seen.released += released;
            self.seen.expired += expired;
        }
    }

    /// Links heal one after the other in any order, while what is not healed yet still changes; then nothing fails
    /// any more, everything on its way arrives, and what is held is decided.
    ///
    /// Clocks are right again as well: a hold lasts by the importer's clock, so one that was set back in the middle of
    /// it holds for longer.
    pub(crate) fn heal(&mut self) {
        let mut pairs: Vec<_> = self.links.keys().copied().collect();
        self.rng.shuffle(&mut pairs);
        self.clusters.iter_mut().for_each(Cluster::mend_clock);
        for pair in pairs.iter().copied() {
            if self.rng.u8(..4) == 0 {
                self.declare(pair.1);
            }
            self.settle(pair);
        }
        self.clusters.iter_mut().for_each(Cluster::read_everything);
        for _ in 0..2 {
            pairs.iter().for_each(|pair| self.settle(*pair));
            self.pass(HOLD.as_millis() as u64);
            self.tick();
        }
    }

    /// One link works, and everything that its exporter has to say arrives.
    fn settle(&mut self, pair: (usize, usize)) {
        self.link(pair).cut = false;
        self.link(pair).select(EVERYTHING);
        for _ in 0..200 {
            self.connect(pair);
            let told = self.send(pair);
            while self.deliver(pair) {}
            if told && self.link(pair).mirror.is_watching() {
                return;
            }
        }
        panic!("link {pair:?} does not settle");
    }

    pub(crate) fn check_healed(&mut self) {
        for ((_, exporter), link) in &mut self.links {
            link.check_equal(&self.clusters[*exporter].export);
        }
    }
}
