//! A process with several workers, each a thread with a runtime and an endpoint. It answers what it is asked.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use proto::control::GoAway;

use proto::stream::StreamKind;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tunnel::{Accepted, Begun, Driver, Endpoint, EndpointError, Port, Secrets, Spare, Strays, Tunnel};

use crate::pki::{Pki, local};

/// The longest a call may take on a machine that has much else to do. A tunnel that dies in between fails it.
const CALL_WAIT: Duration = Duration::from_secs(60);

struct Worker {
    handle: Handle,
    endpoint: Arc<Endpoint>,
    /// Dropped: the thread ends.
    _running: oneshot::Sender<()>,
}

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    /// What an heir takes.
    pub(crate) spare: Arc<Spare>,
    accepted: Arc<Mutex<Vec<Tunnel>>>,
    count: watch::Receiver<usize>,
    workers: Vec<Worker>,
    threads: Vec<JoinHandle<()>>,
}

impl Gateway {
    pub(crate) fn start(pki: &Pki, cluster: &str, workers: u8, boot: u64) -> Self {
        Self::start_at(pki.path(), cluster, ([127, 0, 0, 1], 0).into(), workers, boot)
    }

    /// Like a start of the same process: its keys are kept in `dir`.
    pub(crate) fn start_at(dir: &Path, cluster: &str, address: SocketAddr, workers: u8, boot: u64) -> Self {
        let state = dir.join(cluster);
        let secrets = Secrets::load_or_create(&state).unwrap();
        let bind = || Port::bind(address, NonZeroU8::new(workers).unwrap(), &secrets, boot);
        // Of a port of the system's choice another test may take a share before all shares are bound.
        let again = |e: &EndpointError| address.port() == 0 && matches!(e, EndpointError::Bind(..));
        let ports = (0..10).map(|_| bind()).find(|bound| !bound.as_ref().is_err_and(again));
        Self::on(ports.expect("a port that nobody else wants").unwrap(), &state, cluster, boot)
    }

    /// Takes over from `elder`, which ends what it has begun. The task ends with it.
    pub(crate) fn heir_of(elder: &Self, pki: &Pki, cluster: &str, boot: u64) -> (Self, JoinSet<()>) {
        let state = pki.path().join(cluster);
        let secrets = Secrets::load_or_create(&state).unwrap();
        let sockets: Vec<_> = elder.spare.sockets().iter().map(|s| s.try_clone().unwrap()).collect();
        let workers = NonZeroU8::new(sockets.len() as u8).unwrap();
        let ports = Port::on(sockets, workers, &secrets, boot).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Its workers run before it is its turn.
        Spare::of(&ports).unwrap().let_go();
        let heir = Self::on(ports, &state, cluster, boot);
        elder.spare.let_go();
        let mut carrying = JoinSet::new();
        carrying.spawn(heir.spare.carry_to(ours));
        heir.spare.take();
        let spare = elder.spare.clone();
        carrying.spawn(async move { spare.receive(theirs).await.unwrap() });
        (heir, carrying)
    }

    fn on(ports: Vec<Port>, state: &Path, cluster: &str, boot: u64) -> Self {
        let local = local(state, cluster, u32::MAX, boot);
        let spare = Arc::new(Spare::of(&ports).unwrap());
        let accepted = Arc::<Mutex<Vec<Tunnel>>>::default();
        let (counter, count) = watch::channel(0);
        let counter = Arc::new(counter);
        let (mut workers, mut threads) = (Vec::new(), Vec::new());
        for port in ports {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let handle = runtime.handle().clone();
            let entered = handle.enter();
            let endpoint = Arc::new(Endpoint::on(port, local.clone()).unwrap());
            drop(entered);
            handle.spawn(serve(endpoint.clone(), accepted.clone(), counter.clone()));
            let (running, ended) = oneshot::channel::<()>();
            threads.push(thread::spawn(move || drop(runtime.block_on(ended))));
            workers.push(Worker { handle, endpoint, _running: running });
        }
        let address = workers[0].endpoint.local_address().unwrap();
        Self { address, spare, accepted, count, workers, threads }
    }

    /// Dials from a worker, which owns the tunnel then.
    pub(crate) async fn dial(&self, worker: usize, address: SocketAddr, cluster: &'static str) -> Tunnel {
        let endpoint = self.workers[worker].endpoint.clone();
        let dialled = self.workers[worker].handle.spawn(async move {
            let (tunnel, driver) = endpoint.dial(address, cluster, |_| Ok(())).await.unwrap();
            drive(driver);
            tunnel
        });
        dialled.await.unwrap()
    }

    /// The tunnels that others dialled.
    pub(crate) fn accepted(&self) -> Vec<Tunnel> {
        self.accepted.lock().unwrap().clone()
    }

    /// Waits for as many.
    pub(crate) async fn accepted_as_many_as(&mut self, many: usize) -> Vec<Tunnel> {
        tokio::time::timeout(CALL_WAIT, self.count.wait_for(|n| *n >= many))
            .await
            .expect("they come")
            .unwrap();
        self.accepted()
    }

    pub(crate) fn strays(&self) -> Strays {
        self.workers[0].endpoint.strays()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.workers.clear();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn drive(driver: Driver) {
    tokio::spawn(driver.run(|_| {}));
}

async fn serve(endpoint: Arc<Endpoint>, list: Arc<Mutex<Vec<Tunnel>>>, count: Arc<watch::Sender<usize>>) {
    while let Some(attempt) = endpoint.accept().await {
        let handshake = attempt.answer(|_| Ok(()));
        let (list, count) = (list.clone(), count.clone());
        tokio::spawn(async move {
            let Ok((tunnel, driver)) = handshake.await else { return };
            drive(driver);
            list.lock().unwrap().push(tunnel.clone());
            count.send_modify(|n| *n += 1);
            while let Ok(stream) = tunnel.accept().await {
                tokio::spawn(echo(stream));
            }
        });
    }
}

/// Sends back every message of a stream. A failure is the caller's to see.
async fn echo(stream: Accepted) {
    let Ok(Begun::Messages(StreamKind::Sync, mut reader, mut writer)) = stream.begin().await else { return };
    while let Ok(Some(message)) = reader.next::<GoAway>().await {
        if writer.send(&message).await.is_err() {
            return;
        }
    }
    writer.finish();
}

/// One exchange: asks with `number` and must hear it again.
pub(crate) async fn call(tunnel: &Tunnel, number: u64) {
    let called = async {
        let (mut reader, mut writer) = tunnel.open_messages(StreamKind::Sync).await.unwrap();
        writer.send(&GoAway { last_stream: Some(number), reason: "asked".into() }).await.unwrap();
        writer.finish();
        let answer: GoAway = reader.next().await.unwrap().unwrap();
        assert_eq!(answer.last_stream, Some(number));
        assert!(reader.next::<GoAway>().await.unwrap().is_none());
    };
    tokio::time::timeout(CALL_WAIT, called)
        .await
        .unwrap_or_else(|_| panic!("call {number:#x} has no answer"));
}
