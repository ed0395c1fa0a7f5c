//! Who is taken as a peer, and who is not, on byte streams as on QUIC.

use identity::Credentials;
use std::sync::Arc;
use tunnel::{Kind, Local, TunnelError};

use crate::pair::{Answered, KINDS, Listener, local, soon};
use crate::pki::Pki;

/// Both ends' errors when `west` dials `expected` at a listener of east.
async fn refused(
    kind: Kind,
    pki: &Pki,
    west: Local,
    expected: &str,
) -> (Option<TunnelError>, Option<TunnelError>) {
    let listener = Listener::start(kind, local(pki, "east"), pki.path()).await;
    let dialled = listener.dial(west, pki.path(), expected);
    let (west, east): (Answered, Answered) = soon(async { tokio::join!(dialled, listener.accept()) }).await;
    (west.err(), east.err())
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_on_both_sides() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    for kind in KINDS {
        // It believes us, we do not believe it.
        let mut west = local(&pki, "west");
        west.credentials = Arc::new(Credentials::load(&foreign.path().join("west")).unwrap());
        let (there, here) = refused(kind, &pki, west, "east").await;
        let here = here.unwrap().to_string();
        assert!(here.contains("is not signed by an authority"), "{kind}: {here}");
        let there = there.unwrap().to_string();
        assert!(
            there.contains("refused our certificate") || there.contains("is not signed by"),
            "{kind}: {there}"
        );
        // We believe it, it does not believe us.
        let (there, here) = refused(kind, &pki, local(&foreign, "west"), "east").await;
        let there = there.unwrap().to_string();
        assert!(there.contains("is not signed by an authority"), "{kind}: {there}");
        assert!(here.is_some());
    }
}

#[tokio::test]
async fn another_cluster_than_the_one_dialled_is_refused() {
    let pki = Pki::new();
    for kind in KINDS {
        let (west, east) = refused(kind, &pki, local(&pki, "west"), "west").await;
        let west = west.unwrap().to_string();
        assert!(west.contains("cluster `west` was dialled, but"), "{kind}: {west}");
        assert!(east.is_some());
    }
}

#[tokio::test]
async fn a_hello_that_does_not_fit_the_certificate_is_refused() {
    let pki = Pki::new();
    for kind in KINDS {
        let mut west = local(&pki, "west");
        west.hello.gateway = "gw-2".into();
        let (there, here) = refused(kind, &pki, west, "east").await;
        assert!(matches!(here, Some(TunnelError::Hello(_))), "{kind}: {here:?}");
        let there = there.unwrap().to_string();
        assert!(there.contains("wrong-peer"), "{kind}: {there}");
    }
}
