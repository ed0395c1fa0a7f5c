//! This gateway's place among those of its cluster.

use proto::store::Member;
use registry::cluster;
use registry::election::Candidate;
use registry::model::Gateway;
use registry::state::{Loaded, Saved, StateDir};
use registry::store::Store;

use super::StartError;
use crate::audit;

/// What this process says of itself to the gateways of its cluster.
pub(super) fn us(gateway: &Gateway, home: u64, boot: u64) -> Candidate {
    let member = Member {
        home,
        boot,
        addresses: gateway.advertise.iter().map(ToString::to_string).collect(),
        region: gateway.region.clone(),
        software: concat!("ringway/", env!("CARGO_PKG_VERSION")).into(),
    };
    Candidate { id: gateway.id.clone(), member }
}

/// Takes the UID that the store has for this cluster, and keeps it before any peer hears of it.
pub(super) async fn settle<S: Store>(
    store: &S,
    directory: &mut StateDir,
    loaded: Loaded,
) -> Result<Saved, StartError> {
    let Loaded { mut saved, fresh, .. } = loaded;
    let uid = cluster::settle(store, saved.uid).await?;
    if uid != saved.uid || fresh {
        if !fresh {
            audit::change(
                "the cluster's UID is another one than before",
                "own cluster",
                "the registry's store counts; the state directory had another",
                "peers take over the name once no tunnel shows the old one",
            );
        }
        saved.uid = uid;
        directory.save(&saved)?;
    }
    Ok(saved)
}
