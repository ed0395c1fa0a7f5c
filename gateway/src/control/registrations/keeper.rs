//! What a conversation wants of the registry, done beside it: one thing after the other, as fast as the registry is.

use std::convert::Infallible;
use std::time::Duration;

use registry::store::{Store, StoreError};
use registry::tasks::registrar::{Claim, Registrar};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::proxy::worker::Who;
use crate::telemetry::audit;
use crate::telemetry::limited::limited;

/// How often a record that is another's, or could not be written, is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is wanted as of the last word; each further word that comes while the registry is slow is heard with the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// The endpoints take nothing new.
    pub drains: bool,
    /// They are to be taken off.
    pub leaves: bool,
}

/// What the registry has of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    /// How the record of each endpoint is, in the order of the registration.
    pub claims: Vec<Claim>,
    /// Why the store did not do what it should, the last time.
    pub trouble: Option<StoreError>,
    /// Whether taking off is over, however it went.
    pub left: bool,
}

/// Does what is `wanted` with the records of `registrar`, which is `who`, again with each word. Never ends by itself: it
/// is dropped with the conversation, and whatever it then has half done, the lease or the next conversation mends.
pub(super) async fn keep<S: Store>(
    mut registrar: Registrar<S>,
    who: &Who,
    mut wanted: watch::Receiver<Wanted>,
    done: watch::Sender<Done>,
) -> Infallible {
    let mut lives = true;
    loop {
        let Wanted { drains, leaves } = *wanted.borrow_and_update();
        let before = done.borrow().clone();
        let tried = if leaves {
            registrar.leave().await
        } else if drains && !registrar.is_draining() {
            registrar.drain().await
        } else if lives {
            registrar.keep().await
        } else {
            registrar.settle().await
        };
        let claims = registrar.claims().map(|(_, _, claim)| claim.clone()).collect();
        let now = Done { claims, trouble: tried.err(), left: leaves };
        say_how_it_went(&registrar, who, &before, &now);
        done.send_replace(now);
        if leaves {
            return std::future::pending().await;
        }
        lives = tokio::select! {
            // Nobody is left who could want something.
            changed = wanted.changed() => match changed {
                Ok(()) => true,
                Err(_) => return std::future::pending().await,
            },
            () = sleep(RETRY), if registrar.is_unsettled() => false,
        };
    }
}

/// One line for each record that was written or taken off, or is seen to be another's, and one as the store begins to
/// fail.
fn say_how_it_went<S: Store>(registrar: &Registrar<S>, who: &Who, before: &Done, now: &Done) {
    if let Some(error) = now.trouble.as_ref().filter(|_| before.trouble.is_none()) {
        let error: &dyn std::error::Error = error;
        limited!(
            WARN, KNOWN, who, "Writing a registration failed; retrying.", %who, error
        );
    }
    for (place, (service, endpoint, claim)) in registrar.claims().enumerate() {
        if let Some(what) = change(before.claims.get(place), claim, registrar.is_draining()) {
            let named = format!("{service} {}", endpoint.id);
            audit::change_by(who, what, named, who, "requests to the service");
        } else if let Claim::Taken(by) = claim
            && before.claims.get(place) != Some(claim)
        {
            limited!(
                INFO, KNOWN, who, "Endpoint id held by another registrar; retrying.",
                %who, %service, endpoint = %endpoint.id, %by
            );
        }
    }
}

/// What was done to a record, if anything was.
fn change(before: Option<&Claim>, now: &Claim, draining: bool) -> Option<&'static str> {
    match now {
        _ if before == Some(now) => None,
        Claim::Held(_) if draining => Some("endpoint drains"),
        Claim::Held(_) => Some("endpoint registered"),
        Claim::Gone => Some("endpoint taken off"),
        Claim::Open | Claim::Taken(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_done_is_said() {
        let taken = Claim::Taken("bob".into());
        for (before, now, draining, said) in [
            (&Claim::Open, &Claim::Held(5), false, Some("endpoint registered")),
            (&Claim::Held(5), &Claim::Held(5), false, None),
            (&Claim::Held(5), &Claim::Held(7), false, Some("endpoint registered")),
            (&Claim::Held(5), &Claim::Held(7), true, Some("endpoint drains")),
            (&Claim::Held(7), &Claim::Gone, true, Some("endpoint taken off")),
            // In other hands, or contested.
            (&Claim::Held(7), &Claim::Open, false, None),
            (&Claim::Open, &Claim::Open, false, None),
            (&Claim::Open, &taken, false, None),
            (&taken, &taken, false, None),
        ] {
            assert_eq!(change(Some(before), now, draining), said, "{before:?} {now:?}");
        }
    }
}
