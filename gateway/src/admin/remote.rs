//! Objects over clusters: what a linked cluster asks of ours, as far as its Link grants it, and what our operators ask of
//! linked ones.
//!
//! One question and its answer on a stream of the tunnel. Who asks is the cluster at the other end, by its certificate;
//! the name of its operator is only told. The cluster that is asked looks at its own grant, reads, checks and writes by
//! itself, and passes nothing on.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::code::Code as Reset;
use proto::limits::{OBJECTS_ANSWER_BYTES_MAX, OBJECTS_ASK_BYTES_MAX};
use proto::message::encode_message;
use registry::model::ClusterName;
use registry::store::Store;
use registry::tasks::apply::Author;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::debug;
use tunnel::{Tunnel, TunnelError};

use super::objects::{Objects, Ticket, now_unix_ms, refusal};
use crate::peers::questions::{self, who_asks};
use crate::peers::{PeerCluster, Peers};
use crate::proxy::worker::ObjectsStream;
use crate::telemetry::metrics::InProgress;
use admin_api::rpc::{Answer, ApplyRequest, Ask, DeleteRequest, answer, ask};

/// Questions of one peer at once: each may hold as much memory as its messages are allowed.
const ASKS_PER_PEER_MAX: u64 = 4;
/// Those of all peers.
const ASKS_MAX: u64 = 4 * ASKS_PER_PEER_MAX;
/// What a question counts as at least, in KiB, however short it is: each is held against all that is applied.
const ASK_KIB_LEAST: u64 = 64;
/// So many KiB of an answer count as one of a question: they are read by nobody here.
const ANSWER_KIB_OF_ONE: u64 = 8;
/// How long a question may take to come.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// How long an answer may take to be found: less than whoever asks waits, so that it hears why.
const WORK_WAIT: Duration = Duration::from_secs(15);
/// How long a linked cluster is waited for, whatever it does.
const PEER_WAIT: Duration = Duration::from_secs(30);

/// Answers every stream of `incoming` until the process drains.
pub async fn serve<S: Store>(objects: Objects<S>, mut incoming: mpsc::Receiver<ObjectsStream>) {
    let mut asks = JoinSet::new();
    let of_all = Arc::<InProgress>::default();
    loop {
        tokio::select! {
            () = objects.shared.stop.cancelled() => return,
            Some(stream) = incoming.recv() => {
                asks.spawn(converse(objects.clone(), of_all.clone(), stream));
            }
            Some(_) = asks.join_next() => {}
        }
    }
}

async fn converse<S: Store>(objects: Objects<S>, of_all: Arc<InProgress>, stream: ObjectsStream) {
    let ObjectsStream { peer, mut line } = stream;
    let answer = match admit(&objects, &peer, &of_all) {
        Err(refused) => refusal(&refused),
        Ok((cluster, ticket)) => {
            let Ok(Ok(ask)) = timeout(ASK_WAIT, line.next()).await else {
                return debug!(%peer, "A stream about objects without a question.");
            };
            tokio::select! {
                answer = find(&objects, &cluster, ask, &ticket) => answer,
                // It says nothing more: whatever comes is its end, and nobody waits for the answer. What is done for it
                // goes on, and has the ticket.
                _ = line.next() => return debug!(%peer, "Gone before its answer."),
            }
        }
    };
    questions::say(&peer, line, answer).await;
}

/// Whether `peer` may ask anything now; nothing of its question is read yet.
///
/// # Errors
/// Why it may not.
fn admit<S: Store>(
    objects: &Objects<S>,
    peer: &ClusterName,
    of_all: &Arc<InProgress>,
) -> Result<(Arc<PeerCluster>, Ticket), Status> {
    let removed = || Status::permission_denied("the link was removed");
    let cluster = objects.shared.peers.get(peer).ok_or_else(removed)?;
    if cluster.link().allow_apply.is_empty() {
        return Err(Status::permission_denied(questions::deny(&cluster.name)));
    }
    let rooms = (cluster.questions.open.enter(ASKS_PER_PEER_MAX), of_all.enter(ASKS_MAX));
    let (Some(of_it), Some(of_all)) = rooms else {
        return Err(Status::resource_exhausted(format!(
            "{ASKS_PER_PEER_MAX} changes of one cluster at once, {ASKS_MAX} of all; try again"
        )));
    };
    let often = |wait: Duration| {
        let seconds = wait.as_secs() + 1;
        Status::resource_exhausted(format!("more is asked of it than it answers; try again in {seconds} s"))
    };
    cluster.questions.kib.take(ASK_KIB_LEAST, objects.shared.clock.micros()).map_err(often)?;
    Ok((cluster, Arc::new([of_it, of_all])))
}

/// The answer to what `cluster` asks.
async fn find<S: Store>(objects: &Objects<S>, cluster: &PeerCluster, ask: Ask, ticket: &Ticket) -> Answer {
    let clock = objects.shared.clock;
    cluster.questions.kib.book(kib(ask.encoded_len()).saturating_sub(ASK_KIB_LEAST), clock.micros());
    let author = Author {
        by: who_asks(&cluster.name, &ask.operator),
        unix_ms: now_unix_ms(),
        granted: Some(cluster.link().allow_apply.clone()),
    };
    let late = || {
        let text = "its registry did not answer in time; look with `ringway get --clusters`";
        refusal(&Status::deadline_exceeded(text))
    };
    let answer = timeout(WORK_WAIT, objects.answer(ask, &author, Some(ticket))).await;
    let answer = answer.unwrap_or_else(|_| late());
    if let Some(answer::Kind::Refusal(refused)) = &answer.kind
        && refused.code == Code::PermissionDenied as u32
    {
        questions::say_denied(&cluster.name, &refused.message, &author.by);
    }
    let bytes = answer.encoded_len();
    cluster.questions.kib.book(kib(bytes) / ANSWER_KIB_OF_ONE, clock.micros());
    if bytes > OBJECTS_ANSWER_BYTES_MAX {
        let text = format!("the answer is larger than {} MiB; ask for less", OBJECTS_ANSWER_BYTES_MAX >> 20);
        return refusal(&Status::resource_exhausted(text));
    }
    answer
}

fn kib(bytes: usize) -> u64 {
    bytes as u64 / 1024
}

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
    let (mut reader, mut writer) = tunnel.open_objects().await?;
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
    use registry::model::Link;
    use tokio_util::sync::CancellationToken;

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
        let east = ClusterName::new("east").unwrap();
        let link = Link {
            cluster: east.clone(),
            addresses: Vec::new(),
            trust_domain: "acme.example".into(),
            import: Vec::new(),
            expire_after: registry::pure::mirror::EXPIRE_AFTER,
            allow_apply: Vec::new(),
        };
        let west = ClusterName::new("west").unwrap();
        let peers = Peers::new(&west, "gw-1", &[(east, link)].into(), CancellationToken::new());
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
