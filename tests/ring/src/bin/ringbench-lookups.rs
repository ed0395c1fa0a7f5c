//! Looks up keys, for callgrind to count: `ringbench-lookups NODES LOOKUPS`. What one lookup costs is the difference of
//! two runs that differ in their number; keys and ring are made in both.

use std::process::ExitCode;

use hashring::NodeIndex;
use ringbench::{Hashes, Keys};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let (Some(Ok(nodes)), Some(Ok(lookups)), None) = (numbers.next(), numbers.next(), numbers.next()) else {
        eprintln!("usage: ringbench-lookups NODES LOOKUPS");
        return ExitCode::from(2);
    };
    let ring = ringbench::ring(nodes);
    let keys: Vec<_> = Keys(Hashes(1)).take(1 << 12).collect();
    // Slices, so that the compiler does not know how long keys are.
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let mut sum = 0;
    for _ in 0..lookups as usize / keys.len() {
        for key in &keys {
            sum += ring.owner(ring.hash(key)).map_or(0, NodeIndex::get);
        }
    }
    println!("{sum}");
    ExitCode::SUCCESS
}
