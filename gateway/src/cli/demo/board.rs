//! What the demo has seen so far: every exchange, the gateways' last words, and the outage.

use std::time::{Instant, SystemTime};

use super::judge::{Exchange, Moment, Outage, Verdict, judge};
use super::plan::{Cluster, Placement, Service};
use crate::cli::unix_ms;
use admin_api::status::Status;

/// Failures that are kept word for word for the summary.
const FAILURES_SHOWN: usize = 5;

/// The one shared value of the demo's tasks, which all run on one thread.
pub(super) struct Board {
    /// Where moments count from.
    begun: Instant,
    /// Where each key belongs.
    pub(super) placement: Placement,
    /// Every exchange that has ended.
    pub(super) exchanges: Vec<Exchange>,
    /// What the first failures were.
    pub(super) failures: Vec<String>,
    /// The last status of each gateway, by [`Cluster::index`]; none while it does not answer.
    pub(super) statuses: [Option<Status>; Cluster::ALL.len()],
    /// The outage, from its beginning on.
    pub(super) outage: Option<Outage>,
}

impl Board {
    /// A board on which nothing has happened.
    pub(super) fn new(placement: Placement, begun: Instant) -> Self {
        let statuses = [const { None }; Cluster::ALL.len()];
        Self { begun, placement, exchanges: Vec::new(), failures: Vec::new(), statuses, outage: None }
    }

    /// The present moment.
    pub(super) fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    /// Notes an exchange, and in words why it failed.
    pub(super) fn ended(&mut self, exchange: Exchange, failure: Option<String>) {
        self.exchanges.push(exchange);
        if let Some(failure) = failure.filter(|_| self.failures.len() < FAILURES_SHOWN) {
            self.failures.push(failure);
        }
    }

    /// Notes that `cluster` is killed now. To be called just before the SIGKILL.
    pub(super) fn killing(&mut self, cluster: Cluster) {
        self.outage = Some(Outage::begin(cluster, self.now(), unix_ms(SystemTime::now())));
    }

    /// Notes that the dead cluster's gateway is started now.
    pub(super) fn starting(&mut self) {
        let now = self.now();
        if let Some(outage) = &mut self.outage {
            outage.started = Some(now);
        }
    }

    /// Takes in what the gateway of `cluster` says now; none: it does not answer.
    pub(super) fn heard(&mut self, cluster: Cluster, status: Option<Status>) {
        let now = self.now();
        if let (Some(outage), Some(status)) = (&mut self.outage, &status)
            && let Some(peer) = status.peer(outage.cluster.name())
        {
            // `since` tells this death from a false alarm before it.
            if peer.state == "down" && outage.started.is_none() && peer.since_unix_ms >= outage.killed_unix_ms
            {
                outage.down_since_unix_ms[cluster.index()].get_or_insert(peer.since_unix_ms);
                if cluster == Cluster::West {
                    outage.shown_down.get_or_insert(now);
                }
            }
            if peer.state == "up" && outage.started.is_some() && cluster == Cluster::West {
                outage.shown_up.get_or_insert(now);
            }
        }
        self.statuses[cluster.index()] = status;
    }

    /// What has come out so far.
    pub(super) fn verdict(&self) -> Verdict {
        judge(&self.exchanges, &self.placement, self.outage.as_ref())
    }

    /// How west sees `cluster`.
    pub(super) fn seen_by_west(&self, cluster: Cluster) -> Option<&str> {
        self.statuses[Cluster::West.index()].as_ref()?.peer(cluster.name()).map(|peer| &*peer.state)
    }

    /// Whether every gateway sees both its peers, and both services in all three clusters.
    pub(super) fn all_linked(&self) -> bool {
        Cluster::ALL.into_iter().all(|here| {
            self.statuses[here.index()].as_ref().is_some_and(|status| {
                let peers =
                    here.peers().all(|c| status.peer(c.name()).is_some_and(|peer| peer.state == "up"));
                let served = |service: &str| {
                    let service = status.services.iter().find(|s| s.name == service);
                    let ready = |cluster: Cluster| {
                        service.is_some_and(|service| {
                            let member = service.members.iter().find(|m| m.cluster == cluster.name());
                            member.is_some_and(|m| m.serves && m.state == "up")
                        })
                    };
                    Cluster::ALL.into_iter().all(ready)
                };
                status.ready && peers && Service::ALL.into_iter().all(|s| served(s.full_name()))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use Cluster::{East, North, West};

    fn board() -> Board {
        Board::new(Placement::of_contract().unwrap(), Instant::now())
    }

    fn status(peer: &str, state: &str, since_unix_ms: u64) -> Option<Status> {
        serde_json::from_value(serde_json::json!({
            "version": "0.1.0", "cluster": "x", "gateway": "gw-1", "region": "r", "uid": "0",
            "started_unix_ms": 0, "ready": true, "links": [], "services": [], "conditions": [],
            "peers": [{ "cluster": peer, "gateway": "gw-1", "state": state, "since_unix_ms": since_unix_ms }],
        }))
        .unwrap()
    }

    #[test]
    fn an_outage_is_read_off_both_survivors() {
        let mut board = board();
        board.killing(North);
        let killed = board.outage.as_ref().unwrap().killed_unix_ms;
        board.heard(West, status("north", "up", killed - 5000));
        board.heard(West, status("north", "suspect", killed + 100));
        assert_eq!(board.outage.as_ref().unwrap().shown_down, None);
        board.heard(West, status("north", "down", killed + 510));
        board.heard(West, status("north", "down", killed + 510));
        assert_eq!(board.outage.as_ref().unwrap().detect_ms(), None);
        board.heard(East, status("north", "down", killed + 530));
        let outage = board.outage.as_ref().unwrap();
        assert_eq!(outage.detect_ms(), Some(530));
        assert!(outage.shown_down.unwrap() >= outage.killed);
    }

    #[test]
    fn a_false_alarm_before_the_kill_is_no_detection() {
        let mut board = board();
        board.killing(North);
        let killed = board.outage.as_ref().unwrap().killed_unix_ms;
        board.heard(West, status("north", "down", killed - 1));
        assert_eq!(board.outage.as_ref().unwrap().shown_down, None);
    }

    #[test]
    fn up_counts_only_after_the_start() {
        let mut board = board();
        board.killing(North);
        board.heard(West, status("north", "up", 0));
        assert_eq!(board.outage.as_ref().unwrap().shown_up, None, "not noticed yet");
        board.starting();
        board.heard(East, status("north", "up", 0));
        assert_eq!(board.outage.as_ref().unwrap().shown_up, None, "west decides");
        board.heard(West, status("north", "up", 0));
        assert!(board.outage.as_ref().unwrap().shown_up.is_some());
    }
}
