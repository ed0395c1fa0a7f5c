//! Heads of requests and answers: a hand-written codec that allocates nothing to decode.
//!
//! A head is a run of facts (varint tag, varint length, value), a zero byte, then the header fields. Facts of unknown
//! tags are skipped; numbers are big-endian in 1 to 8 bytes; a fact that is left out reads as its default.

use std::net::SocketAddr;

use thiserror::Error;

pub use crate::fields::{Fields, encode_fields};
use crate::fields::{append_fields, is_field_value, is_token};
use crate::limits::{HEAD_BYTES_MAX, HEADER_FIELDS_MAX};

mod facts;

use facts::{END_OF_FACTS, Fact, Facts, put_fact, put_number, put_socket, put_text};

/// Why a head or a trailer section was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// It ends within a fact or a field.
    #[error("the head ends too early")]
    Truncated,
    /// It is larger than a head may be.
    #[error(
        "the head has {bytes} bytes or more, {HEAD_BYTES_MAX} are allowed; send fewer or shorter header fields"
    )]
    TooLarge {
        /// Its bytes, as far as they were counted.
        bytes: usize,
    },
    /// It has more fields than a head may have.
    #[error("the head has more than {HEADER_FIELDS_MAX} header fields")]
    TooManyFields,
    /// A fact that must be there is not.
    #[error("the head has no {0}")]
    Missing(&'static str),
    /// A fact is there twice.
    #[error("the head has more than one {0}")]
    Duplicate(&'static str),
    /// A fact's value is not of its kind.
    #[error("the head's {0} is malformed")]
    Malformed(&'static str),
    /// A field's name is no lower-case token (RFC 9110, section 5.6.2).
    #[error("the name of header field {index} is no lower-case token")]
    FieldName {
        /// Which field, from 0.
        index: usize,
    },
    /// A field's value holds a control byte (RFC 9110, section 5.5).
    #[error("the value of header field {index} holds a control byte")]
    FieldValue {
        /// Which field, from 0.
        index: usize,
    },
    /// A field speaks of a connection (RFC 9110, section 7.6.1) and must not travel.
    #[error("header field {index} is specific to a connection and must not be forwarded")]
    ConnectionSpecific {
        /// Which field, from 0.
        index: usize,
    },
}

/// What every flow has, whatever it carries: who asks which service, how it was placed, and what time is left. Names are
/// lower case, as manifests have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowHead<'a> {
    /// Names the flow over all its attempts.
    pub request_id: [u8; 16],
    /// Namespace of the service.
    pub namespace: &'a str,
    /// Name of the service within it.
    pub service: &'a str,
    /// The service's port, as callers see it; never 0.
    pub port: u16,
    /// Generation of the placement contract that placed it; 0: nobody declared one.
    pub generation: u64,
    /// Hash of its key; none: no key.
    pub key_hash: Option<u64>,
    /// The ring's owner of the key before skips; not where it was sent.
    pub owner: Option<&'a str>,
    /// Attempts made before this one.
    pub attempt: u8,
    /// Attempts that may still follow.
    pub attempts_left: u8,
    /// Whether the first gateway can send it again.
    pub replayable: bool,
    /// The second try after MISPLACED: serve it, and count the mismatch.
    pub insist: bool,
    /// What is left of the total deadline, in milliseconds; 0: there is none.
    pub deadline_ms: u64,
    /// How long a connection to an endpoint may take to be made, in milliseconds; 0: as whoever serves it has it.
    pub connect_ms: u64,
    /// `traceparent` (W3C Trace Context, section 3.2).
    pub traceparent: Option<&'a str>,
    /// `tracestate` (W3C Trace Context, section 3.3).
    pub tracestate: Option<&'a str>,
    /// SPIFFE ID of the workload that asks; none: anonymous.
    pub caller: Option<&'a str>,
    /// Gateways and sidecars that have sent it on, as far as that is known.
    pub hops: u8,
    /// The endpoint it is pinned to.
    pub endpoint: Option<&'a str>,
}

/// What HTTP adds to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HttpHead<'a> {
    /// Method (RFC 9110, section 9).
    pub method: &'a str,
    /// Path and query, or `*`.
    pub path: &'a str,
    /// Authority that the caller asked for: host and perhaps port.
    pub authority: &'a str,
    /// What the exchange is to speak behind its heads (RFC 9110, section 7.8; RFC 8441); none: HTTP. Behind an answer of 101
    /// frames of data go both ways, each way to its end frame.
    pub upgrade: Option<&'a str>,
}

/// The head of an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RequestHead<'a> {
    /// What every flow has.
    pub flow: FlowHead<'a>,
    /// What HTTP adds.
    pub http: HttpHead<'a>,
}

/// The head of a connection that is carried as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConnectionHead<'a> {
    /// What every flow has.
    pub flow: FlowHead<'a>,
    /// What the caller asked for: host and perhaps port.
    pub authority: &'a str,
    /// Whoever opened it, as far as that is known.
    pub source: Option<SocketAddr>,
    /// Where it was opened to.
    pub destination: Option<SocketAddr>,
    /// What its TLS is for (RFC 6066, section 3).
    pub server_name: Option<&'a str>,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ResponseHead<'a> {
    /// Status code, 100 to 999.
    pub status: u16,
    /// The endpoint that answered.
    pub endpoint: Option<&'a str>,
}

/// Tags of a request's facts, those of the flow first; the place of each in [`request::NAMES`] is its name.
mod request {
    pub(super) const REQUEST_ID: u64 = 1;
    pub(super) const NAMESPACE: u64 = 2;
    pub(super) const SERVICE: u64 = 3;
    pub(super) const PORT: u64 = 4;
    pub(super) const GENERATION: u64 = 5;
    pub(super) const KEY_HASH: u64 = 6;
    pub(super) const OWNER: u64 = 7;
    pub(super) const ATTEMPT: u64 = 8;
    pub(super) const ATTEMPTS_LEFT: u64 = 9;
    pub(super) const FLAGS: u64 = 10;
    pub(super) const DEADLINE_MS: u64 = 11;
    pub(super) const TRACEPARENT: u64 = 12;
    pub(super) const TRACESTATE: u64 = 13;
    pub(super) const CALLER: u64 = 14;
    pub(super) const ENDPOINT: u64 = 15;
    pub(super) const METHOD: u64 = 16;
    pub(super) const PATH: u64 = 17;
    pub(super) const AUTHORITY: u64 = 18;
    pub(super) const SOURCE: u64 = 19;
    pub(super) const DESTINATION: u64 = 20;
    pub(super) const SERVER_NAME: u64 = 21;
    pub(super) const UPGRADE: u64 = 22;
    pub(super) const HOPS: u64 = 23;
    pub(super) const CONNECT_MS: u64 = 24;

    pub(super) const NAMES: [&str; 25] = [
        "end",
        "request id",
        "namespace",
        "service",
        "port",
        "generation",
        "key hash",
        "owner",
        "attempt",
        "attempts left",
        "flags",
        "deadline",
        "traceparent",
        "tracestate",
        "caller",
        "endpoint",
        "method",
        "path",
        "authority",
        "source",
        "destination",
        "server name",
        "upgrade",
        "hops",
        "connect timeout",
    ];
    pub(super) const OF_EVERY_FLOW: [u64; 4] = [REQUEST_ID, NAMESPACE, SERVICE, PORT];
    pub(super) const OF_HTTP: [u64; 3] = [METHOD, PATH, AUTHORITY];

    /// Bits of the flags; others are skipped.
    pub(super) const REPLAYABLE: u64 = 1;
    pub(super) const INSIST: u64 = 2;
}

/// Tags of an answer's facts.
mod response {
    pub(super) const STATUS: u64 = 1;
    pub(super) const ENDPOINT: u64 = 2;

    pub(super) const NAMES: [&str; 3] = ["end", "status", "endpoint"];
    pub(super) const MANDATORY: [u64; 1] = [STATUS];
}

impl<'a> FlowHead<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        use request::*;
        put_fact(out, REQUEST_ID, &self.request_id);
        put_fact(out, NAMESPACE, self.namespace.as_bytes());
        put_fact(out, SERVICE, self.service.as_bytes());
        put_number(out, PORT, u64::from(self.port));
        put_number(out, GENERATION, self.generation);
        if let Some(hash) = self.key_hash {
            put_fact(out, KEY_HASH, &hash.to_be_bytes());
        }
        put_text(out, OWNER, self.owner);
        put_number(out, ATTEMPT, u64::from(self.attempt));
        put_number(out, ATTEMPTS_LEFT, u64::from(self.attempts_left));
        let replayable = if self.replayable { REPLAYABLE } else { 0 };
        let insist = if self.insist { INSIST } else { 0 };
        put_number(out, FLAGS, replayable | insist);
        put_number(out, DEADLINE_MS, self.deadline_ms);
        put_text(out, TRACEPARENT, self.traceparent);
        put_text(out, TRACESTATE, self.tracestate);
        put_text(out, CALLER, self.caller);
        put_text(out, ENDPOINT, self.endpoint);
        put_number(out, HOPS, u64::from(self.hops));
        put_number(out, CONNECT_MS, self.connect_ms);
    }

    /// Takes a fact of its own; false: it is none.
    fn take(&mut self, fact: &Fact<'a>) -> Result<bool, HeadError> {
        use request::*;
        match fact.tag {
            REQUEST_ID => self.request_id = fact.value.try_into().map_err(|_| fact.malformed())?,
            NAMESPACE => self.namespace = fact.name()?,
            SERVICE => self.service = fact.name()?,
            PORT => self.port = fact.nonzero()?,
            GENERATION => self.generation = fact.number()?,
            KEY_HASH => self.key_hash = Some(fact.number()?),
            OWNER => self.owner = Some(fact.name()?),
            ATTEMPT => self.attempt = fact.small()?,
            ATTEMPTS_LEFT => self.attempts_left = fact.small()?,
            FLAGS => {
                let flags = fact.number()?;
                self.replayable = flags & REPLAYABLE != 0;
                self.insist = flags & INSIST != 0;
            }
            DEADLINE_MS => self.deadline_ms = fact.number()?,
            TRACEPARENT => self.traceparent = Some(fact.visible()?),
            TRACESTATE => self.tracestate = Some(fact.text(is_field_value)?),
            CALLER => self.caller = Some(fact.visible()?),
            ENDPOINT => self.endpoint = Some(fact.name()?),
            HOPS => self.hops = fact.small()?,
            CONNECT_MS => self.connect_ms = fact.number()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl<'a> HttpHead<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        use request::*;
        put_fact(out, METHOD, self.method.as_bytes());
        put_fact(out, PATH, self.path.as_bytes());
        put_fact(out, AUTHORITY, self.authority.as_bytes());
        put_text(out, UPGRADE, self.upgrade);
    }

    /// Takes a fact of its own; others are a later version's.
    fn take(&mut self, fact: &Fact<'a>) -> Result<(), HeadError> {
        use request::*;
        match fact.tag {
            METHOD => self.method = fact.text(is_token)?,
            PATH => self.path = fact.path()?,
            AUTHORITY => self.authority = fact.visible()?,
            UPGRADE => self.upgrade = Some(fact.text(is_field_value)?),
            _ => {}
        }
        Ok(())
    }
}

impl<'a> RequestHead<'a> {
    /// Appends the payload of a HEAD frame. Only sizes are checked: the content of texts and fields is the caller's to
    /// have checked, as the types of the `http` crate do; the receiver refuses what is not HTTP.
    ///
    /// # Errors
    /// [`HeadError::TooManyFields`] and [`HeadError::TooLarge`]; `out` is then as it was.
    pub fn encode<'f>(
        &self,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), HeadError> {
        let start = out.len();
        self.flow.put(out);
        self.http.put(out);
        finish(fields, start, out)
    }

    /// Reads the payload of a HEAD frame in place, all of it checked. Allocates nothing.
    ///
    /// # Errors
    /// [`HeadError`]: the peer broke the protocol; reset this stream.
    pub fn decode(buf: &'a [u8]) -> Result<(Self, Fields<'a>), HeadError> {
        let mut facts = Facts::new(buf, &request::NAMES)?;
        let mut head = Self::default();
        while let Some(fact) = facts.next()? {
            if !head.flow.take(&fact)? {
                head.http.take(&fact)?;
            }
        }
        facts.has(&request::OF_EVERY_FLOW)?;
        facts.has(&request::OF_HTTP)?;
        Ok((head, facts.fields()?))
    }
}

impl<'a> ConnectionHead<'a> {
    /// Appends the payload of a HEAD frame. Only sizes are checked, as in [`RequestHead::encode`].
    ///
    /// # Errors
    /// [`HeadError::TooLarge`]; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), HeadError> {
        use request::*;
        let start = out.len();
        self.flow.put(out);
        put_fact(out, AUTHORITY, self.authority.as_bytes());
        put_socket(out, SOURCE, self.source);
        put_socket(out, DESTINATION, self.destination);
        put_text(out, SERVER_NAME, self.server_name);
        finish([], start, out)
    }

    /// Reads the payload of a HEAD frame in place, all of it checked. Allocates nothing.
    ///
    /// # Errors
    /// [`HeadError`]: the peer broke the protocol; reset this stream.
    pub fn decode(buf: &'a [u8]) -> Result<Self, HeadError> {
        use request::*;
        let mut facts = Facts::new(buf, &NAMES)?;
        let mut head = Self::default();
        while let Some(fact) = facts.next()? {
            match fact.tag {
                AUTHORITY => head.authority = fact.visible()?,
                SOURCE => head.source = Some(fact.socket()?),
                DESTINATION => head.destination = Some(fact.socket()?),
                SERVER_NAME => head.server_name = Some(fact.visible()?),
                _ => drop(head.flow.take(&fact)?),
            }
        }
        facts.has(&OF_EVERY_FLOW)?;
        facts.has(&[AUTHORITY])?;
        // None are known; those of a later version are checked, and skipped.
        facts.fields()?;
        Ok(head)
    }
}

impl<'a> ResponseHead<'a> {
    /// Appends the payload of a HEAD frame. Only sizes are checked, as in [`RequestHead::encode`].
    ///
    /// # Errors
    /// [`HeadError::TooManyFields`] and [`HeadError::TooLarge`]; `out` is then as it was.
    pub fn encode<'f>(
        &self,
        fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), HeadError> {
        let start = out.len();
        put_number(out, response::STATUS, u64::from(self.status));
        put_text(out, response::ENDPOINT, self.endpoint);
        finish(fields, start, out)
    }

    /// Reads the payload of a HEAD frame in place, all of it checked. Allocates nothing.
    ///
    /// # Errors
    /// [`HeadError`]: the peer broke the protocol; reset this stream.
    pub fn decode(buf: &'a [u8]) -> Result<(Self, Fields<'a>), HeadError> {
        use response::*;
        let mut facts = Facts::new(buf, &NAMES)?;
        let mut head = Self::default();
        while let Some(fact) = facts.next()? {
            match fact.tag {
                STATUS => {
                    head.status = fact.nonzero()?;
                    if !(100..=999).contains(&head.status) {
                        return Err(fact.malformed());
                    }
                }
                ENDPOINT => head.endpoint = Some(fact.name()?),
                _ => {}
            }
        }
        facts.has(&MANDATORY)?;
        Ok((head, facts.fields()?))
    }
}

/// Ends the facts and appends the fields; takes everything since `start` back when the head is too large.
fn finish<'f>(
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    start: usize,
    out: &mut Vec<u8>,
) -> Result<(), HeadError> {
    out.push(END_OF_FACTS);
    let bytes = out.len() - start;
    let result = if bytes > HEAD_BYTES_MAX {
        Err(HeadError::TooLarge { bytes })
    } else {
        append_fields(fields, start, out)
    };
    result.inspect_err(|_| out.truncate(start))
}

#[cfg(test)]
mod tests;
