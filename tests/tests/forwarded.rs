//! Who asked, as endpoints are told it and as placement goes by it, and the limits of one place.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Request, fetch};
use e2e::http2::{self, Upload};
use e2e::manifest::{link, listener, policy, service};
use e2e::pair::{CART, Pair};
use e2e::port::free_port;
use e2e::sidecar::SidecarSite;
use e2e::wait::SOON;
use e2e::wait_until;

fn address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// A pair, and the addresses of listeners for HTTP in west with these rules each.
fn pair<const N: usize>(rules: [&str; N]) -> (Pair, [SocketAddr; N]) {
    let pair = Pair::new();
    let at = rules.map(|_| address());
    let listeners = (0..N).map(|n| {
        let rest = format!("protocol: http\n  http: {{ {} }}", rules[n]);
        listener(&format!("front-{n}"), &at[n].to_string(), &rest)
    });
    let objects: Vec<_> = [link("east", &[pair.east.site.tunnel])].into_iter().chain(listeners).collect();
    pair.west.site.write(&objects);
    pair.west.process.hang_up();
    for at in at {
        wait_until("it listens", SOON, || {
            fetch(at, &Request::get(CART, "/")).is_ok_and(|answer| answer.status == 200).then_some(())
        });
    }
    (pair, at)
}

/// The fields of such a name that reached the endpoint.
fn seen(at: SocketAddr, fields: &[(&str, &str)], name: &str) -> Vec<String> {
    let request = fields.iter().fold(Request::get(CART, "/seen"), |r, (name, value)| r.with(name, value));
    let text = fetch(at, &request).unwrap().text();
    let prefix = format!("{name}: ");
    text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(Into::into).collect()
}

#[test]
fn endpoints_are_told_who_asked_as_each_place_says() {
    let (pair, [append, behind, replace]) = pair([
        "forwarded: append, xForwarded: append",
        "xForwarded: append, trustedHops: 1",
        "forwarded: replace, xForwarded: replace, trustedHops: 1",
    ]);
    let came = [
        ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=6.6.6.6"),
    ];
    let off = pair.west.site.http;
    assert_eq!(seen(off, &came, "x-forwarded-for"), ["6.6.6.6, 1.2.3.4"]);
    assert_eq!(seen(off, &[], "x-forwarded-for"), [""; 0]);
    assert_eq!(seen(append, &came, "x-forwarded-for"), ["6.6.6.6, 1.2.3.4, 127.0.0.1"]);
    assert_eq!(seen(append, &came, "x-forwarded-proto"), ["http"]);
    assert_eq!(seen(append, &came, "x-forwarded-host"), [CART]);
    let element = format!("for=6.6.6.6, for=127.0.0.1;host=\"{CART}\";proto=http");
    assert_eq!(seen(append, &came, "forwarded"), [element]);
    assert_eq!(seen(behind, &came, "x-forwarded-proto"), ["https"]);
    assert_eq!(seen(replace, &came, "x-forwarded-for"), ["1.2.3.4"]);
    assert_eq!(seen(replace, &came, "forwarded"), [format!("for=1.2.3.4;host=\"{CART}\";proto=http")]);
    // What `Connection` names is gone before we say anything.
    let named = [("connection", "x-forwarded-for"), ("x-forwarded-for", "6.6.6.6")];
    assert_eq!(seen(append, &named, "x-forwarded-for"), ["127.0.0.1"]);
    let answer = http2::fetch(append, "GET", CART, "/seen", Upload::None);
    let text = String::from_utf8(answer.body).unwrap();
    assert!(text.contains("x-forwarded-for: 127.0.0.1\n"), "{text}");
}

#[test]
fn whom_trusted_proxies_name_is_placed_by() {
    let (pair, [stranger, trusted]) = pair(["xForwarded: append", "xForwarded: append, trustedHops: 1"]);
    let east = pair.backends[0].address();
    let local = Backend::start("west/a");
    let placement = "placement: { mode: sharded, generation: 2, hash: [{ sourceIp: {} }], members: \
                     [{ cluster: east, region: us-east }, { cluster: west, region: us-west }] }";
    let both = [service("cart", &[("a", local.address())]), policy("cart", placement)];
    let listeners =
        [("front-0", stranger, ""), ("front-1", trusted, ", trustedHops: 1")].map(|(name, at, more)| {
            listener(
                name,
                &at.to_string(),
                &format!("protocol: http\n  http: {{ xForwarded: append{more} }}"),
            )
        });
    pair.west.site.write(&[&[link("east", &[pair.east.site.tunnel])], &listeners[..], &both].concat());
    pair.west.process.hang_up();
    pair.east.site.write(&[link("west", &[]), service("cart", &[("a", east)]), policy("cart", placement)]);
    pair.east.process.hang_up();
    let served = |at| -> BTreeSet<String> {
        let by = |n: usize| {
            let request = Request::get(CART, "/").with("x-forwarded-for", &format!("192.0.2.{n}"));
            fetch(at, &request).unwrap().field("x-served-by").unwrap().to_owned()
        };
        (1..=32).map(by).collect()
    };
    wait_until("both serve whom a trusted proxy names", SOON, || (served(trusted).len() == 2).then_some(()));
    assert_eq!(served(stranger).len(), 1, "a stranger is placed by where it connects from");
}

#[test]
fn each_place_has_limits_of_its_own() {
    let rules = "fields: 10, headBytes: 2048, lineBytes: 1024, bodyBytes: 1000, streams: 7";
    let (pair, [limited]) = pair([rules]);
    let free = pair.west.site.http;
    let many = (0..12).fold(Request::get(CART, "/"), |r, n| r.with(&format!("x-{n}"), "a"));
    let long = Request::get(CART, "/").with("x-long", &"a".repeat(3_000));
    let far = Request::get(CART, &format!("/{}", "a".repeat(1_024)));
    let line = Request::get(CART, "/").with("x-line", &"a".repeat(1_020));
    let near = Request::get(CART, &format!("/?{}", "a".repeat(700))).with("x-line", &"a".repeat(900));
    let declared = Request::post(CART, "/echo", &[b'a'; 1_001]);
    let chunked = Request::new("POST", CART, "/").with_chunks(&[b'a'; 1_001], 100, &[]);
    let fits = Request::post(CART, "/echo", &[b'a'; 1_000]);
    let fits_chunked = Request::new("POST", CART, "/echo").with_chunks(&[b'a'; 1_000], 100, &[]);
    for (request, status) in
        [(&many, 431), (&long, 431), (&far, 414), (&line, 431), (&declared, 413), (&chunked, 413)]
    {
        let answer = fetch(limited, request).unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_ne!(fetch(free, request).unwrap().status, status);
    }
    for request in [&near, &fits, &fits_chunked] {
        assert_eq!(fetch(limited, request).unwrap().status, 200);
    }
    // One whose answer has begun is cut.
    let began = Request::new("POST", CART, "/echo").with_chunks(&[b'a'; 1_001], 100, &[]);
    let asked = Instant::now();
    let cut = fetch(limited, &began);
    assert!(asked.elapsed() < Duration::from_secs(20), "the answer waited for the rest of the request");
    assert!(cut.as_ref().map_or(true, |answer| answer.status == 413), "{cut:?}");
    let told = fetch(limited, &declared).unwrap().text();
    assert!(told.contains("1001 bytes; 1000 may come here (spec.http.bodyBytes)"), "{told}");
    let told = fetch(limited, &many).unwrap().text();
    assert!(told.contains("10"), "the limit that was met is named: {told}");
    for (length, status) in [(1_000, 200), (1_001, 413)] {
        let body = vec![b'a'; length];
        assert_eq!(http2::fetch(limited, "POST", CART, "/echo", Upload::Whole(&body)).status, status);
    }
    assert_eq!([limited, free].map(http2::streams_allowed), [7, 256]);
}

#[test]
fn what_is_wrong_with_rules_is_said_and_the_rest_stays() {
    let (pair, [at]) = pair(["xForwarded: append"]);
    let wrong =
        listener("front-0", &at.to_string(), "protocol: http\n  http: { xForwarded: always, streams: 0 }");
    let none = listener("front-1", &address().to_string(), "protocol: tcp\n  service: cart\n  http: {}");
    pair.west.site.write(&[link("east", &[pair.east.site.tunnel]), wrong, none]);
    pair.west.process.hang_up();
    for word in [
        "spec.http.xForwarded: `always` is not known",
        "spec.http.streams: 0 is out of range",
        "spec.http: there are no requests in tcp",
    ] {
        wait_until(word, SOON, || pair.west.process.log().contains(word).then_some(()));
    }
    assert_eq!(seen(at, &[], "x-forwarded-for"), ["127.0.0.1"]);
}

#[test]
fn own_ports_of_gateways_and_sidecars_have_rules_too() {
    let mut pair = Pair::new();
    let mut sidecar = SidecarSite::new(&pair.mesh, "web-1", "web", &pair.west.site);
    sidecar.more = "  http: { xForwarded: append }\n".into();
    let sidecar = sidecar.start_up();
    assert_eq!(seen(sidecar.site.proxy, &[], "x-forwarded-for"), ["127.0.0.1"]);
    let file = pair.west.site.file();
    let manifest = std::fs::read_to_string(&file).unwrap();
    let with = manifest.replacen("\n  listen:", "\n  http: { xForwarded: append }\n  listen:", 1);
    std::fs::write(&file, with).unwrap();
    pair.west.restart();
    pair.west.wait_service("shop/cart", &["east"]);
    assert_eq!(seen(pair.west.site.http, &[], "x-forwarded-for"), ["127.0.0.1"]);
}
