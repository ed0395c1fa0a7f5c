//! Registers endpoints with a gateway of this cluster for as long as their process runs.
//!
//! The other half of [`crate::control::registrations`]. It says at least every third of the time to live that it is there, and looks for a
//! gateway again whenever the one that it has does not answer: what it has registered stays its own. In the end its
//! endpoints drain first, and are taken off once nothing is under way at them.

#[cfg(test)]
mod tests;

use std::time::Duration;

use proto::limits::QUOTED_BYTES_MAX;
use proto::register::{Beat, Drain, Leave, Phase, Say, Standing, Told, say};
use proto::text::clean;
use registry::pure::registration::{Begin, RegistrarId};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::base::line::Line;

/// The longest time between two signs of life: a gateway that has fallen silent is noticed after two of them.
const BEAT_MAX: Duration = Duration::from_secs(10);
/// Wait before the first look for another gateway; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest such wait: the time to live must not be over before a gateway that has restarted is found.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Wait after a gateway has refused what others took: what it knows may be old, or new.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// How long endpoints drain at least: other gateways and sidecars have to hear of it, too.
const SETTLE: Duration = Duration::from_secs(1);
/// How long taking off may take; then the lease does it.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// How often a registrar that drains looks whether it is done.
const LOOK: Duration = Duration::from_millis(50);
/// How long a gateway may take to take a message.
const SEND_WAIT: Duration = Duration::from_secs(5);

/// When and how a registrar ends.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Cancelled when its endpoints shall drain and then be taken off.
    pub drain: CancellationToken,
    /// Cancelled when they shall be taken off at once.
    pub now: CancellationToken,
    /// How long draining may take.
    pub grace: Duration,
}

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum News<'a> {
    /// How each endpoint is, in the order in which they were registered.
    Told(&'a [Standing]),
    /// The gateway refuses what was registered before; asked again.
    Refused(&'a str),
    /// There is no gateway to be had for the moment.
    Lost(&'a str),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it was told to.
    Left,
    /// The gateway refused it, for this reason, before it had registered anything.
    Refused(String),
}

/// What was last told of each endpoint, so that only what changes is shown to people.
#[derive(Debug, Default)]
pub struct Seen {
    last: Vec<(Phase, String)>,
}

impl Seen {
    /// The places of those that are not as they were, each with what it is now and why. That something is under way, or
    /// has yet to be seen, is no change.
    pub fn changes(&mut self, told: &[Standing]) -> Vec<(usize, Phase, String)> {
        self.last.resize(told.len(), (Phase::Unspecified, String::new()));
        let mut changes = Vec::new();
        for (place, (standing, last)) in told.iter().zip(&mut self.last).enumerate() {
            let now = (standing.phase(), clean(&standing.why, QUOTED_BYTES_MAX));
            let nothing_yet = now.0 == Phase::Waiting && now.1.is_empty();
            if now != *last && !nothing_yet {
                changes.push((place, now.0, now.1.clone()));
                *last = now;
            }
        }
        changes
    }
}

/// The word for what became of a registration.
pub fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Registered => "registered",
        Phase::Waiting | Phase::Unspecified => "waiting",
        Phase::Draining => "draining",
        Phase::Gone => "gone",
        Phase::Refused => "refused",
    }
}

/// A new registrar's random bytes.
pub fn random_id() -> RegistrarId {
    fastrand::u128(..).to_be_bytes()
}

/// Registers what `begin` says with the gateways that `connect` finds, until `ending` says so.
pub async fn run(
    begin: Begin,
    mut connect: impl AsyncFnMut() -> Result<Line<Told, Say>, String>,
    ending: Ending,
    mut on_news: impl FnMut(News<'_>),
) -> Ended {
    let mut registrar = Registrar { begin, ending, drains_since: None, was_told: false };
    let mut pause = PAUSE;
    loop {
        let line = tokio::select! {
            line = connect() => line,
            () = registrar.is_over() => return Ended::Left,
        };
        let cut = match line {
            Err(why) => Cut::Lost(why),
            Ok(line) => {
                let before = std::mem::take(&mut registrar.was_told);
                let cut = registrar.talk(line, &mut on_news).await;
                if registrar.was_told {
                    pause = PAUSE;
                }
                registrar.was_told |= before;
                cut
            }
        };
        let wait = match cut {
            Cut::Left => return Ended::Left,
            Cut::Refused(why) if !registrar.was_told => return Ended::Refused(why),
            Cut::Refused(why) => {
                on_news(News::Refused(&why));
                REFUSED_PAUSE
            }
            Cut::Lost(why) => {
                on_news(News::Lost(&why));
                pause = (pause * 2).min(PAUSE_MAX);
                pause / 2
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = registrar.is_over() => return Ended::Left,
        }
    }
}

struct Registrar {
    begin: Begin,
    ending: Ending,
    /// When it was told to drain.
    drains_since: Option<Instant>,
    /// Whether a gateway has told it anything but a refusal.
    was_told: bool,
}

/// Why a conversation is over.
enum Cut {
    /// The endpoints are taken off.
    Left,
    Refused(String),
    Lost(String),
}

impl Registrar {
    /// Waits until nobody has to be asked to take the endpoints off any more: there never was one, or it takes too long.
    async fn is_over(&mut self) {
        tokio::select! {
            () = self.ending.now.cancelled() => return,
            () = self.ending.drain.cancelled() => {}
        }
        let since = *self.drains_since.get_or_insert_with(Instant::now);
        self.begin.draining = true;
        if self.was_told {
            sleep_until(since + self.ending.grace).await;
        }
    }

    /// Talks to one gateway until one of the two has enough.
    async fn talk(&mut self, mut line: Line<Told, Say>, on_news: &mut impl FnMut(News<'_>)) -> Cut {
        let Ending { drain, now, grace } = self.ending.clone();
        let beat = (self.begin.ttl / 3).min(BEAT_MAX);
        let silence_max = beat * 2;
        let mut beats = interval(beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is due at once, and `Begin` is as good.
        beats.tick().await;
        let mut looks = interval(LOOK);
        // Nobody looks before it drains: a whole life of ticks must not be made up for then.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut told: Option<Told> = None;
        // Since when it has said that it leaves.
        let mut leaving: Option<Instant> = None;
        let mut say = Some(say::Kind::Begin(self.begin.encode()));
        loop {
            if let Some(kind) = say.take() {
                match timeout(SEND_WAIT, line.send(Say { kind: Some(kind) })).await {
                    Ok(Ok(())) => {}
                    Ok(Err(cut)) => return Cut::Lost(cut.to_string()),
                    Err(_) => return Cut::Lost("the gateway takes nothing".into()),
                }
            }
            say = tokio::select! {
                next = line.next() => match next {
                    Err(_) if leaving.is_some() => return Cut::Left,
                    Err(cut) => return Cut::Lost(cut.to_string()),
                    Ok(Told { refused, .. }) if !refused.is_empty() => {
                        return Cut::Refused(clean(&refused, QUOTED_BYTES_MAX));
                    }
                    Ok(now) => {
                        (heard, self.was_told) = (Instant::now(), true);
                        on_news(News::Told(&now.endpoints));
                        told = Some(now);
                        None
                    }
                },
                _ = beats.tick() => Some(say::Kind::Beat(Beat {})),
                () = sleep_until(heard + silence_max) => return Cut::Lost("the gateway says nothing".into()),
                () = now.cancelled(), if leaving.is_none() => {
                    leaving = Some(Instant::now());
                    Some(say::Kind::Leave(Leave {}))
                }
                () = drain.cancelled(), if !self.begin.draining => {
                    self.begin.draining = true;
                    self.drains_since = Some(Instant::now());
                    Some(say::Kind::Drain(Drain {}))
                }
                _ = looks.tick(), if self.begin.draining || leaving.is_some() => {
                    let drained_for = self.drains_since.map_or(Duration::ZERO, |since| since.elapsed());
                    let quiet = drained_for >= SETTLE && told.as_ref().is_some_and(is_quiet);
                    match leaving {
                        Some(since) if since.elapsed() >= LEAVE_WAIT => return Cut::Left,
                        None if quiet || drained_for >= grace => {
                            leaving = Some(Instant::now());
                            Some(say::Kind::Leave(Leave {}))
                        }
                        _ => None,
                    }
                }
            };
        }
    }
}

/// Whether the gateway gives none of the endpoints anything new, and nothing is under way at them.
fn is_quiet(told: &Told) -> bool {
    told.endpoints.iter().all(|standing| standing.phase() != Phase::Registered && standing.in_flight == 0)
}
