//! The words of a handover: each is a length (4 bytes, big-endian), JSON, and perhaps a descriptor that goes with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::TakeOverError;

/// A word is taken within that.
const SAY_WAIT: Duration = Duration::from_secs(10);
/// The longest word.
const WORD_BYTES_MAX: usize = 16 * 1024;
const HEADER_BYTES: usize = 4;

/// What either says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "camelCase")]
pub(super) enum Word {
    Ask {
        version: u32,
        cluster: String,
        gateway: String,
    },
    Wait,
    Refused {
        why: String,
    },
    Offer {
        boot: u64,
        workers: NonZeroU8,
        process: u32,
    },
    /// With the socket.
    Socket {
        /// Of a Unix socket its file, as everybody finds it.
        file: Option<PathBuf>,
    },
    All,
    Lend,
    Lent,
    Switch {
        /// Whether the heir reads the UDP port of the tunnels from now on.
        reads: bool,
    },
    /// With the stream on which the elder is told what is its tunnels', if the heir reads.
    Switched,
    Up,
    Moved,
    Ready,
    Yours,
}

/// One end of the conversation.
#[derive(Debug)]
pub(super) struct Line(UnixStream);

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Says a word.
    pub(super) async fn say(&self, word: &Word) -> Result<(), TakeOverError> {
        self.within(self.write(word, None)).await
    }

    /// Says a word that a descriptor goes with.
    pub(super) async fn say_with(&self, word: &Word, what: BorrowedFd<'_>) -> Result<(), TakeOverError> {
        self.within(self.write(word, Some(what))).await
    }

    /// Whoever takes nothing hears nothing.
    async fn within(
        &self,
        said: impl Future<Output = Result<(), TakeOverError>>,
    ) -> Result<(), TakeOverError> {
        timeout(SAY_WAIT, said).await.map_err(|_| TakeOverError::Silent(SAY_WAIT))?
    }

    async fn write(&self, word: &Word, what: Option<BorrowedFd<'_>>) -> Result<(), TakeOverError> {
        let json = serde_json::to_vec(word).map_err(io::Error::from)?;
        // Words are short: their text is bounded where they are made.
        let length = u32::try_from(json.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes()[..], &json].concat();
        let written = match what {
            None => 0,
            Some(what) => self.0.async_io(Interest::WRITABLE, || send(self.0.as_fd(), &bytes, what)).await?,
        };
        let mut left = &bytes[written..];
        while !left.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whoever is at the other end. None: it is in another namespace of processes, where its id means nothing here. (The
    /// system says 0, which to kill is to kill one's own group.)
    pub(super) fn process(&self) -> Option<i32> {
        self.0.peer_cred().ok()?.pid().filter(|process| *process > 0)
    }

    /// The next word, and what came with it.
    ///
    /// # Errors
    /// Nothing came within `wait`, or what is no word.
    pub(super) async fn hear(&mut self, wait: Duration) -> Result<(Word, Option<OwnedFd>), TakeOverError> {
        timeout(wait, self.read()).await.map_err(|_| TakeOverError::Silent(wait))?
    }

    async fn read(&mut self) -> Result<(Word, Option<OwnedFd>), TakeOverError> {
        let mut header = [0; HEADER_BYTES];
        // What goes with a word goes with its first byte.
        let (read, what) =
            self.0.async_io(Interest::READABLE, || receive(self.0.as_fd(), &mut header)).await?;
        if read == 0 {
            return Err(TakeOverError::Left);
        }
        self.0.read_exact(&mut header[read..]).await.map_err(left)?;
        let length = u32::from_be_bytes(header) as usize;
        if length > WORD_BYTES_MAX {
            return Err(TakeOverError::Unexpected);
        }
        let mut json = vec![0; length];
        self.0.read_exact(&mut json).await.map_err(left)?;
        let word = serde_json::from_slice(&json).map_err(|_| TakeOverError::Unexpected)?;
        Ok((word, what))
    }

    /// Waits until the other end is gone.
    pub(super) async fn ended(&mut self) {
        while self.0.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    }
}

/// An end in the middle of a word is as good as one before it.
fn left(error: io::Error) -> TakeOverError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => TakeOverError::Left,
        _ => error.into(),
    }
}

fn send(stream: BorrowedFd<'_>, bytes: &[u8], what: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [what];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

fn receive(stream: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok((read, descriptors.flatten().last()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use tokio::io::AsyncWriteExt;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    fn pair() -> (Line, Line) {
        let (one, other) = UnixStream::pair().unwrap();
        (Line::new(one), Line::new(other))
    }

    #[tokio::test]
    async fn a_socket_works_at_the_other_end() {
        let (elder, mut heir) = pair();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        elder.say(&Word::Lent).await.unwrap();
        elder.say_with(&Word::Socket { file: None }, listener.as_fd()).await.unwrap();
        elder.say(&Word::All).await.unwrap();
        drop(listener);
        assert!(matches!(heir.hear(WAIT).await.unwrap(), (Word::Lent, None)));
        let (word, socket) = heir.hear(WAIT).await.unwrap();
        assert_eq!(word, Word::Socket { file: None });
        assert!(matches!(heir.hear(WAIT).await.unwrap(), (Word::All, None)));
        let listener = TcpListener::from(socket.unwrap());
        let caller = TcpStream::connect(address).unwrap();
        let mut accepted = listener.accept().unwrap().0;
        drop(caller);
        assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_no_word_is_refused_and_an_end_is_one() {
        for (said, expected) in [
            (&[0xff; 8][..], "another version"),
            (b"\0\0\0\x02{}", "another version"),
            (b"\0\0\0\x09{\"word\":", "has ended"),
            (b"\0", "has ended"),
            (b"", "has ended"),
        ] {
            let (one, mut other) = UnixStream::pair().unwrap();
            other.write_all(said).await.unwrap();
            drop(other);
            let heard = Line::new(one).hear(WAIT).await.unwrap_err();
            assert!(heard.to_string().contains(expected), "{said:?}: {heard}");
        }
        let (mut elder, _heir) = pair();
        let heard = elder.hear(Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(heard, TakeOverError::Silent(_)));
    }
}
