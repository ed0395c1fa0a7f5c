//! A watch of an etcd: one stream from one member, told by whole revisions.

use std::collections::VecDeque;
use std::sync::Arc;

use etcd_client::{Event as EtcdEvent, EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};

use super::super::{Changes, Event, StoreError, Watch};
use super::convert::{self, signed, unsigned};
use super::failure::{Failure, Kind};
use super::members::{Answer, Repeat};
use super::{ANSWER_BYTES_MAX, REQUEST_TIMEOUT, Shared};

/// A watch of an [`super::EtcdStore`]. [`StoreError::Unavailable`] ends it when its member stops, loses its cluster or
/// says nothing for 8 s.
#[derive(Debug)]
pub struct EtcdWatch {
    shared: Arc<Shared>,
    /// An error: why it ended.
    stream: Result<WatchStream, StoreError>,
    member: usize,
    /// The last revision of which something was told, or the one before the first.
    told: u64,
    /// Of the last message, what was not told yet.
    ready: VecDeque<Changes>,
}

impl EtcdWatch {
    pub(super) async fn open(shared: &Arc<Shared>, prefix: &str, from: u64) -> Result<Self, StoreError> {
        // Of revision 0 there is nothing to tell, and etcd takes it for "from now on".
        let from = from.max(1);
        let key = shared.key(prefix);
        let opened = shared.members.ask(Repeat::Always, REQUEST_TIMEOUT, |client| {
            let key = key.clone();
            async move {
                // A watch from what is compacted, or was never reached, begins like any other: so the revision before
                // is asked for. That also tells when a deletion at the very revision of a compaction is left out.
                let before = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
                let before = before.with_revision(signed(from - 1).max(1));
                client.kv_client().get(key.clone(), Some(before)).await?;
                let options = WatchOptions::new().with_prefix().with_start_revision(signed(from));
                let mut watch = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                let mut stream = watch.watch(key, Some(options)).await?;
                let begun = stream.message().await?;
                Ok((stream, begun))
            }
        });
        let Answer { value: (stream, begun), member } =
            opened.await.map_err(|failure| match failure.kind {
                Kind::Compacted => StoreError::Compacted(from),
                Kind::Future => StoreError::SetBack(from),
                _ => failure.into(),
            })?;
        let stream = Ok(stream);
        let shared = Arc::clone(shared);
        let mut watch = Self { shared, stream, member, told: from - 1, ready: VecDeque::new() };
        watch.take(begun)?;
        Ok(watch)
    }

    /// Takes one message in; none: the stream has ended.
    fn take(&mut self, message: Option<WatchResponse>) -> Result<(), StoreError> {
        let Some(message) = message else { return Err(self.ended("the member closed it")) };
        let compacted = unsigned(message.compact_revision());
        if compacted > 0 {
            return Err(StoreError::Compacted(compacted));
        }
        if message.canceled() {
            return Err(self.ended(message.cancel_reason()));
        }
        let prefix = &self.shared.prefix;
        for (revision, event) in message.events().iter().filter_map(|event| read(prefix, event)) {
            match self.ready.back_mut() {
                Some(last) if last.revision == revision => last.events.push(event),
                _ => self.ready.push_back(Changes { revision, events: vec![event] }),
            }
        }
        Ok(())
    }

    fn failed(&self, error: &etcd_client::Error) -> StoreError {
        let failure = Failure::of(self.shared.members.endpoint(self.member), error);
        match failure.kind {
            // More changes at once than we take: who reads them anew has them all.
            Kind::TooLarge => StoreError::Compacted(self.told),
            _ => failure.into(),
        }
    }

    fn ended(&self, reason: &str) -> StoreError {
        Failure::ended(self.shared.members.endpoint(self.member), reason).into()
    }
}

impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            if let Some(changes) = self.ready.pop_front() {
                self.told = changes.revision;
                return Ok(changes);
            }
            let stream = self.stream.as_mut().map_err(|ended| ended.clone())?;
            let taken = match stream.message().await {
                Ok(message) => self.take(message),
                Err(error) => Err(self.failed(&error)),
            };
            if let Err(ended) = taken {
                // Told to each who asks again. Nothing is lost if this future is dropped here: the next one hears it.
                self.stream = Err(ended);
                if !matches!(self.stream, Err(StoreError::Compacted(_))) {
                    self.shared.members.gave_up(self.member).await;
                }
            }
        }
    }
}

/// One event with its revision; none: of a key that is not ours.
fn read(prefix: &str, event: &EtcdEvent) -> Option<(u64, Event)> {
    let found = event.kv()?;
    let revision = unsigned(found.mod_revision());
    let event = match event.event_type() {
        EventType::Put => Event::Put(convert::entry(prefix, found.clone())?),
        EventType::Delete => Event::Deleted(convert::key(prefix, found.key())?),
    };
    Some((revision, event))
}
