//! The part of a tunnel that runs on the worker that owns it: probes are answered, control messages read and written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proto::code::CloseCode;
use proto::control::{Control, Digest, Gateways, Loss, control};
use proto::datagram::{DatagramKind, Probe};
use proto::limits;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

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
    /// When the peer was last told that we lose much; none: that we do not.
    told_loss: Option<Instant>,
    /// When it last said so of itself.
    heard_loss: Option<Instant>,
}

/// How often it is looked whether much is lost.
const LOSS_LOOK: Duration = Duration::from_secs(1);
/// How often it is said, for as long as it holds ...
const LOSS_SAY_EVERY: Duration = Duration::from_secs(10);
/// ... and for how long it counts: as long as what we lose ourselves.
const LOSS_HEEDED: Duration = Duration::from_secs(30);

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        control: ControlStream,
        outgoing: mpsc::Receiver<Control>,
    ) -> Self {
        Self { shared, control, outgoing, told_loss: None, heard_loss: None }
    }

    /// Runs the tunnel until its end: answers probes, writes and reads control messages.
    pub async fn run(mut self, mut on_event: impl FnMut(Event)) -> CloseReason {
        let carrier = self.shared.carrier.clone();
        let mut looks = tokio::time::interval(LOSS_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                datagram = carrier.read_datagram() => match datagram {
                    Ok(bytes) => self.datagram(&bytes, &mut on_event),
                    Err(reason) => return reason,
                },
                _ = looks.tick() => self.look_at_losses(Instant::now()),
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
                    Ok(Some(Control { kind: Some(control::Kind::Loss(loss)) })) => {
                        self.heard_loss = (loss.millionths > 0).then(Instant::now);
                        carrier.heed_loss(loss.millionths > 0);
                    }
                    // Unknown is skipped: a newer peer says more.
                    Ok(Some(Control { kind: None })) => {}
                    Ok(None) => return self.end(&TunnelError::Truncated),
                    Err(e) => return self.end(&e),
                }
            }
        }
    }

    /// Tells the peer while we lose much, and when we no longer do; forgets what it said of itself long ago.
    fn look_at_losses(&mut self, now: Instant) {
        let carrier = &self.shared.carrier;
        if self.heard_loss.is_some_and(|heard| now - heard >= LOSS_HEEDED) {
            self.heard_loss = None;
            carrier.heed_loss(false);
        }
        let millionths = carrier.own_loss();
        let due = match self.told_loss {
            Some(told) => millionths == 0 || now - told >= LOSS_SAY_EVERY,
            None => millionths > 0,
        };
        if due {
            let loss = Control { kind: Some(control::Kind::Loss(Loss { millionths })) };
            // Else the next look tells it.
            if self.shared.control.try_send(loss).is_ok() {
                self.told_loss = (millionths > 0).then_some(now);
            }
        }
    }

    fn datagram(&self, bytes: &Bytes, on_event: &mut impl FnMut(Event)) {
        match Probe::decode(bytes) {
            Some(ping @ Probe { kind: DatagramKind::Ping, .. }) => {
                // Lost like any datagram if it cannot be sent: the next probe asks again.
                let _ = self.shared.carrier.send_datagram(Bytes::copy_from_slice(&ping.pong().encode()));
            }
            Some(Probe { kind: DatagramKind::Pong, sequence, clock_us }) => {
                on_event(Event::Answered { sequence, clock_us });
            }
            Some(Probe { kind: DatagramKind::Flow, .. }) | None => self.shared.datagrams.take(bytes),
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
