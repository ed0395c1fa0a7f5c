//! Objects are applied to a running gateway: they serve at once and after every kind of restart, beside its files.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use e2e::backend::Backend;
use e2e::manifest::{link, object, service, sharded};
use e2e::mesh::{Gateway, Mesh, find};
use e2e::wait::SOON;
use serde_json::Value;

/// `ringway ARGS` against a gateway, and it must work.
fn worked(mesh: &Mesh, gateway: &Gateway, args: &[&str]) -> String {
    let said = mesh.cli_at(gateway, args);
    assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
    said.out
}

/// The same, and it must fail.
fn refused(mesh: &Mesh, gateway: &Gateway, args: &[&str]) -> String {
    let said = mesh.cli_at(gateway, args);
    assert_eq!(said.code, Some(1), "{args:?}: {said:?}");
    said.err
}

fn write(mesh: &Mesh, file: &str, documents: &[String]) {
    fs::write(mesh.dir().join(file), documents.join("---\n")).unwrap();
}

/// Waits until a request for `cart` at `gateway` is answered so.
fn wait_answer(gateway: &Gateway, status: u16) {
    e2e::wait_until(&format!("cart is answered {status}"), SOON, || {
        let answer = gateway.ask(&e2e::client::Request::get("cart.shop.mesh", "/")).ok()?;
        (answer.status == status).then_some(())
    });
}

/// Waits until `get` shows the object `name` with this generation and the reason of its first complaint, if any.
fn wait_shown(mesh: &Mesh, gateway: &Gateway, name: &str, generation: u64, complaint: Option<&str>) {
    e2e::wait_until(&format!("{name} of generation {generation} is shown with {complaint:?}"), SOON, || {
        let found: Value = serde_json::from_str(&worked(mesh, gateway, &["get", "-o", "json"])).unwrap();
        let objects = found["objects"].as_array().unwrap();
        let object = objects.iter().find(|o| o["name"] == name && o["file"].is_null())?;
        let conditions = object["conditions"].as_array().unwrap();
        let bad = conditions.iter().find(|c| c["status"] == false).and_then(|c| c["reason"].as_str());
        (object["generation"] == generation && bad == complaint).then_some(())
    });
}

#[test]
fn what_is_applied_serves_peers_and_survives_restarts_until_it_is_deleted() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let mut east = mesh.site("east", &["west"]).start(&[]);
    let west = mesh.site("west", &["east"]).start(&[]);
    // Links of both sides come by apply: one dials, the other accepts.
    write(&mesh, "east.yaml", &[link("west", &[]), service("cart", &[("a", backend.address())])]);
    write(&mesh, "west.yaml", &[link("east", &[east.site.tunnel])]);
    let said = worked(&mesh, &east, &["apply", "-f", "east.yaml"]);
    assert_eq!(said, "Link west created\nMeshService shop/cart created\n");
    worked(&mesh, &west, &["apply", "-f", "west.yaml"]);
    west.wait_service("shop/cart", &["east"]);
    wait_answer(&west, 200);
    let said = worked(&mesh, &east, &["apply", "-f", "east.yaml"]);
    assert_eq!(said, "Link west unchanged\nMeshService shop/cart unchanged\n");

    // Killed the moment a change was answered.
    let other = Backend::start("east/b");
    write(&mesh, "cart.yaml", &[service("cart", &[("b", other.address())])]);
    worked(&mesh, &east, &["apply", "-f", "cart.yaml"]);
    east.restart();
    wait_shown(&mesh, &east, "cart", 2, None);
    e2e::wait_until("the endpoint of the last change is asked", SOON, || {
        let _ = west.ask(&e2e::client::Request::get("cart.shop.mesh", "/"));
        (!other.seen().is_empty()).then_some(())
    });

    let said = worked(&mesh, &east, &["delete", "MeshService", "cart", "-n", "shop"]);
    assert_eq!(said, "MeshService shop/cart deleted\n");
    wait_answer(&west, 404);
    let said = refused(&mesh, &east, &["delete", "-f", "cart.yaml"]);
    assert!(said.contains("MeshService shop/cart is not applied"), "{said}");
    worked(&mesh, &west, &["delete", "Link", "east"]);
    east.wait_peer("west", "down");
}

#[test]
fn what_a_file_declares_counts_whichever_comes_first() {
    let mesh = Mesh::new();
    let (of_file, applied) = (Backend::start("west/file"), Backend::start("west/applied"));
    let mut west = mesh.site("west", &[]).start(&[]);
    write(&mesh, "cart.yaml", &[service("cart", &[("applied", applied.address())])]);
    worked(&mesh, &west, &["apply", "-f", "cart.yaml"]);
    wait_answer(&west, 200);

    // The file comes later: the applied object is inert, and says so; it counts again once the file has gone.
    let declared = service("cart", &[("file", of_file.address())]);
    west.site.write(std::slice::from_ref(&declared));
    wait_shown(&mesh, &west, "cart", 1, Some("DeclaredInFile"));
    e2e::wait_until("the endpoint of the file is asked", SOON, || {
        let _ = west.ask(&e2e::client::Request::get("cart.shop.mesh", "/"));
        (!of_file.seen().is_empty()).then_some(())
    });
    let text = worked(&mesh, &west, &["get", "-o", "wide"]);
    assert!(text.contains("gateway.yaml:") && text.contains("DeclaredInFile"), "{text}");
    let said = refused(&mesh, &west, &["apply", "-f", "cart.yaml"]);
    assert!(said.contains("cart.yaml:1:1: error: MeshService shop/cart: declared in"), "{said}");
    west.restart();
    wait_shown(&mesh, &west, "cart", 1, Some("DeclaredInFile"));
    west.site.write(&[]);
    wait_shown(&mesh, &west, "cart", 1, None);
    let before = applied.seen().len();
    e2e::wait_until("the applied endpoint is asked", SOON, || {
        let _ = west.ask(&e2e::client::Request::get("cart.shop.mesh", "/"));
        (applied.seen().len() > before).then_some(())
    });
}

#[test]
fn wrong_input_changes_nothing_and_of_two_operators_the_second_hears_of_the_first() {
    let mesh = Mesh::new();
    let backend = Backend::start("west/a");
    let west = mesh.site("west", &[]).start(&[]);
    let cart = service("cart", &[("a", backend.address())]);
    write(&mesh, "cart.yaml", std::slice::from_ref(&cart));
    worked(&mesh, &west, &["apply", "-f", "cart.yaml"]);
    wait_answer(&west, 200);

    // One good document, one wrong one, one that is no object at all.
    let web = service("web", &[("a", backend.address())]);
    write(&mesh, "wrong.yaml", &[web, cart.replace("http }", "htp }")]);
    let said = refused(&mesh, &west, &["apply", "-f", "wrong.yaml"]);
    assert!(
        said.contains("wrong.yaml:13:44: error: MeshService shop/cart") && said.contains("`htp`"),
        "{said}"
    );
    write(&mesh, "gateway.yaml", &[west.site.manifest()]);
    let said = refused(&mesh, &west, &["apply", "-f", "gateway.yaml"]);
    assert!(said.contains("a Gateway is a process"), "{said}");
    let found: Value = serde_json::from_str(&worked(&mesh, &west, &["get", "-o", "json"])).unwrap();
    assert_eq!(found["objects"].as_array().unwrap().len(), 1);

    // Two take the same document and change it.
    wait_shown(&mesh, &west, "cart", 1, None);
    let shown = worked(&mesh, &west, &["get", "MeshService", "cart", "-n", "shop", "-o", "yaml"]);
    assert!(shown.contains("resourceVersion"), "{shown}");
    write(&mesh, "first.yaml", &[shown.replace("id: a", "id: first")]);
    write(&mesh, "second.yaml", &[shown.replace("id: a", "id: second")]);
    worked(&mesh, &west, &["apply", "-f", "first.yaml"]);
    let said = refused(&mesh, &west, &["apply", "-f", "second.yaml"]);
    assert!(said.contains("MeshService shop/cart was changed by uid"), "{said}");
    wait_shown(&mesh, &west, "cart", 2, None);
    west.wait_status("the endpoint of the first is the one", SOON, |status| {
        let cart = find(&status["services"], "name", "shop/cart")?;
        (cart["endpoints"][0]["id"] == "first").then_some(())
    });
}

#[test]
fn a_difference_is_shown_field_by_field_and_key_by_key_and_changes_nothing() {
    let mesh = Mesh::new();
    let west = mesh.site("west", &[]).start(&[]);
    let policy = |generation: u64, members: &[&str]| {
        let placement = sharded(members).replace("generation: 1", &format!("generation: {generation}"));
        object("TrafficPolicy", "cart, namespace: shop", &format!("service: cart\n  {placement}"))
    };
    write(&mesh, "policy.yaml", &[policy(1, &["east", "west"])]);
    let said = worked(&mesh, &west, &["diff", "-f", "policy.yaml"]);
    assert!(said.contains("TrafficPolicy shop/cart created"), "{said}");
    worked(&mesh, &west, &["apply", "-f", "policy.yaml"]);
    let said = worked(&mesh, &west, &["diff", "-f", "policy.yaml"]);
    assert!(said.ends_with("nothing would change\n"), "{said}");

    write(&mesh, "policy.yaml", &[policy(2, &["east", "north", "west"])]);
    let said = worked(&mesh, &west, &["diff", "-f", "policy.yaml"]);
    assert!(said.contains("spec.placement.generation: 1 -> 2"), "{said}");
    assert!(said.contains("spec.placement.members[north]: - -> "), "{said}");
    assert!(said.contains("% of all keys move"), "{said}");
    let diff: Value =
        serde_json::from_str(&worked(&mesh, &west, &["diff", "-f", "policy.yaml", "-o", "json"])).unwrap();
    assert_eq!(diff["changed"], true);
    let moved = diff["objects"][0]["moves"]["moved"].as_f64().unwrap();
    assert!((0.2..0.5).contains(&moved), "about a third of the keys: {moved}");
    wait_shown(&mesh, &west, "cart", 1, Some("LinkNotFound"));
}

#[test]
fn the_admin_socket_is_for_its_own_user_and_goes_with_the_process() {
    use std::os::unix::fs::PermissionsExt;
    let mesh = Mesh::new();
    let mut west = mesh.site("west", &[]).start(&[]);
    let status = west.status().unwrap();
    let socket = Path::new(status["admin_socket"].as_str().unwrap());
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let by_path = mesh.cli(&["get", "--admin-socket", socket.to_str().unwrap()]);
    assert_eq!((by_path.code, &*by_path.out), (Some(0), "nothing is declared\n"), "{by_path:?}");
    assert_eq!(west.process.terminate().code(), Some(0));
    let gone = mesh.cli(&["get", "--admin-socket", socket.to_str().unwrap()]);
    assert_eq!(gone.code, Some(1));
    assert!(
        gone.err.contains("cannot connect to the admin socket") && gone.err.contains("hint:"),
        "{gone:?}"
    );
}

#[test]
fn what_a_first_policy_moves_is_counted_from_the_servers_that_are_known() {
    let mesh = Mesh::new();
    let backend = Backend::start("cart/a");
    let cart = service("cart", &[("a", backend.address())]);
    let east = mesh.site("east", &["west"]).start(&[link("west", &[]), cart.clone()]);
    let west = mesh.site("west", &["east"]).start(&[link("east", &[east.site.tunnel]), cart]);
    west.wait_service("shop/cart", &["east", "west"]);
    let policy = |rest: &str| {
        let placement = format!("placement: {{ mode: sharded, hash: [{{ header: x-user }}], {rest} }}");
        object("TrafficPolicy", "cart, namespace: shop", &format!("service: cart\n  {placement}"))
    };
    let diff = |rest: &str| -> Value {
        write(&mesh, "policy.yaml", &[policy(rest)]);
        let said = worked(&mesh, &west, &["diff", "-f", "policy.yaml", "-o", "json"]);
        let diff: Value = serde_json::from_str(&said).unwrap();
        diff["objects"][0]["moves"].clone()
    };
    let share = |moves: &Value, cluster: &str, when: &str| {
        let clusters = moves["clusters"].as_array().unwrap();
        clusters.iter().find(|c| c["cluster"] == cluster).unwrap()[when].as_f64().unwrap()
    };

    // Members left out: those that serve, before and after. Nothing moves but what the mode and the key move.
    let moves = diff("generation: 1");
    assert_eq!(
        (moves["before"]["generation"].as_u64(), moves["before"]["mode"].as_str()),
        (Some(0), Some("local-first"))
    );
    assert_eq!(
        (moves["after"]["contract_from"].as_str(), moves["moved"].as_f64()),
        (Some("west"), Some(0.0))
    );
    let text = worked(&mesh, &west, &["diff", "-f", "policy.yaml"]);
    for words in [
        "the ring stays, no key moves",
        "the mode changes from local-first to sharded",
        "the key changes from none",
    ] {
        assert!(text.contains(words), "`{words}` is missing in\n{text}");
    }
    // A third member that nobody has seen yet, and another weight, beside the ring that is in force.
    let members = |west: u32, more: &str| {
        format!(
            "generation: 2, members: [{{ cluster: east, region: us-east }}, \
             {{ cluster: west, region: us-west, weight: {west} }}{more}]"
        )
    };
    let moves = diff(&members(100, ", { cluster: north, region: us-north }"));
    assert_eq!(share(&moves, "north", "before"), 0.0);
    assert!((moves["moved"].as_f64().unwrap() - share(&moves, "north", "after")).abs() < 1e-9, "{moves}");
    worked(&mesh, &west, &["apply", "-f", "policy.yaml"]);
    e2e::wait_until("the policy is in force", SOON, || {
        let shares = worked(&mesh, &west, &["ring", "shares", "shop/cart"]);
        shares.contains("generation 2 of cluster west").then_some(())
    });
    let moves = diff(&members(50, ", { cluster: north, region: us-north }"));
    assert!(share(&moves, "west", "after") < share(&moves, "west", "before"), "{moves}");
    assert_eq!(moves["exact"], true);
    let moves = diff("generation: 3, seed: 7, members: [{ cluster: east, region: us-east }]");
    assert_eq!((moves["exact"].as_bool(), share(&moves, "east", "after")), (Some(false), 1.0));
    // Which ring is counted is the one that is shown as in force.
    let ring: Value =
        serde_json::from_str(&worked(&mesh, &west, &["ring", "shares", "shop/cart", "-o", "json"])).unwrap();
    assert_eq!(moves["before"]["ring"], ring["ring"]);
    // What a link takes away is no policy's doing.
    write(&mesh, "more.yaml", &[service("more", &[("a", backend.address())])]);
    let said = worked(&mesh, &west, &["diff", "-f", "more.yaml"]);
    assert!(said.contains("no key moves: shop/more has no ring before"), "{said}");
}
