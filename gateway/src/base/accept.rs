//! What all who accept connections have in common.

use std::pin::pin;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;

/// Pause after an accept that failed for want of file descriptors or memory: soon there may be some.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is accepted, while it is for this process and not for another one that has the same socket.
pub async fn here<T>(is_ours: &watch::Sender<bool>, accept: impl Future<Output = T>) -> T {
    let mut accept = pin!(accept);
    let mut ours = is_ours.subscribe();
    loop {
        // Whoever accepts holds the sender.
        let _ = ours.wait_for(|ours| *ours).await;
        tokio::select! {
            biased;
            _ = ours.wait_for(|ours| !ours) => {}
            accepted = &mut accept => return accepted,
        }
    }
}

/// Whether whoever connected is our own user or root: the mode of a socket's file says so already, unless somebody has
/// changed it.
///
/// # Errors
/// Who it is.
pub fn is_own_user(caller: &UnixStream) -> Result<(), String> {
    let ours = nix::unistd::geteuid().as_raw();
    match caller.peer_cred().map(|cred| cred.uid()) {
        Ok(user) if user == 0 || user == ours => Ok(()),
        Ok(user) => Err(user.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
