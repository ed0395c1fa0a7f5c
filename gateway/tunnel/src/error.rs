//! What can go wrong with a tunnel, and whether the request may be tried elsewhere.

use std::io;
use std::net::SocketAddr;

use proto::code::{CloseCode, Code};
use proto::limits::{QUOTED_BYTES_MAX, REASON_BYTES_MAX};
use proto::text::{clean, clean_bytes};

use crate::secrets::SecretsError;

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address could not be bound.
    #[error("cannot bind UDP {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The socket does not work with the runtime.
    #[error("cannot read the UDP socket")]
    Socket(#[source] io::Error),
    /// The keys of the port cannot be read or kept.
    #[error("cannot have the keys of the UDP port")]
    Secrets(#[from] SecretsError),
    /// The certificate or key does not do.
    #[error("certificate not usable")]
    Identity(#[from] identity::IdentityError),
    /// rustls and quinn do not agree on a cipher; the crypto provider is incomplete.
    #[error("no TLS 1.3 cipher for QUIC")]
    Cipher,
}

/// Why an exchange or a tunnel failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// The tunnel is down or draining; nothing was sent.
    #[error("tunnel is not taking new streams: {0}")]
    Down(CloseReason),
    /// The peer allows no more streams at the moment; nothing was sent.
    #[error("the peer's stream limit is reached")]
    Busy,
    /// The peer ended the stream with this code.
    #[error("peer answered {}", .0.as_str())]
    Reset(Code),
    /// The stream is above the last one that the peer's GOAWAY accepted: it was not processed.
    #[error("the peer went away before it took this stream")]
    Abandoned,
    /// The connection ended in the middle of the exchange.
    #[error("connection lost: {0}")]
    Lost(CloseReason),
    /// The stream ended before its end frame: the message is cut, not complete.
    #[error("stream cut short")]
    Truncated,
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The peer did not say HELLO, or said one that does not fit.
    #[error("no HELLO: {0}")]
    Hello(String),
    /// Connecting failed: name, address or handshake.
    #[error("{0}")]
    Connect(String),
}

impl TunnelError {
    /// Whether it is certain that the peer did not process the request, so that even a POST may be sent elsewhere.
    pub fn certifies_unprocessed(&self) -> bool {
        match self {
            Self::Down(_) | Self::Busy | Self::Abandoned | Self::Connect(_) | Self::Hello(_) => true,
            Self::Reset(code) => code.certifies_unprocessed(),
            Self::Lost(_) | Self::Truncated | Self::Protocol(_) => false,
        }
    }
}

/// Why a connection ended, in words for a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The code, if one of the two ends closed it on purpose.
    pub code: Option<CloseCode>,
    /// One line.
    pub text: String,
    /// Whether it broke off without a word, as it does when the system cleans up after a process that died; what stands
    /// between may do the same to a connection. QUIC has no such sign.
    pub cut: bool,
}

impl CloseReason {
    /// We closed it.
    pub(crate) fn here() -> Self {
        Self { code: None, text: "closed here".into(), cut: false }
    }

    /// Nothing was heard for too long.
    pub(crate) fn timed_out() -> Self {
        Self { code: None, text: "timed out".into(), cut: false }
    }

    /// The peer closed it and said why; `None`: by a code that we do not know. Whoever reaches the port can say
    /// anything here.
    pub(crate) fn said(code: Option<CloseCode>, detail: &[u8]) -> Self {
        let detail = clean_bytes(detail, REASON_BYTES_MAX);
        let name = code.map_or("unknown code", CloseCode::as_str);
        let text = if detail.is_empty() {
            format!("peer closed: {name}")
        } else {
            format!("peer closed: {name} ({detail})")
        };
        Self { code, text, cut: false }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<quinn::ConnectionError> for CloseReason {
    fn from(e: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        let text = match e {
            E::ApplicationClosed(c) => {
                return Self::said(CloseCode::from_wire(c.error_code.into_inner()), &c.reason);
            }
            E::TimedOut => return Self::timed_out(),
            E::LocallyClosed => return Self::here(),
            // TLS alerts of the other side: its certificate check of ours failed, most of the time.
            E::ConnectionClosed(c) => {
                let said = String::from_utf8_lossy(&c.reason);
                let said = if said.is_empty() {
                    c.error_code.to_string()
                } else {
                    clean(identity::reason_in(&said), REASON_BYTES_MAX)
                };
                format!("peer refused: {said}")
            }
            // Ours, but it may quote the peer's certificate.
            E::TransportError(e) => clean(identity::reason_in(&e.reason), QUOTED_BYTES_MAX),
            E::Reset => "peer has restarted".into(),
            E::VersionMismatch => "peer speaks another QUIC version".into(),
            E::CidsExhausted => "connection IDs exhausted".into(),
        };
        Self { code: None, text, cut: false }
    }
}

#[cfg(test)]
mod tests {
    use proto::text::is_harmful;
    use quinn::{ApplicationClose, ConnectionClose};
    use quinn_proto::TransportErrorCode;

    use super::*;

    #[test]
    fn a_reason_of_the_peer_is_one_short_line_on_every_carrier() {
        let forged = b"x\n2026-01-01T00:00:00.000000Z  INFO audit: Audit: link removed.\x1b[2J";
        let shown = "x\\n2026-01-01T00:00:00.000000Z  INFO audit: Audit: link removed.\\u001b[2J";
        let application = |reason: &[u8]| {
            let error_code = CloseCode::Shutdown.to_wire().into();
            let close = ApplicationClose { error_code, reason: reason.to_vec().into() };
            CloseReason::from(quinn::ConnectionError::ApplicationClosed(close)).text
        };
        // What a stranger can send before anything is proven.
        let transport = |reason: &[u8]| {
            let error_code = TransportErrorCode::INTERNAL_ERROR;
            let close = ConnectionClose { error_code, frame_type: None, reason: reason.to_vec().into() };
            CloseReason::from(quinn::ConnectionError::ConnectionClosed(close)).text
        };
        let mux = |reason: &[u8]| CloseReason::said(Some(CloseCode::Shutdown), reason).text;
        for close in [&application as &dyn Fn(&[u8]) -> String, &transport, &mux] {
            let text = close(forged);
            assert!(text.contains(shown) && !text.contains(is_harmful), "{text}");
            let text = close(&vec![b'a'; 60_000]);
            assert!(text.len() < REASON_BYTES_MAX + 64, "{}", text.len());
        }
    }
}
