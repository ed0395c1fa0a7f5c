//! What systemd is told of this process, where it has started it as a unit of `Type=notify` (sd_notify(3)). Elsewhere
//! nothing is said.

use sd_notify::NotifyState;
use tracing::warn;

/// It serves: from now on it is the unit's main process, whichever was before.
pub(super) fn ready() {
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
}

/// It drains, and no other process has taken over.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "Cannot tell systemd (`NOTIFY_SOCKET`).");
    }
}
