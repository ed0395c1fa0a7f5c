//! From what a caller wrote to what it means: the authority becomes a service, the request becomes a key.
//!
//! Nothing here allocates for names that are already lower case, which is nearly all of them.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;

use registry::model::{HashKey, is_label};

/// The domain of Kubernetes' multi-cluster services (KEP-1645): always the union, whatever the mesh's own domain is.
const CLUSTERSET: &str = "svc.clusterset.local";

/// The longest host name, in bytes, trailing dot included (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 254;

/// Why an authority names no service of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMesh {
    /// No authority at all: HTTP/1.1 demands one (RFC 9112, section 3.2). An answer of 400.
    #[error("the request names no host")]
    Missing,
    /// A character that no authority may hold. An answer of 400.
    #[error("the authority is malformed")]
    Malformed,
    /// User information, which RFC 9110, section 4.2.4 tells recipients to distrust. An answer of 400.
    #[error("the authority carries user information")]
    UserInfo,
    /// The part behind the colon is no port from 1 to 65535. An answer of 400.
    #[error("the authority's port is not a number from 1 to 65535")]
    Port,
    /// A host outside the mesh's domain and `svc.clusterset.local`. An answer of 404.
    #[error("the host is not a name of the mesh")]
    Domain,
    /// In the mesh's domain, but not `<service>.<namespace>[.<cluster>]` in RFC 1123 labels. An answer of 404.
    #[error(
        "the host is not <service>.<namespace> or <service>.<namespace>.<cluster> in front of the mesh's domain"
    )]
    Shape,
}

/// The service that an authority names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// `<service>.<namespace>[.<cluster>]`, lower case.
    name: Cow<'a, str>,
    /// Where the dot behind the service stands.
    service_end: usize,
    /// Where the namespace ends.
    prefix_end: usize,
    /// The service port that was asked for; none: the service's first.
    pub port: Option<u16>,
}

impl Target<'_> {
    /// The service's name, lower case.
    pub fn service(&self) -> &str {
        &self.name[..self.service_end]
    }

    /// The service's namespace, lower case.
    pub fn namespace(&self) -> &str {
        &self.name[self.service_end + 1..self.prefix_end]
    }

    /// The cluster that the name pins; none: the union over clusters.
    pub fn cluster(&self) -> Option<&str> {
        self.name.get(self.prefix_end + 1..)
    }

    /// `<service>.<namespace>[.<cluster>]`, lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `<service>.<namespace>`, as [`registry::model::ServiceName::host_prefix`] writes it: a key for a map of
    /// services that is asked without building a name.
    pub fn prefix(&self) -> &str {
        &self.name[..self.prefix_end]
    }
}

/// Reads an authority (`Host`, or the authority of an absolute request target): `<service>.<namespace>.<domain>`,
/// `<service>.<namespace>.<cluster>.<domain>` or `<service>.<namespace>.svc.clusterset.local`, in any case, with or
/// without a trailing dot and a port (RFC 3986, section 3.2: an empty port is none).
///
/// `domain` is the mesh's, lower case, without dots at its ends.
///
/// # Errors
/// When the authority is malformed or names nothing that could be a service; see [`NotMesh`].
pub fn parse<'a>(authority: &'a str, domain: &str) -> Result<Target<'a>, NotMesh> {
    if authority.is_empty() {
        return Err(NotMesh::Missing);
    }
    // What no authority may hold (RFC 3986, section 3.2), several of them in one field included.
    if authority.bytes().any(|b| !b.is_ascii_graphic() || b"\"#,/<>?\\^`{|}".contains(&b)) {
        return Err(NotMesh::Malformed);
    }
    if authority.contains('@') {
        return Err(NotMesh::UserInfo);
    }
    // An IP literal in brackets has colons of its own and is never a name of the mesh.
    if authority.starts_with('[') {
        return Err(NotMesh::Domain);
    }
    let (host, port) = match authority.split_once(':') {
        None => (authority, None),
        Some((host, "")) => (host, None),
        Some((host, digits)) => (host, Some(port(digits).ok_or(NotMesh::Port)?)),
    };
    if host.is_empty() {
        return Err(NotMesh::Missing);
    }
    if host.len() > HOST_BYTES_MAX {
        return Err(NotMesh::Domain);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let (name, union_only) = match before(host, CLUSTERSET) {
        Some(name) => (name, true),
        None => (before(host, domain).ok_or(NotMesh::Domain)?, false),
    };
    let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };

    let mut labels = name.split('.');
    let service = labels.next().ok_or(NotMesh::Shape)?;
    let namespace = labels.next().ok_or(NotMesh::Shape)?;
    let cluster = labels.next();
    let pinned_where_it_cannot_be = union_only && cluster.is_some();
    if labels.next().is_some() || pinned_where_it_cannot_be {
        return Err(NotMesh::Shape);
    }
    if ![Some(service), Some(namespace), cluster].into_iter().flatten().all(is_label) {
        return Err(NotMesh::Shape);
    }
    let service_end = service.len();
    let prefix_end = service_end + 1 + namespace.len();
    Ok(Target { name, service_end, prefix_end, port })
}

/// What stands before `.domain` in `host`, compared without regard to case.
fn before<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let dot = host.len().checked_sub(domain.len() + 1)?;
    let (name, rest) = host.split_at_checked(dot)?;
    rest.strip_prefix('.')?.eq_ignore_ascii_case(domain).then_some(name)
}

/// `port = *DIGIT` (RFC 3986, section 3.2.3): leading zeros are allowed, signs are not, and 0 is no port.
fn port(digits: &str) -> Option<u16> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|&port| port != 0)
}

/// The bytes that place a request, without a copy.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// The raw value of a field or parameter.
    Value(&'a [u8]),
    /// An IPv4 address, most significant byte first.
    V4([u8; 4]),
    /// An IPv6 address, most significant byte first.
    V6([u8; 16]),
}

impl Deref for Key<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Value(bytes) => bytes,
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }
}

/// The key of a request: the first of `sources` that yields a value which is not empty.
///
/// A source yields its first value only, in raw bytes, nothing decoded or trimmed. `header` gives the first value of a
/// field by its lower-case name; `path_and_query` is the request target in origin form; `peer` is the address of the
/// first hop's peer, an IPv4-mapped one being the IPv4 address it stands for.
pub fn key<'a>(
    sources: &[HashKey],
    header: impl Fn(&str) -> Option<&'a [u8]>,
    path_and_query: &'a str,
    peer: IpAddr,
) -> Option<Key<'a>> {
    sources.iter().find_map(|source| match source {
        HashKey::Header(name) => header(name).filter(|value| !value.is_empty()).map(Key::Value),
        HashKey::Query(name) => parameter(path_and_query, name).map(|value| Key::Value(value.as_bytes())),
        HashKey::SourceIp => Some(of_address(peer)),
        // A connection of HTTP may carry the requests of many.
        HashKey::ServerName | HashKey::ProxyTlv(_) => None,
    })
}

/// The key of a connection that is carried as such: the first of `sources` that yields a value which is not empty.
///
/// `peer` is the address of whoever opened it; `server_name` is what its TLS is for; `tlv` gives the first value of a type
/// in its PROXY header.
pub fn connection_key<'a>(
    sources: &[HashKey],
    peer: Option<IpAddr>,
    server_name: Option<&'a str>,
    tlv: impl Fn(u8) -> Option<&'a [u8]>,
) -> Option<Key<'a>> {
    sources.iter().find_map(|source| match source {
        HashKey::Header(_) | HashKey::Query(_) => None,
        HashKey::SourceIp => peer.map(of_address),
        HashKey::ServerName => {
            server_name.filter(|name| !name.is_empty()).map(|name| Key::Value(name.as_bytes()))
        }
        HashKey::ProxyTlv(kind) => tlv(*kind).filter(|value| !value.is_empty()).map(Key::Value),
    })
}

fn of_address<'a>(address: IpAddr) -> Key<'a> {
    match address.to_canonical() {
        IpAddr::V4(ip) => Key::V4(ip.octets()),
        IpAddr::V6(ip) => Key::V6(ip.octets()),
    }
}

/// The first value of a query parameter, if it is not empty.
fn parameter<'a>(path_and_query: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path_and_query.split_once('?')?;
    let first = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })?;
    (!first.is_empty()).then_some(first)
}

#[cfg(test)]
mod tests;
