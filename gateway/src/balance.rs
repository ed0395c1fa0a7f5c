//! Which endpoint of a service serves a request, inside the cluster that serves it.
//!
//! What is measured of an endpoint ([`EndpointState`]) outlives the set it is in: a rebuilt set takes over the states
//! whose id and address stayed. Everything is atomics; there is no lock, and picking allocates nothing.
//!
//! Times are microseconds since any moment of the process's choice, the same for every call.

mod endpoint;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;

use registry::model::{Algorithm, HostPort};

pub use endpoint::{EndpointState, InFlight, SKIP_REFUSED_MICROS};
use schedule::Schedule;

/// An endpoint as it is declared, seen through one port of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its id, unique in the service.
    pub id: String,
    /// Where it listens.
    pub address: HostPort,
    /// In hundredths; 0 takes nothing.
    pub weight: u32,
    /// Requests it can hold at once, if declared.
    pub capacity: Option<u32>,
}

/// The endpoints of one port of a service, and how one is picked.
#[derive(Debug)]
pub struct Endpoints {
    algorithm: Algorithm,
    list: Box<[Slot]>,
    schedule: Schedule,
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
    fn cost(&self, now: u64) -> f64 {
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
    /// The set that `specs` declare. Of `previous` it takes over what was measured of endpoints whose id and address
    /// stayed.
    pub fn new(
        algorithm: Algorithm,
        specs: impl IntoIterator<Item = EndpointSpec>,
        previous: Option<&Self>,
    ) -> Self {
        let mut kept: HashMap<&str, &Arc<EndpointState>> =
            previous.iter().flat_map(|set| &set.list).map(|slot| (slot.state.id(), &slot.state)).collect();
        let specs: Vec<EndpointSpec> = specs.into_iter().collect();
        let total: f64 = specs.iter().map(|spec| f64::from(spec.weight)).sum();
        let serving = specs.iter().filter(|spec| spec.weight > 0).count();
        let weights: Vec<u32> = specs.iter().map(|spec| spec.weight).collect();
        let list = specs
            .into_iter()
            .map(|spec| Slot {
                weight: spec.weight,
                capacity: spec.capacity.unwrap_or(u32::MAX),
                burden: total / (serving.max(1) as f64) / f64::from(spec.weight.max(1)),
                state: match kept.remove(&*spec.id) {
                    Some(state) if *state.address() == spec.address => state.clone(),
                    _ => Arc::new(EndpointState::new(spec.id, spec.address)),
                },
            })
            .collect();
        Self { algorithm, list, schedule: Schedule::new(&weights) }
    }

    /// The endpoint for the next attempt of a request, by its place in the set; `None` when nothing is ready that is
    /// not in `tried`.
    ///
    /// An endpoint that refused a connect within the last second is not ready. One at its capacity is taken only when
    /// all others that are ready are full, too.
    pub fn pick(&self, now: u64, rng: &mut fastrand::Rng, tried: &[usize]) -> Option<usize> {
        let ready = |index: usize| self.list[index].state.ready(now) && !tried.contains(&index);
        let free = |index: usize| ready(index) && !self.list[index].full();
        self.pick_among(now, rng, free).or_else(|| self.pick_among(now, rng, ready))
    }

    fn pick_among(&self, now: u64, rng: &mut fastrand::Rng, takes: impl Fn(usize) -> bool) -> Option<usize> {
        match self.algorithm {
            Algorithm::RoundRobin => self.schedule.next(takes),
            Algorithm::P2cEwma => {
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

    /// The endpoint at a place that [`Endpoints::pick`] gave.
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

    /// Whether anything could be picked now, tried or not.
    pub fn any_ready(&self, now: u64) -> bool {
        self.list.iter().any(|slot| slot.weight > 0 && slot.state.ready(now))
    }

    /// How an endpoint is picked.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
mod tests;
