//! The gateways of this cluster, as their leased keys tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::store::Member;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::store::{Store, StoreError, Watch, keys};

/// Gateways by id.
pub type Members = BTreeMap<String, Member>;

/// How long a gateway that is gone still counts: when the store loses all leases at once, as after its own outage, no
/// peer shall hear of it.
pub const LINGER: Duration = Duration::from_secs(30);

/// Wait after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// All are read anew so often, whatever the watch says: a store may be put back to an older state.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// Tells who is there whenever that changes, for as long as it is polled. A store that is gone takes nobody along.
pub async fn follow<S: Store>(store: S, told: watch::Sender<Arc<Members>>) {
    let mut known = Known::default();
    loop {
        let ended = follow_once(&store, &mut known, &told).await;
        if ended == Err(StoreError::Closed) {
            return;
        }
        sleep(if ended.is_err() { RETRY } else { Duration::ZERO }).await;
    }
}

/// Reads all and follows a watch until it is time to read again.
async fn follow_once<S: Store>(
    store: &S,
    known: &mut Known,
    told: &watch::Sender<Arc<Members>>,
) -> Result<(), StoreError> {
    let read_again = Instant::now() + READ_AGAIN;
    let range = store.range(&keys::gateways()).await?;
    let mut watch = store.watch(&keys::gateways(), range.revision + 1).await?;
    let member = |key: &str, value| {
        // What cannot be read is of a newer version, and tells the peers itself.
        Some((key.strip_prefix(&keys::gateways())?.to_owned(), Member::decode(value).ok()?))
    };
    // Who lives holds a lease; what has none, nobody would ever remove.
    let living = range.entries.into_iter().filter(|entry| entry.lease.is_some());
    let there = living.filter_map(|entry| member(&entry.key, entry.value)).collect();
    known.read(there, Instant::now());
    loop {
        let now = known.members();
        told.send_if_modified(|before| {
            let news = **before != now;
            if news {
                *before = Arc::new(now);
            }
            news
        });
        let forget_at = known.forget_at().unwrap_or(read_again).min(read_again);
        tokio::select! {
            biased;
            changes = watch.next() => {
                changes?;
                // They are few: reading them is simpler than folding events.
                return Ok(());
            }
            () = sleep_until(forget_at) => {
                if Instant::now() >= read_again {
                    return Ok(());
                }
                known.forget(Instant::now());
            }
        }
    }
}

/// Who is there, and who was until just now.
#[derive(Debug, Default)]
struct Known {
    /// With the moment at which it was missed.
    members: BTreeMap<String, (Member, Option<Instant>)>,
}

impl Known {
    /// Takes in who is there at `now`.
    fn read(&mut self, there: Members, now: Instant) {
        for (id, (_, missed)) in &mut self.members {
            if !there.contains_key(id) {
                missed.get_or_insert(now);
            }
        }
        self.members.extend(there.into_iter().map(|(id, member)| (id, (member, None))));
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        self.members.retain(|_, (_, missed)| missed.is_none_or(|missed| now < missed + LINGER));
    }

    /// When the next one is forgotten.
    fn forget_at(&self) -> Option<Instant> {
        self.members.values().filter_map(|(_, missed)| Some((*missed)? + LINGER)).min()
    }

    fn members(&self) -> Members {
        self.members.iter().map(|(id, (member, _))| (id.clone(), member.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{LeaseId, Op, Transaction};

    async fn put(store: &MemoryStore, id: &str, boot: u64, lease: Option<LeaseId>) {
        let value = Member { boot, ..Member::default() }.encode_to_vec().into();
        let ops = vec![Op::Put { key: keys::gateway(id), value, lease }];
        store.commit(Transaction { expect: Vec::new(), ops }).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_counts_at_once_and_who_goes_a_while_longer() {
        let store = MemoryStore::default();
        let (sender, mut members) = watch::channel(Arc::default());
        tokio::spawn(follow(store.clone(), sender));
        let lives = store.grant(Duration::from_secs(3600)).await.unwrap();
        put(&store, "gw-1", 1, Some(lives)).await;
        put(&store, "gw-0", 1, None).await;
        let lease = store.grant(Duration::from_secs(5)).await.unwrap();
        put(&store, "gw-2", 1, Some(lease)).await;
        members.wait_for(|m| m.len() == 2).await.unwrap();

        store.revoke(lease).await.unwrap();
        let gone = Instant::now();
        members.wait_for(|m| m.keys().eq(["gw-1"])).await.unwrap();
        assert!((LINGER..LINGER + RETRY).contains(&gone.elapsed()), "{:?}", gone.elapsed());

        // Back within that time, it was never away for those who listen.
        let lease = store.grant(Duration::from_secs(5)).await.unwrap();
        put(&store, "gw-2", 2, Some(lease)).await;
        members.wait_for(|m| m.len() == 2).await.unwrap();
        store.revoke(lease).await.unwrap();
        sleep(LINGER / 2).await;
        put(&store, "gw-2", 2, Some(lives)).await;
        sleep(LINGER * 2).await;
        assert!(!members.has_changed().unwrap());
        assert_eq!(members.borrow()["gw-2"].boot, 2);
    }
}
