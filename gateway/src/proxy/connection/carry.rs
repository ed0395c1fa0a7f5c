//! A connection, or an exchange that was upgraded, from its acceptance to its end: all that it holds meanwhile.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use crate::base::clock::Activity;
use crate::http::join::{End, Ended, Ends, Joining, join};
use crate::telemetry::metrics::{ConnectionGuard, Drops, InProgressGuard};
use crate::telemetry::record::Record;
use crate::upstream::Served;

/// The protocol whose ends are told that they are to go elsewhere (RFC 6455, section 4.2.1).
const WEBSOCKET: &[u8] = b"websocket";

/// What is carried as it is from now on.
#[derive(Debug)]
pub struct Carry {
    /// The side that serves it.
    pub served: Served,
    /// What it speaks, where HTTP was but the beginning.
    pub protocol: Option<HeaderValue>,
    /// How long nothing may move.
    pub idle: Duration,
    /// The same in a flow of datagrams that was answered and may be over; none: as long.
    pub idle_answered: Option<Duration>,
    /// Closed at its end.
    pub record: Record,
    /// What counts its bytes.
    pub counted: Option<ConnectionGuard>,
    /// When its process ends.
    pub ends: Ends,
    /// What counts datagrams that are dropped.
    pub drops: Drops,
    /// Its place among what is in progress.
    pub guard: Option<InProgressGuard>,
}

impl Carry {
    /// Moves its bytes, or its datagrams, until its end.
    pub async fn run(self, caller: End) -> Ended {
        let Self { served, protocol, idle, idle_answered, mut record, counted, ends, drops, guard } = self;
        let activity = Activity::new(Instant::now());
        record.follows(&activity);
        let joining = Joining {
            idle,
            idle_answered,
            activity: &activity,
            ends: &ends,
            counted: counted.as_ref(),
            drops: &drops,
            websocket: protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET)),
        };
        let ended = join(caller, served.end, joining).await;
        record.ends(ended.into());
        if let Some(held) = &served.held {
            held.ended(ended, activity.sent());
        }
        drop(guard);
        ended
    }
}
