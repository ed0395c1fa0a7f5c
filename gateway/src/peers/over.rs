//! Where a peer goes over what it may cost: counted, said now and then, and shown for a while.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use proto::limits::{self, OVER_BUDGET_SHOWN};
use registry::model::{ClusterName, Condition, Reason};
use tracing::warn;

/// The same is only said so often, with a count.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// A budget of a peer, or a word of it that is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Records, or bytes of them, in a second.
    Records,
    /// Records that are left out.
    LeftOut,
    /// Sync streams.
    SyncStreams,
    /// A watch that claims more of our exports than there is.
    Claims,
    /// Tunnels at once.
    Tunnels,
    /// Gateways at once.
    Gateways,
    /// New addresses of its gateways.
    Places,
    /// Addresses that only the Link may name.
    Forbidden,
    /// Requests that it gives up before they are answered.
    Resets,
}

impl Over {
    /// Each of them, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Records,
        Self::LeftOut,
        Self::SyncStreams,
        Self::Claims,
        Self::Tunnels,
        Self::Gateways,
        Self::Places,
        Self::Forbidden,
        Self::Resets,
    ];

    /// The word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records_a_second",
            Self::LeftOut => "records_left_out",
            Self::SyncStreams => "sync_streams",
            Self::Claims => "claims",
            Self::Tunnels => "tunnels",
            Self::Gateways => "gateways",
            Self::Places => "addresses",
            Self::Forbidden => "forbidden_addresses",
            Self::Resets => "requests_given_up",
        }
    }

    /// What it does, and what becomes of it, for people.
    fn text(self) -> String {
        match self {
            Self::Records => format!(
                "it sends more than {} records or {} KiB of them a second; what is above waits",
                limits::SYNC_RECORDS_PER_SECOND,
                limits::SYNC_BYTES_PER_SECOND / 1024
            ),
            Self::LeftOut => {
                "records that cannot be used, or are more than it may have here, are left out".into()
            }
            Self::SyncStreams => {
                "it asks for our exports more often than they are told; further streams wait".into()
            }
            Self::Claims => {
                "it claims to know more of our exports than there is; it is told all of them".into()
            }
            Self::Tunnels => {
                format!("it dials more than {} tunnels; further ones are refused", limits::PEER_TUNNELS_MAX)
            }
            Self::Gateways => {
                format!("it has more than {} gateways; further ones are refused", limits::PEER_GATEWAYS_MAX)
            }
            Self::Places => {
                "it tells new addresses of its gateways all the time; they are dialled slowly".into()
            }
            Self::Forbidden => {
                "it tells addresses of its gateways that are loopback, link-local, multicast, \
                 unspecified or our own; such are dialled only where the Link names one itself"
                    .into()
            }
            Self::Resets => "it is over its reset budget: it gives up more requests than it lets be \
                             answered, and is refused until fewer are"
                .into(),
        }
    }
}

/// What a peer went over, and when.
#[derive(Debug)]
pub struct Overs {
    start: Instant,
    of: [Cell; Over::ALL.len()],
}

#[derive(Debug, Default)]
struct Cell {
    count: AtomicU64,
    /// Milliseconds since the start, and one more; 0: never.
    last: AtomicU64,
    said: AtomicU64,
}

impl Default for Overs {
    fn default() -> Self {
        Self { start: Instant::now(), of: Default::default() }
    }
}

impl Overs {
    /// `peer` went over it once more at `now`.
    pub fn note(&self, peer: &ClusterName, over: Over, now: Instant) {
        let cell = &self.of[over as usize];
        let count = cell.count.fetch_add(1, Relaxed) + 1;
        let at = self.at(now);
        cell.last.store(at, Relaxed);
        let said = cell.said.load(Relaxed);
        let due = said == 0 || u128::from(at - said.min(at)) >= SAY_EVERY.as_millis();
        // Of several that come together one says it.
        if due && cell.said.compare_exchange(said, at, Relaxed, Relaxed).is_ok() {
            warn!(peer = %peer, count, "A peer goes over what it may cost: {}.", over.text());
        }
    }

    /// How often it went over each since the start.
    pub fn counts(&self) -> impl Iterator<Item = (Over, u64)> + '_ {
        Over::ALL.into_iter().map(|over| (over, self.of[over as usize].count.load(Relaxed)))
    }

    /// What it went over lately.
    pub fn lately(&self, now: Instant) -> impl Iterator<Item = Over> + '_ {
        let now = self.at(now);
        Over::ALL.into_iter().filter(move |&over| {
            let last = self.of[over as usize].last.load(Relaxed);
            last > 0 && u128::from(now.saturating_sub(last)) < OVER_BUDGET_SHOWN.as_millis()
        })
    }

    /// What is to be said of the Link to `peer`. The text does not change while it goes on.
    pub fn condition(&self, peer: &ClusterName, now: Instant) -> Option<Condition> {
        let texts: Vec<_> = self.lately(now).filter(|&over| over != Over::LeftOut).map(Over::text).collect();
        (!texts.is_empty()).then(|| {
            let text = format!("the cluster goes over what a peer may cost: {}", texts.join("; "));
            Condition::new(peer, Reason::OverBudget, text)
        })
    }

    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_a_peer_goes_over_is_counted_for_good_and_shown_for_a_minute() {
        let (overs, east) = (Overs::default(), ClusterName::new("east").unwrap());
        let start = Instant::now();
        assert_eq!((overs.condition(&east, start), overs.lately(start).count()), (None, 0));
        for _ in 0..1_000 {
            overs.note(&east, Over::Places, start);
        }
        let shown = overs.condition(&east, start).unwrap();
        assert_eq!((&*shown.object.to_string(), shown.reason), ("Link east", Reason::OverBudget));
        overs.note(&east, Over::Places, start + Duration::from_secs(1));
        assert_eq!(overs.condition(&east, start).unwrap(), shown, "it goes on");
        let over = start + Duration::from_secs(1) + OVER_BUDGET_SHOWN;
        assert!(overs.condition(&east, over - Duration::from_millis(1)).is_some());
        assert_eq!(overs.condition(&east, over), None);
        assert_eq!(overs.counts().find(|(over, _)| *over == Over::Places), Some((Over::Places, 1_001)));
        assert_eq!(overs.counts().map(|(_, count)| count).sum::<u64>(), 1_001);
    }
}
