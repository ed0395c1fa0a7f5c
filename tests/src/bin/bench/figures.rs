//! What the rounds gave, and what is said of it.

use std::collections::BTreeMap;

/// A figure: its name, digits after the point, unit.
pub(crate) type Kind = (&'static str, usize, &'static str);

/// Requests a second with 64 and with 256 connections.
pub(crate) const RPS64: Kind = ("rps64", 0, "req/s");
pub(crate) const RPS256: Kind = ("rps256", 0, "req/s");
/// CPU of all proxies for 10,000 requests, with 64 and with 256 connections.
pub(crate) const CPU: Kind = ("cpu_s_per_10k", 4, "s");
pub(crate) const CPU256: Kind = ("cpu256_s_per_10k", 4, "s");
/// Latency at a fixed rate.
pub(crate) const P50: Kind = ("p50_us", 0, "us");
pub(crate) const P99: Kind = ("p99_us", 0, "us");
/// One large answer.
pub(crate) const BULK: Kind = ("bulk", 0, "Mbit/s");
pub(crate) const BULK_CPU: Kind = ("bulk_cpu_s_per_gib", 3, "s");
/// Memory of all proxies after a round.
pub(crate) const RSS: Kind = ("rss", 1, "MiB");

/// The share of the machine that others had meanwhile: look at it before you believe a figure.
pub(crate) const NOISE: Kind = ("noise", 0, "%");

/// In the order in which they are printed.
const KINDS: [Kind; 10] = [RPS64, RPS256, CPU, CPU256, P50, P99, BULK, BULK_CPU, RSS, NOISE];

/// The figures by chain and kind: one value per round.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(&'static str, &'static str), Vec<f64>>);

impl Figures {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, chain: &'static str, kind: Kind, value: f64) {
        self.0.entry((chain, kind.0)).or_default().push(value);
    }

    /// Prints the medians of `chain`.
    pub(crate) fn print(&self, chain: &'static str) {
        for kind @ (name, digits, unit) in KINDS {
            if let Some(value) = self.of(chain, kind).and_then(median) {
                println!("hop.{chain}.{name} {value:.digits$} {unit}");
            }
        }
    }

    /// Prints `hop.NAME.vs_OTHER`: the median of what `kind` of `chain` is to that of `other` in each round. Nothing,
    /// if one of them was not measured.
    pub(crate) fn compare(&self, name: &str, kind: Kind, chain: &'static str, other: &'static str) {
        let (Some(ours), Some(theirs)) = (self.of(chain, kind), self.of(other, kind)) else { return };
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        if let Some(ratio) = median(&ratios) {
            println!("hop.{name}.vs_{other} {ratio:.3} x");
        }
    }

    fn of(&self, chain: &'static str, (name, ..): Kind) -> Option<&[f64]> {
        self.0.get(&(chain, name)).map(Vec::as_slice)
    }
}

/// The middle one, or between the two that are; none of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle_or_between_the_two_that_are() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
