//! Whose placement contract counts for one union name.
//!
//! A contract binds everyone's callers, so a peer's counts only as far as it takes nothing away that its operator has no
//! say in. Our own always counts here: whoever we link to cannot void it by what it serves or declares.

use proto::limits::{CONTRACT_KEPT, GENERATION_STEP_MAX};

use super::{Disagreement, Found, Offer, Say};
use crate::model::{ClusterName, Condition, Contract, Member, Mode, Reason, ServiceName, Tier};

/// A contract, and who declares it.
type Declared<'a> = (&'a Contract, &'a ClusterName);

/// The contract of the highest generation and who declared it; none when nobody did.
///
/// Candidates are `ours`, and of the peers' those that [`are in proportion`](in_proportion) and leave out nobody who
/// serves, but those who declare the same themselves. At equal generation with other content the smallest cluster name
/// (bytes) serves, and the condition says who disagrees: every cluster that sees the same offers takes the same one.
pub(super) fn choose<'a>(
    name: &ServiceName,
    us: &ClusterName,
    joined: &[&Offer<'a>],
    found: &mut Found,
) -> Option<Declared<'a>> {
    let candidates = candidates(name, us, joined, found);
    let declared = || candidates.iter().copied();
    let generation = declared().map(|(contract, _)| contract.generation).max()?;
    let highest = || declared().filter(|(contract, _)| contract.generation == generation);
    let (contract, from) = highest().min_by_key(|&(_, cluster)| cluster)?;
    let others: Vec<_> = highest().filter(|(other, _)| *other != contract).map(|(_, by)| by).collect();
    if !others.is_empty() {
        let all = others.iter().chain([&from]).map(|&cluster| (cluster.clone(), Disagreement::Contracts));
        found.disagreements.extend(all);
        found.conditions.push(Condition::new(
            name,
            Disagreement::Contracts.reason(),
            format!(
                "{} declares another placement of generation {generation} than `{from}`, whose serves as the \
                 smallest cluster name; make them the same, or raise the generation of the one that shall count",
                list(&others)
            ),
        ));
    }
    Some((contract, from))
}

fn candidates<'a>(
    name: &ServiceName,
    us: &ClusterName,
    joined: &[&Offer<'a>],
    found: &mut Found,
) -> Vec<Declared<'a>> {
    let declared = |offer: &&&Offer<'a>| Some((offer.contract?, offer.cluster));
    let ours = joined.iter().filter(|offer| offer.cluster == us).find_map(|offer| declared(&offer));
    let mut theirs = Vec::new();
    for offer in joined.iter().filter(|offer| offer.cluster != us) {
        match (declared(&offer), offer.say) {
            (Some(contract), Say::Has) => theirs.push(contract),
            (Some((_, from)), Say::Lapsed) => found.conditions.push(lapsed(name, from)),
            (Some(_), Say::Ignored) | (None, _) => {}
        }
    }
    let mut candidates: Vec<_> = ours.into_iter().collect();
    for (contract, from) in in_proportion(name, ours, theirs, found) {
        let left_out: Vec<_> = left_out(contract, from, joined).collect();
        if left_out.is_empty() {
            candidates.push((contract, from));
        } else {
            found.conditions.push(Condition::new(
                name,
                Reason::LeavesOut,
                format!(
                    "`{from}` declares a placement of generation {} that leaves out {}, which serves it and does not \
                     declare the same: it does not count here; add who is left out to its `members` and `tiers`, or \
                     declare it there as well",
                    contract.generation,
                    list(&left_out)
                ),
            ));
        }
    }
    candidates
}

/// Those of `theirs` whose generation somebody may have meant: at most [`GENERATION_STEP_MAX`] above the highest of ours
/// and of those below it, or a [`time`](is_time). So nobody can put a generation where no other is above it, alone or
/// with others.
fn in_proportion<'a>(
    name: &ServiceName,
    ours: Option<Declared<'a>>,
    mut theirs: Vec<Declared<'a>>,
    found: &mut Found,
) -> Vec<Declared<'a>> {
    theirs.sort_by_key(|(contract, from)| (contract.generation, *from));
    let mut highest = ours.map_or(0, |(contract, _)| contract.generation);
    theirs.retain(|(contract, from)| {
        let generation = contract.generation;
        let fits = generation <= highest.saturating_add(GENERATION_STEP_MAX) || is_time(generation);
        if fits {
            highest = highest.max(generation);
        } else {
            found.conditions.push(Condition::new(
                name,
                Reason::GenerationTooHigh,
                format!(
                    "`{from}` declares a placement of generation {generation}, where the highest of all others is \
                     {highest}: more than {GENERATION_STEP_MAX} above that, and no time, it does not count here; have \
                     it declared with a smaller one"
                ),
            ));
        }
        fits
    });
    theirs
}

/// Whether a generation is what people write who take the time for it: milliseconds, microseconds or nanoseconds since
/// 1970, or the date and time in decimal digits, of the years 2000 to 2099. Seconds, and dates of eight to ten digits,
/// are small enough by themselves.
fn is_time(generation: u64) -> bool {
    const MS: std::ops::Range<u64> = 946_684_800_000..4_102_444_800_000;
    // The year, month, day, hour and minute.
    const DIGITS: std::ops::Range<u64> = 200_001_010_000..210_001_010_000;
    [1, 1_000, 1_000_000].iter().any(|&unit| MS.contains(&(generation / unit)))
        || [1, 100].iter().any(|&unit| DIGITS.contains(&(generation / unit)))
}

/// Those who serve, have a say, and get nothing by the contract that `from` declares, without declaring the same.
fn left_out<'o>(
    contract: &'o Contract,
    from: &'o ClusterName,
    joined: &'o [&Offer<'_>],
) -> impl Iterator<Item = &'o ClusterName> {
    let unasked = move |offer: &&&Offer<'_>| {
        offer.say == Say::Has && offer.cluster != from && offer.contract != Some(contract)
    };
    let takes = move |cluster: &ClusterName| is_member(contract, cluster) && is_in_tiers(contract, cluster);
    joined.iter().filter(unasked).map(|offer| offer.cluster).filter(move |cluster| !takes(cluster))
}

fn is_member(contract: &Contract, cluster: &ClusterName) -> bool {
    contract
        .members
        .as_ref()
        .is_none_or(|members| members.iter().any(|member| member.cluster == *cluster && member.weight > 0))
}

/// Whether the cluster's own callers may use it: then it has a tier.
fn is_in_tiers(contract: &Contract, cluster: &ClusterName) -> bool {
    let takes = |tier: &Tier| match tier {
        // To itself it is all of these.
        Tier::Local | Tier::SameRegion | Tier::Any => true,
        Tier::Cluster(named) => named == cluster,
    };
    contract.mode == Mode::Sharded
        || contract.tiers.as_ref().is_none_or(|tiers| tiers.iter().flatten().any(takes))
}

fn lapsed(name: &ServiceName, from: &ClusterName) -> Condition {
    let kept = CONTRACT_KEPT.as_secs() / 60;
    let text = format!(
        "the placement that `{from}` declares counts no more: nothing was heard of that cluster for {kept} minutes; \
         bring the link up, or declare the placement here"
    );
    Condition::new(name, Reason::DeclarerSilent, text)
}

fn list(clusters: &[&ClusterName]) -> String {
    clusters.iter().map(|cluster| format!("`{cluster}`")).collect::<Vec<_>>().join(", ")
}

/// Serving clusters that the explicit members leave out: legal where we declare it, but seldom meant.
pub(super) fn outsiders<'o>(
    name: &'o ServiceName,
    members: &'o [Member],
    from: &'o ClusterName,
    joined: &'o [&Offer<'_>],
) -> impl Iterator<Item = Condition> + 'o {
    let left_out = |offer: &&&Offer<'_>| members.iter().all(|member| member.cluster != *offer.cluster);
    joined.iter().filter(left_out).map(move |offer| {
        let text = format!(
            "cluster `{}` serves {name} but is no member of the placement that `{from}` declares, so it gets \
             nothing under the union name while a member can serve; add it to `members` and raise the generation",
            offer.cluster
        );
        Condition::new(name, Reason::NotAMember, text)
    })
}
