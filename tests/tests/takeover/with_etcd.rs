//! The registry of a cluster knows one gateway of each id, whichever process it is.

use e2e::duo::{Duo, wait_answered};

#[test]
fn on_etcd_the_place_among_the_gateways_is_taken_over_too() {
    let mut duo = Duo::new();
    for round in 0..2 {
        // The one that is elected, and the other.
        let gateway = if round == 0 { &mut duo.first } else { &mut duo.second };
        let mut elder = gateway.take_over();
        wait_answered(gateway);
        duo.wait_elected();
        let name = format!("more-{round}");
        duo.serve(&name);
        duo.wait_service(&name);
        for gateway in duo.west() {
            assert_eq!(gateway.get(&format!("{name}.shop.mesh"), "/").status, 200);
        }
        assert!(elder.wait_end().success());
        duo.wait_elected();
        let heir = if round == 0 { &duo.first } else { &duo.second };
        let lost = ["No lease in the registry store", "Registry store rejected our keys"];
        for (which, log) in [("elder", elder.log()), ("heir", heir.process.log())] {
            for line in lost {
                assert!(!log.contains(line), "the {which} keeps its place, but: {line}");
            }
        }
    }
}
