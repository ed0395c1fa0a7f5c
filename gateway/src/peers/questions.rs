//! What a linked cluster may ask of us about objects: how much at once, and how much a second.

use std::sync::Arc;

use registry::rate::{Rate, SharedBucket};

use crate::metrics::InProgress;

/// KiB of questions about objects a second, and at once: the largest change is asked about twice and may be changed once
/// more, and what is read all the time takes a sixth of a core.
const QUESTIONS_KIB_PER_SECOND: u32 = 512;
const QUESTIONS_KIB_AT_ONCE: u32 = 16 * 1024;

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
