//! Objects over clusters: what our operators ask of linked ones.

use std::time::Duration;

use proto::code::Code as Reset;
use proto::limits::OBJECTS_ASK_BYTES_MAX;
use proto::message::encode_message;
use proto::stream::StreamKind;
use registry::model::ClusterName;
use tokio::time::timeout;
use tonic::Status;
use tunnel::{Tunnel, TunnelError};

use crate::peers::{PeerCluster, Peers};
use admin_api::rpc::{Answer, ApplyRequest, Ask, DeleteRequest, ask};

/// How long a linked cluster is waited for, whatever it does.
const PEER_WAIT: Duration = Duration::from_secs(30);

/// Asks a gateway of the linked `cluster`, the next one where the first certainly did nothing.
///
/// # Errors
/// What there is to say where no answer came; each names the cluster, and whether it may have done it.
pub async fn ask(peers: &Peers, cluster: &str, ask: &Ask) -> Result<Answer, Status> {
    let peer = ClusterName::new(cluster).ok().and_then(|cluster| peers.get(&cluster));
    let peer = peer.ok_or_else(|| {
        let linked: Vec<_> = peers.iter().map(|peer| peer.name.to_string()).collect();
        let linked = if linked.is_empty() { "none is".into() } else { linked.join(", ") };
        Status::not_found(format!("there is no link to a cluster `{cluster}` here; linked: {linked}"))
    })?;
    let size = encode_message(ask).len();
    if size > OBJECTS_ASK_BYTES_MAX {
        let most = OBJECTS_ASK_BYTES_MAX >> 20;
        let text = format!("{size} bytes; a linked cluster takes {most} MiB at once: split the manifests");
        return Err(Status::invalid_argument(text));
    }
    let late = || Status::deadline_exceeded(format!("no answer within {PEER_WAIT:?}{}", so_what(ask)));
    timeout(PEER_WAIT, ask_one_of(&peer, ask)).await.unwrap_or_else(|_| Err(late()))
}

async fn ask_one_of(peer: &PeerCluster, ask: &Ask) -> Result<Answer, Status> {
    let mut tried = Vec::new();
    let mut refused = None;
    while let Some((gateway, tunnel)) = peer.pick_but(None, &tried) {
        match ask_over(&tunnel, ask).await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.certifies_unprocessed() => {
                refused = Some(unprocessed(&gateway.id, tunnel.is_open(), &error));
                tried.push(tunnel);
            }
            Err(error) => return Err(Status::unavailable(format!("no answer: {error}{}", so_what(ask)))),
        }
    }
    Err(refused.unwrap_or_else(|| {
        let why = peer.last_error().map_or_else(String::new, |error| format!(" (last dial: {error})"));
        Status::unavailable(format!("no tunnel to it is up{why}; nothing was sent"))
    }))
}

async fn ask_over(tunnel: &Tunnel, ask: &Ask) -> Result<Answer, TunnelError> {
    let (mut reader, mut writer) = tunnel.open_messages(StreamKind::Objects).await?;
    // Who refuses need not have read everything: its answer counts.
    let (_, answer) = tokio::join!(writer.send(ask), reader.next::<Answer>());
    answer?.ok_or(TunnelError::Truncated)
}

/// Why a gateway certainly did nothing.
fn unprocessed(gateway: &str, open: bool, error: &TunnelError) -> Status {
    match error {
        // A version that knows this stream takes it as long as it takes any.
        TunnelError::Reset(Reset::Refused) if open => Status::unimplemented(format!(
            "its gateway {gateway} is of a version that does not know how to change objects for linked clusters \
             yet; upgrade it, or apply there; nothing was changed"
        )),
        error => {
            Status::unavailable(format!("its gateway {gateway} takes nothing ({error}); nothing was changed"))
        }
    }
}

/// What a question without an answer leaves open.
fn so_what(ask: &Ask) -> &'static str {
    match &ask.kind {
        Some(
            ask::Kind::Apply(ApplyRequest { dry_run: false, .. })
            | ask::Kind::Delete(DeleteRequest { dry_run: false, .. }),
        ) => "; whether it was done is not known: look with `ringway get --clusters`",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use registry::testing::{cluster, link};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;

    #[test]
    fn an_older_gateway_is_told_from_one_that_drains() {
        let refused = TunnelError::Reset(Reset::Refused);
        let old = unprocessed("gw-1", true, &refused);
        assert_eq!(old.code(), Code::Unimplemented);
        assert!(old.message().contains("gw-1") && old.message().contains("does not know"), "{old}");
        let drains = unprocessed("gw-1", false, &refused);
        assert_eq!(drains.code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn who_cannot_be_asked_is_told_of_at_once() {
        let east = cluster("east");
        let peers =
            Peers::new(&cluster("west"), "gw-1", &[(east, link("east"))].into(), CancellationToken::new());
        let why = async |cluster: &str, question: &Ask| ask(&peers, cluster, question).await.unwrap_err();
        let refused = why("south", &Ask::default()).await;
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains("`south`") && refused.message().contains("linked: east"));
        assert_eq!(why("no name", &Ask::default()).await.code(), Code::NotFound);
        let refused = why("east", &Ask::default()).await;
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("no tunnel") && refused.message().contains("nothing was sent"));
        let large = Ask { operator: "x".repeat(OBJECTS_ASK_BYTES_MAX), ..Ask::default() };
        assert_eq!(why("east", &large).await.code(), Code::InvalidArgument);
    }

    #[test]
    fn only_a_change_without_an_answer_is_in_doubt() {
        let apply = |dry_run| Ask {
            kind: Some(ask::Kind::Apply(ApplyRequest { dry_run, ..ApplyRequest::default() })),
            ..Ask::default()
        };
        assert!(so_what(&apply(false)).contains("not known"));
        assert_eq!(so_what(&apply(true)), "");
    }
}
