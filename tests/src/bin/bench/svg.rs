//! Plots as SVG, written by hand.

use std::fmt::Write;

use e2e::process::target;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
/// Around the plot: left, top, right, bottom.
const MARGINS: [f64; 4] = [70.0, 40.0, 170.0, 55.0];
/// About so many marks on an axis.
const TICKS: f64 = 8.0;

/// Values along one axis.
#[derive(Debug)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// How points are shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Style {
    Dots,
    /// Joined, in their order.
    Line,
    /// The same, dashed.
    Dashes,
}

/// Points of one kind.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// As SVG has it.
    pub(crate) color: &'static str,
    pub(crate) style: Style,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot with a legend at its right.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
    /// Upright lines: where, and what they say.
    pub(crate) marks: Vec<(f64, String)>,
}

/// Writes `target/bench-figures/NAME.svg`, and says where it is.
pub(crate) fn save(name: &str, plot: &Plot) -> Result<(), String> {
    let dir = target().join("bench-figures");
    let file = dir.join(format!("{name}.svg"));
    let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, plot.svg()));
    written.map_err(|e| format!("{}: {e}", file.display()))?;
    eprintln!("{}", file.display());
    Ok(())
}

impl Plot {
    /// The whole document.
    pub(crate) fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        let [left, top, right, bottom] = MARGINS;
        let (end_x, end_y) = (WIDTH - right, HEIGHT - bottom);
        text(&mut out, (left, top - 15.0), "start", &self.title);
        text(&mut out, (f64::midpoint(left, end_x), HEIGHT - 12.0), "middle", &self.x.label);
        let turned = format!("transform=\"rotate(-90 18 {0})\"", f64::midpoint(top, end_y));
        let _ = writeln!(
            out,
            "<text x=\"18\" y=\"{}\" text-anchor=\"middle\" {turned}>{}</text>",
            f64::midpoint(top, end_y),
            escaped(&self.y.label)
        );
        for value in ticks(&self.x) {
            let x = self.x_of(value);
            line(&mut out, (x, top), (x, end_y), "#e5e7eb");
            text(&mut out, (x, end_y + 16.0), "middle", &shown(value));
        }
        for value in ticks(&self.y) {
            let y = self.y_of(value);
            line(&mut out, (left, y), (end_x, y), "#e5e7eb");
            text(&mut out, (left - 6.0, y + 4.0), "end", &shown(value));
        }
        for (at, label) in &self.marks {
            let x = self.x_of(*at);
            line(&mut out, (x, top), (x, end_y), "#111827");
            text(&mut out, (x + 4.0, top + 12.0), "start", label);
        }
        for (number, series) in self.series.iter().enumerate() {
            self.draw(&mut out, series);
            let y = top + 10.0 + 18.0 * number as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{}\"/>",
                end_x + 12.0,
                y - 9.0,
                series.color
            );
            text(&mut out, (end_x + 28.0, y), "start", &series.name);
        }
        out.push_str("</svg>\n");
        out
    }

    fn draw(&self, out: &mut String, series: &Series) {
        let places = series.points.iter().map(|(x, y)| (self.x_of(*x), self.y_of(*y)));
        if series.style == Style::Dots {
            for (x, y) in places {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\" fill=\"{}\"/>",
                    series.color
                );
            }
            return;
        }
        let points: Vec<_> = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dashes = if series.style == Style::Dashes { " stroke-dasharray=\"5 4\"" } else { "" };
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{dashes}/>",
            points.join(" "),
            series.color
        );
    }

    fn x_of(&self, value: f64) -> f64 {
        let [left, _, right, _] = MARGINS;
        left + share(&self.x, value) * (WIDTH - left - right)
    }

    fn y_of(&self, value: f64) -> f64 {
        let [_, top, _, bottom] = MARGINS;
        HEIGHT - bottom - share(&self.y, value) * (HEIGHT - top - bottom)
    }
}

/// How far along its axis a value is, from 0 to 1.
fn share(axis: &Axis, value: f64) -> f64 {
    ((value - axis.from) / (axis.to - axis.from).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
}

/// Round values on an axis.
fn ticks(axis: &Axis) -> Vec<f64> {
    let wanted = (axis.to - axis.from) / TICKS;
    if !wanted.is_finite() || wanted <= 0.0 {
        return vec![axis.from];
    }
    let power = 10_f64.powf(wanted.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= wanted);
    let step = step.unwrap_or(wanted);
    let (first, last) = ((axis.from / step).ceil() as i64, (axis.to / step + 1e-9).floor() as i64);
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A value without digits that say nothing.
fn shown(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(out: &mut String, (x, y): (f64, f64), (to_x, to_y): (f64, f64), color: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" stroke=\"{color}\"/>"
    );
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, what: &str) {
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(what));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(style: Style) -> Plot {
        let axis = |label: &str, to| Axis { label: label.into(), from: 0.0, to };
        let points = vec![(0.0, 0.0), (2.0, 100.0)];
        Plot {
            title: "a < b".into(),
            x: axis("loss", 2.0),
            y: axis("ms", 100.0),
            series: vec![Series { name: "p50".into(), color: "#000", style, points }],
            marks: vec![(1.0, "here".into())],
        }
    }

    #[test]
    fn points_stand_from_corner_to_corner() {
        let line = plot(Style::Line).svg();
        assert!(line.contains("points=\"70.0,365.0 730.0,40.0\""), "{line}");
        let dots = plot(Style::Dots).svg();
        assert!(dots.contains("cx=\"70.0\" cy=\"365.0\"") && dots.contains("cx=\"730.0\" cy=\"40.0\""));
        assert!(plot(Style::Dashes).svg().contains("stroke-dasharray"));
    }

    #[test]
    fn text_is_escaped_and_marks_are_named() {
        let svg = plot(Style::Line).svg();
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b") && svg.contains(">here<"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn ticks_are_round_and_within() {
        let of = |from, to| ticks(&Axis { label: String::new(), from, to });
        assert_eq!(of(0.0, 2.0), [0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(of(-1.5, 8.5), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(of(3.0, 3.0), [3.0]);
    }

    #[test]
    fn values_are_shown_short() {
        assert_eq!([0.0, 0.5, 250.0].map(shown), ["0", "0.5", "250"]);
    }
}
