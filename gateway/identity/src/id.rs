//! The name of a process: a SPIFFE ID with Ringway's two path shapes.

use std::fmt;
use std::str::FromStr;

/// The longest URI taken as an identity, in bytes (SPIFFE-ID, section 2.3).
pub const MAX_URI: usize = 2048;

/// The longest trust domain, in bytes (SPIFFE-ID, section 2.3).
const MAX_TRUST_DOMAIN: usize = 255;

/// Who a Ringway process is.
///
/// Written as `spiffe://<trust domain>/cluster/<cluster>/gateway/<id>` or
/// `spiffe://<trust domain>/cluster/<cluster>/ns/<namespace>/sa/<service account>`. [`FromStr`] is the strict
/// reader: what it returns is valid and prints as the very text it was read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The authority that vouches for it: `a-z 0-9 . - _`, at most 255 bytes.
    pub trust_domain: String,
    /// The cluster it runs in, an RFC 1123 label.
    pub cluster: String,
    /// What it is in there.
    pub role: Role,
}

/// What a process is within its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A gateway: it may speak for its cluster.
    Gateway {
        /// The Gateway's `metadata.name`, an RFC 1123 label.
        id: String,
    },
    /// A sidecar: it speaks for one workload, within its own cluster only.
    Workload {
        /// The workload's namespace, an RFC 1123 label.
        namespace: String,
        /// The workload's service account, an RFC 1123 subdomain (dots allowed, as Kubernetes has it).
        service_account: String,
    },
}

/// Why a text is no Ringway identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// The text is longer than [`MAX_URI`].
    #[error("the URI has {0} bytes; {MAX_URI} is the limit")]
    TooLong(usize),
    /// The scheme is another.
    #[error("the URI does not start with `spiffe://`")]
    Scheme,
    /// The trust domain is empty, too long or has other characters.
    #[error("{0:?} is no trust domain (1 to {MAX_TRUST_DOMAIN} of a-z, 0-9, '.', '-' and '_')")]
    TrustDomain(String),
    /// The path has neither of the two shapes.
    #[error(
        "the path is neither /cluster/<cluster>/gateway/<id> nor /cluster/<cluster>/ns/<namespace>/sa/<service account>"
    )]
    Path,
    /// A name in the path is invalid.
    #[error("{value:?} is no {what} ({shape})")]
    Name {
        /// Which name.
        what: &'static str,
        /// The name as given, cut to 64 characters.
        value: String,
        /// What it has to look like.
        shape: &'static str,
    },
}

impl Identity {
    /// Makes an identity of its parts.
    ///
    /// # Errors
    /// When a part is invalid: see [`InvalidIdentity`].
    pub fn new(trust_domain: &str, cluster: &str, role: Role) -> Result<Self, InvalidIdentity> {
        check_trust_domain(trust_domain)?;
        check("cluster name", cluster, LABEL)?;
        match &role {
            Role::Gateway { id } => check("gateway name", id, LABEL)?,
            Role::Workload { namespace, service_account } => {
                check("namespace", namespace, LABEL)?;
                check("service account", service_account, SUBDOMAIN)?;
            }
        }
        let identity = Self { trust_domain: trust_domain.into(), cluster: cluster.into(), role };
        match identity.to_string().len() {
            0..=MAX_URI => Ok(identity),
            long => Err(InvalidIdentity::TooLong(long)),
        }
    }

    /// The gateway's name, if this is a gateway.
    pub fn gateway(&self) -> Option<&str> {
        match &self.role {
            Role::Gateway { id } => Some(id),
            Role::Workload { .. } => None,
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(uri: &str) -> Result<Self, InvalidIdentity> {
        if uri.len() > MAX_URI {
            return Err(InvalidIdentity::TooLong(uri.len()));
        }
        let rest = uri.strip_prefix("spiffe://").ok_or(InvalidIdentity::Scheme)?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().unwrap_or_default();
        check_trust_domain(trust_domain)?;
        // The longest shape has six parts; a seventh makes any path wrong.
        let path: Vec<&str> = parts.take(7).collect();
        match path[..] {
            ["cluster", cluster, "gateway", id] => {
                Self::new(trust_domain, cluster, Role::Gateway { id: id.into() })
            }
            ["cluster", cluster, "ns", namespace, "sa", account] => Self::new(
                trust_domain,
                cluster,
                Role::Workload { namespace: namespace.into(), service_account: account.into() },
            ),
            _ => Err(InvalidIdentity::Path),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/cluster/{}/", self.trust_domain, self.cluster)?;
        match &self.role {
            Role::Gateway { id } => write!(f, "gateway/{id}"),
            Role::Workload { namespace, service_account } => write!(f, "ns/{namespace}/sa/{service_account}"),
        }
    }
}

/// Refuses what is no trust domain (SPIFFE-ID, section 2.1).
pub(crate) fn check_trust_domain(s: &str) -> Result<(), InvalidIdentity> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if matches!(s.len(), 1..=MAX_TRUST_DOMAIN) && s.bytes().all(fits) {
        Ok(())
    } else {
        Err(InvalidIdentity::TrustDomain(cut(s)))
    }
}

/// Refuses what is no cluster name; a name that passes is safe as part of a file name.
pub(crate) fn check_cluster(s: &str) -> Result<(), InvalidIdentity> {
    check("cluster name", s, LABEL)
}

/// How a kind of name looks: the test, and the words for it.
type Shape = (fn(&str) -> bool, &'static str);

const LABEL: Shape = (is_label, "1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends");

const SUBDOMAIN: Shape =
    (is_subdomain, "at most 253 bytes: parts of 1 to 63 of a-z, 0-9 and '-', joined by dots");

fn check(what: &'static str, value: &str, (fits, shape): Shape) -> Result<(), InvalidIdentity> {
    if fits(value) { Ok(()) } else { Err(InvalidIdentity::Name { what, value: cut(value), shape }) }
}

/// An RFC 1123 label, lower case only.
fn is_label(s: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    matches!(bytes.len(), 1..=63)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
}

/// Labels joined by dots, at most 253 bytes.
fn is_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_label)
}

/// What is quoted of a refused text: enough to recognise it, not enough to flood a log.
fn cut(s: &str) -> String {
    s.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const GATEWAY: &str = "spiffe://acme.example/cluster/east/gateway/gw-1";
    const WORKLOAD: &str = "spiffe://acme.example/cluster/east/ns/shop/sa/cart.v2";

    #[test]
    fn both_shapes_are_read() {
        let gateway: Identity = GATEWAY.parse().unwrap();
        assert_eq!((&*gateway.trust_domain, &*gateway.cluster), ("acme.example", "east"));
        assert_eq!(gateway.gateway(), Some("gw-1"));
        let workload: Identity = WORKLOAD.parse().unwrap();
        let role = Role::Workload { namespace: "shop".into(), service_account: "cart.v2".into() };
        assert_eq!((workload.gateway(), &workload.role), (None, &role));
    }

    #[test]
    fn what_is_nearly_an_identity_is_none() {
        let path = |p: &str| format!("spiffe://acme.example{p}");
        for uri in [
            "".into(),
            "https://acme.example/cluster/east/gateway/gw-1".into(),
            GATEWAY.replace("spiffe", "SPIFFE"),
            GATEWAY.replace("acme", "Acme"),
            GATEWAY.replace("acme.example", ""),
            GATEWAY.replace("acme.example", "acme.example:443"),
            GATEWAY.replace("acme.example", "user@acme.example"),
            GATEWAY.replace("acme.example", &"a".repeat(256)),
            GATEWAY.replace("east", "East"),
            GATEWAY.replace("east", "../east"),
            GATEWAY.replace("east", "%65ast"),
            GATEWAY.replace("east", ""),
            GATEWAY.replace("gw-1", "gw.1"),
            GATEWAY.replace("gw-1", "-gw"),
            GATEWAY.replace("gw-1", "gw-"),
            GATEWAY.replace("gw-1", &"g".repeat(64)),
            GATEWAY.replace("gateway", "gateways"),
            format!("{GATEWAY}/"),
            format!("{GATEWAY}?a=b"),
            format!("{GATEWAY}#a"),
            format!("{GATEWAY}\n"),
            format!("{GATEWAY}{}", "/x".repeat(2000)),
            WORKLOAD.replace("cart.v2", "cart..v2"),
            WORKLOAD.replace("cart.v2", &"a.".repeat(130)),
            WORKLOAD.replace("shop", "shop.a"),
            format!("{WORKLOAD}/gateway/gw-1"),
            path(""),
            path("/"),
            path("/cluster/east"),
            path("/cluster/east/gateway"),
            path("//cluster/east/gateway/gw-1"),
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri:?} was taken");
        }
    }

    #[test]
    fn a_refusal_quotes_a_little_of_the_text() {
        let told =
            GATEWAY.replace("east", &"x\u{1b}[2J".repeat(100)).parse::<Identity>().unwrap_err().to_string();
        assert!(told.len() < 300 && !told.contains('\u{1b}'), "{told}");
    }

    fn label() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?").unwrap()
    }

    fn role() -> impl Strategy<Value = Role> {
        prop_oneof![
            label().prop_map(|id| Role::Gateway { id }),
            (label(), proptest::collection::vec(label(), 1..4)).prop_map(|(namespace, accounts)| {
                Role::Workload { namespace, service_account: accounts.join(".") }
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(domain in "[a-z0-9._-]{1,255}", cluster in label(), role in role()) {
            let identity = Identity::new(&domain, &cluster, role).unwrap();
            prop_assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }

        #[test]
        fn what_is_read_prints_as_it_was(
            uri in "spiffe://[a-zA-Z.%]{0,3}/(cluster|ns)/[a-b%.]{0,2}/(gateway|ns)/[a-b-]{0,2}(/sa/[a-b./]{0,3})?",
        ) {
            if let Ok(identity) = uri.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), uri);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(uri in "\\PC{0,80}") {
            prop_assert!(uri.parse::<Identity>().is_err());
        }
    }
}
