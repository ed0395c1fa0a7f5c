//! What a linked cluster may ask of us about objects: how much at once, and how much a second.

use std::sync::Arc;
use std::time::Duration;

use proto::limits::OPERATOR_BYTES_MAX;
use proto::objects::{Answer, Ask, Refusal, answer};
use proto::text::clean;
use registry::base::rate::{Rate, SharedBucket};
use registry::model::ClusterName;
use tokio::time::timeout;
use tracing::debug;

use crate::base::line::Line;
use crate::telemetry::audit;
use crate::telemetry::metrics::InProgress;

/// How long an answer may take to be taken.
const SEND_WAIT: Duration = Duration::from_secs(5);

/// KiB of questions about objects a second, and at once: the largest change is asked about twice and may be changed once
/// more, and what is read all the time takes a sixth of a core.
const QUESTIONS_KIB_PER_SECOND: u32 = 512;
const QUESTIONS_KIB_AT_ONCE: u32 = 16 * 1024;

/// What a cluster is told that is granted nothing.
const NOTHING_GRANTED: &str = "nothing is granted (`spec.allow.apply` of the Link)";

/// What one linked cluster asks.
#[derive(Debug)]
pub struct Questions {
    /// Those under way.
    pub open: Arc<InProgress>,
    /// What they are long, in KiB, and their answers.
    pub kib: SharedBucket,
}

impl Default for Questions {
    fn default() -> Self {
        let kib = Rate::per_second(QUESTIONS_KIB_AT_ONCE, QUESTIONS_KIB_PER_SECOND);
        Self { open: Arc::default(), kib: SharedBucket::new(kib) }
    }
}

/// Answers a question of `peer`, which is granted nothing, without a look at it.
pub async fn refuse(peer: &ClusterName, line: Line<Ask, Answer>) {
    let refusal = Refusal { code: tonic::Code::PermissionDenied as u32, message: deny(peer).into() };
    say(peer, line, Answer { kind: Some(answer::Kind::Refusal(refusal)) }).await;
}

/// Notes that `peer` asked for something although it is granted nothing, and says so.
pub fn deny(peer: &ClusterName) -> &'static str {
    say_denied(peer, NOTHING_GRANTED, &who_asks(peer, ""));
    NOTHING_GRANTED
}

/// Notes that something that `peer` asked for is denied.
pub fn say_denied(peer: &ClusterName, what: &str, who: &str) {
    audit::change_by(peer, "what a linked cluster asked for is denied", what, who, "nothing");
}

/// Who asks, for people: the cluster is certain, its operator is hearsay.
pub fn who_asks(peer: &ClusterName, operator: &str) -> String {
    match &*clean(operator, OPERATOR_BYTES_MAX) {
        "" => format!("cluster {peer}"),
        operator => format!("cluster {peer}, told operator {operator}"),
    }
}

/// Says `answer`, and nothing is heard any more.
pub async fn say(peer: &ClusterName, mut line: Line<Ask, Answer>, answer: Answer) {
    match timeout(SEND_WAIT, line.send(answer)).await {
        Ok(Ok(())) => line.end(),
        _ => debug!(%peer, "Response to an objects request was not delivered."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_operator_is_hearsay_of_one_short_line() {
        let west = ClusterName::new("west").unwrap();
        assert_eq!(who_asks(&west, "uid 1000"), "cluster west, told operator uid 1000");
        assert_eq!(who_asks(&west, ""), "cluster west");
        assert_eq!(who_asks(&west, "a\nAudit: b\u{1b}"), "cluster west, told operator a\\nAudit: b\\u001b");
        let long = who_asks(&west, &"ä".repeat(1000));
        assert!(long.len() <= "cluster west, told operator ".len() + OPERATOR_BYTES_MAX, "{long}");
    }
}
