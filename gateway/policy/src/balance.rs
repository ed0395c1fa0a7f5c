//! Which endpoint of a service serves a request, inside the cluster that serves it.
//!
//! What is known of an endpoint ([`EndpointState`]) outlives the set it is in: a rebuilt set takes over the states
//! whose id and address stayed. Everything is atomics; there is no lock, and picking allocates nothing.
//!
//! Times are microseconds since any moment of the process's choice, the same for every call.

mod endpoint;
mod latency;
mod outlier;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashring::Ring;
use registry::base::time::Tick;
use registry::model::{Algorithm, HostPort, Protocol};

use endpoint::{Begun, WHOLE_SHARE};
pub use endpoint::{Cause, Change, Connecting, Eligibility, EndpointState, InFlight, Probe};
use schedule::Schedule;

/// An endpoint as it is declared, seen through one port of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its id, unique in the service.
    pub id: Arc<str>,
    /// Where it listens.
    pub address: HostPort,
    /// What it speaks.
    pub protocol: Protocol,
    /// In hundredths; 0 takes nothing.
    pub weight: u32,
    /// Requests it can hold at once, if declared.
    pub capacity: Option<u32>,
}

/// How the endpoints of a port are treated.
#[derive(Clone, Debug)]
pub struct Rule {
    /// How one is picked.
    pub algorithm: Algorithm,
    /// The ring of their ids, of [`Algorithm::Ring`].
    pub ring: Option<Arc<Ring>>,
    /// Whether they are checked: such an endpoint is not ready before its checks say so.
    pub checked: bool,
    /// Whether all are asked when the checks of all fail.
    pub fail_open: bool,
}

/// How well the endpoints of a port are, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Readiness {
    /// Half of those whose checks pass, or more, are eligible.
    Ready,
    /// Fewer are: another cluster that is well comes first, and these before none.
    Degraded,
    /// There are none, or the checks of all fail.
    None,
}

/// How the endpoints of a port are, all together, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How well they are.
    pub readiness: Readiness,
    /// The weight of those that are eligible, in hundredths.
    weight: u32,
}

impl Summary {
    /// The weight of the endpoints that take requests, in hundredths. Where there are only last resorts it is the least
    /// there is, and not nothing.
    pub fn ready_weight(self) -> u32 {
        if self.weight == 0 && self.readiness != Readiness::None { 1 } else { self.weight }
    }
}

/// A summary of many endpoints counts for so long, in microseconds: it is a look at all of them.
const SUMMARY_MICROS: u64 = 4_096;
/// Of so few endpoints it is made anew each time.
const SUMMARY_OF: usize = 16;

/// The endpoints of one port of a service, and how one is picked.
#[derive(Debug)]
pub struct Endpoints {
    rule: Rule,
    list: Box<[Slot]>,
    /// Places in the list by node of the rule's ring.
    places: Box<[Option<usize>]>,
    schedule: Schedule,
    /// The last summary, packed with its time.
    summary: AtomicU64,
}

/// What belongs to an endpoint as long as the declaration stays.
#[derive(Debug)]
struct Slot {
    state: Arc<EndpointState>,
    weight: u32,
    capacity: u32,
    /// How much one request in flight adds to its load: the mean weight over its own.
    burden: f64,
}

impl Slot {
    fn full(&self) -> bool {
        self.state.in_flight() >= self.capacity
    }

    /// What a request there would cost: latency times load.
    fn cost(&self, now: Tick) -> f64 {
        let in_flight = self.state.in_flight();
        let load = 1.0 + f64::from(in_flight) * self.burden;
        match self.state.latency_micros(now) {
            Some(latency) => latency.max(1.0) * load,
            // Never measured: free for one request, and out of the question for others until that one is answered.
            None if in_flight == 0 => 0.0,
            None => endpoint::FAILED_MICROS * load,
        }
    }
}

impl Endpoints {
    /// The set that `specs` declare. Of `previous` it takes over what is known of endpoints whose id and address
    /// stayed; those that are new beside them start slowly, at `now`.
    pub fn new(
        rule: Rule,
        specs: impl IntoIterator<Item = EndpointSpec>,
        previous: Option<&Self>,
        now: Tick,
    ) -> Self {
        let mut kept: HashMap<&str, &Arc<EndpointState>> =
            previous.iter().flat_map(|set| &set.list).map(|slot| (slot.state.id(), &slot.state)).collect();
        let specs: Vec<EndpointSpec> = specs.into_iter().collect();
        let total: f64 = specs.iter().map(|spec| f64::from(spec.weight)).sum();
        let serving = specs.iter().filter(|spec| spec.weight > 0).count();
        let weights: Vec<u32> = specs.iter().map(|spec| spec.weight).collect();
        // Where all are new there is nobody to leave the requests to.
        let opened_at = if kept.is_empty() { Tick::ZERO } else { now.max(Tick::at(1)) };
        let mut state = |spec: EndpointSpec| match kept.remove(&*spec.id) {
            Some(state) if *state.address() == spec.address && state.protocol() == spec.protocol => {
                state.declare_checked(rule.checked);
                state.clone()
            }
            _ => {
                let EndpointSpec { id, address, protocol, .. } = spec;
                Arc::new(EndpointState::new(id, address, protocol, rule.checked, opened_at))
            }
        };
        let list: Box<[Slot]> = specs
            .into_iter()
            .map(|spec| Slot {
                weight: spec.weight,
                capacity: spec.capacity.unwrap_or(u32::MAX),
                burden: total / (serving.max(1) as f64) / f64::from(spec.weight.max(1)),
                state: state(spec),
            })
            .collect();
        let places = rule.ring.as_deref().map_or_else(Box::default, |ring| places(ring, &list));
        Self { rule, list, places, schedule: Schedule::new(&weights), summary: AtomicU64::new(0) }
    }

    /// Begins a request at the endpoint that serves it next, and gives its place in the set; `None` when there is
    /// none that is not in `tried`. `key` is the hash of the request's key, as the head carries it; only
    /// [`Algorithm::Ring`] looks at it. What is learned of an endpoint on the way goes to `news`.
    pub fn take(
        &self,
        now: Tick,
        rng: &mut fastrand::Rng,
        key: Option<u64>,
        tried: &[usize],
        mut news: impl FnMut(&Arc<EndpointState>, Change),
    ) -> Option<(usize, InFlight)> {
        loop {
            let index = self.pick(now, rng, key, tried)?;
            match self.list[index].state.begin(now) {
                Begun::Here(in_flight) => return Some((index, in_flight)),
                // It is not eligible any more, so it is not picked again but as a last resort.
                Begun::Elsewhere(change) => {
                    if let Some(change) = change {
                        news(&self.list[index].state, change);
                    }
                }
            }
        }
    }

    /// The endpoint for the next attempt of a request, by its place in the set.
    ///
    /// One at its capacity is taken only when all others that are eligible are full, too. One that is out by passive signs
    /// is asked only when no eligible one is left, the one that was asked longest ago first: to ask it may help, to ask
    /// nobody does not. One whose checks fail is asked only where all of them fail, and the operator wants that.
    fn pick(&self, now: Tick, rng: &mut fastrand::Rng, key: Option<u64>, tried: &[usize]) -> Option<usize> {
        let is = |index: usize, eligibility: Eligibility| {
            let state = &self.list[index].state;
            state.eligibility(now) == eligibility && !tried.contains(&index) && !state.is_crowded(now)
        };
        let eligible = |index: usize| is(index, Eligibility::Eligible);
        let free = |index: usize| eligible(index) && !self.list[index].full();
        let ejected = |index: usize| is(index, Eligibility::Ejected);
        let unhealthy = |index: usize| {
            self.rule.fail_open && is(index, Eligibility::Unhealthy) && self.readiness(now) != Readiness::None
        };
        if let (Some(ring), Some(key)) = (&self.rule.ring, key) {
            let key = hashring::inner(key);
            let first = |takes: &dyn Fn(usize) -> bool| {
                ring.near(key).filter_map(|node| self.places[node.get()]).find(|&place| takes(place))
            };
            return first(&free)
                .or_else(|| first(&eligible))
                .or_else(|| first(&ejected))
                .or_else(|| first(&unhealthy));
        }
        // One random draw decides slow-start admission for every endpoint of this pick.
        let thrown = rng.u32(0..WHOLE_SHARE);
        let in_turn = |index: usize| free(index) && self.list[index].state.share(now) > thrown;
        self.pick_among(now, rng, in_turn)
            .or_else(|| self.pick_among(now, rng, free))
            .or_else(|| self.pick_among(now, rng, eligible))
            .or_else(|| {
                let out = (0..self.list.len()).filter(|&index| self.list[index].weight > 0 && ejected(index));
                out.min_by_key(|&index| self.list[index].state.asked_at())
            })
            .or_else(|| self.pick_among(now, rng, unhealthy))
    }

    /// Whether an endpoint that was not tried has room for no more that wait for a connection.
    pub fn is_crowded(&self, now: Tick, tried: &[usize]) -> bool {
        let mut list = self.list.iter().enumerate();
        list.any(|(index, slot)| slot.weight > 0 && slot.state.is_crowded(now) && !tried.contains(&index))
    }

    /// Whether an endpoint is left that is eligible and was not tried.
    pub fn has_others(&self, now: Tick, tried: &[usize], but: usize) -> bool {
        let mut list = self.list.iter().enumerate();
        list.any(|(index, slot)| {
            index != but
                && slot.weight > 0
                && slot.state.eligibility(now) == Eligibility::Eligible
                && !tried.contains(&index)
        })
    }

    fn pick_among(&self, now: Tick, rng: &mut fastrand::Rng, takes: impl Fn(usize) -> bool) -> Option<usize> {
        match self.rule.algorithm {
            Algorithm::RoundRobin => self.schedule.next(takes),
            Algorithm::P2cEwma | Algorithm::Ring => {
                let first = self.draw(rng, &takes)?;
                let Some(second) = self.draw(rng, |index| index != first && takes(index)) else {
                    return Some(first);
                };
                // At equal cost the first: it was drawn by weight, while of two endpoints the second is simply the other.
                let second_is_better = self.list[second].cost(now) < self.list[first].cost(now);
                Some(if second_is_better { second } else { first })
            }
        }
    }

    /// One endpoint that `takes` accepts, drawn by weight.
    fn draw(&self, rng: &mut fastrand::Rng, takes: impl Fn(usize) -> bool) -> Option<usize> {
        // Nearly every draw from the whole set is good; looking at each endpoint is for when it is not.
        for _ in 0..2 {
            let index = self.schedule.draw(rng)?;
            if takes(index) {
                return Some(index);
            }
        }
        let mut total = 0;
        let mut drawn = None;
        for (index, slot) in self.list.iter().enumerate() {
            let weight = u64::from(slot.weight);
            if weight == 0 || !takes(index) {
                continue;
            }
            total += weight;
            if drawn.is_none() || rng.u64(0..total) < weight {
                drawn = Some(index);
            }
        }
        drawn
    }

    /// The endpoint at a place that [`Endpoints::take`] gave.
    ///
    /// # Panics
    /// When the place is not of this set.
    pub fn get(&self, index: usize) -> &Arc<EndpointState> {
        &self.list[index].state
    }

    /// All endpoints, in the order of their declaration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<EndpointState>> {
        self.list.iter().map(|slot| &slot.state)
    }

    /// How well they are, all together.
    pub fn readiness(&self, now: Tick) -> Readiness {
        self.summary(now).readiness
    }

    /// As [`Summary::ready_weight`].
    pub fn ready_weight(&self, now: Tick) -> u32 {
        self.summary(now).ready_weight()
    }

    /// The summary of this moment, or of one just before.
    fn summary(&self, now: Tick) -> Summary {
        if self.list.len() <= SUMMARY_OF {
            return self.look(now);
        }
        // 30 bits of time, two of readiness, 32 of weight; none of it is read without the rest.
        let stamp = ((now.micros() / SUMMARY_MICROS) & 0x3fff_ffff).max(1);
        let packed = self.summary.load(Relaxed);
        if packed >> 34 == stamp {
            let readiness = match packed >> 32 & 3 {
                0 => Readiness::Ready,
                1 => Readiness::Degraded,
                _ => Readiness::None,
            };
            return Summary { readiness, weight: packed as u32 };
        }
        let summary = self.look(now);
        let packed = stamp << 34 | (summary.readiness as u64) << 32 | u64::from(summary.weight);
        self.summary.store(packed, Relaxed);
        summary
    }

    /// Looks at all of them, however long that takes: for those who act on a change, and would not look again.
    pub fn look(&self, now: Tick) -> Summary {
        let (mut eligible, mut healthy, mut weight, mut all, mut all_weight) = (0, 0, 0u32, 0, 0u32);
        for slot in self.list.iter().filter(|slot| slot.weight > 0) {
            all += 1;
            all_weight = all_weight.saturating_add(slot.weight);
            match slot.state.eligibility(now) {
                Eligibility::Eligible => {
                    (eligible, healthy) = (eligible + 1, healthy + 1);
                    weight = weight.saturating_add(slot.weight);
                }
                Eligibility::Ejected => healthy += 1,
                Eligibility::Unhealthy => {}
            }
        }
        if healthy == 0 && self.rule.fail_open && all > 0 {
            return Summary { readiness: Readiness::Degraded, weight: all_weight };
        }
        let readiness = match healthy {
            0 => Readiness::None,
            _ if eligible * 2 < healthy => Readiness::Degraded,
            _ => Readiness::Ready,
        };
        Summary { readiness, weight }
    }

    /// How an endpoint is picked.
    pub fn algorithm(&self) -> Algorithm {
        self.rule.algorithm
    }

    /// The ring of endpoints, where keys are looked at.
    pub fn ring(&self) -> Option<&Arc<Ring>> {
        self.rule.ring.as_ref()
    }
}

/// The place in the list of every node of the ring; none for a ring of other endpoints.
fn places(ring: &Ring, list: &[Slot]) -> Box<[Option<usize>]> {
    let by_id: HashMap<&[u8], usize> =
        list.iter().enumerate().map(|(place, slot)| (slot.state.id().as_bytes(), place)).collect();
    ring.nodes().map(|node| by_id.get(node.id).copied()).collect()
}

#[cfg(test)]
mod tests;
