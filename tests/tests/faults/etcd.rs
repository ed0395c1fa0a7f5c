//! What becomes of the etcd under running gateways: compacted, frozen, short of members. Traffic goes on, nothing that
//! was written is lost, and changes flow again.

use std::collections::BTreeSet;

use e2e::duo::{Duo, wait_standing};
use e2e::etcd::{ETCD_SOON, Etcd, of_the_system, patient};
use e2e::manifest::exported;
use e2e::mesh::Gateway;
use e2e::pair::CART;
use e2e::traffic::{Ask, Traffic};
use e2e::wait_until;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, Error};

/// Load on both gateways of west, for what east serves.
fn load(duo: &Duo) -> [Traffic; 2] {
    duo.west().map(|gateway| Traffic::start(gateway.site.http, 2, Ask::get(CART)))
}

fn assert_none_failed(load: [Traffic; 2]) {
    for traffic in load {
        traffic.wait_more(50);
        traffic.stop().assert_none_failed();
    }
}

/// What is stored of peers, by the last part of its keys.
fn imported(duo: &Duo) -> Option<BTreeSet<String>> {
    let last = |key: String| key.rsplit('/').next().map(String::from);
    duo.stored.imports()?.into_iter().map(|entry| last(entry.key)).collect()
}

/// Waits until etcd and both gateways have `shop/NAME` and `shop/cart` of east, and etcd nothing else of it.
fn wait_flows(duo: &Duo, name: &str) {
    wait_until(&format!("{name} and cart are in etcd"), ETCD_SOON, || {
        (imported(duo)? == BTreeSet::from([name, "cart"].map(String::from))).then_some(())
    });
    duo.wait_service(name);
}

/// Applies a service `shop/NAME` through the first gateway of west.
fn apply(duo: &Duo, name: &str) -> e2e::process::Said {
    std::fs::write(duo.mesh.dir().join("applied.yaml"), exported(name, &[], &[])).unwrap();
    duo.mesh.cli_at(&duo.first, &["apply", "-f", "applied.yaml"])
}

/// Waits until both gateways of west have these services besides east's.
fn wait_applied(duo: &Duo, names: &[&str]) {
    for gateway in duo.west() {
        wait_until(&format!("{} has {names:?}", gateway.site.gateway), ETCD_SOON, || {
            let said = duo.mesh.cli_at(gateway, &["get", "MeshService", "-o", "json"]).out;
            let said: serde_json::Value = serde_json::from_str(&said).ok()?;
            let found = said["objects"].as_array()?.iter().filter_map(|o| o["name"].as_str());
            (found.collect::<Vec<_>>() == names).then_some(())
        });
    }
}

mod with_etcd {
    use super::*;

    /// What an operator of the etcd does to it.
    fn operate<T>(duo: &Duo, work: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { work(Client::connect(duo.etcd.endpoints(), None).await.unwrap()).await })
    }

    /// Makes etcd forget all but the newest revision, and give back the room.
    fn forget(duo: &Duo) {
        operate(duo, async |mut client| {
            let newest = client.get("/", None).await.unwrap().header().unwrap().revision();
            client.compact(newest, Some(CompactionOptions::new().with_physical())).await.unwrap();
            client.defragment().await.unwrap();
        });
    }

    #[test]
    fn a_leader_that_no_lease_removes_stops_no_election() {
        let etcd = Etcd::start(&of_the_system(), 1);
        // As a copy of another etcd leaves it, whose leases were not copied.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut client = Client::connect(etcd.endpoints(), None).await.unwrap();
            client.put(registry::store::keys::LEADER, "somebody", None).await.unwrap();
        });
        let duo = Duo::on(etcd);
        duo.wait_elected();
        let said = |gateway: &Gateway| {
            gateway.process.log().contains("Audit: the leadership of this cluster's gateways")
        };
        assert!(duo.west().into_iter().any(said));
        assert_eq!(apply(&duo, "web").code, Some(0));
    }

    #[test]
    fn compacted_and_defragmented_it_tells_all_that_changes() {
        let mut duo = Duo::new();
        let load = load(&duo);
        for name in ["a1", "a2"] {
            duo.serve(name);
            wait_flows(&duo, name);
        }
        assert_eq!(apply(&duo, "web").code, Some(0));
        forget(&duo);
        duo.serve("a3");
        wait_flows(&duo, "a3");
        wait_applied(&duo, &["web"]);

        // Who watched before has missed what is forgotten now.
        duo.etcd.kill(0);
        duo.serve("a4");
        duo.etcd.restart(0);
        wait_until("another one writes", ETCD_SOON, || (apply(&duo, "more").code == Some(0)).then_some(()));
        forget(&duo);
        wait_flows(&duo, "a4");
        wait_applied(&duo, &["more", "web"]);
        assert_none_failed(load);
    }

    #[test]
    fn frozen_it_holds_nobody_up_and_has_everything_once_it_thaws() {
        let mut duo = Duo::new();
        assert_eq!(apply(&duo, "web").code, Some(0));
        wait_applied(&duo, &["web"]);
        let load = Traffic::start(duo.first.site.http, 2, Ask::get(CART));
        duo.etcd.process(0).freeze();
        duo.west().into_iter().for_each(|gateway| wait_standing(gateway, "unknown"));
        // What peers tell needs no etcd; what operators tell does, and they hear of it.
        duo.serve("basket");
        duo.wait_service("basket");
        let said = apply(&duo, "more");
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("registry") && said.err.contains(&duo.etcd.endpoints()[0]), "{said:?}");
        wait_applied(&duo, &["web"]);
        // A start is not held up, either.
        duo.second.restart();
        duo.second.wait_service("shop/basket", &["east"]);
        assert_eq!(duo.second.get("basket.shop.mesh", "/").status, 200);
        wait_applied(&duo, &["web"]);

        duo.etcd.process(0).thaw();
        wait_flows(&duo, "basket");
        duo.wait_elected();
        wait_applied(&duo, &["web"]);
        wait_until("it takes changes again", ETCD_SOON, || {
            (apply(&duo, "more").code == Some(0)).then_some(())
        });
        wait_applied(&duo, &["more", "web"]);
        load.stop().assert_none_failed();
    }

    #[test]
    fn of_three_members_one_dies_and_changes_flow_and_two_die_and_traffic_does() {
        let mut duo = Duo::on(Etcd::start_with(&of_the_system(), 3, |_| patient()));
        let load = load(&duo);
        assert_eq!(apply(&duo, "web").code, Some(0));
        let dead = duo.etcd.leader().unwrap();
        duo.etcd.kill(dead);
        duo.serve("basket");
        wait_flows(&duo, "basket");
        wait_until("it takes changes", ETCD_SOON, || (apply(&duo, "more").code == Some(0)).then_some(()));
        wait_applied(&duo, &["more", "web"]);

        duo.etcd.kill((dead + 1) % 3);
        duo.west().into_iter().for_each(|gateway| wait_standing(gateway, "unknown"));
        duo.serve("late");
        duo.wait_service("late");
        duo.etcd.restart_all();
        wait_flows(&duo, "late");
        wait_applied(&duo, &["more", "web"]);
        assert_none_failed(load);
    }

    #[test]
    fn out_of_room_it_takes_no_change_and_says_so_and_has_everything_once_there_is_some() {
        let quota = |_: &std::path::Path| vec!["--quota-backend-bytes=8388608".to_owned()];
        let duo = Duo::on(Etcd::start_with(&of_the_system(), 1, quota));
        assert_eq!(apply(&duo, "web").code, Some(0));
        let load = load(&duo);
        operate(&duo, async |mut client| {
            let full = async |client: &mut Client| client.put("/ballast", vec![7; 500_000], None).await;
            let refused = loop {
                if let Err(error) = full(&mut client).await {
                    break error;
                }
            };
            assert!(
                matches!(&refused, Error::GRpcStatus(status) if status.message().contains("space")),
                "{refused}"
            );
        });
        duo.serve("basket");
        duo.wait_service("basket");
        let said = apply(&duo, "more");
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("database space exceeded"), "{said:?}");
        wait_applied(&duo, &["web"]);

        operate(&duo, async |mut client| client.delete("/ballast", None).await.unwrap());
        forget(&duo);
        operate(&duo, async |mut client| {
            let raised = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
            let mut of_it = AlarmOptions::new();
            of_it.with_member(raised.alarms()[0].member_id());
            client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of_it)).await.unwrap();
        });
        wait_flows(&duo, "basket");
        assert_eq!(apply(&duo, "more").code, Some(0));
        wait_applied(&duo, &["more", "web"]);
        assert_none_failed(load);
    }
}
