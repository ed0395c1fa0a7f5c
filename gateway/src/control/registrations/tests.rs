#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::io;

use proto::register::{Beat, Drain, Leave, Phase};
use registry::model::{Catalog, Declared, Endpoint, Grant, HostRule, Hosts, Port, Protocol, Service};
use registry::pure::registration::Registered;
use registry::pure::registration::place::CameFrom;
use registry::store::memory::{MemoryStore, MemoryWatch};
use registry::store::{Cause, Entry, LeaseId, Outcome, Range, Room, StoreError, Transaction, keys};
use tokio::task::JoinHandle;

use super::*;
use crate::base::line::Line;

const TTL: Duration = Duration::from_secs(3);

/// How a store is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Health {
    Well,
    /// It says nothing until it is well again.
    Frozen,
    /// It fails at once.
    Gone,
}

/// A store that fails as it is told to.
#[derive(Clone)]
struct Failing {
    store: MemoryStore,
    health: watch::Receiver<Health>,
}

impl Failing {
    async fn ask(&self) -> Result<&MemoryStore, StoreError> {
        let health = *self.health.clone().wait_for(|health| *health != Health::Frozen).await.unwrap();
        let gone = || StoreError::Unavailable(Cause::new(io::Error::from(io::ErrorKind::TimedOut)));
        if health == Health::Gone { Err(gone()) } else { Ok(&self.store) }
    }
}

impl Store for Failing {
    type Watch = MemoryWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.ask().await?.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        self.ask().await?.range(prefix).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.ask().await?.commit(transaction).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask().await?.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask().await?.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask().await?.revoke(lease).await
    }
    async fn room(&self) -> Result<Room, StoreError> {
        self.ask().await?.room().await
    }
    async fn watch(&self, prefix: &str, from: u64) -> Result<MemoryWatch, StoreError> {
        self.ask().await?.watch(prefix, from).await
    }
}

fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: "a".into(),
        host: "127.0.0.1".into(),
        ports: [("web", 9001)].into(),
        weight: 100,
        zone: "".into(),
        capacity: None,
    }
}

fn begin() -> Begin {
    Begin { registrar: [7; 16], ttl: TTL, endpoints: vec![(cart(), endpoint())], draining: false }
}

/// A view of which `shop/cart` has these endpoints.
fn view(revision: u64, endpoints: Vec<Endpoint>) -> Arc<View> {
    view_that_allows(revision, endpoints, &[])
}

/// The same, where workloads may register these hosts.
fn view_that_allows(revision: u64, endpoints: Vec<Endpoint>, hosts: &[HostRule]) -> Arc<View> {
    let registration = Hosts(hosts.to_vec());
    let ports =
        [Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false }].into();
    let service =
        Service { name: cart(), ports, endpoints, health_check: None, export: Grant::Nobody, registration };
    let declared =
        Declared { services: [(cart(), Arc::new(service))].into_iter().collect(), ..Declared::default() };
    let catalog = Catalog {
        revision,
        cluster: registry::model::ClusterName::new("west").unwrap(),
        region: String::new(),
        declared,
        imports: Default::default(),
    };
    let mut view = View::default();
    view.catalog = Some(Arc::new(catalog));
    Arc::new(view)
}

/// The far end of a conversation, and what it is about.
struct Talk {
    say: mpsc::Sender<Say>,
    told: mpsc::Receiver<Told>,
    store: MemoryStore,
    health: watch::Sender<Health>,
    views: watch::Sender<Arc<View>>,
}

/// A conversation that has yet to be polled, with a store that is as `health` says.
fn talk(health: Health) -> (Talk, impl Future<Output = Option<InProgressGuard>> + Send + 'static) {
    talk_from(Who::Host(7), CameFrom::Host, health)
}

/// The same with `who`, who is `from` somewhere.
fn talk_from(
    who: Who,
    from: CameFrom,
    health: Health,
) -> (Talk, impl Future<Output = Option<InProgressGuard>> + Send + 'static) {
    let store = MemoryStore::default();
    let (health, of_store) = watch::channel(health);
    let views = watch::Sender::new(view(1, Vec::new()));
    let (say, said) = mpsc::channel(8);
    let (tell, told) = mpsc::channel(8);
    let stream = RegisterStream { who, from, line: Line::Queues(said, tell), room: None };
    let failing = Failing { store: store.clone(), health: of_store };
    let places = Places { from, listeners: Arc::default(), resolving: Arc::new(Semaphore::new(1)) };
    let conversation = converse(CancellationToken::new(), failing, views.subscribe(), places, stream);
    (Talk { say, told, store, health, views }, conversation)
}

async fn begun(health: Health) -> (Talk, JoinHandle<Option<InProgressGuard>>) {
    let (mut talk, conversation) = talk(health);
    let conversation = tokio::spawn(conversation);
    talk.say(say::Kind::Begin(begin().encode())).await;
    talk.told().await;
    (talk, conversation)
}

impl Talk {
    async fn say(&self, kind: say::Kind) {
        self.say.send(Say { kind: Some(kind) }).await.unwrap();
    }

    async fn told(&mut self) -> (Phase, String) {
        let standing = self.told.recv().await.unwrap().endpoints.pop().unwrap();
        (standing.phase(), standing.why)
    }

    /// Says that it lives, and gives the answer to it.
    async fn beat(&mut self) -> (Phase, String) {
        while self.told.try_recv().is_ok() {}
        self.say(say::Kind::Beat(Beat {})).await;
        self.told().await
    }

    async fn told_until(&mut self, phase: Phase) -> String {
        loop {
            let (now, why) = self.told().await;
            if now == phase {
                return why;
            }
        }
    }

    async fn record(&self) -> Option<Registered> {
        let entry = self.store.get(&keys::endpoint(&cart(), "a")).await.unwrap()?;
        Some(Registered::decode(&entry.key, &entry.value).unwrap().1)
    }

    fn show(&self, revision: u64, endpoints: Vec<Endpoint>) {
        self.views.send_replace(view(revision, endpoints));
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_says_nothing_is_no_gateway_that_says_nothing() {
    let (mut talk, conversation) = begun(Health::Frozen).await;
    let began = Instant::now();
    for _ in 0..60 {
        tokio::time::sleep(TTL / 3).await;
        let asked = Instant::now();
        assert_eq!(talk.beat().await.0, Phase::Waiting);
        assert!(asked.elapsed() < TTL / 3, "{:?}", asked.elapsed());
    }
    assert!(began.elapsed() > 10 * TTL && !conversation.is_finished());
    talk.health.send_replace(Health::Well);
    talk.show(2, vec![endpoint()]);
    talk.told_until(Phase::Registered).await;
    assert!(talk.record().await.is_some());
    talk.say(say::Kind::Leave(Leave {})).await;
    talk.told_until(Phase::Gone).await;
    conversation.await.unwrap();
    assert_eq!(talk.record().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_drains_without_the_registry_is_not_idle_while_the_view_gives_it_requests() {
    let (mut talk, _conversation) = begun(Health::Well).await;
    talk.show(2, vec![endpoint()]);
    talk.told_until(Phase::Registered).await;
    talk.health.send_replace(Health::Gone);
    talk.say(say::Kind::Drain(Drain {})).await;
    let (phase, why) = loop {
        let (phase, why) = talk.told().await;
        if !why.is_empty() {
            break (phase, why);
        }
    };
    assert_eq!(phase, Phase::Registered);
    assert!(why.contains("the registry does not answer"), "{why}");
    assert_eq!(talk.beat().await.0, Phase::Registered);
    // Each second it is tried again.
    talk.health.send_replace(Health::Well);
    talk.show(3, vec![Endpoint { weight: 0, ..endpoint() }]);
    talk.told_until(Phase::Draining).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(talk.record().await.unwrap().draining);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_lost_is_there_again_with_the_next_sign_of_life() {
    let (mut talk, _conversation) = begun(Health::Well).await;
    talk.show(2, vec![endpoint()]);
    talk.told_until(Phase::Registered).await;
    let delete = registry::store::Op::Delete(keys::endpoint(&cart(), "a"));
    let lost = Transaction { expect: Vec::new(), ops: vec![delete] };
    talk.store.commit(lost).await.unwrap();
    talk.beat().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(talk.record().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn words_are_listened_to_only_so_often() {
    let (talk, _conversation) = begun(Health::Well).await;
    let began = Instant::now();
    let mut told = talk.told;
    let drained = tokio::spawn(async move { while told.recv().await.is_some() {} });
    for _ in 0..100 {
        talk.say.send(Say { kind: Some(say::Kind::Beat(Beat {})) }).await.unwrap();
    }
    // But for those that wait in the queue.
    assert!(began.elapsed() >= Duration::from_secs(18), "{:?}", began.elapsed());
    drained.abort();
}

#[test]
fn a_change_of_other_services_is_no_news() {
    let first = view(1, vec![endpoint()]);
    let mut other = View::default();
    other.catalog.clone_from(&first.catalog);
    let (views, of_session) = watch::channel(first);
    let (wanted, _asked) = watch::channel(Wanted::default());
    let (_tell, done) = watch::channel(Done::default());
    let (_say, said) = mpsc::channel(1);
    let (tell, _told) = mpsc::channel(1);
    let places =
        Places { from: CameFrom::Host, listeners: Arc::default(), resolving: Arc::new(Semaphore::new(1)) };
    let mut session = Session::new(Line::Queues(said, tell), &begin(), of_session, places, wanted, done);
    // Another view with the very same service.
    views.send_replace(Arc::new(other));
    assert!(!session.services_changed());
    views.send_replace(view(2, vec![endpoint()]));
    assert!(session.services_changed());
}

#[tokio::test(start_paused = true)]
async fn a_long_life_costs_nothing_in_the_end() {
    let (mut talk, conversation) = talk(Health::Well);
    let polls = Cell::new(0);
    let mut conversation = std::pin::pin!(conversation);
    let counted = std::future::poll_fn(|context| {
        polls.set(polls.get() + 1);
        conversation.as_mut().poll(context)
    });
    let registrar = async {
        talk.say(say::Kind::Begin(begin().encode())).await;
        talk.told().await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3600) {
            tokio::time::sleep(TTL / 3).await;
            talk.beat().await;
        }
        let before = polls.get();
        talk.say(say::Kind::Drain(Drain {})).await;
        talk.told_until(Phase::Draining).await;
        tokio::time::sleep(TTL / 3).await;
        polls.get() - before
    };
    tokio::select! {
        _ = counted => panic!("it ends before its registrar"),
        polls = registrar => assert!(polls < 100, "{polls}"),
    }
}

#[test]
fn nobody_takes_the_room_of_all() {
    let mut rooms = Rooms::default();
    let who = |name: &str| Who::Workload { namespace: "shop".into(), id: name.into() };
    let mut taken: Vec<_> = (0..REGISTRARS_OF_ONE_MAX).map(|_| rooms.enter(&who("a")).unwrap()).collect();
    assert!(rooms.enter(&who("a")).is_none());
    let other = rooms.enter(&who("b")).unwrap();
    taken.pop();
    taken.push(rooms.enter(&who("a")).unwrap());
    rooms.forget(&who("a"));
    assert!(rooms.enter(&who("a")).is_none(), "who has some is not forgotten");
    drop((taken, other));
    rooms.forget(&who("a"));
    rooms.forget(&who("b"));
    assert!(rooms.0.is_empty());
}

/// A workload of the namespace of `shop/cart`.
fn workload() -> Who {
    Who::Workload { namespace: "shop".into(), id: "spiffe://a.example/cluster/west/ns/shop/sa/cart".into() }
}

fn begin_at(host: &str) -> say::Kind {
    let endpoint = Endpoint { host: host.into(), ..endpoint() };
    say::Kind::Begin(Begin { endpoints: vec![(cart(), endpoint)], ..begin() }.encode())
}

/// What a workload is told that registers `host` from 10.0.0.5, where the service allows these hosts.
async fn registers(host: &str, hosts: &[HostRule]) -> (Talk, Told, JoinHandle<Option<InProgressGuard>>) {
    let from = CameFrom::Address([10, 0, 0, 5].into());
    let (mut talk, conversation) = talk_from(workload(), from, Health::Well);
    talk.views.send_replace(view_that_allows(1, Vec::new(), hosts));
    let conversation = tokio::spawn(conversation);
    talk.say(begin_at(host)).await;
    let told = talk.told.recv().await.unwrap();
    (talk, told, conversation)
}

#[tokio::test]
async fn a_workload_from_elsewhere_registers_where_it_is_or_where_its_service_allows() {
    let network = [HostRule::Network([10, 0, 1, 0].into(), 24)];
    for (host, hosts, refused) in [
        ("10.0.0.5", &[][..], ""),
        ("10.0.1.9", &network, ""),
        (
            "10.0.1.9",
            &[],
            "`registration: { hosts: [\"10.0.1.9\"] }` in the spec of the MeshService shop/cart",
        ),
        ("127.0.0.1", &network, "over its Unix socket"),
    ] {
        let (talk, told, conversation) = registers(host, hosts).await;
        assert!(told.refused.contains(refused), "{host}: {told:?}");
        assert_eq!(told.refused.is_empty(), refused.is_empty(), "{host}: {told:?}");
        drop(talk);
        conversation.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_allowed_no_longer_is_taken_off() {
    let network = [HostRule::Network([10, 0, 1, 0].into(), 24)];
    let (mut talk, told, conversation) = registers("10.0.1.9", &network).await;
    assert_eq!(told.refused, "");
    while talk.record().await.is_none() {
        tokio::task::yield_now().await;
    }
    talk.views.send_replace(view_that_allows(2, Vec::new(), &[]));
    let refused = loop {
        let told = talk.told.recv().await.unwrap();
        if !told.refused.is_empty() {
            break told.refused;
        }
    };
    assert!(refused.contains("registration: { hosts:"), "{refused}");
    assert_eq!(talk.record().await, None, "before it is told");
    let Talk { say, .. } = talk;
    drop(say);
    conversation.await.unwrap();
}
