//! The task that watches one peer gateway: probes, and the detector's clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tunnel::{Event, Tunnel};

use super::{PeerGateway, lock};
use crate::health::PROBE_IDLE;

impl PeerGateway {
    /// What the driver of one of its tunnels tells. `epoch` is the start of the clock that probes carry.
    pub fn on_event(&self, event: &Event, epoch: Instant) {
        match event {
            Event::Answered { clock_us, .. } => {
                let now = Instant::now();
                let sent = Duration::from_micros(*clock_us);
                // The clock came back from the peer: a wrong one must not make nonsense of the round trip.
                let rtt = now.duration_since(epoch).saturating_sub(sent).min(Duration::from_secs(10));
                let mut detector = lock(&self.detector);
                let transition = detector.answered(now, rtt);
                self.apply(transition);
            }
            Event::GoingAway | Event::Retiring => self.changed.notify_waiters(),
            // What it says of services counts for its cluster.
            Event::Digest(_) => {}
        }
    }

    fn heard(&self, tunnels: &[Tunnel]) -> u64 {
        tunnels.iter().map(Tunnel::heard).fold(0, u64::wrapping_add)
    }
}

/// Watches `gateway` until `stop`: ticks its detector when it is due and whenever an idle tunnel becomes busy, and sends
/// the probes that it asks for.
pub async fn watch(gateway: Arc<PeerGateway>, epoch: Instant, stop: CancellationToken) {
    let mut sequence = 0u64;
    let mut last_heard = 0u64;
    loop {
        let scheduled = lock(&gateway.detector).due(Instant::now());
        tokio::select! {
            () = stop.cancelled() => return,
            // While there is no tunnel nothing is due; the change that brings one wakes this task.
            () = gateway.changed.notified(), if scheduled.is_none() => {}
            () = tokio::time::sleep_until(scheduled.unwrap_or_else(|| Instant::now() + PROBE_IDLE).into()) => {}
            () = gateway.busy.notified() => {}
        }
        let now = Instant::now();
        let tunnels = gateway.tunnels();
        let heard = gateway.heard(&tunnels);
        let outstanding = tunnels.iter().any(|t| t.outstanding() > 0);
        let mut detector = lock(&gateway.detector);
        if heard != last_heard {
            last_heard = heard;
            let transition = detector.heard(now);
            gateway.apply(transition);
        }
        let tick = detector.tick(now, outstanding);
        if tick.probe
            && let Some(tunnel) = gateway.tunnel(None).as_ref().or(tunnels.last())
        {
            sequence += 1;
            let clock_us = u64::try_from(now.duration_since(epoch).as_micros()).unwrap_or(u64::MAX);
            // A tunnel that has ended says so by itself; what was not sent cannot be owed.
            if tunnel.probe(sequence, clock_us).is_ok() {
                detector.probe_sent(now);
            }
        }
        gateway.apply(tick.transition);
    }
}
