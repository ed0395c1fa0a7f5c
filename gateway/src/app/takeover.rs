//! One gateway process after another, so that nobody notices: the *heir* is started with `--take-over` (or by SIGUSR2 to the
//! *elder*), is handed the elder's sockets over a Unix socket in the state directory, serves once it is ready, and the elder
//! drains.
//!
//! | word | says | what is done by then |
//! |---|---|---|
//! | `ask` | the heir | it has read its files, and could use them |
//! | `wait` | the elder | the process before it still drains |
//! | `offer`, `socket` ..., `all` | the elder | descriptors of everything that it listens on |
//! | `lend`, `lent` | both | the elder's last catalog is saved, and lock, lease and registry file are free |
//! | `switch`, `switched` | both | the heir's workers run; the elder reads its UDP port no more; the heir carries to it what is its tunnels' |
//! | `up`, `moved` | both | the tunnels that the heir dials are up, and those who dial have been asked to dial again: the elder accepts no tunnels |
//! | `ready`, `yours` | both | all links of the heir are up and its endpoints checked, and it accepts callers |
//!
//! A conversation that ends before `yours` changes nothing: the elder takes back what it has lent.

mod elder;
mod heir;
mod office;
mod wire;

pub(super) use self::elder::{Elder, Handed, Kept, Succession, program};
pub(super) use self::heir::Heir;
pub(super) use self::office::{keep_leases, own_files, take_office, take_turn, wait_for_turn};

/// The file of the Unix socket, in the state directory.
pub(super) const FILE: &str = "takeover.sock";
/// What both speak.
const VERSION: u32 = 1;

/// Why a process did not take over; either says so.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The conversation failed.
    #[error("the conversation failed")]
    Io(#[from] std::io::Error),
    /// It has said no.
    #[error("the running gateway refuses: {0}")]
    Refused(String),
    /// It ended the conversation, or has ended.
    #[error("the other process has ended the conversation; its log says why")]
    Left,
    /// It said something else than expected.
    #[error("the other process speaks another version of the handover; restart the running one instead")]
    Unexpected,
    /// It said nothing.
    #[error("the other process has said nothing for {0:?}; is it stopped?")]
    Silent(std::time::Duration),
}
