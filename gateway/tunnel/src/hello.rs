//! HELLO: the first message each way. A tunnel is up only after both.

use identity::{Identity, Role};
use proto::code::CloseCode;
use proto::control::Hello;
use proto::limits;
use proto::text::clean;
use proto::version::Versions;

use crate::error::TunnelError;
use crate::stream::{MessageReader, MessageWriter};

/// What a process says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloInfo {
    /// Its cluster.
    pub cluster: String,
    /// The cluster's region.
    pub region: String,
    /// Random, made once per cluster, kept in the state directory; of a sidecar nothing but zeros.
    pub cluster_uid: [u8; 16],
    /// Its gateway id; of a sidecar its name, which nobody vouches for.
    pub gateway: String,
    /// The worker that owns this end.
    pub worker: u32,
    /// Random for each start of the process.
    pub boot: u64,
    /// The start that it takes over from, which still ends what it has begun; 0: none.
    pub takes_over_from: u64,
    /// Where it may be dialled.
    pub addresses: Vec<String>,
}

/// The process at the other end: what it said, and what its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub hello: HelloInfo,
    /// Proven by its certificate; agrees with `hello`.
    pub identity: Identity,
    /// Streams that it lets us have open at once.
    pub streams_max: u64,
    /// The protocol version both speak.
    pub version: u32,
}

impl HelloInfo {
    /// Whether `other` is of the same process, or of one that lives beside it: one takes over from the other.
    pub fn lives_beside(&self, other: &Self) -> bool {
        let takes_over =
            |heir: &Self, elder: &Self| heir.takes_over_from != 0 && heir.takes_over_from == elder.boot;
        self.boot == other.boot || takes_over(self, other) || takes_over(other, self)
    }

    fn to_message(&self) -> Hello {
        Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            cluster: self.cluster.clone(),
            region: self.region.clone(),
            cluster_uid: self.cluster_uid.to_vec(),
            gateway: self.gateway.clone(),
            worker: self.worker,
            boot: self.boot,
            takes_over_from: self.takes_over_from,
            addresses: self.addresses.clone(),
            limits: Some(proto::control::Limits {
                streams_max: limits::STREAMS_MAX,
                head_bytes_max: limits::HEAD_BYTES_MAX as u32,
            }),
            software: concat!("ringway/", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Sends ours.
pub(crate) async fn send(writer: &mut MessageWriter, ours: &HelloInfo) -> Result<(), TunnelError> {
    writer.send(&ours.to_message()).await
}

/// Reads theirs and checks it against the certificate. The error says with which code to close.
pub(crate) async fn receive(
    reader: &mut MessageReader,
    identity: Identity,
) -> Result<Peer, (CloseCode, TunnelError)> {
    let hello: Hello = match reader.next().await {
        Ok(Some(hello)) => hello,
        Ok(None) => return Err((CloseCode::ProtocolError, said("the control stream ended"))),
        Err(e) => return Err((CloseCode::ProtocolError, e)),
    };
    check(hello, identity)
}

/// The rules, apart from any I/O.
fn check(hello: Hello, identity: Identity) -> Result<Peer, (CloseCode, TunnelError)> {
    let theirs = Versions { min: hello.version_min, max: hello.version_max };
    let version = proto::version::negotiate(Versions::OURS, theirs)
        .map_err(|e| (CloseCode::VersionMismatch, said(&e.to_string())))?;
    let named_rightly = match &identity.role {
        Role::Gateway { id } => hello.gateway == *id,
        // Its certificate is the workload's, of which there may be many; the name ends in logs.
        Role::Workload { .. } => is_plain(&hello.gateway),
    };
    if hello.cluster != identity.cluster || !named_rightly {
        let shown = |name: &str| clean(name, limits::NAME_BYTES_MAX);
        let (cluster, gateway) = (shown(&hello.cluster), shown(&hello.gateway));
        let text = format!("says it is {cluster}/{gateway}, its certificate says {identity}");
        return Err((CloseCode::WrongPeer, said(&text)));
    }
    let Ok(cluster_uid) = <[u8; 16]>::try_from(&hello.cluster_uid[..]) else {
        return Err((CloseCode::ProtocolError, said("the cluster UID is not 16 bytes")));
    };
    if hello.region.len() > limits::NAME_BYTES_MAX
        || hello.addresses.len() > limits::HELLO_ADDRESSES_MAX
        || hello.addresses.iter().any(|a| a.len() > limits::NAME_BYTES_MAX)
    {
        return Err((
            CloseCode::ProtocolError,
            said("a region or address is too long, or there are too many"),
        ));
    }
    let streams_max = hello.limits.as_ref().map_or(0, |l| l.streams_max).clamp(1, limits::STREAMS_MAX).into();
    Ok(Peer {
        hello: HelloInfo {
            cluster: hello.cluster,
            region: hello.region,
            cluster_uid,
            gateway: hello.gateway,
            worker: hello.worker,
            boot: hello.boot,
            takes_over_from: hello.takes_over_from,
            addresses: hello.addresses,
        },
        identity,
        streams_max,
        version,
    })
}

/// Whether a name can stand in a log as it is.
fn is_plain(name: &str) -> bool {
    (1..=limits::NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

fn said(text: &str) -> TunnelError {
    TunnelError::Hello(text.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn east() -> (HelloInfo, Identity) {
        let info = HelloInfo {
            cluster: "east".into(),
            region: "us-east".into(),
            cluster_uid: [7; 16],
            gateway: "gw-1".into(),
            worker: 0,
            boot: 9,
            takes_over_from: 0,
            addresses: vec!["127.0.0.1:8443".into()],
        };
        (info, "spiffe://acme.example/cluster/east/gateway/gw-1".parse().unwrap())
    }

    fn close_code(hello: Hello, identity: Identity) -> CloseCode {
        check(hello, identity).unwrap_err().0
    }

    #[test]
    fn what_was_said_comes_back() {
        let (info, identity) = east();
        let peer = check(info.to_message(), identity.clone()).unwrap();
        assert_eq!(peer.hello, info);
        assert_eq!(peer.identity, identity);
    }

    #[test]
    fn a_hello_must_agree_with_the_certificate() {
        let (info, identity) = east();
        let other = HelloInfo { cluster: "west".into(), ..info.clone() };
        assert_eq!(close_code(other.to_message(), identity.clone()), CloseCode::WrongPeer);
        let other = HelloInfo { gateway: "gw-2".into(), ..info.clone() };
        assert_eq!(close_code(other.to_message(), identity), CloseCode::WrongPeer);
        let elsewhere: Identity = "spiffe://acme.example/cluster/west/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(close_code(info.to_message(), elsewhere), CloseCode::WrongPeer);
    }

    #[test]
    fn a_sidecar_has_a_name_of_its_own_that_can_be_logged() {
        let (info, _) = east();
        let workload: Identity = "spiffe://acme.example/cluster/east/ns/shop/sa/cart".parse().unwrap();
        let named = |name: &str| Hello { gateway: name.into(), ..info.to_message() };
        assert_eq!(check(named("cart-1"), workload.clone()).unwrap().hello.gateway, "cart-1");
        for name in ["", "a b", "a\nb", &"a".repeat(limits::NAME_BYTES_MAX + 1)] {
            assert_eq!(close_code(named(name), workload.clone()), CloseCode::WrongPeer, "{name:?}");
        }
    }

    #[test]
    fn what_a_hello_lies_is_quoted_in_one_short_line() {
        let (info, identity) = east();
        let lie = HelloInfo { cluster: "x\nAudit: y\u{1b}[2J".repeat(4000), gateway: "\r".into(), ..info };
        let text = check(lie.to_message(), identity).unwrap_err().1.to_string();
        assert!(!text.contains(proto::text::is_harmful) && text.len() < 1024, "{} bytes", text.len());
    }

    #[test]
    fn versions_that_do_not_overlap_are_refused() {
        let (info, identity) = east();
        let future = Hello { version_min: 1000, version_max: 1001, ..info.to_message() };
        assert_eq!(close_code(future, identity), CloseCode::VersionMismatch);
    }

    #[test]
    fn a_malformed_hello_is_a_protocol_error() {
        let (info, identity) = east();
        let short = Hello { cluster_uid: vec![1, 2], ..info.to_message() };
        assert_eq!(close_code(short, identity.clone()), CloseCode::ProtocolError);
        let many =
            Hello { addresses: vec!["a:1".into(); limits::HELLO_ADDRESSES_MAX + 1], ..info.to_message() };
        assert_eq!(close_code(many, identity), CloseCode::ProtocolError);
    }
}
