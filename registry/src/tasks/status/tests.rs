#![allow(clippy::unwrap_used)]

use super::*;
use crate::manifest::{Source, parse};
use crate::model::Reason;

fn said(reason: Reason, message: &str) -> Condition {
    Condition::new(ObjectName::new(Kind::MeshService, "shop", "cart"), reason, message)
}

fn words(said: &[Condition], in_use: bool) -> Vec<String> {
    let said: Vec<_> = said.iter().collect();
    conditions(&said, in_use).iter().map(|c| word(&c.kind, c.status, &c.reason)).collect()
}

#[test]
fn an_object_of_which_nothing_is_said_is_ready_once_it_is_in_use() {
    assert_eq!(words(&[], true), ["Accepted=True", "ResolvedRefs=True", "Programmed=True", "Ready=True"]);
    let waits = ["Accepted=True", "ResolvedRefs=True", "Programmed=False (Pending)", "Ready=False (Pending)"];
    assert_eq!(words(&[], false), waits);
}

#[test]
fn what_does_not_hold_takes_along_what_follows_from_it() {
    let inert = said(Reason::DeclaredInFile, "declared in west.yaml:3");
    assert_eq!(
        words(&[inert], false),
        [
            "Accepted=False (DeclaredInFile)",
            "ResolvedRefs=True",
            "Programmed=False (DeclaredInFile)",
            "Ready=False (DeclaredInFile)"
        ]
    );
    let unresolved = said(Reason::LinkNotFound, "no Link north");
    let conflict = said(Reason::PortsDiffer, "east has others");
    assert_eq!(
        words(&[conflict, unresolved], true),
        [
            "Accepted=True",
            "ResolvedRefs=False (LinkNotFound)",
            "Programmed=True",
            "Ready=False (LinkNotFound)",
            "Conflict=True (PortsDiffer)"
        ]
    );
}

#[test]
fn of_one_kind_everything_is_said_once_and_within_bounds() {
    let many: Vec<_> = (0..500).map(|n| said(Reason::RingsDiffer, &format!("ü{n} differs"))).collect();
    let all = conditions(&many.iter().collect::<Vec<_>>(), true);
    let conflict = all.last().unwrap();
    assert!(conflict.message.starts_with("ü0 differs; ü1 differs; "), "{}", conflict.message);
    assert!(conflict.message.len() <= MESSAGE_BYTES_MAX && conflict.message.ends_with(" ..."));
    assert_eq!(all.len(), 5);
    let status = Status { observed_generation: u64::MAX, conditions: all };
    assert!(status.encoded_len() < 2 * MESSAGE_BYTES_MAX);
}

#[test]
fn a_condition_keeps_its_time_for_as_long_as_it_holds_or_does_not() {
    let status = |generation, said: &[&Condition]| Status {
        observed_generation: generation,
        conditions: conditions(said, true),
    };
    let times = |status: &Status| status.conditions.iter().map(|c| c.since_unix_ms).collect::<Vec<_>>();
    let unresolved = said(Reason::LinkNotFound, "no Link north");
    let first = follow(None, status(1, &[&unresolved]), 10);
    assert_eq!(times(&first), [10; 4]);
    // Another generation, and another reason.
    let other = said(Reason::BackendNotFound, "no service");
    let second = follow(Some(&first), status(2, &[&other]), 20);
    assert_eq!(times(&second), [10; 4]);
    assert!(!same(&first, &second));
    let third = follow(Some(&second), status(2, &[]), 30);
    assert_eq!(times(&third), [10, 30, 10, 30]);
    assert!(same(&third, &follow(Some(&third), status(2, &[]), 40)));
}

#[test]
fn registered_endpoints_do_not_make_a_service_another_one() {
    let declared = |endpoints: &str| {
        let text = format!(
            "
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: {{ name: cart, namespace: shop }}
spec:
  ports: [{{ name: web, port: 80, protocol: http }}]
  endpoints: [{endpoints}]
"
        );
        parse(&[Source { name: "west.yaml".into(), text }]).unwrap().declared
    };
    let a = "{ id: a, host: 127.0.0.1, ports: { web: 9001 } }";
    let b = "{ id: b, host: 127.0.0.1, ports: { web: 9002 } }";
    let object = |declared: &Declared| declared.objects().next().unwrap();
    let (one, both) = (declared(a), declared(&format!("{a}, {b}")));
    assert!(counts(&object(&one), &one) && counts(&object(&one), &both));
    assert!(!counts(&object(&both), &one) && !counts(&object(&one), &declared(b)));
    assert!(!counts(&object(&one), &Declared::default()));
}
