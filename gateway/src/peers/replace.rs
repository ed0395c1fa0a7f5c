//! One tunnel in the place of another, so that no request hears of it.

use std::time::{Duration, Instant, SystemTime};

use identity::{Credentials, Trust};
use proto::code::CloseCode;
use tracing::info;
use tunnel::Tunnel;

use super::Peers;
use crate::telemetry::audit;

/// By then both sides use the other tunnel, and nothing new is on its way on this one.
pub const MOVE_OVER: Duration = Duration::from_secs(1);
/// How long a tunnel that was replaced may finish what is on it: downloads and streams may be long.
const REPLACED_GRACE: Duration = Duration::from_secs(60 * 60);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Once the last exchange is over, its last bytes may still be on their way, or lost and sent again.
const LINGER_MIN: Duration = Duration::from_millis(200);
/// The same in round trips.
const LINGER_ROUND_TRIPS: u32 = 4;

/// Closes a tunnel that another one has replaced: lets both sides move over, takes nothing new, and waits for what is
/// on it.
pub async fn close_replaced(tunnel: Tunnel) {
    tunnel.retire();
    tokio::time::sleep(MOVE_OVER).await;
    tunnel.go_away("another tunnel stays");
    let deadline = Instant::now() + REPLACED_GRACE;
    while Instant::now() < deadline && tunnel.outstanding() + tunnel.serving() > 0 {
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(LINGER_MIN.max(tunnel.rtt() * LINGER_ROUND_TRIPS)).await;
    tunnel.close(CloseCode::DuplicateTunnel, "another tunnel stays");
}

impl Peers {
    /// Has peers dial again where they have dialled this process: they reach the one that takes over.
    pub fn retire_dialled(&self) {
        self.retire(|tunnel| !tunnel.dialled());
    }

    /// Has peers use the process that has taken over.
    pub fn retire_all(&self) {
        self.retire(|_| true);
    }

    fn retire(&self, which: impl Fn(&Tunnel) -> bool) {
        for cluster in self.iter() {
            for gateway in cluster.gateways().iter() {
                gateway.tunnels().iter().filter(|tunnel| which(tunnel)).for_each(Tunnel::retire);
            }
        }
    }

    /// Holds every tunnel against what counts now: one whose peer `trust` does not believe any more at `now` is closed,
    /// one that was made with other `credentials` than ours asks for another in its place.
    pub fn judge(&self, trust: &Trust, credentials: &Credentials, now: SystemTime) {
        for cluster in self.iter() {
            let mut retired = false;
            for gateway in cluster.gateways().iter() {
                for tunnel in gateway.tunnels().iter() {
                    let believed = trust.still_believes(&tunnel.peer_certificates(), tunnel.dialled(), now);
                    if let Err(refusal) = believed {
                        audit::change(
                            "tunnel closed, its peer is not believed any more",
                            format_args!("gateway {} of {}", gateway.id, cluster.name),
                            &refusal,
                            format_args!("{} requests on their way to it", tunnel.outstanding()),
                        );
                        tunnel.close(CloseCode::LinkRemoved, &refusal.to_string());
                    } else if tunnel.credentials().chain() != credentials.chain() && !tunnel.is_retiring() {
                        info!(
                            peer = %cluster.name, gateway = %gateway.id,
                            "Tunnel retiring: our certificate was renewed."
                        );
                        tunnel.retire();
                        retired = true;
                    }
                }
            }
            if retired {
                cluster.changed.notify_waiters();
            }
        }
    }
}
