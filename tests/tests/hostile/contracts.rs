//! Contracts that would take a service away.

use std::collections::BTreeSet;

use e2e::client::Request;
use e2e::hostile::Carrier;
use e2e::hostile::records::{record, sharded, snapshot, with};
use e2e::hostile::stage::{Setup, Stage};
use e2e::manifest::policy;
use e2e::mesh::find;
use e2e::pair::CART;
use e2e::wait::SOON;
use e2e::wait_until;
use serde_json::Value;

const REVISION: u64 = 1_000_000_000_000_000;

fn link(rest: &str) -> Option<String> {
    Some(format!("addresses: []\n  import: [{{ union: true{rest} }}]"))
}

/// Who answers west's callers for `shop/cart`, over many keys.
fn servers(stage: &Stage) -> BTreeSet<String> {
    let ask = |n: u32| {
        let answer = stage.west.ask(&Request::get(CART, "/").with("x-user", &n.to_string())).unwrap();
        match answer.status {
            200 => answer.field("x-served-by").unwrap_or_default().to_owned(),
            status => status.to_string(),
        }
    };
    (0..40).map(ask).collect()
}

fn only(name: &str) -> BTreeSet<String> {
    [name.to_owned()].into()
}

fn cart(status: &Value) -> Option<Value> {
    find(&status["services"], "name", "shop/cart").cloned()
}

fn reason(stage: &Stage, reason: &str) {
    stage.west.wait_status(&format!("{reason} is shown"), SOON, |status| {
        let condition = find(&status["conditions"], "reason", reason)?;
        assert_eq!(condition["object"], "MeshService shop/cart");
        condition["message"].as_str()?.contains("`east`").then_some(())
    });
}

#[test]
fn no_contract_of_a_peer_takes_our_callers_from_our_own_endpoints() {
    for (generation, shown) in [(u64::MAX, "GenerationTooHigh"), (1_000, "LeavesOut")] {
        let mut stage = Stage::set(Setup { link: link(""), ..Setup::default() });
        let east = stage.east(Carrier::Quic);
        let taken = with(record("cart", REVISION), sharded(generation, 0, &[("east", 100)]));
        east.export(REVISION, &snapshot(REVISION, [taken]));
        reason(&stage, shown);
        stage.west.wait_status("it is placed by what nobody declared", SOON, |status| {
            let cart = cart(status)?;
            (cart["generation"] == 0 && cart["members"].as_array()?.len() == 2).then_some(())
        });
        assert_eq!(servers(&stage), only("west/a"));
        drop(east);
        stage.west.wait_peer("east", "down");
        assert_eq!(servers(&stage), only("west/a"));
        stage.assert_unharmed(192);
    }
}

#[test]
fn while_nobody_of_a_contract_can_serve_those_who_do_are_tried() {
    let of_east = policy(
        "cart",
        "placement: { mode: sharded, generation: 3, members: [{ cluster: east, region: us-east }], hash: [{ header: x-user }] }",
    );
    let stage = Stage::set(Setup { link: link(""), objects: vec![of_east], ..Setup::default() });
    // East is not there yet, and later it is and has gone.
    assert_eq!(servers(&stage), only("west/a"));
    let east = stage.east(Carrier::Tcp);
    east.export(REVISION, &snapshot(REVISION, [record("cart", REVISION)]));
    stage.west.wait_status("east serves", SOON, |status| {
        let cart = cart(status)?;
        (find(&cart["members"], "cluster", "east")?["state"] == "up").then_some(())
    });
    // A member that can be asked is: here it refuses.
    assert_eq!(servers(&stage), only("503"));
    drop(east);
    stage.west.wait_peer("east", "down");
    wait_until("our own are asked again", SOON, || (servers(&stage) == only("west/a")).then_some(()));
}

#[test]
fn a_link_that_ignores_contracts_takes_the_service_and_not_its_rule() {
    let stage = Stage::set(Setup { link: link(", placement: ignore"), ..Setup::default() });
    let east = stage.east(Carrier::Quic);
    let rule = sharded(7, 3, &[("east", 100), ("west", 1)]);
    east.export(REVISION, &snapshot(REVISION, [with(record("cart", REVISION), rule)]));
    stage.west.wait_status("east serves, by no rule of its own", SOON, |status| {
        let cart = cart(status)?;
        let both = cart["members"].as_array()?.len() == 2;
        (both && cart["generation"] == 0 && cart["contract_from"].is_null()).then_some(())
    });
    assert_eq!(servers(&stage), only("west/a"));
}
