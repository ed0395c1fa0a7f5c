//! Several gateways of one cluster that mirror a peer, stand for election and write what they mirror to one store, while
//! everything goes wrong: gateways die, are paused with a write in hand and wake, lose the store, and the store fails.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proto::store::Member;
use registry::model::{ClusterName, Import, PeerImports, Port, Protocol, ServiceName};
use registry::store::keys;
use registry::tasks::election::{Candidate, Guard, Standing, TTL, stand};
use registry::tasks::recorder::{Picture, RecordError, Recorder, Stored};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::etcd::{Client, Count, Etcd, Weather};

const STEPS: usize = 60;
const SERVICES: usize = 12;
/// Until all is well after everything has healed: a lease, and the pauses between tries.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// How often what was tried came about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pauses: usize,
    kills: usize,
    writes: Count,
}

struct World {
    rng: fastrand::Rng,
    etcd: Arc<Etcd>,
    peer: ClusterName,
    /// What the peer exports.
    truth: BTreeMap<ServiceName, Arc<Import>>,
    gateways: Vec<Gateway>,
    seen: Seen,
}

/// A place for a gateway process, and the process.
struct Gateway {
    id: String,
    home: u64,
    boot: u64,
    cut: watch::Sender<bool>,
    /// What its mirror holds; nothing before the first snapshot.
    picture: Arc<Mutex<Picture>>,
    pause: Arc<Pause>,
    running: Option<(JoinHandle<()>, watch::Receiver<Standing>)>,
}

/// Whether a process gets to run.
#[derive(Default)]
struct Pause {
    on: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// A process: all of it stands still while it is paused, whatever time passes.
struct Process<F>(Pin<Box<F>>, Arc<Pause>);

impl Pause {
    fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
        self.waker.lock().unwrap().take().into_iter().for_each(Waker::wake);
    }
}

impl<F: Future<Output = ()>> Future for Process<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        *self.1.waker.lock().unwrap() = Some(cx.waker().clone());
        if self.1.on.load(Ordering::Relaxed) { Poll::Pending } else { self.0.as_mut().poll(cx) }
    }
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.pauses += other.pauses;
        self.kills += other.kills;
        let (all, one) = (&mut self.writes, other.writes);
        all.written += one.written;
        all.refused += one.refused;
        all.unknown += one.unknown;
        all.restores += one.restores;
        all.reigns += one.reigns;
    }

    pub(crate) fn everything(&self) -> bool {
        let Self { pauses, kills, writes } = *self;
        let Count { written, refused, unknown, restores, reigns } = writes;
        [pauses, kills, written, refused, unknown, restores, reigns].iter().all(|&count| count > 5)
    }
}

/// One run, from a seed.
pub(crate) fn run(seed: u64) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            sleep(Duration::from_millis(world.rng.u64(20..1_500))).await;
            world.step().await;
            assert_eq!(world.etcd.wrong(), [""; 0]);
        }
        world.heal().await;
        assert_eq!(world.etcd.wrong(), [""; 0]);
        Seen { writes: world.etcd.count(), ..world.seen }
    })
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let etcd = Etcd::new(rng.fork());
        let peer = ClusterName::new("east").unwrap();
        let gateways = (1..=rng.u64(2..=4)).map(Gateway::new).collect();
        let mut world = Self { rng, etcd, peer, truth: BTreeMap::new(), gateways, seen: Seen::default() };
        for index in 0..SERVICES {
            world.export(index, Some(1));
        }
        for at in 0..world.gateways.len() {
            world.gateways[at].start(&world.etcd, &world.peer);
        }
        world
    }

    /// The peer exports a service with other ports, or no more.
    fn export(&mut self, index: usize, port: Option<u16>) {
        let name = ServiceName::new("shop", &format!("s{index}")).unwrap();
        let Some(number) = port else {
            self.etcd.may_go(keys::import(&self.peer, &name));
            self.truth.remove(&name);
            return;
        };
        let ports =
            [Port { name: "web".into(), number, protocol: Protocol::Http, proxy_header: false }].into();
        let region = "there".into();
        let import = Import { name: name.clone(), ports, region, contract: None, revision: 0 };
        self.truth.insert(name, Arc::new(import));
    }

    async fn step(&mut self) {
        let at = self.rng.usize(..self.gateways.len());
        match self.rng.u8(..100) {
            0..28 => {
                let (index, port) = (self.rng.usize(..SERVICES), self.rng.u16(1..1_000));
                let gone = self.rng.u8(..3) == 0;
                self.export(index, (!gone).then_some(port));
            }
            28..48 => self.sync(at),
            48..56 => {
                self.seen.pauses += 1;
                self.gateways[at].pause.set(true);
            }
            56..70 => self.gateways[at].pause.set(false),
            70..74 => {
                self.seen.kills += 1;
                self.gateways[at].kill().await;
            }
            74..84 => self.gateways[at].start(&self.etcd, &self.peer),
            84..87 => drop(self.gateways[at].cut.send_replace(true)),
            87..92 => drop(self.gateways[at].cut.send_replace(false)),
            92..96 => {
                let rng = &mut self.rng;
                let (lost, unanswered) = (rng.f64() * 0.4, rng.f64() * 0.4);
                let weather = Weather { lost, unanswered, delay_ms: rng.u64(..800), down: rng.u8(..4) == 0 };
                self.etcd.set_weather(weather);
            }
            96 => self.etcd.set_weather(Weather::default()),
            97 => self.etcd.back_up().await,
            98 => self.etcd.restore().await,
            _ => sleep(Duration::from_secs(self.rng.u64(..12))).await,
        }
    }

    /// A gateway's mirror hears of everything.
    fn sync(&mut self, at: usize) {
        let services = self.truth.iter().map(|(name, import)| (name.clone(), Arc::clone(import)));
        let imports =
            PeerImports { synced_unix_ms: 1, services: services.collect(), ..PeerImports::default() };
        let known = Some(Arc::new(imports));
        self.gateways[at].picture.lock().unwrap().insert(self.peer.clone(), known);
    }

    /// Nothing fails any more: one is elected, the others know it, and the store holds what the peer exports.
    async fn heal(&mut self) {
        self.etcd.set_weather(Weather::default());
        for at in 0..self.gateways.len() {
            let gateway = &mut self.gateways[at];
            gateway.cut.send_replace(false);
            gateway.pause.set(false);
            gateway.start(&self.etcd, &self.peer);
            self.sync(at);
        }
        // By then leases that could not be kept alive before have ended.
        sleep(TTL * 2).await;
        let healed = Instant::now();
        while let Some(wrong) = self.ails().await {
            assert!(healed.elapsed() < HEALED_WITHIN, "after {HEALED_WITHIN:?} {wrong}");
            sleep(Duration::from_millis(500)).await;
        }
        // And it stays so.
        let elected = self.standings();
        for _ in 0..10 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!((self.ails().await, self.standings()), (None, elected.clone()));
        }
        for gateway in &mut self.gateways {
            gateway.kill().await;
        }
    }

    /// Who is elected, by the gateways' own word.
    fn standings(&self) -> Vec<bool> {
        let elected = |gateway: &Gateway| {
            gateway.standing().is_some_and(|standing| standing.guard(Instant::now()).is_some())
        };
        self.gateways.iter().map(elected).collect()
    }

    async fn ails(&self) -> Option<String> {
        let elected = self.standings().into_iter().filter(|elected| *elected).count();
        if elected != 1 {
            return Some(format!("{elected} are elected"));
        }
        let stored = Stored::read(&self.etcd.inside()).await.unwrap().of(&self.peer);
        let facts = |import: &Arc<Import>| format!("{} {}", import.name, import.ports[0].number);
        let stored: Vec<_> = stored.iter().flat_map(|imports| imports.services.values().map(facts)).collect();
        let truth: Vec<_> = self.truth.values().map(facts).collect();
        (stored != truth).then(|| format!("the store holds {stored:?}, the peer exports {truth:?}"))
    }
}

impl Gateway {
    fn new(number: u64) -> Self {
        Self {
            id: format!("gw-{number}"),
            home: number,
            boot: 0,
            cut: watch::Sender::new(false),
            picture: Arc::default(),
            pause: Arc::default(),
            running: None,
        }
    }

    fn standing(&self) -> Option<Standing> {
        self.running.as_ref().map(|(_, standing)| standing.borrow().clone())
    }

    /// Starts it, if it does not run: it knows that there is a link, and nothing of what is behind it.
    fn start(&mut self, etcd: &Arc<Etcd>, peer: &ClusterName) {
        if self.running.is_some() {
            return;
        }
        self.boot += 1;
        self.pause = Arc::default();
        self.picture = Arc::new(Mutex::new([(peer.clone(), None)].into()));
        let member = Member { home: self.home, boot: self.boot, ..Member::default() };
        let us = Candidate { id: self.id.clone(), member };
        let client = etcd.client(&self.id, self.cut.subscribe());
        let (told, standing) = watch::channel(Standing::unknown());
        let life = live(client, us, told, standing.clone(), Arc::clone(&self.picture));
        let process = Process(Box::pin(life), Arc::clone(&self.pause));
        self.running = Some((tokio::spawn(process), standing));
    }

    /// SIGKILL.
    async fn kill(&mut self) {
        let Some((process, _)) = self.running.take() else { return };
        process.abort();
        let ended = process.await.unwrap_err();
        assert!(ended.is_cancelled(), "{} {ended}", self.id);
    }
}

/// A gateway as far as the store is concerned.
async fn live(
    store: Client,
    us: Candidate,
    told: watch::Sender<Standing>,
    standing: watch::Receiver<Standing>,
    picture: Arc<Mutex<Picture>>,
) {
    tokio::join!(stand(store.clone(), us, &told, std::future::pending()), write(store, standing, picture));
}

/// Brings the store to what is mirrored, whenever this gateway is elected.
async fn write(store: Client, mut standing: watch::Receiver<Standing>, picture: Arc<Mutex<Picture>>) {
    let mut recorder: Option<(Guard, Recorder)> = None;
    loop {
        let guard = standing.borrow_and_update().guard(Instant::now());
        if let Some(guard) = guard {
            let picture = picture.lock().unwrap().clone();
            let held = recorder.take().filter(|(office, _)| office.is_of(&guard));
            let brought = bring(&store, &guard, &picture, held.map(|(_, held)| held)).await;
            recorder = brought.ok().map(|held| (guard, held));
        }
        tokio::select! {
            biased;
            _ = standing.changed() => {}
            () = sleep(Duration::from_millis(300)) => {}
        }
    }
}

async fn bring(
    store: &Client,
    guard: &Guard,
    picture: &Picture,
    held: Option<Recorder>,
) -> Result<Recorder, RecordError> {
    if let Some(mut held) = held {
        held.verify(store, guard).await?;
        held.bring(store, guard, picture).await?;
        return Ok(held);
    }
    let mut recorder = Recorder::begin(store, guard).await?;
    let stored = Stored::read(store).await?;
    recorder.take_over(store, guard, &stored, picture).await?;
    Ok(recorder)
}
