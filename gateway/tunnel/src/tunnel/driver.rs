//! The part of a tunnel that runs on the worker that owns it: probes are answered, control messages read and written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::code::CloseCode;
use proto::control::{Control, Digest, Gateways, control};
use proto::datagram::{DatagramKind, Probe};
use proto::limits;
use tokio::sync::mpsc;

use super::{NONE, Shared};
use crate::error::{CloseReason, TunnelError};
use crate::stream::{MessageReader, MessageWriter};

/// What [`Driver::run`] tells while the tunnel lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The probe of this sequence number was answered; its clock came back.
    Answered {
        /// As given to [`Tunnel::probe`](super::Tunnel::probe).
        sequence: u64,
        /// As given to [`Tunnel::probe`](super::Tunnel::probe).
        clock_us: u64,
    },
    /// The peer takes no new streams.
    GoingAway,
    /// The peer asks for another tunnel in the place of this one, which works until then.
    Retiring,
    /// The peer says how its services are.
    Digest(Digest),
    /// The peer says where the gateways of its cluster may be dialled.
    Gateways(Gateways),
    /// The peer asks for everything that digests have told.
    TellAgain,
}

/// The control stream of a tunnel, from HELLO on.
#[derive(Debug)]
pub(crate) struct ControlStream {
    pub(crate) reader: MessageReader,
    pub(crate) writer: MessageWriter,
}

/// The part of a tunnel that must be run on the worker that owns it; made with the tunnel.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    control: ControlStream,
    outgoing: mpsc::Receiver<Control>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        control: ControlStream,
        outgoing: mpsc::Receiver<Control>,
    ) -> Self {
        Self { shared, control, outgoing }
    }

    /// Runs the tunnel until its end: answers probes, writes and reads control messages.
    pub async fn run(mut self, mut on_event: impl FnMut(Event)) -> CloseReason {
        let carrier = self.shared.carrier.clone();
        loop {
            tokio::select! {
                datagram = carrier.read_datagram() => match datagram {
                    Ok(bytes) => self.datagram(&bytes, &mut on_event),
                    Err(reason) => return reason,
                },
                Some(message) = self.outgoing.recv() => {
                    if let Err(e) = self.control.writer.send(&message).await {
                        return self.end(&e);
                    }
                }
                message = self.control.reader.next::<Control>() => match message {
                    Ok(Some(Control { kind: Some(control::Kind::GoAway(go_away)) })) => {
                        let takes = go_away.last_stream.map_or(0, |last| last.saturating_add(1));
                        if takes == NONE {
                            self.shared.retiring.store(true, Ordering::Release);
                            on_event(Event::Retiring);
                        } else {
                            self.shared.flights.end_at(takes);
                            on_event(Event::GoingAway);
                        }
                    }
                    Ok(Some(Control { kind: Some(control::Kind::Digest(digest)) })) => on_event(Event::Digest(digest)),
                    Ok(Some(Control { kind: Some(control::Kind::Gateways(gateways)) })) => {
                        if !fits(&gateways) {
                            return self.end(&TunnelError::Protocol("too many addresses of gateways, or too long".into()));
                        }
                        on_event(Event::Gateways(gateways));
                    }
                    Ok(Some(Control { kind: Some(control::Kind::TellAgain(_)) })) => on_event(Event::TellAgain),
                    // Unknown is skipped: a newer peer says more.
                    Ok(Some(Control { kind: None })) => {}
                    Ok(None) => return self.end(&TunnelError::Truncated),
                    Err(e) => return self.end(&e),
                }
            }
        }
    }

    fn datagram(&self, bytes: &[u8], on_event: &mut impl FnMut(Event)) {
        match Probe::decode(bytes) {
            Some(ping @ Probe { kind: DatagramKind::Ping, .. }) => {
                // Lost like any datagram if it cannot be sent: the next probe asks again.
                let _ = self.shared.carrier.send_datagram(Bytes::copy_from_slice(&ping.pong().encode()));
            }
            Some(Probe { kind: DatagramKind::Pong, sequence, clock_us }) => {
                on_event(Event::Answered { sequence, clock_us });
            }
            None => {}
        }
    }

    /// The control stream is broken: so is the tunnel.
    fn end(&self, error: &TunnelError) -> CloseReason {
        if let Some(reason) = self.shared.carrier.close_reason() {
            return reason;
        }
        let text = format!("control stream: {error}");
        self.shared.carrier.close(CloseCode::ProtocolError, &text);
        CloseReason { code: Some(CloseCode::ProtocolError), text, cut: false }
    }
}

/// Whether a list of gateways is within the limits.
fn fits(gateways: &Gateways) -> bool {
    let short = |text: &String| text.len() <= limits::NAME_BYTES_MAX;
    gateways.addresses.len() <= limits::HELLO_ADDRESSES_MAX
        && gateways.addresses.iter().all(|address| short(&address.gateway) && short(&address.address))
}
