//! Figures of the ring: `ringbench [--quick]` prints lines `name value unit`.
//!
//! What is compared is measured in turns, round by round in one run, and a figure is the median of the rounds: what
//! else the machine does meets both. Rings have 160 points a node; keys have 24 bytes.

mod change;
mod instructions;
mod lookup;
mod quality;
mod rounds;

use std::process::ExitCode;

// What the gateway uses. Under the system allocator each change of a large ring pays for fresh pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long to measure.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Rounds of each comparison.
    rounds: usize,
    /// Keys that balance is counted over.
    keys: usize,
}

fn main() -> ExitCode {
    let effort = match std::env::args().nth(1).as_deref() {
        None => Effort { rounds: 41, keys: 16_000_000 },
        Some("--quick") => Effort { rounds: 15, keys: 16_000_000 },
        Some(_) => {
            eprintln!("usage: ringbench [--quick]");
            return ExitCode::from(2);
        }
    };
    lookup::measure(effort);
    instructions::measure();
    change::measure(effort);
    quality::measure(effort);
    ExitCode::SUCCESS
}

/// Prints a figure.
fn figure(name: &str, value: f64, unit: &str) {
    println!("ring.{name} {value:.4} {unit}");
}
