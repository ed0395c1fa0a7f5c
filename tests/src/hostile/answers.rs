//! What a hostile gateway answers to requests: frames as they are, and as they should not be.

use proto::frame::{END, FrameKind, put_frame, put_frame_header};
use proto::head::ResponseHead;

/// A field and its value.
pub type Field<'a> = (&'a str, &'a str);

/// The head of a final answer, whatever its status.
///
/// # Panics
/// When it is larger than a head can be.
pub fn head(status: u16, fields: &[Field<'_>]) -> Vec<u8> {
    frame(FrameKind::Head, status, fields)
}

/// The head of an interim answer.
///
/// # Panics
/// As [`head`].
pub fn interim(status: u16, fields: &[Field<'_>]) -> Vec<u8> {
    frame(FrameKind::Interim, status, fields)
}

/// A piece of a body.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame_header(&mut out, FrameKind::Data, bytes.len());
    out.extend_from_slice(bytes);
    out
}

/// A whole answer with this body.
///
/// # Panics
/// As [`head`].
pub fn whole(status: u16, fields: &[Field<'_>], body: &[u8]) -> Vec<u8> {
    [head(status, fields), data(body), END.to_vec()].concat()
}

fn frame(kind: FrameKind, status: u16, fields: &[Field<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let head = ResponseHead { status, endpoint: None };
    put_frame(&mut out, kind, |out| head.encode(fields, out)).expect("it fits");
    out
}
