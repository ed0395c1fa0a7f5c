//! Whose placement contract counts for one union name.

use super::{Disagreement, Found, Offer, object};
use crate::model::{ClusterName, Condition, Contract, Member, ServiceName};

/// The contract of the highest generation and who declared it; none when nobody did.
///
/// At equal generation with other content the smallest cluster name (bytes) serves, and the condition says who
/// disagrees: every cluster that sees the same offers takes the same one.
pub(super) fn choose<'a>(
    name: &ServiceName,
    joined: &[&Offer<'a>],
    found: &mut Found,
) -> Option<(&'a Contract, &'a ClusterName)> {
    let declared = || joined.iter().filter_map(|offer| Some((offer.contract?, offer.cluster)));
    let generation = declared().map(|(contract, _)| contract.generation).max()?;
    let highest = || declared().filter(|(contract, _)| contract.generation == generation);
    let (contract, from) = highest().min_by_key(|&(_, cluster)| cluster)?;
    let others: Vec<_> = highest().filter(|(other, _)| *other != contract).map(|(_, by)| by).collect();
    if !others.is_empty() {
        let all = others.iter().chain([&from]).map(|&cluster| (cluster.clone(), Disagreement::Contracts));
        found.disagreements.extend(all);
        let others: Vec<_> = others.iter().map(|cluster| format!("`{cluster}`")).collect();
        found.conditions.push(Condition {
            object: object(name),
            kind: "Conflict",
            status: true,
            reason: Disagreement::Contracts.reason(),
            message: format!(
                "{} declares another placement of generation {generation} than `{from}`, whose serves as the \
                 smallest cluster name; make them the same, or raise the generation of the one that shall count",
                others.join(", ")
            ),
        });
    }
    Some((contract, from))
}

/// Serving clusters that the explicit members leave out: legal, but seldom meant.
pub(super) fn outsiders<'o>(
    name: &'o ServiceName,
    members: &'o [Member],
    from: &'o ClusterName,
    joined: &'o [&Offer<'_>],
) -> impl Iterator<Item = Condition> + 'o {
    let left_out = |offer: &&&Offer<'_>| members.iter().all(|member| member.cluster != *offer.cluster);
    joined.iter().filter(left_out).map(move |offer| Condition {
        object: object(name),
        kind: "Programmed",
        status: false,
        reason: "NotAMember",
        message: format!(
            "cluster `{}` serves {name} but is no member of the placement that `{from}` declares, so it gets \
             nothing under the union name; add it to `members` and raise the generation",
            offer.cluster
        ),
    })
}
