//! What holds for the requests that come in at one place (`http:` of gateways, sidecars and listeners).

/// The rules of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRules {
    /// Whether `Forwarded` (RFC 7239) tells endpoints who asked.
    pub forwarded: Forwarded,
    /// Whether `X-Forwarded-For`, `-Proto` and `-Host` do.
    pub x_forwarded: Forwarded,
    /// Proxies in front of this one whose word is taken; none: whoever connects is the caller.
    pub trusted_hops: u8,
    /// Most bytes of a request's head; none: what the process allows.
    pub head_bytes: Option<u32>,
    /// Most bytes of a request's target, and of each of its fields; none: as many as its head may have.
    pub line_bytes: Option<u32>,
    /// Most fields of a request's head; none: what the process allows.
    pub fields: Option<u16>,
    /// Most bytes of a request's body; none: any.
    pub body_bytes: Option<u64>,
    /// Most streams that a connection of HTTP/2 may have open; none: what the process allows.
    pub streams: Option<u32>,
}

/// What becomes of a field that tells who asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// Passed on as it came.
    #[default]
    Off,
    /// Whoever connected stands behind those that it names itself.
    Append,
    /// Only the caller stands there, as it is known here.
    Replace,
}

impl Forwarded {
    /// Those there are, with the words of manifests.
    pub const WORDS: [(&str, Self); 3] =
        [("off", Self::Off), ("append", Self::Append), ("replace", Self::Replace)];
}

impl HttpRules {
    /// Nothing is added, nobody in front is believed, and the limits are the process's.
    pub const DEFAULT: Self = Self {
        forwarded: Forwarded::Off,
        x_forwarded: Forwarded::Off,
        trusted_hops: 0,
        head_bytes: None,
        line_bytes: None,
        fields: None,
        body_bytes: None,
        streams: None,
    };
}

impl Default for HttpRules {
    fn default() -> Self {
        Self::DEFAULT
    }
}
