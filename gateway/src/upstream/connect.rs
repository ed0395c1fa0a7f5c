//! Connections to endpoints: to a Unix socket, or to every address that a name has, without waiting for one that swallows what is sent to it
//! (RFC 8305, Happy Eyeballs).

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use registry::model::HostPort;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::base::bind;

/// How long an address has for itself before the next one is tried beside it (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It was refused, or the name has no address.
    #[error("the connection was refused")]
    Refused(#[source] io::Error),
    /// There was no answer in time.
    #[error("no connection within {0:?}")]
    Unanswered(Duration),
    /// This process has no room for another connection: nothing is wrong with the endpoint.
    #[error("this process cannot open another connection")]
    Ours(#[source] io::Error),
}

/// A TCP connection to `address`, made within `wait`; the name is resolved in that time as well.
///
/// # Errors
/// [`ConnectError`]; of several addresses, what the last one did.
pub async fn connect(address: &HostPort, wait: Duration) -> Result<TcpStream, ConnectError> {
    let give_up = Instant::now() + wait;
    let connecting = async {
        if let Some(path) = address.unix() {
            return bind::as_stream(UnixStream::connect(path).await?);
        }
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            return TcpStream::connect(SocketAddr::new(ip, address.port)).await;
        }
        let found = tokio::net::lookup_host((&*address.host, address.port)).await?;
        race(interleaved(found)).await
    };
    let connected = match timeout_at(give_up, connecting).await {
        Ok(connected) => connected.and_then(|stream| match address.unix() {
            None => stream.set_nodelay(true).map(|()| stream),
            Some(_) => Ok(stream),
        }),
        Err(_) => return Err(ConnectError::Unanswered(wait)),
    };
    connected.map_err(
        |error| if is_ours(&error) { ConnectError::Ours(error) } else { ConnectError::Refused(error) },
    )
}

/// Whether an error says that this process, or its host, has run out of something.
pub fn is_ours(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let ours = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.contains(&Errno::from_raw(code)))
}

/// The addresses, those of the two families in turn (RFC 8305, section 4), the first one's first.
fn interleaved(found: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let all: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    let first_is_v6 = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        all.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = VecDeque::new();
    while let Some(address) = first.pop_front() {
        order.push_back(address);
        order.extend(second.pop_front());
    }
    order.append(&mut second);
    order
}

/// The first connection that is made; the next address is tried when one fails, or has taken its time.
async fn race(mut addresses: VecDeque<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match addresses.pop_front() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let next = Instant::now() + NEXT_ADDRESS;
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(panicked) => last = io::Error::other(panicked),
            },
            () = sleep_until(next), if !addresses.is_empty() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    fn address(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    #[test]
    fn families_take_turns() {
        let text = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"];
        let order = interleaved(text.iter().map(|t| t.parse().unwrap()));
        let order: Vec<String> = order.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
    }

    /// An address whose accept queue is full: what connects to it waits.
    fn swallowing() -> (socket2::Socket, SocketAddr, Vec<socket2::Socket>) {
        let socket = |()| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = socket(());
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let at = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        loop {
            let caller = socket(());
            if caller.connect_timeout(&at.into(), Duration::from_millis(100)).is_err() {
                return (listener, at, waiting);
            }
            waiting.push(caller);
        }
    }

    #[tokio::test(flavor = "local")]
    async fn an_address_that_swallows_everything_holds_up_no_other() {
        let (_listener, dead, _waiting) = swallowing();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = alive.local_addr().unwrap();
        let stream = race([dead, at].into()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), at);
        // One that refuses is passed at once.
        let stream = race(["127.0.0.1:1".parse().unwrap(), at].into()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), at);
    }

    #[tokio::test(flavor = "local")]
    async fn what_failed_is_told_apart() {
        let refused = connect(&address("127.0.0.1", 1), Duration::from_secs(5)).await;
        assert!(matches!(refused, Err(ConnectError::Refused(_))));
        let (_listener, dead, _waiting) = swallowing();
        let wait = Duration::from_millis(50);
        let unanswered = connect(&address("127.0.0.1", dead.port()), wait).await;
        assert!(matches!(unanswered, Err(ConnectError::Unanswered(w)) if w == wait));
        assert!(is_ours(&io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32)));
        assert!(!is_ours(&io::Error::from_raw_os_error(nix::errno::Errno::ECONNREFUSED as i32)));
    }
}
