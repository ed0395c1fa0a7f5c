//! What a peer tells of the services of its cluster in digests: quick facts, never stored, and worth little once the peer
//! is silent.
//!
//! A gateway of the peer tells everything once and each minute, in between what changes, and says each second that it is
//! there: until it is silent for five seconds its words count.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use proto::control::{self, Digest, Objection, ServiceDigest};
use proto::limits::DIGEST_SERVICES_MAX;
use registry::base::time::{AtomicTick, Tick};
use registry::model::ServiceName;
use registry::pure::union::Disagreement;

use crate::balance::Readiness;

/// How long the words of a gateway count after its last one, in microseconds: several were due since. What is older is
/// unknown, which is not nothing.
const FRESH_MICROS: u64 = 5_000_000;

/// How long a word counts that is not said again, in microseconds: each is said every minute, so the service is served
/// there no more, or not for us.
const SAID_MICROS: u64 = 150_000_000;
/// So often, in microseconds, all words are looked through for those.
const SWEEP_MICROS: u64 = 30_000_000;

/// Gateways whose words are kept: of a peer with more, the first that speak count.
const TELLERS_MAX: usize = 16;

/// What is known of one service at one peer. Its fields are separate relaxed atomics: a reader may briefly see values of two reports.
#[derive(Debug)]
pub struct Facts {
    ready: AtomicU32,
    degraded: AtomicBool,
    /// Zero: it has none.
    ring: AtomicU64,
    /// Whether a word on it counts.
    told: AtomicBool,
    /// When any gateway of the peer was last heard.
    heard_at: Arc<AtomicTick>,
}

impl Facts {
    fn new(heard_at: Arc<AtomicTick>) -> Self {
        Self {
            ready: AtomicU32::new(0),
            degraded: AtomicBool::new(false),
            ring: AtomicU64::new(0),
            told: AtomicBool::new(false),
            heard_at,
        }
    }

    /// What the gateways of the peer say together: they share the endpoints, and of what each sees the best counts, so
    /// that one that cannot reach an endpoint makes nothing flap.
    fn tell(&self, words: &[Word]) {
        self.ready.store(words.iter().map(|word| word.ready).max().unwrap_or(0), Relaxed);
        self.degraded.store(words.iter().all(|word| word.degraded), Relaxed);
        self.ring.store(words.first().map_or(0, |word| word.ring), Relaxed);
        self.told.store(!words.is_empty(), Relaxed);
    }

    /// All of it.
    fn state(&self, now: Tick) -> (Option<u32>, Option<Readiness>, Option<u64>) {
        (self.ready(now), self.readiness(now), self.ring(now))
    }

    /// The weight of its endpoints that take requests, in hundredths; 0: none does. `None`: unknown.
    pub fn ready(&self, now: Tick) -> Option<u32> {
        self.is_fresh(now).then(|| self.ready.load(Relaxed))
    }

    /// How well its endpoints are, all together; `None`: unknown.
    pub fn readiness(&self, now: Tick) -> Option<Readiness> {
        Some(match (self.ready(now)?, self.degraded.load(Relaxed)) {
            (0, _) => Readiness::None,
            (_, true) => Readiness::Degraded,
            (_, false) => Readiness::Ready,
        })
    }

    /// Fingerprint of the ring that the peer places it by; `None`: unknown, or it has none.
    pub fn ring(&self, now: Tick) -> Option<u64> {
        self.is_fresh(now).then(|| self.ring.load(Relaxed)).filter(|&ring| ring != 0)
    }

    /// When it becomes unknown unless the peer is heard again, in microseconds; `None`: it is unknown already.
    pub fn counts_until(&self, now: Tick) -> Option<Tick> {
        self.is_fresh(now).then(|| self.heard_at.load().after(FRESH_MICROS))
    }

    fn is_fresh(&self, now: Tick) -> bool {
        self.told.load(Relaxed) && now.since(self.heard_at.load()) < FRESH_MICROS
    }
}

/// What one gateway said last of a service.
#[derive(Debug)]
struct Word {
    teller: Arc<str>,
    ready: u32,
    degraded: bool,
    ring: u64,
    /// When it was said last.
    said_at: Tick,
}

/// What is known of a service, and from whom.
#[derive(Debug)]
struct Heard {
    facts: Weak<Facts>,
    /// By teller.
    words: Vec<Word>,
}

/// What a peer tells, by service. Holds nothing of services that nobody here asks for.
#[derive(Debug, Default)]
pub struct Told {
    /// Short sections without await; requests hold the facts themselves.
    book: Mutex<Book>,
    heard_at: Arc<AtomicTick>,
    /// Something was told that is not known here: it was not asked for then, or did not count any more.
    lacking: AtomicBool,
    /// Our services that the peer cannot join, and when it said so.
    objections: Mutex<(Vec<(ServiceName, Disagreement)>, Tick)>,
}

#[derive(Debug, Default)]
struct Book {
    /// By `namespace/name`.
    services: HashMap<String, Heard>,
    /// Gateways of the peer that are heard, and when each was last.
    tellers: Vec<(Arc<str>, Tick)>,
    /// When all words were last looked through.
    swept_at: Tick,
}

impl Told {
    /// The facts of a service; what is told from now on goes there, too.
    pub fn of(&self, service: &ServiceName) -> Arc<Facts> {
        let mut book = self.lock();
        let name = service.to_string();
        if let Some(facts) = book.services.get(&name).and_then(|heard| heard.facts.upgrade()) {
            return facts;
        }
        if !book.tellers.is_empty() {
            self.lacking.store(true, Relaxed);
        }
        let services = &mut book.services;
        // Swept only before the map would grow, so that many services stay linear.
        if services.len() == services.capacity() {
            services.retain(|_, heard| heard.facts.strong_count() > 0);
        }
        let facts = Arc::new(Facts::new(self.heard_at.clone()));
        services.insert(name, Heard { facts: Arc::downgrade(&facts), words: Vec::new() });
        facts
    }

    /// Whether the peer has to be asked for all of it once more; true once.
    pub fn take_lacking(&self) -> bool {
        self.lacking.load(Relaxed) && self.lacking.swap(false, Relaxed)
    }

    /// It could not be asked.
    pub fn still_lacking(&self) {
        self.lacking.store(true, Relaxed);
    }

    /// Our services that the peer says it cannot join with what others serve under their names. Whatever it names:
    /// whether there is such a service here is for the reader to see.
    pub fn objections(&self, now: Tick) -> Vec<(ServiceName, Disagreement)> {
        let (objections, told_at) = &*self.objections.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(*told_at) < FRESH_MICROS { objections.clone() } else { Vec::new() }
    }

    /// A digest came from `teller`, one start of a gateway. Gives whether anything has changed.
    pub fn tell(&self, teller: &str, digest: &Digest, now: Tick) -> bool {
        if !digest.objections.is_empty() {
            let objections =
                digest.objections.iter().take(DIGEST_SERVICES_MAX).filter_map(objection).collect();
            *self.objections.lock().unwrap_or_else(PoisonError::into_inner) = (objections, now);
        }
        let mut book = self.lock();
        let mut changed = book.forget_silent(now);
        let known = book.tellers.len();
        let Some(teller) = book.hear(teller, now) else { return changed };
        if book.tellers.len() > known && digest.services.is_empty() {
            // It was silent for so long that its words are gone, and says only what changes.
            self.lacking.store(true, Relaxed);
        }
        // What was told before counts on.
        self.heard_at.store(now);
        for service in &digest.services {
            let heard = book.services.get_mut(&format!("{}/{}", service.namespace, service.name));
            let Some(heard) = heard else { continue };
            let Some(facts) = heard.facts.upgrade() else { continue };
            let before = facts.state(now);
            heard.hear(&teller, service, now);
            facts.tell(&heard.words);
            changed |= before != facts.state(now);
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Whoever panicked left a book whose words are whole, each for itself.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Drops the words of gateways that are silent, and those that are not said any more; true: there were some.
    fn forget_silent(&mut self, now: Tick) -> bool {
        let Self { services, tellers, swept_at } = self;
        let before = tellers.len();
        tellers.retain(|(_, heard_at)| now.since(*heard_at) < FRESH_MICROS);
        if tellers.len() == before && now.since(*swept_at) < SWEEP_MICROS {
            return false;
        }
        *swept_at = now;
        let counts = |word: &Word| {
            let is_heard = tellers.iter().any(|(teller, _)| Arc::ptr_eq(teller, &word.teller));
            is_heard && now.since(word.said_at) < SAID_MICROS
        };
        let mut changed = false;
        for heard in services.values_mut() {
            let words = heard.words.len();
            heard.words.retain(counts);
            if heard.words.len() < words {
                changed = true;
                if let Some(facts) = heard.facts.upgrade() {
                    facts.tell(&heard.words);
                }
            }
        }
        changed
    }

    /// Notes that a gateway is heard; `None`: there are too many.
    fn hear(&mut self, teller: &str, now: Tick) -> Option<Arc<str>> {
        if let Some((name, heard_at)) = self.tellers.iter_mut().find(|(name, _)| **name == *teller) {
            *heard_at = now;
            return Some(name.clone());
        }
        if self.tellers.len() >= TELLERS_MAX {
            return None;
        }
        let name: Arc<str> = teller.into();
        self.tellers.push((name.clone(), now));
        Some(name)
    }
}

/// What a peer objects to; `None`: a name that is none, or a reason from the future.
fn objection(told: &Objection) -> Option<(ServiceName, Disagreement)> {
    let disagreement = match told.reason() {
        control::Disagreement::Ports => Disagreement::Ports,
        control::Disagreement::Contracts => Disagreement::Contracts,
        control::Disagreement::Unspecified => return None,
    };
    Some((ServiceName::new(&told.namespace, &told.name).ok()?, disagreement))
}

impl Heard {
    fn hear(&mut self, teller: &Arc<str>, digest: &ServiceDigest, now: Tick) {
        let ServiceDigest { ready, ring, degraded, .. } = *digest;
        let word = Word { teller: teller.clone(), ready, degraded, ring: ring.unwrap_or(0), said_at: now };
        match self.words.binary_search_by(|word| word.teller.cmp(teller)) {
            Ok(at) => self.words[at] = word,
            Err(at) => {
                // A peer has few gateways, and thousands of services.
                self.words.reserve_exact(1);
                self.words.insert(at, word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn name(service: &str) -> ServiceName {
        ServiceName::new("shop", service).unwrap()
    }

    fn digest(service: &str, ready: u32, ring: Option<u64>) -> Digest {
        let (namespace, name) = ("shop".into(), service.into());
        let service = ServiceDigest { namespace, name, ready, ring, degraded: false };
        Digest { services: vec![service], objections: Vec::new() }
    }

    /// Nothing has changed.
    fn still() -> Digest {
        Digest::default()
    }

    #[test]
    fn a_word_counts_until_its_gateway_is_silent_for_five_seconds() {
        let told = Told::default();
        let facts = told.of(&name("cart"));
        assert_eq!((facts.ready(Tick::ZERO), facts.ring(Tick::ZERO)), (None, None));
        told.tell("gw-1", &digest("cart", 0, Some(7)), Tick::ZERO);
        assert_eq!((facts.ready(Tick::at(1)), facts.ring(Tick::at(1))), (Some(0), Some(7)));
        told.tell("gw-1", &digest("cart", 200, None), Tick::at(10));
        assert_eq!(
            (facts.ready(Tick::at(10 + FRESH_MICROS - 1)), facts.ring(Tick::at(10))),
            (Some(200), None)
        );
        assert!(!told.tell("gw-1", &still(), Tick::at(20)));
        assert_eq!(facts.ready(Tick::at(20 + FRESH_MICROS - 1)), Some(200), "told once, and not taken back");
        assert_eq!(facts.counts_until(Tick::at(20)), Some(Tick::at(20 + FRESH_MICROS)));
        assert_eq!(facts.ready(Tick::at(20 + FRESH_MICROS)), None, "unknown is not nothing");
    }

    #[test]
    fn what_was_told_to_nobody_is_asked_for_once_more() {
        let told = Told::default();
        let _cart = told.of(&name("cart"));
        assert!(!told.take_lacking(), "who says everything first need not be asked for it");
        told.tell("gw-1", &digest("cart", 100, None), Tick::at(1));
        told.tell("gw-1", &digest("web", 100, None), Tick::at(1));
        assert!(!told.take_lacking());
        let web = told.of(&name("web"));
        assert!(told.take_lacking() && !told.take_lacking());
        assert_eq!(web.ready(Tick::at(2)), None);
        told.still_lacking();
        assert!(told.take_lacking());
        // One that was silent has lost its words, and does not know; one that begins tells everything.
        told.tell("gw-1", &still(), Tick::at(2 + FRESH_MICROS));
        assert!(told.take_lacking());
        told.tell("gw-2", &digest("cart", 100, None), Tick::at(2 + FRESH_MICROS));
        assert!(!told.take_lacking());
        // Those that are left know it all.
        told.tell("gw-2", &still(), Tick::at(4 * FRESH_MICROS / 2));
        assert!(told.tell("gw-2", &digest("cart", 50, None), Tick::at(3 * FRESH_MICROS - 1)));
        assert!(!told.take_lacking());
    }

    #[test]
    fn an_objection_counts_until_the_next_word_or_for_five_seconds() {
        let told = Told::default();
        assert_eq!(told.objections(Tick::ZERO), []);
        let objection =
            |name: &str, reason| Objection { namespace: "shop".into(), name: name.into(), reason };
        let objects = |objections| Digest { services: Vec::new(), objections };
        let (ports, contracts) =
            (control::Disagreement::Ports as i32, control::Disagreement::Contracts as i32);
        let nonsense = [objection("Not A Name", ports), objection("cart", 0), objection("cart", 77)];
        let named = [objection("cart", ports), objection("web", contracts)];
        told.tell("gw-1", &objects([&named[..], &nonsense].concat()), Tick::at(10));
        let expected = [(name("cart"), Disagreement::Ports), (name("web"), Disagreement::Contracts)];
        assert_eq!(told.objections(Tick::at(11)), expected);
        // A digest of services says nothing of it.
        told.tell("gw-1", &digest("cart", 100, None), Tick::at(12));
        assert_eq!(told.objections(Tick::at(13)), expected);
        told.tell("gw-1", &objects(vec![objection("web", ports)]), Tick::at(20));
        assert_eq!(told.objections(Tick::at(20 + FRESH_MICROS - 1)), [(name("web"), Disagreement::Ports)]);
        assert_eq!(told.objections(Tick::at(20 + FRESH_MICROS)), []);
        told.tell("gw-1", &objects(vec![objection("cart", ports); 1_000]), Tick::at(30));
        assert_eq!(told.objections(Tick::at(30)).len(), DIGEST_SERVICES_MAX);
    }

    #[test]
    fn gateways_of_one_peer_speak_of_the_same_endpoints() {
        let told = Told::default();
        let facts = told.of(&name("cart"));
        told.tell("gw-2", &digest("cart", 200, Some(8)), Tick::at(1));
        told.tell("gw-1", &digest("cart", 100, Some(7)), Tick::at(2));
        assert_eq!((facts.ready(Tick::at(2)), facts.ring(Tick::at(2))), (Some(200), Some(7)));
        // One of them cannot reach an endpoint: nothing flaps, whoever spoke last.
        told.tell("gw-2", &digest("cart", 200, Some(8)), Tick::at(3));
        assert_eq!((facts.ready(Tick::at(3)), facts.ring(Tick::at(3))), (Some(200), Some(7)));
        // What is gone has no word any more, although the other only says that it is there.
        told.tell("gw-1", &still(), Tick::at(FRESH_MICROS));
        assert!(told.tell("gw-1", &still(), Tick::at(3 + FRESH_MICROS)));
        assert_eq!(facts.ready(Tick::at(3 + FRESH_MICROS)), Some(100));
    }

    #[test]
    fn a_peer_of_endless_gateways_has_the_words_of_few() {
        let told = Told::default();
        let facts = told.of(&name("cart"));
        for teller in 0..1_000 {
            told.tell(&format!("gw-{teller}"), &digest("cart", 100 + teller, None), Tick::at(1));
        }
        assert_eq!(facts.ready(Tick::at(1)), Some(100 + TELLERS_MAX as u32 - 1));
        assert_eq!(told.lock().services["shop/cart"].words.len(), TELLERS_MAX);
        // Those that are gone make room.
        told.tell("gw-x", &digest("cart", 200, None), Tick::at(1 + FRESH_MICROS));
        assert_eq!(facts.ready(Tick::at(1 + FRESH_MICROS)), Some(200));
    }

    #[test]
    fn a_word_that_is_not_said_again_is_forgotten() {
        let told = Told::default();
        let (cart, web) = (told.of(&name("cart")), told.of(&name("web")));
        told.tell("gw-1", &digest("cart", 100, None), Tick::ZERO);
        let mut forgot_at = None;
        for second in 0..300 {
            let now = Tick::at(second * 1_000_000);
            let says = if second % 60 == 0 { digest("web", 100, None) } else { still() };
            if told.tell("gw-1", &says, now) && second > 0 {
                forgot_at = forgot_at.or(Some(second));
            }
            assert_eq!(web.ready(now), Some(100), "said every minute");
        }
        assert_eq!(cart.ready(Tick::at(299_000_000)), None);
        assert!(matches!(forgot_at, Some(150..=180)), "{forgot_at:?}");
    }

    #[test]
    fn a_peer_is_as_well_as_the_gateway_that_sees_it_best() {
        let told = Told::default();
        let facts = told.of(&name("cart"));
        let of = |ready, degraded| {
            let mut digest = digest("cart", ready, None);
            digest.services[0].degraded = degraded;
            digest
        };
        assert_eq!(facts.readiness(Tick::ZERO), None);
        for (first, second, readiness) in [
            (of(100, true), of(0, true), Readiness::Degraded),
            (of(100, true), of(200, false), Readiness::Ready),
            (of(0, true), of(0, true), Readiness::None),
        ] {
            told.tell("gw-1", &first, Tick::at(1));
            told.tell("gw-2", &second, Tick::at(2));
            assert_eq!(facts.readiness(Tick::at(2)), Some(readiness));
        }
    }

    #[test]
    fn what_is_told_outlives_a_view_and_goes_with_the_last_one() {
        let told = Told::default();
        let old = told.of(&name("cart"));
        told.tell("gw-1", &digest("cart", 100, None), Tick::at(1));
        let new = told.of(&name("cart"));
        drop(old);
        assert_eq!(new.ready(Tick::at(1)), Some(100));
        drop(new);
        assert_eq!(told.of(&name("cart")).ready(Tick::at(1)), None);
    }

    #[test]
    fn a_peer_that_names_services_for_ever_fills_nothing() {
        let told = Told::default();
        for n in 0..1_000 {
            told.tell("gw-1", &digest(&format!("s{n}"), 1, None), Tick::at(n));
            drop(told.of(&name(&format!("t{n}"))));
        }
        assert!(told.lock().services.len() <= 8, "{}", told.lock().services.len());
    }
}
