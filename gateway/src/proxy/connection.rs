//! Connections that are carried as such: what one begins with, what endpoints are told of it, and its bytes both ways.

pub mod carry;
pub mod look;

use std::net::SocketAddr;

use first::proxy_header::{self, Tlvs};

/// What is known of a connection before its first byte went on.
#[derive(Debug, Default)]
pub struct Opened {
    /// Whoever opened it, as far as that is known.
    pub source: Option<SocketAddr>,
    /// Where it was opened to.
    pub destination: Option<SocketAddr>,
    /// What its TLS is for (RFC 6066, section 3), lower case.
    pub server_name: Option<String>,
    /// What the PROXY header that it began with says beside addresses.
    pub tlvs: Tlvs,
    /// Gateways and sidecars that it has come through before this one, as far as that is known.
    pub hops: u8,
}

impl Opened {
    /// What an endpoint is told of it that asks for that; `caller` is the SPIFFE ID of the workload that opened it.
    pub fn proxy_header(&self, caller: Option<&str>) -> Vec<u8> {
        let hops = self.hops.saturating_add(1);
        proxy_header::write(self.source, self.destination, self.server_name.as_deref(), caller, hops)
    }
}
