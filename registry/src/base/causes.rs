//! An error with its causes, for people.

use std::error::Error;

/// What `error` says, and after it each of its causes; one that only repeats the last is left out.
pub fn chain(error: &dyn Error) -> String {
    let mut said: Vec<String> =
        std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect();
    said.dedup();
    said.join(": ")
}

/// The same in one line: what stands in lines of its own is joined.
pub fn line(error: &dyn Error) -> String {
    chain(error).lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Repeating(#[source] io::Error);

    #[test]
    fn what_only_repeats_its_cause_is_said_once() {
        assert_eq!(chain(&Repeating(io::Error::other("inner"))), "inner");
    }

    #[test]
    fn a_chain_names_every_cause() {
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "outer: inner");
        assert_eq!(line(&Outer(io::Error::other("inner\n  = hint: x"))), "outer: inner; = hint: x");
    }
}
