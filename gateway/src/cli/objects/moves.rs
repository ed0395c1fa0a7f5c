//! What a change of placements moves, as `ringway diff` shows it: counted from the rings before and after.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::output::{lines, table};
use crate::cli::ring::{Cluster, Declared, Difference, Flow, Member, difference, flows, scattered};
use admin_api::rpc::{Placed, Placement};

/// What moves of the keys of one service.
#[derive(Debug, Serialize)]
pub(super) struct Moves {
    /// `namespace/name`.
    pub(super) service: String,
    /// By what it is placed now; none: by nothing that makes a ring.
    before: Option<Side>,
    after: Option<Side>,
    /// The part of all keys that gets another owner, 0 to 1; none: nothing can be counted, as the notes say.
    moved: Option<f64>,
    /// Whether that part is counted from the rings; else it is what is to be expected.
    exact: bool,
    /// The same of the 2^64 hashes, where it is exact, as text.
    moved_hashes: Option<String>,
    flows: Vec<Flow>,
    clusters: Vec<Cluster>,
    /// What the figures do not say.
    notes: Vec<String>,
}

/// By what a service is placed.
#[derive(Debug, Serialize)]
struct Side {
    ring: String,
    generation: u64,
    mode: String,
    seed: u64,
    /// The cluster whose contract it is; none: nobody declared one.
    contract_from: Option<String>,
    /// Where the key comes from, the first source first; empty: requests have none.
    key: Vec<String>,
    /// Whether requests are placed by it.
    in_force: bool,
}

impl Moves {
    /// Counts them.
    pub(super) fn of(placement: Placement) -> Self {
        let Placement { namespace, name, before, after, notes } = placement;
        let service = format!("{namespace}/{name}");
        let mut moves = Self {
            before: None,
            after: None,
            moved: None,
            exact: false,
            moved_hashes: None,
            flows: Vec::new(),
            clusters: Vec::new(),
            notes,
            service,
        };
        let nothing = Placed { seed: after.as_ref().map_or(0, |after| after.seed), ..Placed::default() };
        let old = declared(&moves.service, before.as_ref().unwrap_or(&nothing));
        let nothing = Placed { seed: old.seed, ..Placed::default() };
        let new = declared(&moves.service, after.as_ref().unwrap_or(&nothing));
        let counted = if old.seed == new.seed { difference(&old, &new) } else { scattered(&old, &new) };
        match counted {
            Ok(counted) => moves.count(counted, before.as_ref(), after.as_ref()),
            Err(error) => moves.notes.push(format!("no ring can be made: {error}")),
        }
        moves.explain(before.as_ref(), after.as_ref());
        moves
    }

    fn count(&mut self, counted: Difference, before: Option<&Placed>, after: Option<&Placed>) {
        let side = |placed: &Placed, ring: &str| Side {
            ring: ring.to_owned(),
            generation: placed.generation,
            mode: placed.mode.clone(),
            seed: placed.seed,
            contract_from: (!placed.contract_from.is_empty()).then(|| placed.contract_from.clone()),
            key: placed.key.clone(),
            in_force: placed.in_force,
        };
        self.before = before.map(|placed| side(placed, &counted.before.ring));
        self.after = after.map(|placed| side(placed, &counted.after.ring));
        self.clusters = counted.clusters;
        if before.is_some() && after.is_some() {
            self.exact = counted.moved_hashes.is_some();
            (self.moved, self.moved_hashes) = (Some(counted.moved), counted.moved_hashes);
            self.flows = counted.flows;
        }
    }

    /// Says what the figures alone do not.
    fn explain(&mut self, before: Option<&Placed>, after: Option<&Placed>) {
        let service = &self.service;
        let mut say = |note: String| self.notes.push(note);
        let (old, new) = match (before, after) {
            (Some(old), Some(new)) => (old, new),
            (None, Some(_)) => return say(format!("no key moves: {service} has no ring before")),
            (Some(_), None) => return say(format!("no key has an owner: {service} has no ring afterwards")),
            (None, None) => {
                return say(format!(
                    "nothing to count: {service} has no ring before and after; its members are those that serve it"
                ));
            }
        };
        if old == new {
            // Placed as before: why is in the notes already.
            return;
        }
        if old.seed != new.seed {
            say(format!(
                "the seed changes from {} to {}: every key is hashed anew, and what moves can only be expected; \
                 leave `placement.seed` as it is, and only members and weights move keys",
                old.seed, new.seed
            ));
        }
        if !new.in_force {
            say(format!("not in force: nobody serves {service} here; counted from what is declared"));
        }
        if old.mode != new.mode {
            say(format!(
                "the mode changes from {} to {}: besides, requests that were kept at home go to the owner of their \
                 key, or the other way round",
                old.mode, new.mode
            ));
        }
        if new.mode == "local-first" {
            say("mode local-first: a share says where a key goes among clusters of one tier, not before"
                .into());
        }
        let words = |key: &[String]| if key.is_empty() { "none".into() } else { key.join(", ") };
        if old.key != new.key {
            say(format!(
                "the key changes from {} to {}: a request has another key than before, whatever moves of the rings",
                words(&old.key),
                words(&new.key)
            ));
        }
        if new.key.is_empty() {
            say("requests have no key (`placement.hash`): they are spread by capacity, not by these shares"
                .into());
        }
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        let Self { service, before, after, moved, exact, .. } = self;
        let mut text = match moved {
            Some(_) if self.same_ring() => format!("{service}: the ring stays, no key moves\n"),
            Some(moved) => {
                let about = if *exact { "" } else { "about " };
                format!("{service}: {about}{:.3} % of all keys move\n", moved * 100.0)
            }
            None => format!("{service}:\n"),
        };
        let side = |side: &Option<Side>| {
            let Some(Side { ring, generation, mode, contract_from, .. }) = side else {
                return "-".to_owned();
            };
            let of = contract_from.as_ref().map_or_else(
                || "nobody declares a contract".to_owned(),
                |from| format!("contract generation {generation} of {from}"),
            );
            format!("ring {ring}, {of}, {mode}")
        };
        let _infallible = writeln!(text, "  before   {}\n  after    {}", side(before), side(after));
        let moving = flows(&self.flows);
        if moving.row_count() > 0 {
            let _infallible = write!(text, "\n{}", lines(&moving, "  "));
        }
        let mut clusters = table(&["CLUSTER", "SHARE BEFORE", "AFTER"]);
        for cluster in &self.clusters {
            let percent = |part: f64| format!("{:.3} %", part * 100.0);
            clusters.add_row([cluster.cluster.clone(), percent(cluster.before), percent(cluster.after)]);
        }
        if clusters.row_count() > 0 {
            let _infallible = write!(text, "\n{}", lines(&clusters, "  "));
        }
        for (n, note) in self.notes.iter().enumerate() {
            let gap = if n == 0 { "\n" } else { "" };
            let _infallible = writeln!(text, "{gap}  note: {note}");
        }
        text
    }

    fn same_ring(&self) -> bool {
        let ring = |side: &Option<Side>| side.as_ref().map(|side| side.ring.clone());
        ring(&self.before).is_some() && ring(&self.before) == ring(&self.after)
    }
}

fn declared(service: &str, placed: &Placed) -> Declared {
    let member = |member: &admin_api::rpc::Member| Member {
        cluster: member.cluster.clone(),
        region: member.region.clone(),
        weight: member.weight,
        ring: None,
    };
    Declared {
        service: service.to_owned(),
        generation: placed.generation,
        mode: placed.mode.clone(),
        contract_from: None,
        seed: placed.seed,
        ring: None,
        members: placed.members.iter().map(member).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn placed(generation: u64, members: &[(&str, u32)]) -> Placed {
        let member = |(cluster, weight): &(&str, u32)| admin_api::rpc::Member {
            cluster: (*cluster).into(),
            region: format!("us-{cluster}"),
            weight: *weight,
        };
        Placed {
            generation,
            mode: "sharded".into(),
            contract_from: "west".into(),
            members: members.iter().map(member).collect(),
            key: vec!["header x-user".into()],
            in_force: true,
            ..Placed::default()
        }
    }

    fn moves(before: Option<Placed>, after: Option<Placed>) -> Moves {
        let (namespace, name) = ("shop".into(), "cart".into());
        Moves::of(Placement { namespace, name, before, after, notes: Vec::new() })
    }

    const TWO: &[(&str, u32)] = &[("east", 100), ("west", 100)];
    const THREE: &[(&str, u32)] = &[("east", 100), ("north", 100), ("west", 100)];

    #[test]
    fn members_that_come_and_go_and_weights_move_their_share_exactly() {
        let joined = moves(Some(placed(1, TWO)), Some(placed(2, THREE)));
        let north = joined.clusters.iter().find(|cluster| cluster.cluster == "north").unwrap();
        // To who joins, and from nobody to anybody else.
        assert!((joined.moved.unwrap() - north.after).abs() < 1e-12 && north.before == 0.0, "{joined:?}");
        assert!(joined.exact && joined.flows.iter().all(|flow| flow.to.as_deref() == Some("north")));
        assert!(joined.describe().contains("% of all keys move"), "{}", joined.describe());
        let left = moves(Some(placed(2, THREE)), Some(placed(3, TWO)));
        assert_eq!(left.moved_hashes, joined.moved_hashes, "the way back is as long");
        let lighter = moves(Some(placed(1, TWO)), Some(placed(2, &[("east", 100), ("west", 50)])));
        assert!(lighter.flows.iter().all(|flow| flow.from.as_deref() == Some("west")), "{lighter:?}");
    }

    #[test]
    fn a_generation_alone_moves_nothing() {
        let same = moves(Some(placed(1, TWO)), Some(placed(2, TWO)));
        assert_eq!((same.moved, same.notes.len()), (Some(0.0), 0));
        assert!(
            same.describe().starts_with("shop/cart: the ring stays, no key moves\n"),
            "{}",
            same.describe()
        );
    }

    #[test]
    fn a_service_that_had_no_policy_has_a_ring_and_no_key() {
        let none = Placed {
            mode: "local-first".into(),
            contract_from: String::new(),
            key: Vec::new(),
            ..placed(0, TWO)
        };
        let first = moves(Some(none), Some(placed(1, THREE)));
        assert!((0.2..0.5).contains(&first.moved.unwrap()), "{first:?}");
        let text = first.describe();
        for words in [
            "nobody declares a contract, local-first",
            "contract generation 1 of west, sharded",
            "the mode changes from local-first to sharded",
            "the key changes from none to header x-user",
        ] {
            assert!(text.contains(words), "`{words}` is missing in\n{text}");
        }
    }

    #[test]
    fn another_seed_scatters_the_keys_and_the_shares_are_still_told() {
        let seeded = Placed { seed: 7, ..placed(2, TWO) };
        let scattered = moves(Some(placed(1, TWO)), Some(seeded));
        assert!(!scattered.exact && scattered.moved_hashes.is_none() && scattered.flows.is_empty());
        assert!((0.4..0.6).contains(&scattered.moved.unwrap()), "half of two equal ones: {scattered:?}");
        let shares: f64 = scattered.clusters.iter().map(|cluster| cluster.after).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{scattered:?}");
        let text = scattered.describe();
        assert!(text.contains("about ") && text.contains("the seed changes from 0 to 7"), "{text}");
    }

    #[test]
    fn where_there_is_no_ring_that_is_said() {
        let comes = moves(None, Some(placed(1, TWO)));
        assert_eq!((comes.moved, comes.flows.len(), comes.clusters.len()), (None, 0, 2));
        assert!(comes.describe().contains("no key moves: shop/cart has no ring before"), "{comes:?}");
        let goes = moves(Some(placed(1, TWO)), None);
        assert!(goes.describe().contains("has no ring afterwards"), "{goes:?}");
        let never = moves(None, None);
        assert!(never.describe().contains("nothing to count"), "{never:?}");
        let declared = moves(Some(placed(1, TWO)), Some(Placed { in_force: false, ..placed(2, THREE) }));
        assert!(declared.describe().contains("not in force"), "{declared:?}");
    }
}
