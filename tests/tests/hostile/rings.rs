//! Contracts that ask for large rings.

use e2e::hostile::records::{crowd, record, sharded, snapshot, with};
use e2e::hostile::stage::{Setup, Stage};
use e2e::hostile::{Carrier, Hostile};
use e2e::wait::SOON;
use e2e::wait_until;
use proto::limits::{CONTRACT_POINTS_MAX, PEER_POINTS_MAX, RING_BASE};
use proto::sync::Record;

const REVISION: u64 = 1_000_000_000_000_000;
/// Above what a gateway takes by itself and what all allowed rings of one peer take, far below what those take that
/// are not.
const MOST_MIB: u64 = 320;

/// Six records of 14 KB whose rings would have 16 million points each, and more contracts of the largest size that is
/// allowed than one peer may have together.
fn bombs() -> Vec<Record> {
    let mut records: Vec<_> = (0..6)
        .map(|seed| with(record(&format!("bomb{seed}"), REVISION), crowd(1024, 10_000, seed)))
        .collect();
    let members: Vec<_> = (0..16).map(|n| format!("c{n}")).collect();
    let members: Vec<_> = members.iter().map(|name| (&**name, 10_000)).collect();
    records
        .extend((0..60).map(|seed| {
            with(record(&format!("large{seed:02}"), REVISION), sharded(1, 100 + seed, &members))
        }));
    records.push(record("small", REVISION));
    records
}

fn attack(stage: &Stage, carrier: Carrier) -> Hostile {
    let east = stage.east(carrier);
    east.export(REVISION, &snapshot(REVISION, bombs()));
    let points = 16 * 10_000 / 100 * u64::from(RING_BASE);
    assert!(points <= CONTRACT_POINTS_MAX);
    // What is small is imported all the same, and so is as much of the rest as one peer may have.
    let allowed = PEER_POINTS_MAX / points + 1;
    stage.west.wait_status("what fits is imported", SOON, |status| {
        let east = e2e::mesh::find(&status["links"], "cluster", "east")?;
        (east["imported"] == allowed).then_some(())
    });
    stage.wait_shown("RecordsLeftOut", "shop/bomb0");
    wait_until("what is small has a name", SOON, || {
        (stage.west.get("small.shop.east.mesh", "/").status == 503).then_some(())
    });
    east
}

#[test]
fn rings_that_cost_too_much_are_left_out_and_shown_and_a_start_without_the_peer_costs_no_more() {
    for carrier in Carrier::ALL {
        let mut stage = Stage::plain();
        let east = attack(&stage, carrier);
        stage.assert_unharmed(MOST_MIB);
        drop(east);
        stage.west.restart();
        assert!(stage.memory_mib() <= MOST_MIB, "{} MiB after a start", stage.memory_mib());
    }
}

#[test]
fn rings_that_are_allowed_are_built_beside_the_control_plane() {
    let link = "addresses: []\n  import: [{ union: true }]";
    let mut stage = Stage::set(Setup { link: Some(link.into()), ..Setup::default() });
    let _east = attack(&stage, Carrier::Quic);
    // Each has a union name, and so a ring of four thousand points a member.
    wait_until("the large ones are placed", SOON, || {
        let status = stage.status();
        let service = e2e::mesh::find(&status["services"], "name", "shop/large00")?;
        (service["members"].as_array()?.len() == 16).then_some(())
    });
    stage.assert_unharmed(MOST_MIB);
}

#[test]
fn our_own_manifests_are_bounded_alike() {
    let stage = Stage::plain();
    let members: Vec<_> = (0..17).map(|n| format!("{{ cluster: c{n}, region: r, weight: 10000 }}")).collect();
    let placement = format!("placement: {{ mode: local-first, members: [{}] }}", members.join(", "));
    let file = stage.mesh.dir().join("large.yaml");
    std::fs::write(&file, e2e::manifest::policy("cart", &placement)).unwrap();
    let said = stage.mesh.cli(&["validate", "-f", &file.to_string_lossy()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let text = said.out + &said.err;
    assert!(text.contains("272000 points") && text.contains("divide all weights by 2"), "{text}");
}
