//! Objects over clusters: what a linked cluster asks of ours, as far as its Link grants it.
//!
//! One question and its answer on a stream of the tunnel. Who asks is the cluster at the other end, by its certificate;
//! the name of its operator is only told. The cluster that is asked looks at its own grant, reads, checks and writes by
//! itself, and passes nothing on.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use proto::limits::OBJECTS_ANSWER_BYTES_MAX;
use registry::model::ClusterName;
use registry::store::Store;
use registry::tasks::apply::Author;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::debug;

use super::objects::{Objects, Ticket, refusal};
use crate::base::clock::unix_ms;
use crate::peers::PeerCluster;
use crate::peers::questions::{self, who_asks};
use crate::proxy::worker::ObjectsStream;
use crate::telemetry::metrics::InProgress;
use admin_api::rpc::{Answer, Ask, answer};

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
                return debug!(%peer, "Objects stream without a request.");
            };
            tokio::select! {
                answer = find(&objects, &cluster, ask, &ticket) => answer,
                // It says nothing more: whatever comes is its end, and nobody waits for the answer. What is done for it
                // goes on, and has the ticket.
                _ = line.next() => return debug!(%peer, "Client disconnected before the response."),
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
    cluster.questions.kib.take(ASK_KIB_LEAST, objects.shared.clock.now()).map_err(often)?;
    Ok((cluster, Arc::new([of_it, of_all])))
}

/// The answer to what `cluster` asks.
async fn find<S: Store>(objects: &Objects<S>, cluster: &PeerCluster, ask: Ask, ticket: &Ticket) -> Answer {
    let clock = objects.shared.clock;
    cluster.questions.kib.book(kib(ask.encoded_len()).saturating_sub(ASK_KIB_LEAST), clock.now());
    let author = Author {
        by: who_asks(&cluster.name, &ask.operator),
        unix_ms: unix_ms(),
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
    cluster.questions.kib.book(kib(bytes) / ANSWER_KIB_OF_ONE, clock.now());
    if bytes > OBJECTS_ANSWER_BYTES_MAX {
        let text = format!("the answer is larger than {} MiB; ask for less", OBJECTS_ANSWER_BYTES_MAX >> 20);
        return refusal(&Status::resource_exhausted(text));
    }
    answer
}

fn kib(bytes: usize) -> u64 {
    bytes as u64 / 1024
}
