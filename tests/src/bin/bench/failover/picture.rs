//! An outage in time: who answered, and how soon.

use super::judge::{Answer, EAST, NORTH};
use crate::svg::{Axis, Plot, Series, Style, save};

/// The highest latency that is told apart, milliseconds.
const HIGH_MS: f64 = 500.0;

/// Draws each answer where it was sent, and lines where the event began and ended.
pub(super) fn draw(name: &str, answers: &[Answer], struck: u64, healed: u64) -> Result<(), String> {
    let seconds = |at: u64| (at as f64 - struck as f64) / 1e9;
    let points = |of: &dyn Fn(&Answer) -> bool| {
        let all = answers.iter().filter(|a| of(a));
        all.map(|a| (seconds(a.sent), a.took_ms.min(HIGH_MS))).collect::<Vec<_>>()
    };
    let series = [
        ("east", "#2563eb", points(&|a| a.good() && a.from == EAST)),
        ("north", "#ea580c", points(&|a| a.good() && a.from == NORTH)),
        ("failed", "#dc2626", points(&|a| !a.good())),
    ];
    let dots =
        |(name, color, points): (&str, _, _)| Series { name: name.into(), color, style: Style::Dots, points };
    let ends = answers.iter().map(|a| seconds(a.sent));
    let (first, last) = ends.fold((0.0, 0.0), |(low, high): (f64, f64), at| (low.min(at), high.max(at)));
    let plot = Plot {
        title: format!("{name}: answers by cluster"),
        x: Axis { label: "seconds since the event".into(), from: first, to: last },
        y: Axis { label: "latency in ms".into(), from: 0.0, to: HIGH_MS },
        series: series.into_iter().map(dots).collect(),
        marks: vec![(0.0, name.into()), (seconds(healed), "healed".into())],
    };
    save(&format!("failover-{name}"), &plot)
}
