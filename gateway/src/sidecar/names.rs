//! What names mean to a sidecar: asked of a gateway when a name is used first, and heard of from then on.
//!
//! A name that is not used for a while is given up. While no gateway can be asked, what was told stays, but for how the
//! other clusters are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::LOOKUP_NAMES_MAX;
use proto::lookup::{Answer, Ask, ask};
use proto::stream::StreamKind;
use registry::pure::lookup::{self, Meaning};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;
use tunnel::{MessageReader, Tunnel, TunnelError};

use crate::peers::PeerCluster;
use crate::proxy::worker::Shared;
use crate::telemetry::limited::limited;
use crate::view::ViewBuilder;
use policy::route::Target;

/// How long a request waits for the first word on a name.
const LEARN_WAIT: Duration = Duration::from_secs(5);
/// A name that nobody used for so long is given up.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// How often such names are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Wait before a stream that ended is opened again; doubled, up to the longest, while streams end as soon as they are
/// opened: the gateway has no room for one.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The names in use. Of one thread; nothing is borrowed over an await.
#[derive(Debug, Default)]
pub struct Names {
    known: RefCell<BTreeMap<String, Name>>,
    /// What is to be said to the gateway.
    asks: RefCell<Vec<Ask>>,
    /// Told when there is something to be said.
    asking: Notify,
    /// Told when something was learned.
    told: Notify,
}

#[derive(Debug)]
struct Name {
    used: Instant,
    told: Told,
}

/// The last word on a name.
#[derive(Debug)]
enum Told {
    /// None yet.
    Nothing,
    /// There is no such name.
    Unknown,
    Meaning(Arc<Meaning>),
}

impl Names {
    /// Waits until it is known what a name means, or that it means nothing. False: nobody has said, for too long.
    pub async fn learn(&self, target: &Target<'_>) -> bool {
        let name = target.name();
        if self.is_known(name) {
            return true;
        }
        let learned = async {
            loop {
                let mut told = std::pin::pin!(self.told.notified());
                told.as_mut().enable();
                if self.is_known(name) {
                    return;
                }
                told.await;
            }
        };
        tokio::time::timeout(LEARN_WAIT, learned).await.is_ok()
    }

    /// Whether a name was told of; if it is not in use yet, it is from now on.
    fn is_known(&self, name: &str) -> bool {
        let mut known = self.known.borrow_mut();
        let now = Instant::now();
        if let Some(name) = known.get_mut(name) {
            name.used = now;
            return !matches!(name.told, Told::Nothing);
        }
        if known.len() >= LOOKUP_NAMES_MAX {
            let oldest = known.iter().min_by_key(|(_, name)| name.used).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                known.remove(&oldest);
                self.ask(ask::Kind::Leave(oldest));
            }
        }
        known.insert(name.to_owned(), Name { used: now, told: Told::Nothing });
        self.ask(ask::Kind::Use(name.to_owned()));
        false
    }

    fn ask(&self, kind: ask::Kind) {
        self.asks.borrow_mut().push(Ask { kind: Some(kind) });
        self.asking.notify_one();
    }

    /// Gives up names that nobody uses.
    fn sweep(&self, now: Instant) -> bool {
        let mut known = self.known.borrow_mut();
        let before = known.len();
        known.retain(|name, known| {
            let stays = now.saturating_duration_since(known.used) < IDLE_MAX;
            if !stays {
                self.ask(ask::Kind::Leave(name.clone()));
            }
            stays
        });
        known.len() < before
    }

    /// Takes in what a gateway says of a name; of one that is not in use any more nothing is kept.
    fn apply(&self, answer: Answer) {
        let mut known = self.known.borrow_mut();
        let Some(name) = known.get_mut(&answer.name) else { return };
        name.told = match answer.meaning.as_ref().map(lookup::decode) {
            None => Told::Unknown,
            Some(Ok(meaning)) => Told::Meaning(Arc::new(meaning)),
            Some(Err(error)) => {
                limited!(
                    WARN, KNOWN, answer.name, "Gateway message not understood by this version.",
                    name = answer.name, %error
                );
                return;
            }
        };
    }

    /// Lookup stream lost: cached states of remote clusters no longer count, endpoints stay.
    fn deaf(&self) {
        for name in self.known.borrow_mut().values_mut() {
            if let Told::Meaning(meaning) = &mut name.told {
                Arc::make_mut(meaning).states.clear();
            }
        }
    }

    /// Everything to be said on a new stream, in the place of what was to be said on an older one.
    fn all(&self) -> Vec<Ask> {
        self.asks.borrow_mut().clear();
        let names = self.known.borrow();
        names.keys().map(|name| Ask { kind: Some(ask::Kind::Use(name.clone())) }).collect()
    }

    fn meanings(&self) -> BTreeMap<String, Arc<Meaning>> {
        let known = self.known.borrow();
        let told = known.iter().filter_map(|(name, known)| match &known.told {
            Told::Meaning(meaning) => Some((name.clone(), meaning.clone())),
            Told::Nothing | Told::Unknown => None,
        });
        told.collect()
    }
}

/// Asks the gateways of `cluster` and publishes a view of what they say, until the process drains.
pub async fn follow(names: Rc<Names>, shared: Arc<Shared>, cluster: Arc<PeerCluster>, builder: ViewBuilder) {
    let mut follower = Follower { names, shared, cluster, builder };
    let stop = follower.shared.stop.clone();
    let mut pause = PAUSE;
    loop {
        let tunnel = tokio::select! {
            () = stop.cancelled() => return,
            tunnel = follower.a_tunnel() => tunnel,
        };
        let opened = Instant::now();
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = follower.follow(&tunnel) => ended,
        };
        let gateway = &tunnel.peer().hello.gateway;
        match ended {
            Ok(()) => debug!(gateway, "Asking another gateway what names mean."),
            Err(error) => limited!(
                INFO, KNOWN, gateway, "Lookup stream to gateway lost; using cached resolutions.", gateway, %error
            ),
        }
        follower.names.deaf();
        follower.publish();
        if opened.elapsed() > PAUSE_MAX {
            pause = PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(2 * pause);
    }
}

struct Follower {
    names: Rc<Names>,
    shared: Arc<Shared>,
    cluster: Arc<PeerCluster>,
    builder: ViewBuilder,
}

impl Follower {
    async fn a_tunnel(&self) -> Tunnel {
        loop {
            let mut changed = std::pin::pin!(self.cluster.changed.notified());
            changed.as_mut().enable();
            if let Some((_, tunnel)) = self.cluster.pick(None) {
                return tunnel;
            }
            changed.await;
        }
    }

    /// Follows one stream until it ends, or another tunnel takes the place of `tunnel`.
    async fn follow(&mut self, tunnel: &Tunnel) -> Result<(), TunnelError> {
        let (mut reader, mut writer) = tunnel.open_messages(StreamKind::Lookup).await?;
        for ask in self.names.all() {
            writer.send(&ask).await?;
        }
        let mut sweeps = tokio::time::interval(SWEEP);
        loop {
            let (names, cluster) = (self.names.clone(), self.cluster.clone());
            let mut changed = std::pin::pin!(cluster.changed.notified());
            changed.as_mut().enable();
            let other = |other: Tunnel| !other.is(tunnel);
            let leaving = !tunnel.is_open() || tunnel.is_retiring();
            if leaving && self.cluster.pick(None).is_some_and(|(_, tunnel)| other(tunnel)) {
                return Ok(());
            }
            tokio::select! {
                answer = reader.next::<Answer>() => {
                    let Some(answer) = answer? else { return Err(TunnelError::Truncated) };
                    names.apply(answer);
                    // Many come together when a gateway is asked of all names.
                    while let Some(answer) = at_hand(&mut reader).await? {
                        names.apply(answer);
                    }
                    self.publish();
                }
                () = names.asking.notified() => {
                    let asks = std::mem::take(&mut *names.asks.borrow_mut());
                    for ask in asks {
                        writer.send(&ask).await?;
                    }
                }
                _ = sweeps.tick() => {
                    if names.sweep(Instant::now()) {
                        self.publish();
                    }
                }
                () = changed => {}
            }
        }
    }

    /// Shows what is known to requests, and wakes those that waited for it.
    fn publish(&mut self) {
        let shared = &self.shared;
        let (previous, now) = (shared.view.load_full(), shared.clock.now());
        let meanings = self.names.meanings();
        let view = self.builder.build_told(&meanings, &self.cluster, &shared.metrics, &previous, now);
        shared.view.store(Arc::new(view));
        drop(previous);
        shared.metrics.forget_unused();
        self.names.told.notify_waiters();
    }
}

/// An answer that is here already.
async fn at_hand(reader: &mut MessageReader) -> Result<Option<Answer>, TunnelError> {
    tokio::select! {
        biased;
        answer = reader.next::<Answer>() => answer,
        () = std::future::ready(()) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use policy::route;

    fn asked(names: &Names) -> Vec<ask::Kind> {
        std::mem::take(&mut *names.asks.borrow_mut()).into_iter().filter_map(|ask| ask.kind).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_and_waited_for() {
        let names = Names::default();
        let target = route::parse("Cart.shop.east.mesh:80", "mesh").unwrap();
        let mut learning = std::pin::pin!(names.learn(&target));
        tokio::select! {
            biased;
            _ = &mut learning => panic!("nobody has told"),
            () = std::future::ready(()) => {}
        }
        assert!(!names.is_known("cart.shop.east"));
        assert_eq!(asked(&names), [ask::Kind::Use("cart.shop.east".into())]);
        names.apply(Answer { name: "cart.shop.east".into(), meaning: None });
        names.told.notify_waiters();
        assert!(learning.await, "that there is no such name is an answer");
        let nobody = route::parse("web.shop.mesh", "mesh").unwrap();
        assert!(!names.learn(&nobody).await);
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_limited_and_end_when_nobody_uses_them() {
        let names = Names::default();
        for n in 0..=LOOKUP_NAMES_MAX {
            names.is_known(&format!("s{n}.shop"));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(names.known.borrow().len(), LOOKUP_NAMES_MAX);
        assert!(
            asked(&names).contains(&ask::Kind::Leave("s0.shop".into())),
            "the one that was used least lately"
        );
        tokio::time::advance(IDLE_MAX - Duration::from_millis(1)).await;
        names.is_known("s7.shop");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(names.sweep(Instant::now()));
        assert_eq!(names.known.borrow().keys().collect::<Vec<_>>(), ["s7.shop"]);
        assert_eq!(asked(&names).len(), LOOKUP_NAMES_MAX - 1);
        // Nothing is kept of what nobody asked for.
        names.apply(Answer { name: "s1.shop".into(), meaning: None });
        assert_eq!(names.known.borrow().len(), 1);
    }
}
