//! The search for an endpoint that serves a request or takes a connection: which is next after one that fails.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use registry::base::time::Tick;
use registry::model::Port;

use super::Watch;
use super::connect::ConnectError;
use super::pool::{NotConnected, Pool};
use policy::balance::{Change, EndpointState, Endpoints, InFlight};
use policy::retry::Failure;

/// How long a connect may take while another endpoint could be asked instead.
const CONNECT_WAIT_WITH_OTHERS: Duration = Duration::from_secs(1);

/// Where it may go.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// The connections of the worker.
    pub pool: &'a Rc<Pool>,
    /// The port, and its endpoints.
    pub port: &'a (Port, Endpoints),
    /// The time, and who hears of changes.
    pub watch: &'a Rc<Watch>,
    /// The hash of its key, where endpoints are picked by it.
    pub key: Option<u64>,
    /// Set when the time that the policy gives is over: being dropped then is the endpoint's doing.
    pub expired: &'a Cell<bool>,
}

/// An endpoint that was picked.
pub(super) struct Taken<'a> {
    /// Its place.
    pub(super) index: usize,
    pub(super) endpoint: Arc<EndpointState>,
    pub(super) exchange: Exchange<'a>,
    /// How long a connection to it may take to be made.
    pub(super) connect: Duration,
    /// Its place, where that is less than the whole time.
    pub(super) in_haste: Option<usize>,
}

/// A request in flight, whose end is told however it ends.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) in_flight: Option<InFlight>,
    watch: &'a Rc<Watch>,
    expired: &'a Cell<bool>,
}

impl Exchange<'_> {
    /// Tells how it ended.
    pub(super) fn end(&self, tell: impl FnOnce(&InFlight, Tick) -> Option<Change>) {
        if let Some(in_flight) = &self.in_flight {
            let change = tell(in_flight, self.watch.clock.now());
            self.watch.told(in_flight.endpoint(), change);
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let expired = self.expired.get();
        self.end(|in_flight, now| if expired { in_flight.timed_out(now) } else { in_flight.given_up(now) });
    }
}

/// Who is asked after a failure.
pub(super) enum Next {
    /// Another endpoint, if there is one.
    Other,
    /// Perhaps the same.
    Same,
    /// Nobody.
    Nobody,
}

/// How far the search for an endpoint that serves has come.
pub(super) struct Search {
    /// Those that were asked, by their place.
    pub(super) tried: Vec<usize>,
    /// Those that took long to connect, and made way for others ...
    slow: Vec<usize>,
    /// ... and have all the time there is once no other is left.
    patient: bool,
    /// What the last one did.
    pub(super) failure: Failure,
    /// Attempts after which an endpoint may have processed the request.
    pub(super) reached: u8,
    /// Those that said that they had done nothing of it.
    pub(super) untouched: u8,
    pub(super) gone_away: bool,
}

impl Search {
    pub(super) fn new() -> Self {
        let (tried, slow) = (Vec::new(), Vec::new());
        let failure = Failure::Unavailable;
        Self { tried, slow, patient: false, failure, reached: 0, untouched: 0, gone_away: false }
    }

    /// Begins at the next endpoint, to which a connection may take `connect` to be made where no other is left.
    pub(super) fn take<'a>(&mut self, way: &Way<'a>, connect: Duration) -> Result<Taken<'a>, Failure> {
        let (endpoints, clock) = (&way.port.1, way.watch.clock);
        let (index, in_flight) = loop {
            let news = |endpoint: &Arc<EndpointState>, change| way.watch.told(endpoint, Some(change));
            let tried = &self.tried;
            let taken = way.pool.with_rng(|rng| endpoints.take(clock.now(), rng, way.key, tried, news));
            if let Some(taken) = taken {
                break taken;
            }
            if self.slow.is_empty() {
                let nobody = self.failure == Failure::Unavailable;
                let crowded = nobody && endpoints.is_crowded(clock.now(), tried);
                return Err(if crowded { Failure::Overloaded } else { self.failure });
            }
            self.tried.retain(|index| !self.slow.contains(index));
            self.slow.clear();
            self.patient = true;
        };
        let others = !self.patient && endpoints.has_others(clock.now(), &self.tried, index);
        let most = if others { CONNECT_WAIT_WITH_OTHERS } else { Duration::MAX };
        let endpoint = in_flight.endpoint().clone();
        let exchange = Exchange { in_flight: Some(in_flight), watch: way.watch, expired: way.expired };
        let in_haste = others.then_some(index);
        Ok(Taken { index, endpoint, exchange, connect: connect.min(most), in_haste })
    }

    /// Notes that there is no connection to an endpoint, for its health and for the answer; `in_haste`: the place of one
    /// that had less than the whole time.
    pub(super) fn not_connected(
        &mut self,
        exchange: &Exchange<'_>,
        why: &NotConnected,
        in_haste: Option<usize>,
    ) -> Next {
        match why {
            NotConnected::Failed(ConnectError::Ours(_)) => {
                exchange.end(|in_flight, _| unblamed(in_flight));
                return self.end(Failure::NoRoom);
            }
            NotConnected::Failed(ConnectError::Unanswered(_)) => {
                exchange.end(InFlight::unanswered);
                self.slow.extend(in_haste);
                self.not_reached(Failure::Connect);
            }
            NotConnected::Failed(ConnectError::Refused(_)) => {
                exchange.end(InFlight::refused);
                self.not_reached(Failure::Connect);
            }
            NotConnected::Crowded => {
                exchange.end(|in_flight, _| unblamed(in_flight));
                self.not_reached(Failure::Overloaded);
            }
        }
        Next::Other
    }

    /// It did not get as far as an endpoint: what one did that it reached says more.
    pub(super) fn not_reached(&mut self, failure: Failure) {
        if self.reached == 0 {
            self.failure = failure;
        }
    }

    pub(super) fn end(&mut self, failure: Failure) -> Next {
        self.failure = failure;
        Next::Nobody
    }
}

pub(super) fn unblamed(in_flight: &InFlight) -> Option<Change> {
    in_flight.unblamed();
    None
}
