#![allow(clippy::unwrap_used)]

use registry::model::{Endpoint, ServiceName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

const TTL: Duration = Duration::from_secs(9);

fn begin() -> Begin {
    let endpoint = Endpoint {
        id: "a".into(),
        host: "127.0.0.1".into(),
        ports: [("web", 9001)].into(),
        weight: 100,
        zone: "".into(),
        capacity: None,
    };
    let endpoints = vec![(ServiceName::new("shop", "cart").unwrap(), endpoint)];
    Begin { registrar: [7; 16], ttl: TTL, endpoints, draining: false }
}

/// The far end of a registrar's conversations, one after the other.
struct Gateway {
    lines: mpsc::Receiver<(mpsc::Receiver<Say>, mpsc::Sender<Told>)>,
}

/// The far end of one.
struct Conversation {
    said: mpsc::Receiver<Say>,
    tell: mpsc::Sender<Told>,
}

struct Running {
    ending: Ending,
    news: mpsc::Receiver<String>,
    task: JoinHandle<Ended>,
}

fn start() -> (Gateway, Running) {
    let (lines, accepted) = mpsc::channel(8);
    let (noted, news) = mpsc::channel(64);
    let ending = Ending { grace: Duration::from_secs(30), ..Ending::default() };
    let connect = async move || {
        let (say, said) = mpsc::channel(8);
        let (tell, told) = mpsc::channel(8);
        lines.send((said, tell)).await.map_err(|_| "nobody listens".to_owned())?;
        Ok(Line::Queues(told, say))
    };
    let on_news = move |news: News<'_>| {
        let text = match news {
            News::Told(endpoints) => format!("{:?}", endpoints[0].phase()),
            News::Refused(why) => format!("refused: {why}"),
            News::Lost(why) => format!("lost: {why}"),
        };
        noted.try_send(text).unwrap();
    };
    let task = tokio::spawn(run(begin(), connect, ending.clone(), on_news));
    (Gateway { lines: accepted }, Running { ending, news, task })
}

impl Gateway {
    async fn accept(&mut self) -> Conversation {
        let (said, tell) = self.lines.recv().await.unwrap();
        Conversation { said, tell }
    }
}

impl Conversation {
    async fn said(&mut self) -> say::Kind {
        self.said.recv().await.unwrap().kind.unwrap()
    }

    async fn began(&mut self) -> bool {
        let say::Kind::Begin(begin) = self.said().await else { panic!("no beginning") };
        assert_eq!((&*begin.registrar, begin.ttl_ms, begin.endpoints.len()), (&[7; 16][..], 9_000, 1));
        begin.draining
    }

    async fn tell(&self, phase: Phase, in_flight: u64) {
        let standing = Standing { phase: phase.into(), why: String::new(), in_flight };
        let told = Told { endpoints: vec![standing], refused: String::new() };
        self.tell.send(told).await.unwrap();
    }

    async fn refuse(&self, why: &str) {
        self.tell.send(Told { endpoints: Vec::new(), refused: why.into() }).await.unwrap();
    }
}

#[test]
fn people_are_shown_changes_only() {
    let standing =
        |phase: Phase, why: &str, in_flight| Standing { phase: phase.into(), why: why.into(), in_flight };
    let mut seen = Seen::default();
    let mut shown = |phase, why, in_flight| {
        let changes = seen.changes(&[standing(phase, why, in_flight)]);
        changes.into_iter().map(|(_, phase, why)| format!("{} {why}", word(phase))).next()
    };
    assert_eq!(shown(Phase::Waiting, "", 0), None);
    assert_eq!(shown(Phase::Waiting, "no service", 0).as_deref(), Some("waiting no service"));
    assert_eq!(shown(Phase::Waiting, "no service", 0), None);
    assert_eq!(shown(Phase::Registered, "", 0).as_deref(), Some("registered "));
    assert_eq!(shown(Phase::Draining, "", 2).as_deref(), Some("draining "));
    assert_eq!(shown(Phase::Draining, "", 1), None);
}

#[tokio::test(start_paused = true)]
async fn it_says_that_it_lives_and_drains_before_it_leaves() {
    let (mut gateway, mut running) = start();
    let mut talk = gateway.accept().await;
    assert!(!talk.began().await);
    talk.tell(Phase::Registered, 0).await;
    let began = Instant::now();
    assert_eq!(talk.said().await, say::Kind::Beat(Beat {}));
    assert_eq!(began.elapsed().as_secs(), 3);
    talk.tell(Phase::Registered, 0).await;

    running.ending.drain.cancel();
    assert_eq!(talk.said().await, say::Kind::Drain(Drain {}));
    let drains = Instant::now();
    talk.tell(Phase::Draining, 1).await;
    // Something is under way: it goes on living.
    assert_eq!(talk.said().await, say::Kind::Beat(Beat {}));
    talk.tell(Phase::Draining, 0).await;
    assert_eq!(talk.said().await, say::Kind::Leave(Leave {}));
    assert!(drains.elapsed() >= SETTLE);
    talk.tell(Phase::Gone, 0).await;
    drop(talk);
    assert_eq!(running.task.await.unwrap(), Ended::Left);
    let mut news = Vec::new();
    while let Some(line) = running.news.recv().await {
        news.push(line);
    }
    assert_eq!(news, ["Registered", "Registered", "Draining", "Draining", "Gone"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_life_costs_nothing_in_the_end() {
    let (say, mut said) = mpsc::channel(8);
    let (tell, told) = mpsc::channel(8);
    let ending = Ending { grace: Duration::from_secs(30), ..Ending::default() };
    let mut registrar =
        Registrar { begin: begin(), ending: ending.clone(), drains_since: None, was_told: false };
    let answer = |phase: Phase| {
        let standing = Standing { phase: phase.into(), why: String::new(), in_flight: 0 };
        tell.try_send(Told { endpoints: vec![standing], refused: String::new() }).unwrap();
    };
    let polls = std::cell::Cell::new(0);
    let mut on_news = |_: News<'_>| {};
    let mut talk = std::pin::pin!(registrar.talk(Line::Queues(told, say), &mut on_news));
    let talk = std::future::poll_fn(|context| {
        polls.set(polls.get() + 1);
        talk.as_mut().poll(context)
    });
    let hour = async {
        sleep(Duration::from_secs(3600)).await;
        ending.drain.cancel();
    };
    let gateway = async {
        let mut drains = None;
        loop {
            match said.recv().await.unwrap().kind.unwrap() {
                say::Kind::Leave(_) => break polls.get() - drains.unwrap(),
                say::Kind::Drain(_) => drains = Some(polls.get()),
                _ => {}
            }
            answer(if drains.is_some() { Phase::Draining } else { Phase::Registered });
        }
    };
    tokio::select! {
        _ = talk => panic!("it ends before it was told to"),
        (looked, ()) = async { tokio::join!(gateway, hour) } => assert!(looked < 200, "{looked}"),
    }
}

#[tokio::test(start_paused = true)]
async fn it_comes_back_whether_the_gateway_breaks_off_or_falls_silent() {
    let (mut gateway, running) = start();
    let mut talk = gateway.accept().await;
    talk.began().await;
    talk.tell(Phase::Registered, 0).await;
    drop(talk);
    let mut talk = gateway.accept().await;
    talk.began().await;
    talk.tell(Phase::Registered, 0).await;
    let silent = Instant::now();
    let mut again = gateway.accept().await;
    assert!(silent.elapsed() < TTL, "{:?}", silent.elapsed());
    assert!(!again.began().await);
    again.tell(Phase::Registered, 0).await;
    // Told to drain while there is no gateway: the next is told so.
    drop(again);
    running.ending.drain.cancel();
    let mut last = gateway.accept().await;
    let draining = last.began().await;
    last.tell(Phase::Draining, 0).await;
    let said = last.said().await;
    assert!(draining || said == say::Kind::Drain(Drain {}), "{said:?}");
    drop(gateway);
    running.ending.now.cancel();
    assert_eq!(running.task.await.unwrap(), Ended::Left);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_who_never_was_registered_and_no_one_else() {
    let (mut gateway, running) = start();
    let mut talk = gateway.accept().await;
    talk.began().await;
    talk.refuse("no port `web`").await;
    assert_eq!(running.task.await.unwrap(), Ended::Refused("no port `web`".into()));

    let (mut gateway, mut running) = start();
    let mut talk = gateway.accept().await;
    talk.began().await;
    talk.tell(Phase::Registered, 0).await;
    drop(talk);
    let mut talk = gateway.accept().await;
    talk.began().await;
    talk.refuse("no port `web`").await;
    gateway.accept().await.began().await;
    running.ending.now.cancel();
    assert_eq!(running.task.await.unwrap(), Ended::Left);
    let mut news = Vec::new();
    while let Some(line) = running.news.recv().await {
        news.push(line);
    }
    assert!(news.contains(&"refused: no port `web`".to_owned()), "{news:?}");
}

#[tokio::test(start_paused = true)]
async fn draining_has_an_end_even_if_something_is_under_way() {
    let (mut gateway, running) = start();
    let mut talk = gateway.accept().await;
    talk.began().await;
    talk.tell(Phase::Registered, 0).await;
    running.ending.drain.cancel();
    let started = Instant::now();
    loop {
        match talk.said().await {
            say::Kind::Leave(_) => break,
            _ => talk.tell(Phase::Draining, 1).await,
        }
    }
    assert_eq!(started.elapsed().as_secs(), 30);
    // The gateway never answers: the lease does it.
    assert_eq!(running.task.await.unwrap(), Ended::Left);
}

#[tokio::test(start_paused = true)]
async fn without_any_gateway_it_ends_when_it_is_told_to() {
    let ending = Ending { grace: Duration::from_secs(30), ..Ending::default() };
    let connect = async || Err::<Line<Told, Say>, _>("nobody is there".to_owned());
    let mut lost = 0;
    let told = ending.clone();
    let on_news = |news: News<'_>| {
        assert_eq!(news, News::Lost("nobody is there"));
        lost += 1;
        if lost == 3 {
            told.drain.cancel();
        }
    };
    assert_eq!(run(begin(), connect, ending, on_news).await, Ended::Left);
}
