//! What manifests mean, and what is said about wrong ones.
#![allow(clippy::unwrap_used, missing_docs)]

mod files;
mod hostile;
mod right;
mod wrong;

use registry::manifest::Source;

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}
