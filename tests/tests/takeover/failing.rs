//! A process that does not come to take over changes nothing.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e::manifest::{link, service};
use e2e::pair::CART;
use e2e::wait::{SOON, wait_until};
use serde_json::{Value, json};

use super::{World, echoes, ends_well, greeted};

/// Whoever says the words of a process that takes over.
struct Heir(UnixStream);

impl Heir {
    fn of(gateway: &e2e::mesh::Gateway) -> Self {
        let stream = UnixStream::connect(gateway.site.dir.join("state/takeover.sock")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(stream)
    }

    fn say(&mut self, word: &Value) {
        let text = word.to_string();
        self.0.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        self.0.write_all(text.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Hears words until this one.
    fn hear_until(&mut self, word: &str) {
        while self.hear()["word"] != word {}
    }

    fn ask(&mut self, cluster: &str) {
        self.say(&json!({ "word": "ask", "version": 1, "cluster": cluster, "gateway": "gw-1" }));
    }
}

#[test]
fn one_that_leaves_at_any_word_changes_nothing() {
    let mut world = World::new();
    let traffic = world.traffic(8);
    let mut stream = greeted(world.at);
    let elected = |world: &World| {
        world.west.wait_status("it is elected", SOON, |status| {
            (status["registry"]["standing"] == "elected").then_some(())
        });
    };
    elected(&world);
    for words in 0..6 {
        let mut heir = Heir::of(&world.west);
        if words > 0 {
            heir.ask("west");
            heir.hear_until("all");
        }
        if words > 1 {
            heir.say(&json!({ "word": "lend" }));
            heir.hear_until("lent");
        }
        // What would be changed meanwhile waits for whoever has the registry.
        let mut admin = UnixStream::connect(world.west.site.dir.join("state/admin.sock")).unwrap();
        admin.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        if words > 1 {
            admin.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            assert_eq!(admin.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        if words > 2 {
            heir.say(&json!({ "word": "switch", "reads": words > 3 }));
            heir.hear_until("switched");
        }
        if words > 4 {
            heir.say(&json!({ "word": "up" }));
            heir.hear_until("moved");
        }
        drop(heir);
        admin.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(admin.read(&mut [0; 1]).unwrap(), 1);
        wait_until("it is said", SOON, || {
            (world.west.process.log().matches("Not taken over").count() > words).then_some(())
        });
        elected(&world);
        echoes(&mut stream, b"still there");
        traffic.wait_more(50);
        // The registry takes changes again, and keeps them.
        let file = world.mesh.dir().join("service.yaml");
        let service = service(&format!("kept-{words}"), &[("a", world.backend.address())]);
        std::fs::write(&file, service).unwrap();
        let applied = world.mesh.cli_at(&world.west, &["apply", "-f", &file.to_string_lossy()]);
        assert_eq!(applied.code, Some(0), "{applied:?}");
    }
    // Tunnels are dialled, and accepted, as before.
    world.west.wait_peer("east", "up");
    let (_sidecar, beside) = world.sidecar();
    ends_well(greeted(beside));
    let mut elder = world.west.take_over();
    ends_well(stream);
    traffic.stop().assert_none_failed();
    assert!(elder.wait_end().success());
    for n in 0..6 {
        assert_eq!(world.west.get(&format!("kept-{n}.shop.mesh"), "/").status, 200);
    }
}

/// It has bound everything, and waits for a link that nobody answers on.
#[test]
fn one_that_ends_or_says_nothing_leaves_everything_where_it_is() {
    let mut world = World::new();
    let nobody = [super::address()];
    let whole = std::fs::read_to_string(world.west.site.file()).unwrap();
    let more = format!("{whole}---\n{}", link("north", &nobody));
    world.mesh.issue("ca", "west", &["east", "north"], &world.west.site.dir.join("pki"));
    std::fs::write(world.west.site.file(), more).unwrap();
    let mut stream = greeted(world.at);
    for (n, how) in ["end", "kill", "freeze"].into_iter().enumerate() {
        let mut heir = world.west.site.spawn_with(["--take-over"]);
        // Its own tunnels come up at once.
        wait_until("it has tunnels of its own", SOON, || {
            let log = heir.process.log();
            let taken = log.matches("Taking over.").count() == n + 1;
            let last = log.rsplit("Taking over.").next().unwrap_or_default();
            (taken && last.contains("Tunnel up.")).then_some(())
        });
        let before = world.west.process.log().matches("Not taken over").count();
        match how {
            "end" => drop(heir.process.terminate()),
            "kill" => heir.process.kill(),
            _ => heir.process.freeze(),
        }
        // One that says nothing might still hold what it was lent, for a minute while it may still be opening that.
        wait_until("it is said", SOON * 2, || {
            (world.west.process.log().matches("Not taken over").count() > before).then_some(())
        });
        heir.process.wait_end();
        for file in ["tunnel.sock", "admin.sock", "takeover.sock"] {
            UnixStream::connect(world.west.site.dir.join("state").join(file)).unwrap();
        }
        UnixStream::connect(&world.unix).unwrap();
        if how == "freeze" {
            // Nobody has read the port meanwhile: what was on QUIC is lost.
            stream = greeted(world.at);
        }
        echoes(&mut stream, b"still there");
        assert_eq!(world.west.get(CART, "/").status, 200);
    }
    std::fs::write(world.west.site.file(), whole).unwrap();
    let mut elder = world.west.take_over();
    ends_well(stream);
    assert!(elder.wait_end().success());
}

#[test]
fn what_cannot_take_over_says_why_and_the_other_goes_on() {
    let world = World::new();
    let mut stranger = Heir::of(&world.west);
    stranger.ask("north");
    let refused = stranger.hear();
    assert_eq!(refused["why"], "it is gateway `gw-1` of cluster `west`");
    let mut other = Heir::of(&world.west);
    other.say(&json!({ "word": "ask", "version": 2, "cluster": "west", "gateway": "gw-1" }));
    assert!(other.hear()["why"].as_str().unwrap().contains("version 1 of the handover, not 2"));

    let bad = world.mesh.dir().join("bad.yaml");
    std::fs::write(&bad, "kind: Gatewax\n").unwrap();
    let said = world.mesh.cli(&["gateway", "-f", &bad.to_string_lossy(), "--take-over"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("bad.yaml:1"), "{said:?}");
    assert_eq!(world.west.get(CART, "/").status, 200);
}
