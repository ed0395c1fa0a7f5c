//! Small requests over a lossy wide-area link, alone and beside large transfers, through us and through others.

mod chains;
mod picture;

use crate::bed::Bed;
use crate::chain::Chain;
use crate::figures::median;
use crate::load::{Run, Running, Steady, Tool, Way};
use crate::noise::Moment;
use crate::rounds::Rounds;
use chains::{Chains, OURS};

/// Small requests a second.
const RATE: f64 = 200.0;
/// Of packets and in each direction, per cent.
const LOSSES: [u8; 3] = [0, 1, 2];
/// The loss at which we are also asked beside other transfers than one download.
const FURTHER_AT: u8 = 1;
/// Seconds until what is measured beside a transfer counts: it has found its rate.
const WARM: f64 = 2.0;
/// Small requests alone need none but for their connections.
const WARM_ALONE: f64 = 0.5;

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Size {
    rounds: u32,
    /// Of each load in each round.
    seconds: f64,
}

/// Twenty minutes with all peers.
pub(crate) const FULL: Size = Size { rounds: 5, seconds: 10.0 };
/// At most three minutes.
pub(crate) const QUICK: Size = Size { rounds: 1, seconds: 5.5 };

/// Measures all chains in turn at each loss, round after round, and prints what came of it.
pub(crate) fn run(size: &Size) -> Result<(), String> {
    let Some(bed) = Bed::new(1)? else { return Ok(()) };
    let tool = Tool::find();
    let chains = Chains::start(&bed, &tool)?;
    let mut rounds = Rounds::default();
    for round in 1..=size.rounds {
        for loss in LOSSES {
            bed.far[0].wan.set(|settings| settings.loss = f64::from(loss) / 100.0);
            for chain in &chains.all {
                // The links are carried by threads of this process.
                let pids = [&chain.pids[..], &[chains.backend, std::process::id()]].concat();
                let before = Moment::now(&pids)?;
                let measured = bed.west.enter(|| measure(&tool, chain, loss, size, &mut rounds));
                measured.map_err(|e| format!("{} at {loss} % loss: {e}", chain.name))?;
                let noise = Moment::now(&pids)?.others_since(&before);
                let (name, all) = (chain.name, size.rounds);
                eprintln!("round {round} of {all}: {name} at {loss} % loss, noise {noise:.0} %");
            }
        }
    }
    let (late, arrived) = bed.late()?;
    eprintln!("{late} of {arrived} packets were 0.2 ms or more late on the emulated link");
    rounds.print("wan", median);
    chains.all.iter().skip(1).for_each(|other| compare(&rounds, other.name));
    picture::draw(&rounds, &chains.all.iter().map(|chain| chain.name).collect::<Vec<_>>())
}

/// All of one chain at one loss.
fn measure(tool: &Tool, chain: &Chain, loss: u8, size: &Size, rounds: &mut Rounds) -> Result<(), String> {
    let of = named(loss, chain.name);
    let mut beside = |kind: &str, ways: &[Way], shares: &[&str]| -> Result<Vec<Run>, String> {
        let warm = if ways.is_empty() { WARM_ALONE } else { WARM };
        let start = |way: &Way| tool.transfer(chain, *way, warm, size.seconds);
        let transfers = ways.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let steady = Steady { rate: RATE, warm, seconds: size.seconds, dump: None };
        let run = tool.steady(chain, &steady)?.end()?;
        let failed = run.value("fail")?;
        if failed > 0.0 {
            eprintln!("{of}.{kind}: {failed} small requests failed");
        }
        for share in shares {
            rounds.add(format!("{of}.{kind}.{share}_ms"), run.value(share)? / 1e3);
        }
        let ended: Vec<Run> = transfers.into_iter().map(Running::end).collect::<Result<_, _>>()?;
        if ended.iter().any(|transfer| transfer.value("bytes").is_ok_and(|bytes| bytes == 0.0)) {
            return Err(format!(
                "{of}.{kind}: a transfer moved nothing, so the figures are those without it"
            ));
        }
        Ok(ended)
    };
    beside("alone", &[], &["p50", "p95", "p99"])?;
    let downloads = beside("bulk", &[Way::Down], &["p50", "p95", "p99"])?;
    if chain.name == OURS && loss == FURTHER_AT {
        beside("bulk8", &[Way::Down; 8], &["p50", "p99"])?;
        beside("upload", &[Way::Up], &["p50", "p99"])?;
    }
    for download in downloads {
        rounds.add(format!("{of}.goodput_mbit"), download.value("mbit")?);
    }
    Ok(())
}

/// How the figures of a chain at a loss begin.
fn named(loss: u8, chain: &str) -> String {
    if chain == OURS { format!("loss{loss}") } else { format!("loss{loss}.{chain}") }
}

/// Prints what our figures are to those of `other`, the median of the rounds.
fn compare(rounds: &Rounds, other: &str) {
    for loss in LOSSES {
        let (ours, theirs) = (named(loss, OURS), named(loss, other));
        for (figure, name) in [("bulk.p99_ms", "bulk.p99"), ("goodput_mbit", "goodput")] {
            let pairs = rounds.of(&format!("{ours}.{figure}")).iter();
            let pairs = pairs.zip(rounds.of(&format!("{theirs}.{figure}")));
            let ratios: Vec<_> = pairs.map(|(ours, theirs)| ours / theirs).collect();
            if let Some(ratio) = median(&ratios) {
                println!("wan.{ours}.{name}.vs_{other} {ratio:.3} x");
            }
        }
    }
}
