//! Flows of datagrams: each has a stream that says what it is for and ends it, and datagrams beside it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::datagram::FlowId;
use tokio::sync::mpsc;

use crate::carrier::Carrier;

/// Datagrams of one flow that wait to be taken; more are dropped.
const QUEUE: usize = 256;

/// Who takes the datagrams of the flows of a tunnel.
#[derive(Debug, Default)]
pub(crate) struct Flows(Mutex<HashMap<FlowId, Taker>>);

#[derive(Debug)]
struct Taker {
    queue: mpsc::Sender<Bytes>,
    dropped: Arc<AtomicU64>,
}

/// The datagrams of one flow; none come once it is dropped.
#[derive(Debug)]
pub struct Datagrams {
    flows: Arc<Flows>,
    carrier: Carrier,
    /// Of those that come.
    id: FlowId,
    queue: mpsc::Receiver<Bytes>,
    dropped: Arc<AtomicU64>,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsent {
    /// It is too large for the carrier: the flow's stream takes it.
    TooLarge,
    /// Too many wait; it is dropped.
    Full,
    /// The tunnel has ended.
    Down,
}

impl Flows {
    fn lock(&self) -> MutexGuard<'_, HashMap<FlowId, Taker>> {
        // Whoever panicked left a map that is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a datagram to the flow that it is of; one of a flow that is over, or of none, is dropped.
    pub(crate) fn take(&self, datagram: &Bytes) {
        let Some((id, begin)) = FlowId::read(datagram) else { return };
        if let Some(taker) = self.lock().get(&id)
            && taker.queue.try_send(datagram.slice(begin..)).is_err()
        {
            taker.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Datagrams {
    /// Those of the stream at `index` of the streams of its opener: of us, if `ours`.
    pub(crate) fn begin(flows: &Arc<Flows>, carrier: &Carrier, index: u64, ours: bool) -> Self {
        let id = FlowId { index, to_opener: ours };
        let (sender, queue) = mpsc::channel(QUEUE);
        let dropped = Arc::<AtomicU64>::default();
        flows.lock().insert(id, Taker { queue: sender, dropped: dropped.clone() });
        Self { flows: flows.clone(), carrier: carrier.clone(), id, queue, dropped }
    }

    /// Sends a datagram; as any, it may be lost.
    ///
    /// # Errors
    /// [`Unsent`].
    pub fn send(&self, datagram: &[u8]) -> Result<(), Unsent> {
        let room = self.carrier.datagram_room().ok_or(Unsent::Full)?;
        if datagram.len() + FlowId::BYTES_MAX > room {
            return Err(Unsent::TooLarge);
        }
        let mut bytes = Vec::with_capacity(FlowId::BYTES_MAX + datagram.len());
        FlowId { to_opener: !self.id.to_opener, ..self.id }.put(&mut bytes);
        bytes.extend_from_slice(datagram);
        self.carrier.send_datagram(bytes.into()).map_err(|_| Unsent::Down)
    }

    /// The next one; `None`: none come any more. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.queue.recv().await
    }

    /// How many came while too many waited.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.flows.lock().remove(&self.id);
    }
}
