//! What an authority may vouch for, by real handshakes.
#![allow(clippy::unwrap_used)]

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};

use crate::handshake::{WEST, named};
use crate::world::{DOMAIN, World, handshake};

/// An authority made by hand: what `params` say, self-signed or signed by another.
struct Hand {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Hand {
    fn authority(
        name: &str,
        path_len: Option<u8>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateParams {
        let mut params = named(&[]);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let constraints = path_len.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
        params.is_ca = IsCa::Ca(constraints);
        change(&mut params);
        params
    }

    fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().pem();
        Self { params, key, pem }
    }
}

/// What east says of a gateway of west whose certificate is below `chain`, of which it trusts the first.
fn judged(chain: &[&Hand], leaf: CertificateParams) -> Result<(), String> {
    let world = World::linked();
    let dir = world.dir("west");
    let process = chain.last().unwrap().below(leaf);
    let between = chain[1..].iter().rev().map(|hand| &*hand.pem);
    fs::write(dir.join("tls.crt"), process.pem.clone() + &between.collect::<String>()).unwrap();
    fs::write(dir.join("tls.key"), process.key.serialize_pem()).unwrap();
    fs::write(world.dir("east").join("bundles/west.pem"), &chain[0].pem).unwrap();
    let outcome = handshake(world.client(), world.server());
    outcome.server.map(drop).map_err(|error| identity::reason(&error))
}

#[test]
fn the_path_length_of_the_trusted_authority_is_kept() {
    let root = |path_len| Hand::root(Hand::authority("root", path_len, |_| {}));
    let below = |above: &Hand, name| above.below(Hand::authority(name, None, |_| {}));
    for (allowed, found) in [(Some(0), 0), (Some(1), 1), (Some(2), 1), (None, 2)] {
        let mut chain = vec![root(allowed)];
        for n in 0..found {
            chain.push(below(&chain[n], ["one", "two"][n]));
        }
        assert_eq!(judged(&chain.iter().collect::<Vec<_>>(), named(&[WEST])), Ok(()), "{allowed:?} {found}");
    }
    for (allowed, found) in [(0, 1), (0, 2), (1, 2)] {
        let mut chain = vec![root(Some(allowed))];
        for n in 0..found {
            chain.push(below(&chain[n], ["one", "two"][n]));
        }
        let told = judged(&chain.iter().collect::<Vec<_>>(), named(&[WEST])).unwrap_err();
        let expected = format!(
            "the certificate chain of {WEST} has {found} authorities below the one that is trusted, which allows \
             {allowed} (path length)"
        );
        assert_eq!(told, expected);
    }
    // One in between says so itself.
    let (root, one) = (root(None), Hand::authority("one", Some(0), |_| {}));
    let one = root.below(one);
    let two = below(&one, "two");
    assert!(judged(&[&root, &one, &two], named(&[WEST])).unwrap_err().contains("PathLen"));
}

#[test]
fn what_a_key_is_not_for_it_does_not_sign() {
    let sign = |usages: &[KeyUsagePurpose]| {
        let usages = usages.to_vec();
        move |params: &mut CertificateParams| params.key_usages = usages
    };
    let root = Hand::root(Hand::authority("root", None, sign(&[KeyUsagePurpose::KeyCertSign])));
    let right = root.below(Hand::authority("one", None, sign(&[KeyUsagePurpose::KeyCertSign])));
    let wrong = root.below(Hand::authority("one", None, sign(&[KeyUsagePurpose::CrlSign])));
    let leaf = |usages: &[KeyUsagePurpose]| {
        let mut params = named(&[WEST]);
        sign(usages)(&mut params);
        params
    };
    assert_eq!(judged(&[&root, &right], leaf(&[KeyUsagePurpose::DigitalSignature])), Ok(()));
    let told = judged(&[&root, &wrong], leaf(&[])).unwrap_err();
    assert!(told.contains("an authority below the one that is trusted may not sign certificates"), "{told}");
    let told = judged(&[&root, &right], leaf(&[KeyUsagePurpose::KeyAgreement])).unwrap_err();
    assert!(told.contains("the key of the process may not sign handshakes"), "{told}");
}

#[test]
fn a_trusted_authority_is_believed_within_its_own_time() {
    let now = time::OffsetDateTime::now_utc();
    let (day, expired, early) = (time::Duration::DAY, now - time::Duration::DAY, now + time::Duration::DAY);
    let root = |from, to| {
        Hand::root(Hand::authority("root", None, |params| (params.not_before, params.not_after) = (from, to)))
    };
    assert_eq!(judged(&[&root(now - day, now + day)], named(&[WEST])), Ok(()));
    let told = judged(&[&root(now - 2 * day, expired)], named(&[WEST])).unwrap_err();
    assert!(told.starts_with(&format!("the authority that vouches for {WEST} expired on ")), "{told}");
    let told = judged(&[&root(early, early + day)], named(&[WEST])).unwrap_err();
    assert!(told.contains("is valid only from"), "{told}");

    // Another one of the same name and key takes its place in the same bundle.
    let old = root(now - 2 * day, expired);
    let mut renewed = Hand::root(Hand::authority("root", None, |_| {}));
    renewed.pem = renewed.params.self_signed(&old.key).unwrap().pem();
    let both = Hand { params: old.params, key: old.key, pem: old.pem + &renewed.pem };
    assert_eq!(judged(&[&both], named(&[WEST])), Ok(()));
}

#[test]
fn an_authority_with_demands_that_nobody_here_meets_is_refused() {
    let root = |change: fn(&mut CertificateParams)| Hand::root(Hand::authority("root", None, change));
    let told = |authority: &Hand| {
        let world = World::linked();
        fs::write(world.dir("east").join("bundles/west.pem"), &authority.pem).unwrap();
        let (_, problems) = identity::Trust::load(&world.dir("east"), [("west", DOMAIN)]);
        problems.into_iter().map(|(_, problem)| with_causes(&problem)).collect::<String>()
    };
    let critical = root(|params| {
        let mut policy =
            CustomExtension::from_oid_content(&[2, 5, 29, 36], vec![0x30, 0x03, 0x80, 0x01, 0x00]);
        policy.set_criticality(true);
        params.custom_extensions.push(policy);
    });
    assert!(told(&critical).contains("critical extension that is not known here (2.5.29.36)"));
    let no_signer = root(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert!(told(&no_signer).contains("is no authority (by its basic constraints or key usage)"));
    // Names are constrained by what the library knows of them; of URIs it knows nothing, and lets none pass.
    let constrained = root(|params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("acme.example".into())],
            excluded_subtrees: vec![],
        });
    });
    assert_eq!(told(&constrained), "");
    assert_eq!(judged(&[&constrained], named(&[WEST])), Ok(()));
    let uris = CustomExtension::from_oid_content(
        &[2, 5, 29, 30],
        // permittedSubtrees { { uniformResourceIdentifier "acme.example" } }
        [&[0x30, 0x12, 0xa0, 0x10, 0x30, 0x0e, 0x86, 0x0c][..], b"acme.example"].concat(),
    );
    let constrained = Hand::root(Hand::authority("root", None, |params| params.custom_extensions.push(uris)));
    assert!(judged(&[&constrained], named(&[WEST])).unwrap_err().contains("NameConstraint"));
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}
