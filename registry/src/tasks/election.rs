//! Which gateway writes for its cluster, and which gateways live: one lease per process, on any store.
//!
//! Each gateway puts its own key (`/ringway/v1/gateways/<id>`) with its lease, then campaigns for
//! `/ringway/v1/leader`: whoever puts that where it is absent is elected, and puts a key of this office with it, which no
//! other office has. Both are the [`Guard`]: every write of the elected one expects the leader's key unchanged and
//! rewrites the office's, so that one that was paused, or whose store was put back to an older state, changes nothing.
//! After a restore revisions repeat, so a revision alone would not tell. The embedded store has one process, which the
//! same code elects at once.
//!
//! What comes at once is taken in a fixed order (`biased`), so that a simulation repeats itself from its seed.
//!
//! A key that has no lease is nobody's: no death removes it, as after a restore by a tool that knows of no leases. Once it
//! has been unchanged for longer than a gateway is silent, it is taken over by a write that expects it so.
//!
//! By its own clock a gateway is elected for as long as the last answered keep-alive, counted from before it was asked,
//! is younger than [`TTL`]; the store lets the lease live at least that long.

mod standing;
#[cfg(test)]
mod tests;
mod unleased;

use std::pin::pin;
use std::time::Duration;

use prost::Message;
use proto::store::{Leader, Member};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{error, info, warn};

pub use self::standing::{Guard, Standing};
use self::unleased::{Unleased, taken_over};
use crate::base::causes::chain;
use crate::store::{Entry, Expect, LeaseId, Op, Outcome, Store, StoreError, Transaction, Watch, keys};

/// How long the lease of a gateway lives without a word of it: the longest that nobody is elected after a death.
pub const TTL: Duration = Duration::from_secs(5);

/// How often the lease is kept alive and the keys are looked at: late enough, and early enough for two members of the
/// store that say nothing, which cost a second each.
const KEEP_ALIVE: Duration = Duration::from_millis(TTL.as_millis() as u64 / 3);

/// The same failure again is only said every so often.
const SAY_AGAIN: u32 = 30;

/// Wait after the store failed, or another process holds our id.
const RETRY: Duration = Duration::from_secs(1);

/// A gateway as it stands for its cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its id, unique within the cluster.
    pub id: String,
    /// What the others are told of it.
    pub member: Member,
}

/// Why a session ended; another one follows.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store has not answered for {TTL:?}")]
    Silent,
    #[error("our key is gone or another's; was the store put back to an older state?")]
    KeyLost,
}

/// Stands for `us` until `stop`, and tells how that goes; then resigns, so that another takes over at once. A store that
/// fails is asked again.
pub async fn stand<S: Store>(
    store: S,
    us: Candidate,
    standing: &watch::Sender<Standing>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let mut failures = 0u32;
    loop {
        let mut lease = None;
        let ended = tokio::select! {
            biased;
            () = &mut stop => None,
            ended = session(&store, &us, &mut lease, standing) => Some(ended),
        };
        let known = standing.borrow().unknown_since().is_none();
        let why = ended.as_ref().map_or_else(|| "this gateway has resigned".into(), |ended| chain(ended));
        standing.send_if_modified(|standing| standing.lose(why.clone()));
        let Some(ended) = ended else {
            if let Some(lease) = lease {
                // A store that does not answer ends the lease by itself.
                let _ = tokio::time::timeout(KEEP_ALIVE, store.revoke(lease)).await;
            }
            return;
        };
        if matches!(ended, Ended::Store(StoreError::Closed)) {
            return;
        }
        if known || failures.is_multiple_of(SAY_AGAIN) {
            warn!(error = why, gateway = us.id, "No lease in the registry store; retrying.");
        }
        failures = if known { 0 } else { failures + 1 };
        tokio::select! {
            biased;
            () = &mut stop => return,
            () = sleep(RETRY) => {}
        }
    }
}

/// From the grant of a lease to its loss.
async fn session<S: Store>(
    store: &S,
    us: &Candidate,
    held: &mut Option<LeaseId>,
    standing: &watch::Sender<Standing>,
) -> Ended {
    let asked = Instant::now();
    let lease = match timeout_at(asked + TTL, store.grant(TTL)).await {
        Ok(Ok(lease)) => lease,
        Ok(Err(error)) => return error.into(),
        Err(_) => return Ended::Silent,
    };
    *held = Some(lease);
    let (until, alive) = watch::channel(asked + TTL);
    tokio::select! {
        biased;
        ended = keep(store, lease, &until) => ended,
        ended = campaign(store, us, lease, &alive, standing) => ended,
    }
}

/// Keeps the lease alive; ends when it is lost, or may be.
async fn keep<S: Store>(store: &S, lease: LeaseId, until: &watch::Sender<Instant>) -> Ended {
    loop {
        let last = *until.borrow();
        sleep_until((last - TTL + KEEP_ALIVE).min(last)).await;
        let asked = Instant::now();
        match timeout_at(last, store.keep_alive(lease)).await {
            Ok(Ok(())) => drop(until.send_replace(asked + TTL)),
            Ok(Err(error @ (StoreError::LeaseGone(_) | StoreError::Closed))) => return error.into(),
            // What does not last is no loss: the lease outlives it.
            Ok(Err(_)) => sleep_until((asked + KEEP_ALIVE / 4).min(last)).await,
            Err(_) => return Ended::Silent,
        }
        if Instant::now() >= *until.borrow() {
            return Ended::Silent;
        }
    }
}

/// Puts our key, then takes the leader's whenever it is free.
async fn campaign<S: Store>(
    store: &S,
    us: &Candidate,
    lease: LeaseId,
    alive: &watch::Receiver<Instant>,
    standing: &watch::Sender<Standing>,
) -> Ended {
    let mut trouble = Trouble { gateway: &us.id, failures: 0, since: Instant::now() };
    let ours = loop {
        match claim(store, us, lease, standing).await {
            Ok(revision) => break revision,
            Err(error @ (StoreError::LeaseGone(_) | StoreError::Closed)) => return error.into(),
            Err(error) => trouble.failed(&error, standing),
        }
        sleep(KEEP_ALIVE / 4).await;
    };
    trouble.failures = 0;
    let mut alive = alive.clone();
    let mut place = Place { us, lease, ours, highest: ours, unleased: Unleased::default() };
    loop {
        let until = *alive.borrow_and_update();
        match place.look(store, until, standing).await {
            Ok(leader) => {
                trouble.failures = 0;
                let free = async {
                    match leader {
                        // Nobody takes it from us while the lease lives; that the store was put back is seen by looking.
                        None => std::future::pending().await,
                        Some(seen) => freed(store, seen).await,
                    }
                };
                tokio::select! {
                    biased;
                    // A failed watch is made good by the next look.
                    () = free => {}
                    // With every answered keep-alive, for the guard holds until the next.
                    _ = alive.changed() => {}
                }
            }
            Err(ended @ (Ended::KeyLost | Ended::Store(StoreError::LeaseGone(_) | StoreError::Closed))) => {
                return ended;
            }
            // What does not last is no loss.
            Err(ended) => {
                trouble.failed(&ended, standing);
                sleep(KEEP_ALIVE / 4).await;
            }
        }
    }
}

/// What goes wrong while the lease lives: a store that takes keep-alives may still refuse our keys.
struct Trouble<'a> {
    gateway: &'a str,
    /// In a row.
    failures: u32,
    /// Of the first of them.
    since: Instant,
}

impl Trouble<'_> {
    /// Says so, the first time and every so often, and that we do not know how we stand once it has lasted for [`TTL`].
    fn failed(&mut self, error: &dyn std::error::Error, standing: &watch::Sender<Standing>) {
        if self.failures == 0 {
            self.since = Instant::now();
        }
        let why = chain(error);
        if self.failures.is_multiple_of(SAY_AGAIN) {
            warn!(error = why, gateway = self.gateway, "Registry store rejected our keys; retrying.");
        }
        self.failures += 1;
        let lasts = self.since.elapsed() >= TTL;
        standing.send_if_modified(|standing| match standing {
            Standing::Unknown { .. } => standing.lose(why),
            _ => lasts && standing.lose(why),
        });
    }
}

/// Puts our key with our lease; gives its revision. Waits while another process holds it.
async fn claim<S: Store>(
    store: &S,
    us: &Candidate,
    lease: LeaseId,
    standing: &watch::Sender<Standing>,
) -> Result<u64, StoreError> {
    let key = keys::gateway(&us.id);
    let mut unleased = Unleased::default();
    loop {
        let mut nobodys = false;
        let expect = match store.get(&key).await? {
            None => Expect::Absent(key.clone()),
            Some(entry) if unleased.is_nobodys(&entry, Instant::now()) => {
                nobodys = true;
                Expect::Modified(key.clone(), entry.modified)
            }
            Some(entry) => match Member::decode(entry.value.clone()) {
                // An earlier start of ours, which is dead: one process at a time has a state directory.
                Ok(member) if member.home == us.member.home => Expect::Modified(key.clone(), entry.modified),
                member => {
                    let other = member.map_or_else(|_| "of a newer version".into(), |m| describe(&m));
                    if *standing.borrow() != Standing::IdTaken(other.clone()) {
                        error!(
                            gateway = us.id,
                            other,
                            "Another process of this cluster has our id; each gateway needs a \
                             `metadata.name` of its own. Waiting until it is gone."
                        );
                        standing.send_replace(Standing::IdTaken(other));
                    }
                    sleep(RETRY).await;
                    continue;
                }
            },
        };
        let put = Op::Put { key: key.clone(), value: us.member.encode_to_vec().into(), lease: Some(lease) };
        if let Outcome::Committed(revision) = commit(store, expect, vec![put]).await? {
            if nobodys {
                taken_over(&format!("the id `{}` of a gateway", us.id), "this gateway has it");
            }
            return Ok(revision);
        }
    }
}

/// Our place among the gateways: from when our key is there until it is lost.
struct Place<'a> {
    us: &'a Candidate,
    lease: LeaseId,
    /// The revision of our key.
    ours: u64,
    /// The highest revision that the store has told of.
    highest: u64,
    /// The leader's key, while it has no lease.
    unleased: Unleased,
}

impl Place<'_> {
    /// Looks who is elected, takes the office if it is free, and tells how we stand; gives the entry of another's.
    /// `until`: for how long our lease lives.
    async fn look<S: Store>(
        &mut self,
        store: &S,
        until: Instant,
        standing: &watch::Sender<Standing>,
    ) -> Result<Option<Entry>, Ended> {
        let (us, lease) = (self.us, self.lease);
        let key = keys::gateway(&us.id);
        let range = store.range(&key).await?;
        let there = range.entries.iter().any(|entry| entry.key == key && entry.modified == self.ours);
        // A store that was put back may have our keys as they are, and not what was written since.
        if !there || range.revision < self.highest {
            return Err(Ended::KeyLost);
        }
        self.highest = range.revision;
        let guard = |revision| Guard { revision, boot: us.member.boot, lease, until };
        let leader = store.get(keys::LEADER).await?;
        let mut nobodys = false;
        let (revision, other) = match leader {
            Some(entry) if entry.lease == Some(lease) => (Some(entry.modified), None),
            other => {
                let expect = match &other {
                    None => Some(Expect::Absent(keys::LEADER.into())),
                    Some(entry) => {
                        let theirs = Leader::decode(entry.value.clone()).ok();
                        // Of an earlier start of ours; a state directory may have been copied for another gateway.
                        let before =
                            |leader: &Leader| leader.home == us.member.home && leader.gateway == us.id;
                        let free = theirs.as_ref().is_some_and(before);
                        nobodys = self.unleased.is_nobodys(entry, Instant::now()) && !free;
                        (free || nobodys).then(|| Expect::Modified(keys::LEADER.into(), entry.modified))
                    }
                };
                let value = Leader { gateway: us.id.clone(), home: us.member.home }.encode_to_vec().into();
                let put = Op::Put { key: keys::LEADER.into(), value, lease: Some(lease) };
                match expect {
                    Some(expect) => match commit(store, expect, vec![put, guard(0).sign()]).await? {
                        Outcome::Committed(revision) => {
                            if nobodys {
                                taken_over(
                                    "the leadership of this cluster's gateways",
                                    "this gateway is elected",
                                );
                            }
                            (Some(revision), None)
                        }
                        Outcome::Conflict => (None, store.get(keys::LEADER).await?),
                    },
                    None => (None, other),
                }
            }
        };
        let leader = || Leader::decode(other.as_ref()?.value.clone()).ok().map(|leader| leader.gateway);
        let now = match revision {
            Some(revision) => Standing::Elected(guard(revision)),
            None => Standing::Member(leader()),
        };
        standing.send_if_modified(|known| {
            let news = match (&*known, &now) {
                (Standing::Elected(before), Standing::Elected(after)) => !before.is_of(after),
                (before, after) => before != after,
            };
            if news && revision.is_some() {
                info!(gateway = us.id, "Elected leader: this gateway writes for the cluster.");
            } else if news && matches!(known, Standing::Elected(_)) {
                info!(gateway = us.id, "Leadership lost: another gateway is elected.");
            }
            *known = now;
            news
        });
        Ok(other)
    }
}

/// Waits until the office that `seen` stands for is free, or may be. Watches from the store's revision of now: history
/// since `seen` may be compacted.
async fn freed<S: Store>(store: &S, seen: Entry) {
    let freed = async {
        let range = store.range(keys::LEADER).await?;
        if range.entries.iter().any(|entry| entry.key == seen.key && entry.modified == seen.modified) {
            store.watch(keys::LEADER, range.revision + 1).await?.next().await?;
        }
        Ok::<_, StoreError>(())
    };
    if freed.await.is_err() {
        std::future::pending().await
    }
}

async fn commit<S: Store>(store: &S, expect: Expect, ops: Vec<Op>) -> Result<Outcome, StoreError> {
    store.commit(Transaction { expect: vec![expect], ops }).await
}

/// What a gateway says of itself, in a line for people.
pub fn describe(member: &Member) -> String {
    let Member { boot, addresses, software, .. } = member;
    format!("{software}, boot {boot:016x}, dialled at {}", addresses.join(", "))
}
