//! What of the body of a message is looked at.

use bytes::Buf;

use crate::{Kind, Malformed, Status};

/// The context in which a caller says by when it wants its answer.
const DEADLINE: &[u8] = b"com.twitter.finagle.Deadline";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Where in the message what is for the other end begins.
    pub(crate) at: usize,
    pub(crate) status: Option<Status>,
    pub(crate) nanoseconds: Option<u64>,
    pub(crate) discards: Option<u32>,
    pub(crate) lease: Option<u64>,
}

impl Content {
    /// That of a message of `kind`, whose body begins `at` in its bytes.
    pub(crate) fn read(kind: Kind, message: &[u8], at: usize) -> Result<Self, Malformed> {
        let mut rest = &message[at..];
        let mut content = Self::default();
        content.look(kind, &mut rest).ok_or(Malformed::Content)?;
        content.at = message.len() - rest.len();
        Ok(content)
    }

    fn look(&mut self, kind: Kind, rest: &mut &[u8]) -> Option<()> {
        match kind {
            Kind::Request => {
                for _ in 0..rest.try_get_u8().ok()? {
                    let _key = rest.try_get_u8().ok()?;
                    let length = rest.try_get_u8().ok()?;
                    take(rest, length.into())?;
                }
            }
            Kind::Dispatch => {
                for _ in 0..rest.try_get_u16().ok()? {
                    let key = text(rest)?;
                    let value = text(rest)?;
                    if key == DEADLINE {
                        self.nanoseconds = given(value);
                    }
                }
                let _destination = text(rest)?;
                for _ in 0..rest.try_get_u16().ok()? {
                    let _from = text(rest)?;
                    let _to = text(rest)?;
                }
            }
            Kind::RequestAnswer => self.status = Some(status(rest)?),
            Kind::DispatchAnswer => {
                self.status = Some(status(rest)?);
                for _ in 0..rest.try_get_u16().ok()? {
                    let _key = text(rest)?;
                    let _value = text(rest)?;
                }
            }
            Kind::Discard => {
                let tag = take(rest, 3)?;
                self.discards = Some(u32::from_be_bytes([0, tag[0], tag[1], tag[2]]));
            }
            Kind::Lease => {
                let _unit = rest.try_get_u8().ok()?;
                self.lease = Some(rest.try_get_u64().ok()?);
            }
            _ => {}
        }
        Some(())
    }
}

fn take<'m>(rest: &mut &'m [u8], length: usize) -> Option<&'m [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn text<'m>(rest: &mut &'m [u8]) -> Option<&'m [u8]> {
    let length = rest.try_get_u16().ok()?;
    take(rest, length.into())
}

fn status(rest: &mut &[u8]) -> Option<Status> {
    match rest.try_get_u8().ok()? {
        0 => Some(Status::Ok),
        1 => Some(Status::Error),
        2 => Some(Status::Nack),
        _ => None,
    }
}

/// The time between when it was said and by when the answer is wanted. Both are of the caller's clock, which is not ours: that
/// is why its distance to now is not.
fn given(mut value: &[u8]) -> Option<u64> {
    let said = value.try_get_i64().ok()?;
    let until = value.try_get_i64().ok()?;
    Some(u64::try_from(until.saturating_sub(said)).unwrap_or(0))
}
