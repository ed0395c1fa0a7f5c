//! The members of an etcd: one is asked, and the next one if that cannot answer.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::failure::{Failure, Kind};
use super::options::{ASK_TIMEOUT, FileError, REQUEST_TIMEOUT};
use crate::base::reader::Reader;
use crate::model::EtcdOptions;

/// Whether a request may be made a second time if nobody knows what became of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing, or the same.
    Always,
    /// Only if the first was certainly not made.
    Unmade,
}

/// Every member, with the connection to it if there is one.
#[derive(Debug)]
pub(super) struct Members {
    options: EtcdOptions,
    list: Vec<Member>,
    /// The one that is asked first.
    current: AtomicUsize,
    /// Of the files that name us.
    reader: Reader,
}

struct Member {
    endpoint: String,
    /// Made with the first request and anew after each failure: files are read again then, and a connection that
    /// went silent is not kept.
    client: Mutex<Option<Client>>,
}

impl std::fmt::Debug for Member {
    /// Without what a connection knows of us.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// An answer, and which member gave it.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) member: usize,
}

impl Members {
    pub(super) fn new(options: EtcdOptions) -> Self {
        let member = |endpoint: &String| Member { endpoint: endpoint.clone(), client: Mutex::new(None) };
        let list = options.endpoints.iter().map(member).collect();
        Self { options, list, current: AtomicUsize::new(0), reader: Reader::default() }
    }

    /// The address of a member that gave an answer.
    pub(super) fn endpoint(&self, member: usize) -> &str {
        self.list.get(member).map_or("", |member| &member.endpoint)
    }

    /// Makes a request of one member after the other, until one answers. Takes `wait` at most for each, and
    /// [`ASK_TIMEOUT`] in all; who asks again after that asks the next ones.
    pub(super) async fn ask<T, F, A>(
        &self,
        repeat: Repeat,
        wait: Duration,
        request: F,
    ) -> Result<Answer<T>, Failure>
    where
        T: Send,
        F: Fn(Client) -> A + Send + Sync,
        A: Future<Output = Result<T, Error>> + Send,
    {
        let started = Instant::now();
        let mut member = self.current.load(Ordering::Relaxed);
        let mut asked = 0;
        loop {
            let left = ASK_TIMEOUT.saturating_sub(started.elapsed());
            let failure = match self.ask_one(member, wait.min(left), &request).await {
                Ok(value) => return Ok(Answer { value, member }),
                Err(failure) => failure,
            };
            asked += 1;
            let again = match failure.kind {
                Kind::Unreached | Kind::OldToken => true,
                Kind::Unanswered => repeat == Repeat::Always,
                _ => return Err(failure),
            };
            self.gave_up(member).await;
            // The first one is asked again if that was quick: its connection may only have been an old one.
            let all = asked >= self.list.len();
            let slow = if all { REQUEST_TIMEOUT } else { ASK_TIMEOUT };
            let enough = asked > self.list.len() || started.elapsed() >= slow;
            if !again || enough {
                return Err(failure);
            }
            member = (member + 1) % self.list.len();
        }
    }

    /// The next request goes to another member, and the next one here over a new connection.
    pub(super) async fn gave_up(&self, member: usize) {
        let next = (member + 1) % self.list.len().max(1);
        // Only the first of those who notice moves on.
        let _ = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        if let Some(member) = self.list.get(member) {
            *member.client.lock().await = None;
        }
    }

    async fn ask_one<T, F, A>(&self, member: usize, wait: Duration, request: &F) -> Result<T, Failure>
    where
        F: Fn(Client) -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let Some(Member { endpoint, client }) = self.list.get(member) else {
            return Err(Failure::of("nowhere", &Error::InvalidArgs("no endpoints".into())));
        };
        let asked = async {
            let client = self.client(endpoint, client, wait).await?;
            request(client).await.map_err(|error| Failure::of(endpoint, &error))
        };
        timeout(wait, asked).await.unwrap_or_else(|_| Err(Failure::silent(endpoint, wait)))
    }

    /// The connection that is there, or a new one, which is made as it is first used.
    async fn client(
        &self,
        endpoint: &str,
        slot: &Mutex<Option<Client>>,
        wait: Duration,
    ) -> Result<Client, Failure> {
        let mut slot = slot.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // Before whoever waits for an answer gives up, so that it is told what the matter is.
        let options = self.connect_options(wait * 3 / 4).await;
        let options = options.map_err(|error| Failure::unnamed(endpoint, &error))?;
        // With a user it logs in, else it does nothing yet.
        let made = Client::connect([endpoint], Some(options)).await;
        let made = made.map_err(|error| Failure::of(endpoint, &error))?;
        Ok(slot.insert(made).clone())
    }

    /// Reads the files that name us, on a thread that is left behind if they are not read within `wait`.
    async fn connect_options(&self, wait: Duration) -> Result<ConnectOptions, FileError> {
        let options = self.options.clone();
        let read = self.reader.within(wait, move || options.connect_options()).await;
        read.unwrap_or(Err(FileError::Slow(wait)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::pending;

    use super::super::options::LEASE_TIMEOUT;
    use super::*;
    use crate::model::EtcdUser;

    fn members(endpoints: &[String]) -> Members {
        Members::new(EtcdOptions { endpoints: endpoints.to_vec(), ..EtcdOptions::default() })
    }

    /// How long it takes to find out that `count` frozen members do not answer.
    async fn frozen(count: u16, repeat: Repeat, wait: Duration) -> Duration {
        let endpoints: Vec<_> = (0..count).map(|port| format!("http://127.0.0.1:{}", port + 1)).collect();
        let (members, started) = (members(&endpoints), Instant::now());
        let failure = members.ask(repeat, wait, |_| pending::<Result<(), Error>>()).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Unanswered);
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn frozen_members_cost_bounded_time_however_many_there_are() {
        assert_eq!(frozen(16, Repeat::Always, REQUEST_TIMEOUT).await, ASK_TIMEOUT);
        assert_eq!(frozen(16, Repeat::Unmade, REQUEST_TIMEOUT).await, REQUEST_TIMEOUT);
        assert_eq!(frozen(3, Repeat::Always, LEASE_TIMEOUT).await, LEASE_TIMEOUT * 3);
    }

    #[tokio::test]
    async fn files_that_hang_are_named_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let password_file = folder.path().join("password");
        let user = Some(EtcdUser { name: "ringway".into(), password_file });
        let endpoints = vec!["http://127.0.0.1:1".into()];
        let members = Members::new(EtcdOptions { endpoints, user, ..EtcdOptions::default() });
        let get = |client: Client| async move { client.kv_client().get("a", None).await };
        let (answer, hangs) = std::sync::mpsc::sync_channel::<()>(0);
        assert_eq!(members.reader.within(Duration::ZERO, move || hangs.recv()).await, None);
        let failure = members.ask(Repeat::Always, LEASE_TIMEOUT, get).await.unwrap_err();
        assert!(failure.to_string().contains("does their file system hang?"), "{failure}");
        answer.send(()).unwrap();
        let failure = members.ask(Repeat::Always, REQUEST_TIMEOUT, get).await.unwrap_err();
        assert!(failure.to_string().contains("cannot read"), "{failure}");
    }

    #[tokio::test]
    async fn nothing_was_sent_to_a_member_that_no_connection_reaches() {
        // Its queue of connections is full, and what comes more is dropped.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let full = socket.listen(1).unwrap();
        let address = full.local_addr().unwrap();
        let connect = || timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address));
        let mut filling = Vec::new();
        while let Ok(Ok(connection)) = connect().await {
            filling.push(connection);
        }
        let members = members(&[format!("http://{address}"), "http://127.0.0.1:1".into()]);
        let get = |client: Client| async move { client.kv_client().get("a", None).await };
        let failure = members.ask(Repeat::Unmade, LEASE_TIMEOUT, get).await.unwrap_err();
        assert_eq!(failure.kind, Kind::Unreached, "{failure}");
        assert_eq!(members.current.load(Ordering::Relaxed) % 2, 1, "the second one was asked too: {failure}");
    }
}
