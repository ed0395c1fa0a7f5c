#![allow(clippy::unwrap_used)]

use super::*;
use crate::manifest::{Manifests, parse, with_revision};
use crate::model::Kind;
use crate::store::memory::MemoryStore;

const GATEWAY: &str = "
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
";

fn cart(port: u16) -> String {
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: {{ name: cart, namespace: shop }}\nspec:\n  \
         ports: [{{ name: web, port: 80, protocol: http }}]\n  \
         endpoints: [{{ id: a, host: 127.0.0.1, ports: {{ web: {port} }} }}]\n"
    )
}

fn policy(name: &str, service: &str) -> String {
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ service: {service}, timeout: {{ head: 2s }} }}\n"
    )
}

/// Whoever may change everything.
fn operator(by: &str) -> Author {
    Author { by: by.into(), unix_ms: 7, granted: None }
}

/// A gateway with these files beside a store.
struct Site {
    gateway: Gateway,
    files: Arc<Files>,
    store: MemoryStore,
}

impl Site {
    fn new(files: &str) -> Self {
        let text = format!("{GATEWAY}---\n{files}");
        let Manifests { gateway, declared, documents, .. } =
            parse(&[Source { name: "west.yaml".into(), text }]).unwrap();
        let files = Arc::new(Files::new(declared, documents));
        Self { gateway: gateway.unwrap(), files, store: MemoryStore::default() }
    }

    async fn there(&self) -> AppliedObjects {
        let (_, stored) = applied::range(&self.store).await.unwrap();
        applied::read_all(&self.gateway, &stored, &AppliedObjects::new())
    }

    fn plan(&self, applied: &AppliedObjects, text: &str, by: &str) -> Result<Plan, Refused> {
        let there = There { gateway: &self.gateway, files: &self.files, applied };
        let author = operator(by);
        plan(there, &[Source { name: "new.yaml".into(), text: text.into() }], &author)
    }

    async fn apply(&self, text: &str, by: &str) -> Result<Plan, Refused> {
        let mut plan = self.plan(&self.there().await, text, by)?;
        plan.commit(&self.store).await?;
        Ok(plan)
    }
}

fn name() -> ObjectName {
    ObjectName::new(Kind::MeshService, "shop", "cart")
}

fn outcomes(plan: &Plan) -> Vec<(Outcome, u64)> {
    plan.steps.iter().map(|step| (step.outcome, step.after.as_ref().unwrap().generation)).collect()
}

#[tokio::test]
async fn a_generation_grows_with_what_an_object_says_and_its_text_is_kept() {
    let site = Site::new("");
    assert_eq!(outcomes(&site.apply(&cart(9001), "ann").await.unwrap()), [(Outcome::Created, 1)]);
    let revision = site.there().await[&name()].stored.revision;
    assert_eq!(outcomes(&site.apply(&cart(9001), "bob").await.unwrap()), [(Outcome::Unchanged, 1)]);
    assert_eq!(site.there().await[&name()].stored.revision, revision, "nothing was written");
    let commented = format!("# mine\n{}", cart(9001));
    assert_eq!(outcomes(&site.apply(&commented, "bob").await.unwrap()), [(Outcome::Changed, 1)]);
    assert_eq!(outcomes(&site.apply(&cart(9002), "bob").await.unwrap()), [(Outcome::Changed, 2)]);
    let stored = site.there().await[&name()].stored.clone();
    assert_eq!((&*stored.text, &*stored.by, stored.unix_ms), (&*cart(9002), "bob", 7));
}

#[tokio::test]
async fn of_two_operators_the_second_hears_of_the_first() {
    let site = Site::new("");
    site.apply(&cart(9001), "ann").await.unwrap();
    // Both look, and both change it.
    let there = site.there().await;
    let shown = with_revision(&there[&name()].stored.text, there[&name()].stored.revision);
    site.apply(&shown.replace("9001", "9002"), "ann").await.unwrap();
    let refused = site.apply(&shown.replace("9001", "9003"), "bob").await.unwrap_err();
    assert!(refused.to_string().contains("was changed by ann meanwhile"), "{refused}");
    assert!(site.there().await[&name()].stored.text.contains("9002"));

    // Between the look and the write.
    let there = site.there().await;
    let mut late = site.plan(&there, &cart(9004), "bob").unwrap();
    site.apply(&cart(9005), "ann").await.unwrap();
    let refused = late.commit(&site.store).await.unwrap_err();
    assert!(matches!(&refused, Refused::Conflict { now: Some(now), .. } if now.by == "ann"), "{refused}");
    assert!(site.there().await[&name()].stored.text.contains("9005"));

    // And what is gone does not come back by a change of it.
    let there = site.there().await;
    let shown = with_revision(&there[&name()].stored.text, there[&name()].stored.revision);
    let of = There { gateway: &site.gateway, files: &site.files, applied: &there };
    plan_delete(of, &[name()], &operator("a")).unwrap().commit(&site.store).await.unwrap();
    let refused = site.apply(&shown, "bob").await.unwrap_err();
    assert!(refused.to_string().contains("was deleted meanwhile"), "{refused}");
    assert!(site.there().await.is_empty());
}

#[tokio::test]
async fn what_is_wrong_beside_what_is_there_is_refused_whole() {
    let site = Site::new(&cart(9001));
    site.apply(&policy("b", "cart"), "ann").await.unwrap();
    let both = format!("{}---\n{}---\n{}", policy("other", "web"), cart(9002), policy("a", "cart"));
    let Refused::Invalid(problems) = site.apply(&both, "ann").await.unwrap_err() else { panic!() };
    let said: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .map(|p| format!("{} {}", p.place(), p.object.clone().unwrap()))
        .collect();
    assert_eq!(said.len(), 2, "{problems}");
    assert!(said.contains(&"new.yaml:5:1 MeshService shop/cart".to_owned()), "{said:?}");
    assert!(problems.to_string().contains("declared in west.yaml:"), "{problems}");
    assert!(problems.to_string().contains("join the two"), "{problems}");
    assert_eq!(site.there().await.len(), 1);
    // A process is no object.
    let refused = site.apply(GATEWAY, "ann").await.unwrap_err();
    let Refused::Invalid(problems) = refused else { panic!("{refused}") };
    assert!(problems.to_string().contains("stands in its own file only"), "{problems}");
}

#[tokio::test]
async fn a_reference_to_nothing_is_a_warning() {
    let site = Site::new("");
    let exported = cart(9001) + "  export: { to: [east] }\n";
    let plan = site.apply(&exported, "ann").await.unwrap();
    assert_eq!(plan.warnings.len(), 1);
    assert!(plan.warnings[0].message.contains("no Link leads to the cluster `east`"));
}

#[tokio::test]
async fn more_than_a_transaction_holds_is_written_in_parts() {
    let site = Site::new("");
    let many: Vec<_> = (0..300).map(|n| cart(9001).replace("name: cart", &format!("name: s{n}"))).collect();
    let plan = site.apply(&many.join("---\n"), "ann").await.unwrap();
    assert_eq!(plan.steps.len(), 300);
    let there = site.there().await;
    assert_eq!(there.len(), 300);
    let mut late = site.plan(&there, &many.join("---\n").replace("9001", "9002"), "bob").unwrap();
    // The last by name is changed meanwhile: what comes before it is written, and that is said.
    site.apply(&many[99].replace("9001", "9009"), "ann").await.unwrap();
    let refused = late.commit(&site.store).await.unwrap_err();
    assert!(matches!(refused, Refused::Partly { done: 254, of: 300, .. }), "{refused}");
    let there = site.there().await;
    assert_eq!(late.made().count(), 254);
    assert!(late.made().all(|step| there[&step.name].stored.by == "bob"));
}

#[tokio::test]
async fn what_the_registry_cannot_hold_is_refused_with_its_place_before_anything_is_written() {
    let site = Site::new("");
    let large =
        format!("{}# {}\n", cart(9002).replace("name: cart", "name: large"), "x".repeat(VALUE_BYTES_MAX));
    let both = format!("{}---\n{large}", cart(9001));
    let Refused::Invalid(problems) = site.apply(&both, "ann").await.unwrap_err() else { panic!() };
    let said = problems.to_string();
    assert!(said.contains("MeshService shop/large") && said.contains("in the registry"), "{said}");
    assert!(site.there().await.is_empty());
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_may_be_applied_again() {
    let site = Site::new("");
    site.apply(&cart(9001), "ann").await.unwrap();
    let there = site.there().await;
    let shown = with_revision(&there[&name()].stored.text, there[&name()].stored.revision);
    let changed = shown.replace("9001", "9002");
    site.apply(&changed, "ann").await.unwrap();
    assert_eq!(outcomes(&site.apply(&changed, "ann").await.unwrap()), [(Outcome::Unchanged, 2)]);
    let refused = site.apply(&changed, "bob").await.unwrap_err();
    assert!(matches!(refused, Refused::Conflict { .. }), "{refused}");
}

#[tokio::test]
async fn only_what_is_applied_can_be_deleted() {
    let site = Site::new(&cart(9001));
    let there = site.there().await;
    let of = There { gateway: &site.gateway, files: &site.files, applied: &there };
    let refused = plan_delete(of, &[name()], &operator("a")).unwrap_err();
    assert!(refused.to_string().contains("declared in west.yaml:"), "{refused}");
    let refused = plan_delete(of, &[ObjectName::new(Kind::Link, "", "east")], &operator("a")).unwrap_err();
    assert_eq!(refused.to_string(), "Link east is not applied");
}

#[tokio::test]
async fn what_is_not_granted_is_denied_before_anything_is_said_of_what_is_there() {
    // The file would refuse it: whoever is denied does not hear of that.
    let site = Site::new(&cart(9001));
    let applied = site.there().await;
    let there = There { gateway: &site.gateway, files: &site.files, applied: &applied };
    let sources = |text: String| [Source { name: "new.yaml".into(), text }];
    let granted = |rules: &[(Option<&str>, &[Kind])]| {
        let rule = |(namespace, kinds): &(Option<&str>, &[Kind])| ApplyRule {
            namespace: namespace.map(str::to_owned),
            kinds: kinds.iter().copied().collect(),
        };
        Author { granted: Some(rules.iter().map(rule).collect()), ..operator("cluster east") }
    };
    let services: &[Kind] = &[Kind::MeshService];
    for denied in [granted(&[]), granted(&[(Some("bank"), services)]), granted(&[(None, &[Kind::Link])])] {
        let refused = plan(there, &sources(cart(9002)), &denied).unwrap_err();
        assert!(matches!(&refused, Refused::Denied(object) if *object == name()), "{refused}");
        let refused = plan_delete(there, &[name()], &denied).unwrap_err();
        assert!(matches!(refused, Refused::Denied(_)), "{refused}");
    }
    for granted in [granted(&[(Some("shop"), services)]), granted(&[(None, services)])] {
        let refused = plan(there, &sources(cart(9002)), &granted).unwrap_err();
        assert!(matches!(refused, Refused::Invalid(_)), "a file declares it: {refused}");
        // One of two is enough to deny both.
        let both = format!("{}---\n{}", cart(9002), policy("cart", "cart"));
        let refused = plan(there, &sources(both), &granted).unwrap_err();
        assert!(matches!(&refused, Refused::Denied(object) if object.kind() == Kind::TrafficPolicy));
    }
}

#[tokio::test]
async fn of_what_is_not_granted_only_the_head_is_read() {
    let site = Site::new("");
    let there = site.there().await;
    let there = There { gateway: &site.gateway, files: &site.files, applied: &there };
    let rule = ApplyRule { namespace: Some("shop".into()), kinds: [Kind::MeshService].into() };
    let peer = Author { granted: Some(vec![rule]), ..operator("cluster east") };
    let sources = |text: String| vec![Source { name: "x.yaml".into(), text }];
    // What is wrong with it is nobody's business who may not apply it.
    let broken = cart(9001).replace("namespace: shop", "namespace: bank").replace("ports:", "prots:");
    let refused = plan(there, &sources(format!("{}---\n{broken}", cart(9001))), &peer).unwrap_err();
    assert!(matches!(&refused, Refused::Denied(name) if name.namespace() == "bank"), "{refused}");
    // The first that is denied decides, whatever stands behind it.
    let refused = plan(there, &sources(format!("{broken}---\n{{")), &peer).unwrap_err();
    assert!(matches!(refused, Refused::Denied(_)), "{refused}");
    let refused = plan(there, &sources(cart(9001).replace("ports:", "prots:")), &peer).unwrap_err();
    assert!(matches!(refused, Refused::Invalid(_)), "{refused}");
}

#[tokio::test]
async fn too_many_documents_and_too_large_ones_are_not_read() {
    let site = Site::new("");
    let there = site.there().await;
    let there = There { gateway: &site.gateway, files: &site.files, applied: &there };
    let sources = |text: String| vec![Source { name: "x.yaml".into(), text }];
    let many = "a: 1\n---\n".repeat(OBJECTS_MAX + 1);
    let refused = plan(there, &sources(many), &operator("uid 0")).unwrap_err();
    assert!(matches!(refused, Refused::TooMany(count) if count == OBJECTS_MAX + 1), "{refused}");
    // Behind its head nothing of this could be read.
    let large = format!("{}  x: {}\n", cart(9001), "y".repeat(VALUE_BYTES_MAX));
    let Refused::Invalid(problems) = plan(there, &sources(large), &operator("uid 0")).unwrap_err() else {
        panic!("it is refused for what it says")
    };
    let said = problems.to_string();
    assert!(said.contains("are allowed in the registry") && said.contains("MeshService shop/cart"), "{said}");
    assert_eq!(problems.count(), (1, 0), "{said}");
}
