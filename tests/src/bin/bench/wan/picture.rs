//! Latency against loss, of every chain.

use super::{LOSSES, named};
use crate::figures::median;
use crate::rounds::{Rounds, worst};
use crate::svg::{Axis, Plot, Series, Style, save};

/// Of the chains, in their order.
const COLORS: [&str; 3] = ["#2563eb", "#ea580c", "#059669"];
/// The highest latency that is told apart, milliseconds: what the slowest has would hide the others.
const HIGH_MS: f64 = 400.0;

/// Draws the medians of the rounds: small requests alone, and beside a download.
pub(super) fn draw(rounds: &Rounds, chains: &[&str]) -> Result<(), String> {
    for kind in ["alone", "bulk"] {
        save(&format!("wan-{kind}"), &plot(rounds, chains, kind))?;
    }
    Ok(())
}

fn plot(rounds: &Rounds, chains: &[&str], kind: &str) -> Plot {
    let mut series = Vec::new();
    for (chain, color) in chains.iter().zip(COLORS) {
        for (share, style) in [("p50", Style::Line), ("p99", Style::Dashes)] {
            let at = |loss: u8| {
                let name = format!("{}.{kind}.{share}_ms", named(loss, chain));
                Some((f64::from(loss), median(rounds.of(&name))?))
            };
            let points = LOSSES.into_iter().filter_map(at).collect();
            series.push(Series { name: format!("{chain} {share}"), color, style, points });
        }
    }
    let values: Vec<_> = series.iter().flat_map(|s| s.points.iter().map(|(_, y)| *y)).collect();
    let high = worst(&values).unwrap_or(HIGH_MS).min(HIGH_MS);
    let title = match kind {
        "alone" => "200 small requests a second, alone",
        _ => "200 small requests a second, beside a download",
    };
    Plot {
        title: title.into(),
        x: Axis { label: "% of packets lost, each way".into(), from: 0.0, to: 2.0 },
        y: Axis { label: format!("latency in ms (up to {HIGH_MS})"), from: 0.0, to: high },
        series,
        marks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_two_lines_over_all_losses() {
        let mut rounds = Rounds::default();
        for loss in LOSSES {
            rounds.add(format!("loss{loss}.bulk.p50_ms"), 50.0);
            rounds.add(format!("loss{loss}.bulk.p99_ms"), 60.0 + f64::from(loss));
        }
        let plot = plot(&rounds, &["ringway", "haproxy"], "bulk");
        assert_eq!(plot.series[1].points, [(0.0, 60.0), (1.0, 61.0), (2.0, 62.0)]);
        assert_eq!((plot.series.len(), plot.series[2].points.len(), plot.y.to), (4, 0, 62.0));
    }
}
