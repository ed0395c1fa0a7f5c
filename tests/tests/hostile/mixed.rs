//! Everything at once, from a seed: `HOSTILE_SEED` gives the acts of an earlier run again. What is between them and the
//! gateway, its scheduling above all, is not of the seed.

use std::time::{Duration, Instant};

use e2e::client::{Connection, Request};
use e2e::hostile::answers::{data, head, interim};
use e2e::hostile::records::{begin, crowd, current, end, record, removed, sharded, snapshot, upsert, with};
use e2e::hostile::stage::{Setup, Stage};
use e2e::hostile::{Carrier, Hostile};
use e2e::port::free_port;
use e2e::wait_until;
use proto::code::Code;
use proto::control::{Digest, Objection, ServiceDigest, TellAgain, control};
use proto::stream::StreamKind;
use proto::sync::{Event, Record, Watch, event};

/// Gateways that are there at once.
const GATEWAYS: usize = 3;
/// Names that records and digests are drawn from.
const NAMES: u32 = 3_000;
/// Of which each is said once a minute.
const BUDGETS: usize = 9;
/// How long a caller waits for an answer of east.
const PATIENCE: Duration = Duration::from_millis(50);
/// Seconds of the long run, unless `HOSTILE_SECONDS` says otherwise.
const LONG: u64 = 600;

struct Attack<'a> {
    stage: &'a Stage,
    rng: fastrand::Rng,
    gateways: Vec<Hostile>,
    revision: u64,
    /// The epoch of west's exports, once a snapshot told it.
    epoch: u64,
}

impl Attack<'_> {
    /// A gateway in the place of one that is gone or not there yet.
    fn link(&mut self) {
        if self.gateways.len() >= GATEWAYS {
            let at = self.rng.usize(..GATEWAYS);
            drop(self.gateways.swap_remove(at));
        }
        let id = format!("gw-{}", self.rng.u8(1..6));
        let carrier = Carrier::ALL[self.rng.usize(..2)];
        // West may refuse one more; that is its right.
        let Ok(gateway) = self.stage.gateway(&id, carrier) else { return };
        let records: Vec<_> = (0..self.rng.usize(..2_000)).map(|_| self.record()).collect();
        gateway.export(self.revision, &snapshot(self.revision, records));
        self.gateways.push(gateway);
    }

    fn record(&mut self) -> Record {
        let rng = &mut self.rng;
        let name = if rng.u8(..20) == 0 { "cart".to_owned() } else { format!("s{}", rng.u32(..NAMES)) };
        let mut record = record(&name, self.revision);
        match rng.u8(..12) {
            0 => record = with(record, crowd(rng.usize(1..1024), rng.u32(..10_001), rng.u64(..))),
            1 => record = with(record, crowd(16, 10_000, rng.u64(..1_000))),
            2 => record = with(record, sharded(rng.u64(..), rng.u64(..), &[("east", 100)])),
            3 => record = with(record, sharded(rng.u64(1..9), 0, &[("east", 100), ("west", rng.u32(..100))])),
            4 => record.ports.clear(),
            5 => record.name = "x".repeat(rng.usize(..300)),
            6 => record.region = "\u{1b}[31m\n".repeat(rng.usize(..40)),
            7 => record.ports[0].number = rng.u32(..70_000),
            8 => record.revision = rng.u64(..),
            _ => {}
        }
        record
    }

    fn events(&mut self) -> Vec<Event> {
        self.revision += 1;
        match self.rng.u8(..10) {
            0 => vec![begin(self.rng.u64(..))],
            1 => vec![end(self.revision)],
            2 => vec![current(self.rng.u64(..))],
            3 => (0..100).map(|_| removed(&format!("s{}", self.rng.u32(..NAMES)), self.revision)).collect(),
            _ => (0..self.rng.usize(1..60)).map(|_| upsert(self.record())).collect(),
        }
    }

    fn step(&mut self) {
        if self.gateways.len() < GATEWAYS || self.rng.u8(..60) == 0 {
            return self.link();
        }
        let events = self.events();
        let at = self.rng.usize(..GATEWAYS);
        let rng = &mut self.rng;
        let gateway = &self.gateways[at];
        if gateway.ended().is_some() {
            drop(self.gateways.swap_remove(at));
            return;
        }
        match rng.u8(..13) {
            0..=4 => drop(gateway.tell(&events)),
            5 => say_gateways(gateway, rng),
            6 => say_digest(gateway, rng),
            7 | 8 => {
                let watch = match rng.u8(..3) {
                    0 => Watch::default(),
                    1 => Watch { epoch: self.epoch, revision: rng.u64(..), ..Watch::default() },
                    _ => Watch { epoch: rng.u64(..), revision: rng.u64(..), ..Watch::default() },
                };
                let wait = Duration::from_millis(rng.u64(..20));
                for event in gateway.watch(&watch, 1, wait).unwrap_or_default() {
                    if let Some(event::Kind::SnapshotBegin(begin)) = event.kind {
                        self.epoch = begin.epoch;
                    }
                }
            }
            9 => {
                gateway.answer(answer(rng));
                let mut caller = Connection::open(self.stage.west.site.http).unwrap();
                caller.set_patience(PATIENCE);
                // Whatever comes of it, no other caller shall notice.
                let host = format!("s{}.shop.east.mesh", rng.u32(..NAMES));
                let _ = caller.exchange(&Request::get(&host, "/"));
            }
            10 | 11 => open_a_stream(gateway, rng),
            _ => {
                // What no control message is; the tunnel may end by it.
                let reason = "x\n".repeat(rng.usize(..200));
                gateway.say(control::Kind::GoAway(proto::control::GoAway {
                    last_stream: Some(u64::MAX),
                    reason,
                }));
            }
        }
    }
}

/// Names gateways where it may not, or where nobody is.
fn say_gateways(gateway: &Hostile, rng: &mut fastrand::Rng) {
    let place = |rng: &mut fastrand::Rng| {
        let host = match rng.u8(..6) {
            0 => "localhost".to_owned(),
            1 => "0.0.0.0".to_owned(),
            2 => "224.0.0.1".to_owned(),
            3 => format!("h{}.invalid", rng.u32(..)),
            _ => format!("127.{}.{}.{}", rng.u8(..), rng.u8(..), rng.u8(1..)),
        };
        (format!("gw-{}", rng.u8(..)), format!("{host}:{}", rng.u16(1..)))
    };
    let list: Vec<_> = (0..rng.usize(..64)).map(|_| place(rng)).collect();
    gateway.say_gateways(list);
}

/// Says whatever of services, objects to some, and may ask for all that west has said.
fn say_digest(gateway: &Hostile, rng: &mut fastrand::Rng) {
    let services = (0..100).map(|_| ServiceDigest {
        namespace: "shop".into(),
        name: format!("s{}", rng.u32(..NAMES)),
        ready: rng.u32(..),
        ring: Some(rng.u64(..)),
        degraded: rng.bool(),
    });
    let services = services.collect();
    let objections = (0..rng.usize(..100)).map(|_| Objection {
        namespace: "shop".into(),
        name: "cart".into(),
        reason: rng.i32(0..4),
    });
    let objections = objections.collect();
    gateway.say(control::Kind::Digest(Digest { services, objections }));
    if rng.bool() {
        gateway.say(control::Kind::TellAgain(TellAgain {}));
    }
}

/// Opens a stream, says something on it, and gives it up.
fn open_a_stream(gateway: &Hostile, rng: &mut fastrand::Rng) {
    let kinds = [StreamKind::Exchange, StreamKind::Sync, StreamKind::Objects, StreamKind::Lookup];
    let kind = kinds[rng.usize(..kinds.len())];
    let bytes = noise(rng, 4_096);
    let opened = async {
        let Ok((mut send, receive)) = gateway.open(kind).await else { return };
        let _ = send.write(bytes.into()).await;
        send.end(Some(Code::Cancelled.to_wire())).await;
        drop(receive);
    };
    // A peer that opens too many streams waits for credit; that is its affair.
    let _ = gateway.run(async { tokio::time::timeout(PATIENCE, opened).await });
}

/// Fewer than `most` bytes that mean nothing.
fn noise(rng: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    let count = rng.usize(..most);
    std::iter::repeat_with(|| rng.u8(..)).take(count).collect()
}

/// Frames that may be an answer.
fn answer(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut frames = Vec::new();
    for _ in 0..rng.usize(1..6) {
        let length = rng.u32(..100).to_string();
        let fields = [("content-length", &*length), ("transfer-encoding", "chunked"), ("upgrade", "x")];
        let fields = &fields[..rng.usize(..=fields.len())];
        frames.extend(match rng.u8(..6) {
            0 => interim(rng.u16(100..210), fields),
            1 | 2 => head(rng.u16(100..=999), fields),
            3 => data("x".repeat(rng.usize(1..100)).as_bytes()),
            4 => proto::frame::END.to_vec(),
            _ => noise(rng, 100),
        });
    }
    frames
}

fn run(time: Duration) {
    let seed =
        std::env::var("HOSTILE_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("HOSTILE_SEED={seed}");
    let link = format!("addresses: [\"127.0.0.1:{}\"]\n  import: [{{ union: true }}]", free_port());
    let mut stage = Stage::set(Setup { link: Some(link), ..Setup::default() });
    let mut attack = Attack {
        stage: &stage,
        rng: fastrand::Rng::with_seed(seed),
        gateways: Vec::new(),
        revision: 1_000_000_000_000_000,
        epoch: 0,
    };
    let started = Instant::now();
    let mut steps = 0;
    while started.elapsed() < time {
        attack.step();
        steps += 1;
    }
    println!("{steps} steps");
    drop(attack);
    let log = stage.west.process.log();
    let minutes = time.as_secs() as usize / 60 + 1;
    let over = log.lines().filter(|line| line.contains("A peer goes over what it may cost")).count();
    println!("{} lines in the log, {over} of them about budgets", log.lines().count());
    assert!(over <= BUDGETS * minutes, "{over} lines for what goes on and on");
    wait_until("east has gone", e2e::wait::SOON, || {
        let status = stage.status();
        let east = |peer: &&serde_json::Value| peer["cluster"] == "east" && peer["state"] != "down";
        status["peers"].as_array()?.iter().find(east).is_none().then_some(())
    });
    // Our own callers of our own service, whatever was declared of it.
    assert_eq!(stage.west.get("cart.shop.west.mesh", "/").status, 200);
    assert_eq!(stage.west.get("cart.shop.mesh", "/").status, 200);
    stage.assert_unharmed(768);
}

#[test]
fn all_of_it_at_once_harms_nobody() {
    run(Duration::from_secs(8));
}

/// Alone: `cargo test --release -p e2e --test hostile -- --ignored --nocapture ten_minutes`.
#[test]
#[ignore = "takes ten minutes: tests/run --long"]
fn all_of_it_at_once_harms_nobody_for_ten_minutes() {
    let seconds = std::env::var("HOSTILE_SECONDS").map_or(LONG, |seconds| seconds.parse().unwrap());
    run(Duration::from_secs(seconds));
}
