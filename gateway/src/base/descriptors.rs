//! File descriptors: as many as the system lets this process have, of which some are held back for the admin port.
//!
//! Every connection takes one, and whoever reaches a listener may take all that there are: callers, peers, and what they
//! make us connect to. So the limit that they meet is lower than the one that the system sets, and only whoever accepts
//! an operator goes beyond it. Operators, in turn, are few: see [`crate::admin::port`].

use std::io;
use std::sync::{Mutex, PoisonError};

use nix::sys::resource::Resource::RLIMIT_NOFILE;
use nix::sys::resource::{getrlimit, rlim_t, setrlimit};

/// Descriptors that are held back: twice what the admin port may have connections.
const HELD_BACK: rlim_t = 128;

/// Held while the limit is raised, which is not for long: whoever looked at it meanwhile would put back what was raised.
static RAISED: Mutex<()> = Mutex::new(());

/// Takes as many open files as the system lets this process have, but those that are held back. Shells and service managers
/// begin with 1,024, for the sake of programs that use select(2); a gateway has a connection for every caller and for every
/// request at an endpoint.
///
/// # Errors
/// When the limit cannot be set: it then stays as it was.
pub fn allow() -> io::Result<()> {
    let (_, most) = getrlimit(RLIMIT_NOFILE)?;
    Ok(setrlimit(RLIMIT_NOFILE, ordinary(most), most)?)
}

/// How many files this process may have open, but for operators.
pub fn limit() -> u64 {
    let _as_it_is = RAISED.lock().unwrap_or_else(PoisonError::into_inner);
    // Where that cannot be asked it is what the kernel gives at the least.
    getrlimit(RLIMIT_NOFILE).map_or(1024, |(now, _)| now)
}

/// What all but operators may have of `most`.
fn ordinary(most: rlim_t) -> rlim_t {
    most - HELD_BACK.min(most / 4)
}

/// Whether an error says that this process may open no more files.
fn are_spent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EMFILE as i32)
}

/// Does `work` for an operator: where no other descriptor is left, with those that are held back. It must be short and
/// wait for nothing: the limit is the process's, so that meanwhile others may open a file beyond it as well. That is why
/// twice as many are held back as are needed.
///
/// # Errors
/// What `work` says; that there is no descriptor left all the same.
pub fn for_operators<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if are_spent(&error) => {
            let _one_at_a_time = RAISED.lock().unwrap_or_else(PoisonError::into_inner);
            let (now, most) = getrlimit(RLIMIT_NOFILE)?;
            setrlimit(RLIMIT_NOFILE, most, most)?;
            let done = work();
            // What was allowed a moment ago is allowed again.
            setrlimit(RLIMIT_NOFILE, now, most)?;
            done
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_have_theirs_however_few_there_are() {
        for (most, left) in [(1_048_576, 1_048_448), (1_024, 896), (512, 384), (256, 192), (64, 48), (0, 0)] {
            assert_eq!(ordinary(most), left, "{most}");
        }
    }
}
