//! Endpoints with queues, hangs, refusals, swallowed connects, failures and flaps, and callers that ask as
//! [`crate::upstream::Ask::send`] does; on virtual time. A seed repeats itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use registry::base::time::Tick;

use super::*;

const MILLI: u64 = 1_000;
/// From its start a request has so long.
const DEADLINE: u64 = 10 * SECOND;
const CONNECT: u64 = 100;
const CONNECT_WAIT: u64 = 5 * SECOND;
const CONNECT_WAIT_WITH_OTHERS: u64 = SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    /// Accepts, and answers nothing.
    Hung,
    /// Its port is closed; what it held is cut.
    Refusing,
    /// Its accept queue is full: connects wait.
    Swallowing,
    /// Answers 503 at once.
    Failing,
}

struct Server {
    mode: Mode,
    since: Tick,
    takes: u64,
    busy: usize,
    queue: VecDeque<usize>,
    /// Requests that were sent to it.
    asked: Vec<Tick>,
}

/// Requests that a server works on at once.
const SLOTS: usize = 4;

struct Request {
    started: Tick,
    tried: Vec<usize>,
    slow: Vec<usize>,
    patient: bool,
    reached: u32,
    at: Option<(usize, InFlight, Option<Connecting>)>,
    /// Moves with every attempt, so that what was planned for an earlier one is void.
    attempt: u32,
    ended: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    Status503,
    TimedOut,
    /// There was nobody left to ask.
    Refused,
    /// So many waited for a connection that one more was not let in.
    Crowded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Retransmits(usize, u32, u64),
    Connected(usize, u32),
    Answers(usize, u32, usize),
    Expires(usize),
    Turns(usize),
    Probes(usize, u64),
}

struct World {
    set: Endpoints,
    servers: Vec<Server>,
    requests: Vec<Request>,
    events: BinaryHeap<Reverse<(Tick, u64, Event)>>,
    count: u64,
    now: Tick,
    rng: fastrand::Rng,
    every: u64,
    /// No mode changes after this.
    calm_from: Tick,
    until: Tick,
}

impl World {
    fn new(seed: u64, algorithm: Algorithm) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let endpoints = rng.usize(1..6);
        let set = set(algorithm, &vec![100; endpoints]);
        let takes = rng.u64(1..20) * MILLI;
        let servers = (0..endpoints).map(|_| Server {
            mode: Mode::Well,
            since: Tick::ZERO,
            takes,
            busy: 0,
            queue: VecDeque::new(),
            asked: Vec::new(),
        });
        // Half of what one endpoint alone can do.
        let every = takes / SLOTS as u64 * 2;
        let mut world = Self {
            set,
            servers: servers.collect(),
            requests: Vec::new(),
            events: BinaryHeap::new(),
            count: 0,
            now: Tick::ZERO,
            rng,
            every: every.max(2 * MILLI),
            calm_from: Tick::at(60 * SECOND),
            until: Tick::at(200 * SECOND),
        };
        world.plan(MILLI, Event::Arrives);
        for server in 0..endpoints {
            let first = world.rng.u64(3..20) * SECOND;
            world.plan(first, Event::Turns(server));
        }
        world
    }

    fn plan(&mut self, wait: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now.after(wait), self.count, event)));
    }

    fn run(&mut self) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.until.after(DEADLINE) {
                return;
            }
            self.now = at;
            match event {
                Event::Arrives => self.arrives(),
                Event::Retransmits(request, attempt, give_up) => {
                    if self.is_at(request, attempt) {
                        self.connects(request, Tick::at(give_up));
                    }
                }
                Event::Connected(request, attempt) => {
                    if self.is_at(request, attempt) {
                        self.connected(request);
                    }
                }
                Event::Answers(request, attempt, server) => {
                    self.servers[server].busy = self.servers[server].busy.saturating_sub(1);
                    if self.is_at(request, attempt) {
                        self.answers(request);
                    }
                    self.serve(server);
                }
                Event::Expires(request) => {
                    if let Some((_, in_flight, _)) = self.requests[request].at.take() {
                        let _ = in_flight.timed_out(self.now);
                        self.look_after();
                    }
                    self.end(request, End::TimedOut);
                }
                Event::Turns(server) => self.turns(server),
                Event::Probes(server, pause) => self.probes(server, pause),
            }
        }
    }

    fn is_at(&self, request: usize, attempt: u32) -> bool {
        let request = &self.requests[request];
        request.ended.is_none() && request.attempt == attempt && request.at.is_some()
    }

    fn end(&mut self, request: usize, end: End) {
        let request = &mut self.requests[request];
        request.ended = request.ended.or(Some(end));
    }

    fn arrives(&mut self) {
        let (started, id) = (self.now, self.requests.len());
        self.requests.push(Request {
            started,
            tried: Vec::new(),
            slow: Vec::new(),
            patient: false,
            reached: 0,
            at: None,
            attempt: 0,
            ended: None,
        });
        self.plan(DEADLINE, Event::Expires(id));
        self.ask(id);
        if self.now < self.until {
            let wait = self.rng.u64(1..=2 * self.every);
            self.plan(wait, Event::Arrives);
        }
    }

    /// The next endpoint for a request.
    fn ask(&mut self, id: usize) {
        loop {
            let request = &mut self.requests[id];
            let taken = self.set.take(self.now, &mut self.rng, None, &request.tried, |_, _| {});
            let Some((index, in_flight)) = taken else {
                if !request.slow.is_empty() {
                    let slow = std::mem::take(&mut request.slow);
                    request.tried.retain(|index| !slow.contains(index));
                    request.patient = true;
                    continue;
                }
                let crowded = self.set.is_crowded(self.now, &request.tried);
                return self.end(id, if crowded { End::Crowded } else { End::Refused });
            };
            let others = !request.patient && self.set.has_others(self.now, &request.tried, index);
            let connecting = in_flight.endpoint().connecting(self.now);
            request.attempt += 1;
            request.at = Some((index, in_flight, Some(connecting)));
            self.servers[index].asked.push(self.now);
            let wait = if others { CONNECT_WAIT_WITH_OTHERS } else { CONNECT_WAIT };
            self.look_after();
            return self.connects(id, self.now.after(wait));
        }
    }

    fn connects(&mut self, id: usize, give_up: Tick) {
        let Some((index, in_flight, _)) = &self.requests[id].at else { return };
        let (index, attempt) = (*index, self.requests[id].attempt);
        match self.servers[index].mode {
            Mode::Refusing => {
                let _ = in_flight.refused(self.now);
                self.next(id, index);
            }
            Mode::Swallowing if self.now >= give_up => {
                let _ = in_flight.unanswered(self.now);
                if give_up < self.requests[id].started.after(CONNECT_WAIT) {
                    self.requests[id].slow.push(index);
                }
                self.next(id, index);
            }
            Mode::Swallowing => {
                let wait = SECOND.min(give_up.since(self.now));
                self.plan(wait, Event::Retransmits(id, attempt, give_up.micros()));
            }
            _ => self.plan(CONNECT, Event::Connected(id, attempt)),
        }
    }

    /// On to another one.
    fn next(&mut self, id: usize, index: usize) {
        self.requests[id].at = None;
        self.requests[id].tried.push(index);
        self.look_after();
        self.ask(id);
    }

    fn connected(&mut self, id: usize) {
        let Some((index, in_flight, connecting)) = &mut self.requests[id].at else { return };
        connecting.take();
        let index = *index;
        let _ = in_flight.endpoint().connected(self.now);
        self.servers[index].queue.push_back(id);
        self.serve(index);
    }

    fn serve(&mut self, server: usize) {
        let mode = self.servers[server].mode;
        while matches!(mode, Mode::Well | Mode::Failing) && self.servers[server].busy < SLOTS {
            let Some(id) = self.servers[server].queue.pop_front() else { return };
            if self.requests[id].at.as_ref().is_none_or(|(index, ..)| *index != server) {
                continue;
            }
            self.servers[server].busy += 1;
            let usual = self.servers[server].takes;
            let takes = if mode == Mode::Well { usual / 2 + self.rng.u64(0..usual) } else { 200 };
            let attempt = self.requests[id].attempt;
            self.plan(takes, Event::Answers(id, attempt, server));
        }
    }

    fn answers(&mut self, id: usize) {
        let Some((index, in_flight, _)) = self.requests[id].at.take() else { return };
        match self.servers[index].mode {
            Mode::Failing => {
                let _ = in_flight.failed(self.now);
                self.look_after();
                self.end(id, End::Status503);
            }
            Mode::Refusing => {
                let _ = in_flight.failed(self.now);
                self.requests[id].reached += 1;
                if self.requests[id].reached < 3 {
                    self.next(id, index);
                } else {
                    self.end(id, End::Refused);
                }
            }
            // It was through before anything happened to it.
            _ => {
                let _ = in_flight.answered(self.now);
                in_flight.completed();
                self.end(id, End::Answered);
            }
        }
    }

    fn turns(&mut self, server: usize) {
        let bad = [Mode::Hung, Mode::Refusing, Mode::Swallowing, Mode::Failing];
        let was = self.servers[server].mode;
        let calm = self.now >= self.calm_from;
        let mode = match was {
            Mode::Well if !calm => bad[self.rng.usize(0..bad.len())],
            _ => Mode::Well,
        };
        self.servers[server].mode = mode;
        self.servers[server].since = self.now;
        if mode == Mode::Refusing {
            self.servers[server].busy = 0;
            let held: Vec<usize> = self.servers[server].queue.drain(..).collect();
            for id in held {
                if self.requests[id].at.as_ref().is_some_and(|(index, ..)| *index == server) {
                    self.answers(id);
                }
            }
        }
        self.serve(server);
        let wait = match (mode, self.rng.u8(0..3)) {
            (Mode::Well, 0) | (_, 0) => self.rng.u64(50..900) * MILLI,
            _ => self.rng.u64(1..30) * SECOND,
        };
        if !(calm && mode == Mode::Well) {
            self.plan(wait.min(self.calm_from.since(self.now).max(MILLI)), Event::Turns(server));
        }
    }

    /// Begins probes where nobody probes yet.
    fn look_after(&mut self) {
        for server in 0..self.servers.len() {
            if self.set.get(server).claim_probe(self.now) {
                self.plan(100 * MILLI, Event::Probes(server, 100 * MILLI));
            }
        }
    }

    fn probes(&mut self, server: usize, pause: u64) {
        let endpoint = self.set.get(server).clone();
        let mode = self.servers[server].mode;
        match endpoint.probe(self.now) {
            None => {
                endpoint.unprobed();
                return self.look_after();
            }
            Some((_, wait)) if wait > 0 => {}
            Some((Probe::Connect, _)) if !matches!(mode, Mode::Refusing | Mode::Swallowing) => {
                let _ = endpoint.connected(self.now);
            }
            Some((Probe::Answer, _)) if matches!(mode, Mode::Well | Mode::Failing) => {
                endpoint.lives(self.now)
            }
            Some(_) => {}
        }
        let pause = (pause * 2).min(400 * MILLI);
        let jitter = self.rng.u64(0..pause / 5);
        self.plan(pause + jitter, Event::Probes(server, pause));
    }

    fn check(&self, seed: u64) {
        let well_since = |server: &Server| if server.mode == Mode::Well { server.since } else { Tick::MAX };
        let steady = self.servers.iter().map(well_since).min().unwrap_or(Tick::MAX);
        let mut late = [0, 0];
        for request in &self.requests {
            let Some(end) = request.ended else { panic!("seed {seed}: a request never ended") };
            if request.started > steady.after(61 * SECOND) {
                late[usize::from(end != End::Answered)] += 1;
            }
            if end == End::Crowded {
                // It takes a moment to find out that connections are accepted again.
                let of = |server: &Server| well_since(server).after(20 * MILLI);
                assert!(
                    !self.servers.iter().any(|s| of(s) <= request.started),
                    "seed {seed}: {}",
                    request.started.micros()
                );
            }
            if end == End::Refused {
                assert!(
                    !self.servers.iter().any(|server| well_since(server) <= request.started),
                    "seed {seed}: refused at {} although one was well all the time",
                    request.started.micros()
                );
            }
        }
        assert_eq!(late[1], 0, "seed {seed}: {late:?} long after all is well");
        // Everyone has its part again.
        let from = Tick::at(self.until.micros() - 20 * SECOND);
        let parts: Vec<usize> =
            self.servers.iter().map(|s| s.asked.iter().filter(|&&at| at > from).count()).collect();
        let mean = parts.iter().sum::<usize>() / parts.len();
        for part in &parts {
            assert!((mean / 3..=mean * 3).contains(part), "seed {seed}: {parts:?}");
        }
    }
}

#[test]
fn whatever_befalls_endpoints_nobody_is_refused_whom_one_of_them_would_answer() {
    for seed in 0..60 {
        for algorithm in [Algorithm::P2cEwma, Algorithm::RoundRobin] {
            let mut world = World::new(seed, algorithm);
            world.run();
            world.check(seed);
        }
    }
}

/// One of three is bad for a minute, after all have worked for a while.
fn beside_two_that_work(mode: Mode, algorithm: Algorithm) -> (usize, usize, Vec<Tick>) {
    let mut world = World::new(7, algorithm);
    world.set = set(algorithm, &[100, 100, 100]);
    world.servers.truncate(0);
    for _ in 0..3 {
        let (queue, asked) = (VecDeque::new(), Vec::new());
        let server = Server { mode: Mode::Well, since: Tick::ZERO, takes: 5 * MILLI, busy: 0, queue, asked };
        world.servers.push(server);
    }
    world.every = 10 * MILLI;
    world.events.clear();
    world.plan(MILLI, Event::Arrives);
    world.until = Tick::at(5 * SECOND);
    world.run();
    world.servers[0].mode = mode;
    let (from, first) = (world.now, world.requests.len());
    world.until = from.after(60 * SECOND);
    world.plan(MILLI, Event::Arrives);
    world.run();
    let failed = world.requests[first..].iter().filter(|r| r.ended != Some(End::Answered)).count();
    let asked: Vec<Tick> = world.servers[0].asked.iter().copied().filter(|&at| at > from).collect();
    let late = asked.iter().filter(|&&at| at > from.after(15 * SECOND)).count();
    (failed, late, asked)
}

#[test]
fn an_endpoint_that_is_bad_is_soon_asked_no_more_than_a_probe_needs() {
    for algorithm in [Algorithm::P2cEwma, Algorithm::RoundRobin] {
        for mode in [Mode::Hung, Mode::Refusing, Mode::Swallowing, Mode::Failing] {
            let (failed, late, asked) = beside_two_that_work(mode, algorithm);
            let asked = asked.len();
            // A failing one is found out by five requests, and by a probe after 5, 10, 20 s.
            let most = match (mode, algorithm) {
                (Mode::Refusing | Mode::Swallowing, _) => 0,
                (Mode::Failing, _) => 9,
                (_, Algorithm::P2cEwma) => 6,
                // In turn, whatever is known of it, until nothing was answered for a second.
                _ => 45,
            };
            assert!(failed <= most, "{mode:?} {algorithm:?}: {failed} failed, {asked} asked");
            assert!(late <= 4, "{mode:?} {algorithm:?}: {late} asked late");
        }
    }
}
