//! What is known of peers: unknown is not empty, explicit removals apply, state survives a restart.
#![allow(clippy::unwrap_used)]

use e2e::backend::Backend;
use e2e::manifest::{link, service};
use e2e::mesh::find;
use e2e::pair::{CART, Pair, Setup};
use e2e::process::cli;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{SOON, wait_until};

/// Waits until west's catalog is on its disk: it is saved at most once a second, and SIGKILL leaves no time for it.
fn wait_saved(pair: &Pair) -> std::path::PathBuf {
    let file = pair.west.site.dir.join("state/catalog");
    wait_until("the record is on disk", SOON, || {
        let bytes = std::fs::read(&file).ok()?;
        bytes.windows(4).any(|w| w == b"cart").then_some(())
    });
    file
}

#[test]
fn a_restart_with_the_peer_down_keeps_the_catalog() {
    let mut pair = Pair::new();
    let uid = |p: &Pair| p.west.status().unwrap()["uid"].as_str().unwrap().to_owned();
    let before = uid(&pair);
    wait_saved(&pair);
    pair.east.process.kill();
    pair.west.restart();
    // The name is known and nobody is there: 503. 404 would mean that it had been forgotten.
    assert_eq!(pair.get("/").status, 503);
    assert_eq!(pair.west.get("nothing.shop.mesh", "/").status, 404);
    let status = pair.west.status().unwrap();
    let east = find(&status["links"], "cluster", "east").unwrap();
    assert_eq!((&east["imported"], east["age_seconds"].is_number()), (&1.into(), true), "{east}");
    assert_eq!(uid(&pair), before, "the cluster's UID is kept in the state directory");
    pair.east.restart();
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_peer_that_is_lost_keeps_its_records() {
    let mut pair = Pair::new();
    pair.east.process.kill();
    pair.west.wait_peer("east", "down");
    let status = pair.west.status().unwrap();
    assert_eq!(find(&status["links"], "cluster", "east").unwrap()["imported"], 1);
    assert_eq!(pair.get("/").status, 503);
}

#[test]
fn what_a_peer_adds_and_removes_is_mirrored() {
    let pair = Pair::new();
    let (site, address) = (pair.east.site.clone(), pair.backend().address());
    drop(pair.east);
    let _east = site.start(&[link("west", &[]), service("basket", &[("a", address)])]);
    pair.west.wait_service("shop/basket", &["east"]);
    assert_eq!(pair.west.get("basket.shop.mesh", "/").status, 200);
    // One record of one is within what a snapshot may take away at once.
    wait_until("the old name is gone", SOON, || (pair.west.get(CART, "/").status == 404).then_some(()));
}

#[test]
fn the_registry_in_the_state_directory_holds_the_imports() {
    let pair = Pair::new();
    let file = pair.west.site.dir.join("state/registry.redb");
    let key = b"/ringway/v1/imports/east/shop/cart";
    wait_until("the import is in the registry", SOON, || {
        let bytes = std::fs::read(&file).ok()?;
        bytes.windows(key.len()).any(|w| w == key).then_some(())
    });
    // One that cannot be read is named, and not overwritten.
    let mut west = pair.west;
    assert!(west.process.terminate().success());
    std::fs::write(&file, "no registry").unwrap();
    let said = cli(&west.site.dir, &["gateway", "-f", "gateway.yaml"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("registry.redb` is damaged"), "{said:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"no registry");
}

#[test]
fn two_processes_never_share_a_state_directory() {
    let pair = Pair::new();
    let site = &pair.west.site;
    // The ports are taken as well: another manifest with other ports, the same state.
    let other = pair.mesh.site("west", &["east"]);
    assert_eq!(other.dir, site.dir);
    let file = site.dir.join("second.yaml");
    std::fs::write(&file, other.manifest()).unwrap();
    let said = cli(&site.dir, &["gateway", "-f", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("state"), "{said:?}");
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_damaged_catalog_is_named_with_its_remedy() {
    let mut pair = Pair::new();
    let uid = pair.west.status().unwrap()["uid"].clone();
    let file = wait_saved(&pair);
    pair.west.process.kill();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let said = cli(&pair.west.site.dir, &["gateway", "-f", pair.west.site.file().to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("catalog") && said.err.contains("move it away"), "{said:?}");
    // The remedy: the rest of the state and the peer know everything that was in it.
    std::fs::rename(&file, file.with_extension("damaged")).unwrap();
    pair.west.restart();
    assert_eq!(pair.west.status().unwrap()["uid"], uid);
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_peer_that_is_silent_for_longer_than_the_link_allows_is_forgotten_until_it_is_back() {
    let mut pair = Pair::new();
    let east = link("east", &[pair.east.site.tunnel]).replace("  import:", "  expireAfter: 2s\n  import:");
    pair.west.site.write(&[east]);
    pair.west.process.hang_up();
    pair.west.process.wait_log(&["Link east changed"]);
    pair.east.process.kill();
    // 404: nobody knows the name any more.
    wait_until("it is forgotten", SOON * 3, || (pair.get("/").status == 404).then_some(()));
    pair.east.restart();
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(pair.get("/").status, 200);
}

#[test]
fn a_link_that_is_cut_for_longer_than_it_allows_loses_what_came_by_it_and_nothing_else() {
    let pair = Pair::with(Setup { relayed: true, ..Setup::default() });
    let own = Backend::start("west/a");
    let east = link("east", &[pair.relay().address()]).replace("  import:", "  expireAfter: 2s\n  import:");
    pair.west.site.write(&[east, service("web", &[("a", own.address())])]);
    pair.west.process.hang_up();
    pair.east.wait_service("shop/web", &["west"]);
    pair.west.wait_service("shop/web", &["west"]);
    let load = Traffic::start(pair.west.site.http, 2, Ask::get("web.shop.mesh"));
    pair.relay().cut();
    wait_until("it is forgotten", SOON * 3, || (pair.get("/").status == 404).then_some(()));
    // East's own link allows a day.
    assert_eq!(pair.east.get("web.shop.mesh", "/").status, 503);
    pair.relay().heal();
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(pair.get("/").status, 200);
    pair.east.wait_service("shop/web", &["west"]);
    assert_eq!(pair.east.get("web.shop.mesh", "/").status, 200);
    load.stop().assert_none_failed();
}

#[test]
fn a_pipe_in_the_place_of_a_catalog_holds_up_neither_a_save_nor_the_drain() {
    let mut pair = Pair::new();
    let address = pair.backend().address();
    // Whoever opens a pipe for writing waits for a reader.
    let pipe = pair.east.site.dir.join("state/catalog.new");
    wait_until("no save is under way", SOON, || {
        std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success().then_some(())
    });
    pair.east.site.write(&[
        link("west", &[]),
        service("cart", &[("a", address)]),
        service("web", &[("a", address)]),
    ]);
    pair.west.wait_service("shop/web", &["east"]);
    // It makes way for the file that replaces the last catalog.
    wait_until("a save has replaced the pipe", SOON, || (!pipe.exists()).then_some(()));
    assert!(pair.east.process.terminate().success());
}
