//! What a server of Mux says beside its answers. Pure.

use finagle::{Kind, Message};

/// What is to be done about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aside {
    /// What it is told.
    pub(super) reply: Option<Message>,
    /// No call is to come on this connection any more.
    pub(super) last: bool,
}

impl Aside {
    /// What is to be done about what is `said`; none: it should not have come.
    pub(super) fn of(said: &Message) -> Option<Self> {
        let reply = |kind, text| Some(Message::new(kind, said.tag, text));
        match said.kind {
            Kind::Ping => Some(Self { reply: reply(Kind::Pong, ""), last: false }),
            Kind::Drain => Some(Self { reply: reply(Kind::Drained, ""), last: true }),
            Kind::Lease => Some(Self { reply: None, last: said.ends_lease() }),
            // Of a call that was not waited for, on a connection that is kept for none of those.
            Kind::Discarded => Some(Self { reply: None, last: false }),
            Kind::Init => Some(Self { reply: reply(Kind::Error, "nothing is agreed on here"), last: false }),
            Kind::Request | Kind::Dispatch => {
                Some(Self { reply: reply(Kind::Error, "nothing is served here"), last: false })
            }
            Kind::RequestAnswer
            | Kind::DispatchAnswer
            | Kind::Drained
            | Kind::Pong
            | Kind::Discard
            | Kind::Inited
            | Kind::Error => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_server_asks_is_answered_and_what_it_ends_is_over() {
        let aside = |kind| Aside::of(&Message::new(kind, 9, ""));
        let Aside { reply, last } = aside(Kind::Ping).unwrap();
        assert_eq!((reply.unwrap(), last), (Message::new(Kind::Pong, 9, ""), false));
        let Aside { reply, last } = aside(Kind::Drain).unwrap();
        assert_eq!((reply.unwrap(), last), (Message::new(Kind::Drained, 9, ""), true));
        assert_eq!(aside(Kind::Dispatch).unwrap().reply.unwrap().kind, Kind::Error);
        assert_eq!(aside(Kind::DispatchAnswer), None, "it was not asked for");
        let lease = |left: u8| {
            let bytes = [&b"\0\0\0\x0d\x43\0\0\0\0\0\0\0\0\0\0\0"[..], &[left]].concat();
            Aside::of(&finagle::next(&mut bytes::BytesMut::from(&bytes[..])).unwrap().unwrap()).unwrap()
        };
        assert_eq!((lease(0).last, lease(1).last), (true, false));
    }
}
