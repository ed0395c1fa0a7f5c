//! Who asked, as one proxy tells the next: `Forwarded` (RFC 7239) and the `X-Forwarded-*` fields that were there before it.
//! Pure.
//!
//! Anybody can write these fields. What is believed of them is counted from the end: `trustedHops` proxies stand in front of
//! this one, and each of them has appended whoever connected to it.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use registry::model::{Forwarded, HttpRules};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who asked: `peer`, who connected, or whom the trusted proxies in front of this one name. Where they name nobody, or
/// nothing that is an address, it is `peer`.
///
/// They are read from `X-Forwarded-For`; where only `Forwarded` is kept here, from that.
pub fn caller(headers: &HeaderMap, rules: &HttpRules, peer: IpAddr) -> IpAddr {
    let Some(before) = usize::from(rules.trusted_hops).checked_sub(1) else { return peer };
    let only_forwarded = rules.x_forwarded == Forwarded::Off && rules.forwarded != Forwarded::Off;
    let name = if only_forwarded { FORWARDED } else { FOR };
    // What cannot be read may hide where one element ends and the next begins: then nobody is believed.
    let values = headers.get_all(name).iter().rev().map(|value| value.to_str().ok());
    let elements = values.map(|value| match only_forwarded {
        true => split(value?, b','),
        false => Some(value?.split(',').collect()),
    });
    let Some(elements) = elements.collect::<Option<Vec<_>>>() else { return peer };
    let element = elements.into_iter().flat_map(|line| line.into_iter().rev()).nth(before);
    let node = if only_forwarded { element.and_then(named) } else { element };
    node.and_then(address).unwrap_or(peer)
}

/// Tells endpoints of who asked for `authority`: whoever connected is `peer`.
pub fn tell(headers: &mut HeaderMap, rules: &HttpRules, peer: IpAddr, authority: &str) {
    let peer = peer.to_canonical();
    let alone = |headers: &HeaderMap| caller(headers, rules, peer);
    // Both, before either is changed.
    let told = [rules.x_forwarded, rules.forwarded].map(|field| match field {
        Forwarded::Replace => alone(headers),
        Forwarded::Off | Forwarded::Append => peer,
    });
    match rules.x_forwarded {
        Forwarded::Off => {}
        Forwarded::Append => {
            append(headers, FOR, &told[0].to_string());
            let believed = rules.trusted_hops > 0;
            for (name, value) in [(PROTO, "http"), (HOST, authority)] {
                if !(believed && headers.contains_key(&name)) {
                    insert(headers, name, value);
                }
            }
        }
        Forwarded::Replace => {
            let others: Vec<_> =
                headers.keys().filter(|name| name.as_str().starts_with("x-forwarded-")).cloned().collect();
            for name in others {
                headers.remove(name);
            }
            insert(headers, FOR, &told[0].to_string());
            insert(headers, PROTO, "http");
            insert(headers, HOST, authority);
        }
    }
    let element = || match told[1] {
        IpAddr::V4(v4) => format!("for={v4};host=\"{authority}\";proto=http"),
        IpAddr::V6(v6) => format!("for=\"[{v6}]\";host=\"{authority}\";proto=http"),
    };
    match rules.forwarded {
        Forwarded::Off => {}
        Forwarded::Append => append(headers, FORWARDED, &element()),
        Forwarded::Replace => insert(headers, FORWARDED, &element()),
    }
}

/// Sets a field to what we say, which an authority that was judged cannot spoil; if it does, nobody has said anything.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}

/// Puts `last` behind what the field lists, all of it in one line: many that read it look at one.
fn append(headers: &mut HeaderMap, name: HeaderName, last: &str) {
    let mut whole = Vec::new();
    for value in headers.get_all(&name) {
        whole.extend_from_slice(value.as_bytes());
        whole.extend_from_slice(b", ");
    }
    whole.extend_from_slice(last.as_bytes());
    if let Ok(whole) = HeaderValue::from_bytes(&whole) {
        headers.insert(name, whole);
    }
}

/// The parts of `text` between `at`s that stand in no quoted string (RFC 9110, section 5.6.4); none where one has no end.
fn split(text: &str, at: u8) -> Option<Vec<&str>> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (n, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == at && !quoted => {
                parts.push(&text[from..n]);
                from = n + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!quoted).then_some(parts)
}

/// The node that an element of `Forwarded` says it is for.
fn named(element: &str) -> Option<&str> {
    let pairs = split(element, b';')?.into_iter().filter_map(|pair| pair.split_once('='));
    let mut nodes = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    nodes.next().map(|(_, node)| node.trim().trim_matches('"'))
}

/// An address with or without a port, which may be hidden (RFC 7239, section 6).
fn address(node: &str) -> Option<IpAddr> {
    let node = node.trim();
    if let Some(bracketed) = node.strip_prefix('[') {
        return bracketed.split_once(']')?.0.parse().ok().map(IpAddr::V6);
    }
    let whole: Option<IpAddr> = node.parse().ok();
    let without_port = || node.split_once(':')?.0.parse().ok().map(IpAddr::V4);
    whole.or_else(without_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

    fn rules(forwarded: Forwarded, x_forwarded: Forwarded, trusted_hops: u8) -> HttpRules {
        HttpRules { forwarded, x_forwarded, trusted_hops, ..HttpRules::DEFAULT }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn only_so_many_hops_are_believed_from_the_end() {
        let came = headers(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4"), ("x-forwarded-for", "10.1.1.1:80")]);
        let caller = |hops| caller(&came, &rules(Forwarded::Off, Forwarded::Off, hops), PEER).to_string();
        assert_eq!([0, 1, 2, 3, 4].map(caller), ["10.0.0.9", "10.1.1.1", "1.2.3.4", "6.6.6.6", "10.0.0.9"]);
    }

    #[test]
    fn elements_of_rfc_7239_are_read_whatever_they_quote() {
        let came = [
            ("for=1.2.3.4", "1.2.3.4"),
            ("for=6.6.6.6;by=x, For=\"[2001:db8::1]:_p\";host=\"a,b;for=7.7.7.7\"", "2001:db8::1"),
            ("proto=http; for=\"1.2.3.4:_hidden\"", "1.2.3.4"),
            ("for=unknown", "10.0.0.9"),
            ("for=\"_gazonk\"", "10.0.0.9"),
            ("for=\"1.2.3.4\\\"", "10.0.0.9"),
            ("proto=https", "10.0.0.9"),
            ("", "10.0.0.9"),
        ];
        for (value, expected) in came {
            let came = headers(&[("forwarded", value), ("x-forwarded-for", "6.6.6.6")]);
            let rules = rules(Forwarded::Append, Forwarded::Off, 1);
            assert_eq!(caller(&came, &rules, PEER).to_string(), expected, "{value}");
        }
    }

    proptest! {
        /// A caller writes what it likes, and the proxy in front appends whom it saw, in the same line or in another.
        #[test]
        fn nobody_is_believed_but_the_trusted_proxy(
            written in proptest::collection::vec("[ -~]{0,20}|for=6[.]6[.]6[.]6(;[a-z]=\"?)?[\\x80-\\xff]{0,2}|6[.]6[.]6[.]6", 0..4),
            same_line: bool,
        ) {
            for (name, last, only) in [("x-forwarded-for", "1.2.3.4", false), ("forwarded", "for=1.2.3.4", true)] {
                let mut lines = written.clone();
                match lines.last_mut() {
                    Some(line) if same_line => line.push_str(&format!(", {last}")),
                    _ => lines.push(last.to_owned()),
                }
                let mut came = HeaderMap::new();
                for line in &lines {
                    came.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
                }
                let off = if only { Forwarded::Append } else { Forwarded::Off };
                let found = caller(&came, &rules(off, Forwarded::Off, 1), PEER);
                prop_assert!(found == PEER || found.to_string() == "1.2.3.4", "{found} of {lines:?}");
            }
        }
    }

    #[test]
    fn whoever_connects_is_appended_and_strangers_say_nothing_of_host_and_scheme() {
        let mut came = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=6.6.6.6"),
        ]);
        let mut trusted = came.clone();
        tell(&mut came, &rules(Forwarded::Append, Forwarded::Append, 0), PEER, "cart.shop.mesh:80");
        assert_eq!(all(&came, "x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 10.0.0.9"]);
        assert_eq!(all(&came, "x-forwarded-proto"), ["http"]);
        assert_eq!(all(&came, "x-forwarded-host"), ["cart.shop.mesh:80"]);
        let element = "for=6.6.6.6, for=10.0.0.9;host=\"cart.shop.mesh:80\";proto=http";
        assert_eq!(all(&came, "forwarded"), [element]);
        tell(&mut trusted, &rules(Forwarded::Off, Forwarded::Append, 1), PEER, "cart.shop.mesh");
        assert_eq!(all(&trusted, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&trusted, "x-forwarded-host"), ["cart.shop.mesh"]);
        assert_eq!(all(&trusted, "forwarded"), ["for=6.6.6.6"]);
    }

    #[test]
    fn what_is_replaced_names_the_caller_alone() {
        let mut came = headers(&[
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
            ("x-forwarded-prefix", "/admin"),
            ("forwarded", "for=6.6.6.6"),
        ]);
        tell(&mut came, &rules(Forwarded::Replace, Forwarded::Replace, 1), PEER, "cart.shop.mesh");
        assert_eq!(all(&came, "x-forwarded-for"), ["1.2.3.4"]);
        assert_eq!(all(&came, "x-forwarded-prefix"), [""; 0]);
        assert_eq!(all(&came, "forwarded"), ["for=1.2.3.4;host=\"cart.shop.mesh\";proto=http"]);
        let mut six = HeaderMap::new();
        let peer = "2001:db8::1".parse().unwrap();
        tell(&mut six, &rules(Forwarded::Replace, Forwarded::Off, 0), peer, "a.mesh");
        assert_eq!(all(&six, "forwarded"), ["for=\"[2001:db8::1]\";host=\"a.mesh\";proto=http"]);
        let mapped = "::ffff:10.0.0.9".parse().unwrap();
        tell(&mut six, &rules(Forwarded::Off, Forwarded::Replace, 0), mapped, "a.mesh");
        assert_eq!(all(&six, "x-forwarded-for"), ["10.0.0.9"]);
    }

    #[test]
    fn what_is_off_stays_as_it_came() {
        let fields = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")];
        let mut came = headers(&fields);
        tell(&mut came, &HttpRules::DEFAULT, PEER, "a.mesh");
        assert_eq!(came, headers(&fields));
    }
}
