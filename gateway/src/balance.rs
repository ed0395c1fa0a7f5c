//! Which endpoint of a service serves a request, inside the cluster that serves it.
//!
//! What is known of an endpoint ([`EndpointState`]) outlives the set it is in: a rebuilt set takes over the states
//! whose id and address stayed. Everything is atomics; there is no lock, and picking allocates nothing.
//!
//! Times are microseconds since any moment of the process's choice, the same for every call.

mod endpoint;
mod latency;
mod schedule;

use std::collections::HashMap;
use std::sync::Arc;

use hashring::Ring;
use registry::model::{Algorithm, HostPort};

use endpoint::WHOLE_SHARE;
pub use endpoint::{Cause, Change, EndpointState, InFlight, SKIP_REFUSED_MICROS, Standing};
use schedule::Schedule;

/// An endpoint as it is declared, seen through one port of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Its id, unique in the service.
    pub id: Arc<str>,
    /// Where it listens.
    pub address: HostPort,
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
}

/// The endpoints of one port of a service, and how one is picked.
#[derive(Debug)]
pub struct Endpoints {
    rule: Rule,
    list: Box<[Slot]>,
    /// Places in the list by node of the rule's ring.
    places: Box<[Option<usize>]>,
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
    /// The set that `specs` declare. Of `previous` it takes over what is known of endpoints whose id and address
    /// stayed; those that are new beside them start slowly, at `now`.
    pub fn new(
        rule: Rule,
        specs: impl IntoIterator<Item = EndpointSpec>,
        previous: Option<&Self>,
        now: u64,
    ) -> Self {
        let mut kept: HashMap<&str, &Arc<EndpointState>> =
            previous.iter().flat_map(|set| &set.list).map(|slot| (slot.state.id(), &slot.state)).collect();
        let specs: Vec<EndpointSpec> = specs.into_iter().collect();
        let total: f64 = specs.iter().map(|spec| f64::from(spec.weight)).sum();
        let serving = specs.iter().filter(|spec| spec.weight > 0).count();
        let weights: Vec<u32> = specs.iter().map(|spec| spec.weight).collect();
        // Where all are new there is nobody to leave the requests to.
        let opened_at = if kept.is_empty() { 0 } else { now.max(1) };
        let mut state = |id: Arc<str>, address: HostPort| match kept.remove(&*id) {
            Some(state) if *state.address() == address => {
                state.declare_checked(rule.checked);
                state.clone()
            }
            _ => Arc::new(EndpointState::new(id, address, rule.checked, opened_at)),
        };
        let list: Box<[Slot]> = specs
            .into_iter()
            .map(|spec| Slot {
                weight: spec.weight,
                capacity: spec.capacity.unwrap_or(u32::MAX),
                burden: total / (serving.max(1) as f64) / f64::from(spec.weight.max(1)),
                state: state(spec.id, spec.address),
            })
            .collect();
        let places = rule.ring.as_deref().map_or_else(Box::default, |ring| places(ring, &list));
        Self { rule, list, places, schedule: Schedule::new(&weights) }
    }

    /// Begins a request at the endpoint that serves it next, and gives its place in the set; `None` when there is
    /// none that is not in `tried`. `key` is the hash of the request's key, as the head carries it; only
    /// [`Algorithm::Ring`] looks at it.
    pub fn take(
        &self,
        now: u64,
        rng: &mut fastrand::Rng,
        key: Option<u64>,
        tried: &[usize],
    ) -> Option<(usize, InFlight)> {
        loop {
            let index = self.pick(now, rng, key, tried)?;
            // Else another worker's request has become its probe, so it is not ready any more.
            if let Some(in_flight) = self.list[index].state.begin(now) {
                return Some((index, in_flight));
            }
        }
    }

    /// The endpoint for the next attempt of a request, by its place in the set.
    ///
    /// One at its capacity is taken only when all others that are ready are full, too, and one that fails or is being
    /// probed only when none is ready: to ask it may help, to ask nobody does not.
    fn pick(&self, now: u64, rng: &mut fastrand::Rng, key: Option<u64>, tried: &[usize]) -> Option<usize> {
        let is = |index: usize, standing: Standing| {
            self.list[index].state.standing(now) == standing && !tried.contains(&index)
        };
        let ready = |index: usize| is(index, Standing::Ready);
        let free = |index: usize| ready(index) && !self.list[index].full();
        let last_choice = |index: usize| is(index, Standing::LastChoice);
        if let (Some(ring), Some(key)) = (&self.rule.ring, key) {
            let key = hashring::inner(key);
            let first = |takes: &dyn Fn(usize) -> bool| {
                ring.near(key).filter_map(|node| self.places[node.get()]).find(|&place| takes(place))
            };
            return first(&free).or_else(|| first(&ready)).or_else(|| first(&last_choice));
        }
        // One throw for all: each that warms up is passed over as often as its share says.
        let thrown = rng.u32(0..WHOLE_SHARE);
        let in_turn = |index: usize| free(index) && self.list[index].state.share(now) > thrown;
        self.pick_among(now, rng, in_turn)
            .or_else(|| self.pick_among(now, rng, free))
            .or_else(|| self.pick_among(now, rng, ready))
            .or_else(|| self.pick_among(now, rng, last_choice))
    }

    fn pick_among(&self, now: u64, rng: &mut fastrand::Rng, takes: impl Fn(usize) -> bool) -> Option<usize> {
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

    /// A request was cut, or answered 502, 503 or 504: after a few in a row its endpoint is ejected, as long as that
    /// leaves half of the endpoints in use.
    pub fn failed(&self, request: &InFlight, now: u64) -> Option<Change> {
        request.failed(now, || {
            let serving = || self.list.iter().filter(|slot| slot.weight > 0);
            let ejected = serving().filter(|slot| slot.state.is_ejected()).count();
            (ejected + 1) * 2 <= serving().count()
        })
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

    /// The best that there is to pick now, tried or not.
    pub fn standing(&self, now: u64) -> Standing {
        let mut best = Standing::Out;
        for slot in self.list.iter().filter(|slot| slot.weight > 0) {
            match slot.state.standing(now) {
                Standing::Ready => return Standing::Ready,
                Standing::LastChoice => best = Standing::LastChoice,
                Standing::Out => {}
            }
        }
        best
    }

    /// The weight of the endpoints that take requests now, in hundredths. Where there are only last choices it is the
    /// least there is, and not nothing.
    pub fn ready_weight(&self, now: u64) -> u32 {
        let ready = self.list.iter().filter(|slot| slot.state.standing(now) == Standing::Ready);
        let weight = ready.map(|slot| slot.weight).fold(0, u32::saturating_add);
        if weight == 0 && self.standing(now) != Standing::Out { 1 } else { weight }
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
