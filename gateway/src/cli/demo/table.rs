//! What the demo shows while it runs, and in the end.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;

use super::board::Board;
use super::judge::Verdict;
use super::plan::{Cluster, Service, key};
use crate::cli::output::{Format, draw, lines, print, print_json, table};

/// The time over which the table shows rates.
const WINDOW: Duration = Duration::from_secs(1);

/// Where progress goes: a table redrawn in place on a terminal, plain lines elsewhere. Standard output, or standard
/// error where standard output is for one JSON object.
pub(super) struct Screen {
    format: Format,
    live: bool,
    /// Lines of the table that stands below the last note.
    drawn: usize,
}

impl Screen {
    /// The screen for this form of output.
    pub(super) fn new(format: Format) -> Self {
        let live = match format {
            Format::Text => io::stdout().is_terminal(),
            Format::Json => io::stderr().is_terminal(),
        };
        Self { format, live, drawn: 0 }
    }

    /// A line that stays.
    pub(super) fn note(&mut self, text: &str) {
        let erased = self.erase();
        self.write(&format!("{erased}{text}\n"));
    }

    /// Draws the table in place; nothing where it cannot be redrawn.
    pub(super) fn draw(&mut self, board: &Board) {
        if self.live {
            let erased = self.erase();
            let table = render(board);
            self.drawn = table.lines().count();
            self.write(&format!("{erased}{table}"));
        }
    }

    /// Where there is no table: what it shows at the end of a phase, in one line.
    pub(super) fn summarize_phase(&mut self, board: &Board) {
        if !self.live {
            let text = Service::ALL.map(|service| {
                let rates = Cluster::ALL
                    .map(|cluster| format!("{} {}/s", cluster.name(), rate(board, cluster, service)));
                format!("{}: {}", service.full_name(), rates.join(", "))
            });
            self.note(&format!("         {}; failed {}", text.join("; "), board.verdict().failed));
        }
    }

    /// The control sequence that takes the table away (ECMA-48: cursor up, erase to the end of the screen).
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn write(&self, text: &str) {
        match self.format {
            Format::Text => draw(text),
            Format::Json => {
                let _reader_may_be_gone = io::stderr().write_all(text.as_bytes());
            }
        }
    }
}

/// The table of this moment.
fn render(board: &Board) -> String {
    let mut rows = table(&["CLUSTER", "SEEN BY WEST", "KEYS", "shop/web", "shop/cart"]);
    for cluster in Cluster::ALL {
        let state = match cluster {
            Cluster::West => "here",
            _ => board.seen_by_west(cluster).unwrap_or("connecting"),
        };
        let rate = |service| format!("{}/s", rate(board, cluster, service));
        let owned = board.placement.owned(cluster).to_string();
        rows.add_row([cluster.name(), state, &owned, &rate(Service::Web), &rate(Service::Cart)]);
    }
    let Verdict { requests, failed, keys_checked, keys_misplaced, .. } = board.verdict();
    let seconds = board.now().as_secs_f64();
    format!(
        "\n{}\n  {seconds:.1} s: {requests} requests, {failed} failed; {keys_checked} keys checked, {keys_misplaced} misplaced\n",
        lines(&rows, "  ")
    )
}

/// Answers of `cluster` for `service` in the last second.
fn rate(board: &Board, cluster: Cluster, service: Service) -> usize {
    let from = board.now().saturating_sub(WINDOW);
    // Exchanges are noted in the order in which they end.
    let recent = board.exchanges.iter().rev().take_while(|e| e.answered >= from);
    recent.filter(|e| e.service == service && e.served == Some(cluster)).count()
}

/// The result as programs read it: a stable shape.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    requests: u64,
    failed: u64,
    clusters: usize,
    detect_ms: Option<u64>,
    reroute_ms: Option<u64>,
    keys_checked: u64,
    keys_misplaced: u64,
}

impl Summary {
    /// What has come out.
    pub(super) fn of(board: &Board) -> Self {
        let verdict = board.verdict();
        Self {
            requests: verdict.requests,
            failed: verdict.failed,
            clusters: Cluster::ALL.len(),
            detect_ms: board.outage.as_ref().and_then(|outage| outage.detect_ms()),
            reroute_ms: verdict.reroute.map(|after| after.as_millis() as u64),
            keys_checked: verdict.keys_checked,
            keys_misplaced: verdict.keys_misplaced,
        }
    }

    /// Whether nothing was lost and every key was in its place.
    pub(super) fn is_clean(&self) -> bool {
        self.failed == 0 && self.keys_misplaced == 0
    }

    /// Prints the result.
    pub(super) fn print(&self, board: &Board, format: Format) {
        match format {
            Format::Json => print_json(self),
            Format::Text => print(&self.describe(board)),
        }
    }

    fn describe(&self, board: &Board) -> String {
        let Self { requests, failed, keys_checked, keys_misplaced, .. } = self;
        let mut text = format!("\n{requests} requests, {failed} failed\n");
        for failure in &board.failures {
            let _infallible = writeln!(text, "  {failure}");
        }
        let _infallible = writeln!(text, "{keys_checked} keyed answers checked, {keys_misplaced} misplaced");
        for &place in &board.verdict().misplaced {
            let _infallible = writeln!(text, "  {}", describe_misplaced(board, place));
        }
        if let (Some(outage), Some(detect), Some(reroute)) = (&board.outage, self.detect_ms, self.reroute_ms)
        {
            let name = outage.cluster.name();
            let _infallible =
                writeln!(text, "{name}'s death was noticed by both survivors within {detect} ms");
            let _infallible =
                writeln!(text, "{reroute} ms after it the first of its keys was answered elsewhere");
        }
        text
    }
}

fn describe_misplaced(board: &Board, place: usize) -> String {
    let exchange = &board.exchanges[place];
    let number = exchange.key.unwrap_or_default();
    let served = exchange.served.map_or("nobody", Cluster::name);
    let near: Vec<_> = board.placement.near(number).iter().map(|cluster| cluster.name()).collect();
    let (sent, answered) = (exchange.sent.as_secs_f64(), exchange.answered.as_secs_f64());
    let key = key(number);
    format!(
        "{key}: answered by {served} between {sent:.3} s and {answered:.3} s; its order is {}",
        near.join(", ")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::judge::Exchange;
    use super::super::plan::Placement;
    use super::*;
    use std::time::Instant;

    fn board() -> Board {
        let mut board = Board::new(Placement::of_contract().unwrap(), Instant::now());
        let now = board.now();
        for served in [Some(Cluster::West), Some(Cluster::West), None] {
            let exchange = Exchange { service: Service::Web, key: None, sent: now, answered: now, served };
            board.ended(exchange, served.is_none().then(|| "shop/web: 503".into()));
        }
        board
    }

    #[test]
    fn the_object_has_the_promised_fields_and_nothing_else() {
        let json = serde_json::to_value(Summary::of(&board())).unwrap();
        let expected = serde_json::json!({ "requests": 3, "failed": 1, "clusters": 3, "detect_ms": null,
            "reroute_ms": null, "keys_checked": 0, "keys_misplaced": 0 });
        assert_eq!(json, expected);
    }

    #[test]
    fn one_failure_is_not_clean_and_is_told() {
        let board = board();
        let summary = Summary::of(&board);
        assert!(!summary.is_clean());
        assert!(summary.describe(&board).contains("3 requests, 1 failed\n  shop/web: 503\n"));
    }

    #[test]
    fn the_table_shows_who_serves_what_within_80_columns() {
        let table = render(&board());
        let west = table.lines().find(|line| line.trim_start().starts_with("west")).unwrap();
        assert!(west.contains("2/s") && west.contains("0/s"), "{table}");
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    }
}
