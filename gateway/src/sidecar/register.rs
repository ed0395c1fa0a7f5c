//! Registers the endpoints of the workload with the gateway that the sidecar uses at the moment.

use std::sync::Arc;
use std::time::Duration;

use proto::register::Phase;
use proto::stream::StreamKind;
use registry::model::Sidecar;
use registry::pure::registration::Begin;
use tracing::{info, warn};
use tunnel::Tunnel;

use crate::base::line::Line;
use crate::peers::PeerCluster;
use crate::sidecar::registrar::{self, Ended, Ending, News, Seen, word};

/// How long endpoints live after the last word of their sidecar.
const TTL: Duration = Duration::from_secs(10);
/// Wait before what was refused is tried again: an operator has to do something about it.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Registers what the manifest says until `ending`, with one gateway of `cluster` after the other. What is refused is
/// tried again: the sidecar serves its workload all the same.
pub async fn register(sidecar: Arc<Sidecar>, cluster: Arc<PeerCluster>, ending: Ending) {
    let begin = Begin {
        registrar: registrar::random_id(),
        ttl: TTL,
        endpoints: sidecar.register.clone(),
        draining: false,
    };
    loop {
        let mut seen = Seen::default();
        let connect = async || {
            let (reader, writer) = a_tunnel(&cluster)
                .await
                .open_messages(StreamKind::Register)
                .await
                .map_err(|e| e.to_string())?;
            Ok(Line::tunnel(reader, writer))
        };
        let on_news = |news: News<'_>| tell(&sidecar, &mut seen, news);
        match registrar::run(begin.clone(), connect, ending.clone(), on_news).await {
            Ended::Left => return,
            Ended::Refused(why) => warn!(why, "Registration refused by the gateway; retrying."),
        }
        tokio::select! {
            () = ending.drain.cancelled() => return,
            () = tokio::time::sleep(REFUSED_PAUSE) => {}
        }
    }
}

/// A tunnel to the preferred gateway that is there.
async fn a_tunnel(cluster: &PeerCluster) -> Tunnel {
    loop {
        let mut changed = std::pin::pin!(cluster.changed.notified());
        changed.as_mut().enable();
        if let Some((_, tunnel)) = cluster.pick(None) {
            return tunnel;
        }
        changed.await;
    }
}

fn tell(sidecar: &Sidecar, seen: &mut Seen, news: News<'_>) {
    match news {
        News::Told(told) => {
            for (place, phase, why) in seen.changes(told) {
                let Some((service, endpoint)) = sidecar.register.get(place) else { continue };
                let (endpoint, state) = (&*endpoint.id, word(phase));
                if phase == Phase::Waiting {
                    warn!(%service, endpoint, state, why, "Endpoint registration changed.");
                } else {
                    info!(%service, endpoint, state, why, "Endpoint registration changed.");
                }
            }
        }
        News::Refused(why) => warn!(why, "Registration refused by the gateway; retrying."),
        News::Lost(why) => {
            info!(why, "No gateway to register with; retrying.");
            // What is found again is news.
            *seen = Seen::default();
        }
    }
}
