//! The task that watches one peer gateway: probes, and the detector's clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tunnel::{Event, Tunnel};

use super::gateway::way_of;
use super::{PeerGateway, lock};
use policy::health::Way;

impl PeerGateway {
    /// What the driver of `tunnel`, one of its own, tells. `epoch` is the start of the clock that probes carry.
    pub fn on_event(&self, tunnel: &Tunnel, event: &Event, epoch: Instant) {
        match event {
            Event::Answered { clock_us, .. } => {
                let now = Instant::now();
                let sent = Duration::from_micros(*clock_us);
                // The clock came back from the peer: a wrong one must not make nonsense of the round trip.
                let rtt = now.duration_since(epoch).saturating_sub(sent).min(Duration::from_secs(10));
                let mut ways = lock(&self.ways);
                let transition = ways.answered(now, way_of(tunnel), rtt);
                self.apply(&ways, transition);
            }
            Event::GoingAway | Event::Retiring => self.changed.notify_waiters(),
            // What it says of services and gateways counts for its cluster; what it asks for, whoever tells it.
            Event::Digest(_) | Event::Gateways(_) | Event::TellAgain => {}
        }
    }

    fn heard(&self, tunnels: &[Tunnel], way: Way) -> u64 {
        tunnels.iter().filter(|t| way_of(t) == way).map(Tunnel::heard).fold(0, u64::wrapping_add)
    }
}

/// Watches `gateway` until it is forgotten: ticks its detectors when one is due and whenever an idle tunnel becomes busy or a way is
/// lost, and sends the probes that they ask for.
pub async fn watch(gateway: Arc<PeerGateway>, epoch: Instant) {
    let mut sequence = 0u64;
    let mut last_heard = [0u64; 2];
    loop {
        // Made before the look: what changes after it is heard.
        let changed = gateway.changed.notified();
        let scheduled = lock(&gateway.ways).due(Instant::now());
        let due = async {
            match scheduled {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                // While there is no tunnel nothing is due; the change that brings one wakes this task.
                None => changed.await,
            }
        };
        tokio::select! {
            () = gateway.stop.cancelled() => return,
            () = due => {}
            () = gateway.busy.notified() => {}
        }
        let now = Instant::now();
        let tunnels = gateway.tunnels();
        let outstanding = tunnels.iter().any(|t| t.outstanding() > 0);
        let mut ways = lock(&gateway.ways);
        for way in Way::ALL {
            let heard = gateway.heard(&tunnels, way);
            // Less: a tunnel has left, and its words with it.
            if heard > std::mem::replace(&mut last_heard[way as usize], heard) {
                let transition = ways.heard(now, way);
                gateway.apply(&ways, transition);
            }
        }
        let ticks = ways.tick(now, outstanding);
        for way in Way::ALL.into_iter().filter(|way| ticks.probe[*way as usize]) {
            let Some(tunnel) = gateway.tunnel_on(way) else { continue };
            sequence += 1;
            let clock_us = u64::try_from(now.duration_since(epoch).as_micros()).unwrap_or(u64::MAX);
            // A tunnel that has ended says so by itself; what was not sent cannot be owed.
            if tunnel.probe(sequence, clock_us).is_ok() {
                ways.probe_sent(now, way);
            }
        }
        gateway.apply(&ways, ticks.transition);
        if let Some(way) = ticks.given_up {
            gateway.give_up(way);
        }
    }
}
