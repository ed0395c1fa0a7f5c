//! Figures of which every round gives a value.

/// By name, in the order in which they first came.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Vec<(String, Vec<f64>)>);

impl Rounds {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, name: String, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name, vec![value])),
        }
    }

    /// Its values, one of each round.
    pub(crate) fn of(&self, name: &str) -> &[f64] {
        self.0.iter().find(|(known, _)| known == name).map_or(&[], |(_, values)| values)
    }

    /// Prints `PREFIX.NAME value unit` of each: what `of_rounds` makes of its values.
    pub(crate) fn print(&self, prefix: &str, of_rounds: impl Fn(&[f64]) -> Option<f64>) {
        for (name, values) in &self.0 {
            let (digits, unit) = unit(name);
            if let Some(value) = of_rounds(values) {
                println!("{prefix}.{name} {value:.digits$} {unit}");
            }
        }
    }
}

/// The largest: where more is worse.
pub(crate) fn worst(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

/// Digits after the point and the unit of a figure, by the end of its name.
fn unit(name: &str) -> (usize, &'static str) {
    match name.rsplit(['_', '.']).next() {
        Some("ms") => (1, "ms"),
        Some("mbit") => (1, "Mbit/s"),
        Some("pct") => (3, "%"),
        Some("failed") => (0, "requests"),
        Some("twice") => (0, "keys"),
        _ => (0, "times"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Rounds, unit, worst};

    #[test]
    fn values_are_kept_by_name() {
        let mut rounds = Rounds::default();
        for (name, value) in [("b", 1.0), ("a", 2.0), ("b", 3.0)] {
            rounds.add(name.into(), value);
        }
        assert_eq!((rounds.of("b"), rounds.of("a"), rounds.of("c")), (&[1.0, 3.0][..], &[2.0][..], &[][..]));
        assert_eq!((worst(rounds.of("b")), worst(&[])), (Some(3.0), None));
    }

    #[test]
    fn a_name_ends_with_its_unit() {
        assert_eq!(unit("loss1.alone.p99_ms"), (1, "ms"));
        assert_eq!(unit("kill.failed"), (0, "requests"));
        assert_eq!(unit("busy.false_downs"), (0, "times"));
    }
}
