//! Looks at the first bytes of a connection where they wait in the socket, and leaves them there.

use std::future::poll_fn;
use std::io;
use std::task::{Poll, ready};
use std::time::Duration;

use first::{LOOK_BYTES_MAX, Seen};
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

/// What is looked at first.
const LOOK_BYTES_FIRST: usize = 1024;

/// Looks at the first bytes until `judge` has seen all, for `wait` at most. None: the time is up, the bytes are at their
/// end, or there are too many.
///
/// # Errors
/// The connection is lost.
pub async fn look<T>(
    stream: &TcpStream,
    wait: Duration,
    mut judge: impl FnMut(&[u8]) -> Seen<T>,
) -> io::Result<Option<T>> {
    let mut buffer = vec![0; LOOK_BYTES_FIRST];
    let mut seen = 0;
    let looking = poll_fn(|cx| {
        loop {
            let mut bytes = ReadBuf::new(&mut buffer);
            let count = ready!(stream.poll_peek(cx, &mut bytes))?;
            let all = bytes.capacity() == count;
            if (count > seen || count == 0)
                && let Seen::All(found) = judge(bytes.filled())
            {
                return Poll::Ready(Ok(Some(found)));
            }
            if count == 0 || (all && count >= LOOK_BYTES_MAX) {
                return Poll::Ready(Ok(None));
            }
            seen = count;
            if all {
                buffer.resize((2 * count).min(LOOK_BYTES_MAX), 0);
                continue;
            }
            // The rest is under way. What is here was looked at: only news shall wake this task. The next look finds the
            // socket not ready and waits.
            let looked_at =
                stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            debug_assert!(looked_at.is_err());
        }
    });
    tokio::time::timeout(wait, looking).await.unwrap_or(Ok(None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Sees a line.
    fn line(bytes: &[u8]) -> Seen<usize> {
        bytes.iter().position(|byte| *byte == b'\n').map_or(Seen::Part, Seen::All)
    }

    #[tokio::test]
    async fn what_was_looked_at_stays_and_what_never_comes_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connect, listener.accept());
        let (mut client, (mut server, _)) = (client.unwrap(), accepted.unwrap());
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(10));
        assert_eq!(look(&server, short, line).await.unwrap(), None);
        let sent = [&[b'x'; 3000][..], b"\n"].concat();
        client.write_all(&sent[..50]).await.unwrap();
        assert_eq!(look(&server, short, line).await.unwrap(), None);
        let (found, ()) = tokio::join!(look(&server, long, line), async {
            client.write_all(&sent[50..]).await.unwrap();
        });
        assert_eq!(found.unwrap(), Some(3000));
        let mut read = vec![0; sent.len()];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
        drop(client);
        assert_eq!(look(&server, long, line).await.unwrap(), None, "an end");
    }
}
