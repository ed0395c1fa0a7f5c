//! What callers in west see when east, which serves them, dies in one of several ways while north could serve them, too;
//! and whether it is taken for dead while it lives.

mod clusters;
mod events;
mod judge;
mod picture;

use std::process::Command;
use std::time::Duration;

use e2e::pause;
use e2e::process::Process;
use nix::time::{ClockId, clock_gettime};

use crate::bed::Bed;
use crate::load::{Steady, Tool};
use crate::rounds::{Rounds, worst};
use clusters::Clusters;
use events::Event;
use judge::Answer;

/// Replayable requests a second.
const RATE: f64 = 200.0;
/// Seconds of a load that do not count: its connections open.
const WARM: f64 = 1.0;
/// From there to the event, for how long that lasts, and what is looked at after it.
const BEFORE: f64 = 0.5;
const OUTAGE: f64 = 3.0;
const AFTER: f64 = 5.5;
/// The share of packets that is lost where that alone is the event.
const LOSS: f64 = 0.02;

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Size {
    /// Of each event.
    rounds: u32,
    /// Seconds with loss alone, and with loss on a machine that is busy.
    loss: f64,
    busy: f64,
}

/// Eleven minutes.
pub(crate) const FULL: Size = Size { rounds: 5, loss: 60.0, busy: 300.0 };
/// The same, and half an hour of loss on a busy machine.
pub(crate) const LONG: Size = Size { busy: 1800.0, ..FULL };
/// At most three minutes.
pub(crate) const QUICK: Size = Size { rounds: 2, loss: 15.0, busy: 20.0 };

/// Lets all events happen in turn, round after round, and prints the worst that came of each.
pub(crate) fn run(size: &Size) -> Result<(), String> {
    let Some(bed) = Bed::new(2)? else { return Ok(()) };
    let tool = Tool::find();
    let mut clusters = Clusters::start(bed, &tool);
    let mut rounds = Rounds::default();
    for round in 1..=size.rounds {
        for event in Event::ALL {
            let answers = happen(event, &tool, &mut clusters, &mut rounds)?;
            eprintln!("round {round} of {}: {}, {} requests", size.rounds, event.name(), answers);
        }
    }
    for far in &clusters.bed.far {
        far.wan.set(|settings| settings.loss = LOSS);
    }
    lose(size, &tool, &clusters, &mut rounds)?;
    be_busy(size, &tool, &clusters, &mut rounds)?;
    let (late, arrived) = clusters.bed.late()?;
    eprintln!("{late} of {arrived} packets were 0.2 ms or more late on the emulated links");
    rounds.print("failover", worst);
    Ok(())
}

/// One event and its end, beside a steady load; how many requests it had.
fn happen(event: Event, tool: &Tool, clusters: &mut Clusters, rounds: &mut Rounds) -> Result<usize, String> {
    let file = clusters.mesh.dir().join("answers");
    let seconds = BEFORE + OUTAGE + AFTER;
    let steady = Steady { rate: RATE, warm: WARM, seconds, dump: Some(&file) };
    let chain = clusters.chain();
    let load = clusters.bed.west.enter(|| tool.steady(&chain, &steady))?;
    pause(Duration::from_secs_f64(WARM + BEFORE));
    let struck = now_ns()?;
    event.strike(clusters);
    pause(Duration::from_secs_f64(OUTAGE));
    let healed = now_ns()?;
    event.heal(clusters);
    load.end()?;
    let answers = read(&file)?;
    let (name, outage) = (event.name(), judge::outage(&answers, struck, healed));
    rounds.add(format!("{name}.failed"), outage.failed as f64);
    rounds.add(format!("{name}.first_elsewhere_ms"), outage.first_elsewhere_ms);
    rounds.add(format!("{name}.slowest_ms"), outage.slowest_ms);
    let returned = judge::returning(&answers, healed);
    if returned.keys == 0 {
        return Err(format!("{name}: east answered nothing again within {AFTER} s"));
    }
    rounds.add("return.failed".into(), returned.failed as f64);
    rounds.add("return.moved_twice".into(), returned.moved_twice as f64);
    eprintln!("{name}: {outage:?}, {returned:?}");
    let slowest = rounds.of(&format!("{name}.slowest_ms")).iter().copied().fold(0.0, f64::max);
    if outage.slowest_ms >= slowest {
        picture::draw(name, &answers, struck, healed)?;
    }
    clusters.wait_returned();
    Ok(answers.len())
}

/// Packets are lost and nothing is dead.
fn lose(size: &Size, tool: &Tool, clusters: &Clusters, rounds: &mut Rounds) -> Result<(), String> {
    let before = clusters.hedges()?;
    let answers = load(size.loss, 0.0, tool, clusters)?;
    let hedges = clusters.hedges()? - before;
    rounds.add("loss2.moved_pct".into(), judge::elsewhere_pct(&answers));
    rounds.add("loss2.hedged_pct".into(), hedges as f64 / answers.len().max(1) as f64 * 100.0);
    Ok(())
}

/// The same, while others want every core.
fn be_busy(size: &Size, tool: &Tool, clusters: &Clusters, rounds: &mut Rounds) -> Result<(), String> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let log = clusters.mesh.dir().join("busy.log");
    let busy = |_| {
        let mut command = Command::new("sh");
        command.args(["-c", "while kill -0 $PPID; do :; done"]);
        Process::start("a busy process", command, &log)
    };
    let _busy: Vec<_> = (0..cores.max(2)).map(busy).collect();
    let before = clusters.downs();
    if before == 0 {
        return Err("no gateway has said that another one is down, after all that has died".into());
    }
    let answers = load(size.busy, WARM, tool, clusters)?;
    rounds.add("busy.moved_pct".into(), judge::elsewhere_pct(&answers));
    rounds.add("busy.false_downs".into(), (clusters.downs() - before) as f64);
    Ok(())
}

/// The steady load alone, and every answer that it got.
fn load(seconds: f64, warm: f64, tool: &Tool, clusters: &Clusters) -> Result<Vec<Answer>, String> {
    let file = clusters.mesh.dir().join("answers");
    let steady = Steady { rate: RATE, warm, seconds, dump: Some(&file) };
    let chain = clusters.chain();
    let run = clusters.bed.west.enter(|| tool.steady(&chain, &steady)?.end())?;
    let failed = run.value("fail")?;
    if failed > 0.0 {
        eprintln!("{failed} requests failed");
    }
    read(&file)
}

fn read(file: &std::path::Path) -> Result<Vec<Answer>, String> {
    judge::read(&std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?)
}

/// The clock of the load tool.
fn now_ns() -> Result<u64, String> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|e| format!("the clock: {e}"))?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
