//! What the kernel decides of a connection on TCP, and can be told.

use std::sync::{Arc, Weak};

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

use crate::congestion::Congestion;

/// A second handle to the socket of a connection. Held by whoever drives that one: for as long as there is a handle, the
/// kernel does not end it.
#[derive(Debug)]
pub(crate) struct Handle {
    socket: Socket,
    /// What it went by when it was made.
    usual: Vec<u8>,
}

/// How a tunnel reaches the handle of its connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control(Weak<Handle>);

impl Handle {
    /// None where the system does not say what the connection goes by.
    pub(crate) fn of(stream: &TcpStream) -> Option<Arc<Self>> {
        let socket = SockRef::from(stream).try_clone().ok()?;
        let usual = socket.tcp_congestion().ok()?;
        Some(Arc::new(Self { socket, usual }))
    }
}

impl Control {
    /// Of a connection that has this handle, if any.
    pub(crate) fn of(handle: Option<&Arc<Handle>>) -> Self {
        Self(handle.map_or_else(Weak::new, Arc::downgrade))
    }

    /// Has the kernel go by its algorithm of this name (`TCP_CONGESTION`), or by the usual one for
    /// [`Congestion::Ringway`]. Where it has none of this name, or does not let this process have it, it goes on as it does.
    pub(crate) fn set_congestion(&self, congestion: Congestion) {
        let Some(handle) = self.0.upgrade() else { return };
        let name = match congestion {
            Congestion::Ringway => handle.usual.split(|byte| *byte == 0).next().unwrap_or_default(),
            Congestion::NewReno => b"reno",
            Congestion::Cubic | Congestion::Bbr => congestion.as_str().as_bytes(),
        };
        if let Err(error) = handle.socket.set_tcp_congestion(name) {
            let name = String::from_utf8_lossy(name);
            tracing::warn!(
                %name, %error,
                "The kernel does not let TCP go by this congestion control; it keeps its own. See net.ipv4.tcp_allowed_congestion_control."
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::net::TcpListener;

    use super::*;

    fn goes_by(stream: &TcpStream) -> String {
        let name = SockRef::from(stream).tcp_congestion().unwrap();
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    #[tokio::test]
    async fn the_kernel_goes_by_what_it_is_told_and_the_connection_ends_with_its_driver() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let usual = goes_by(&stream);
        let handle = Handle::of(&stream);
        let control = Control::of(handle.as_ref());
        control.set_congestion(Congestion::NewReno);
        assert_eq!(goes_by(&stream), "reno");
        control.set_congestion(Congestion::Ringway);
        assert_eq!(goes_by(&stream), usual);
        drop((stream, handle));
        // With a handle left it would not have ended.
        control.set_congestion(Congestion::NewReno);
        accepted.readable().await.unwrap();
        assert_eq!(accepted.try_read(&mut [0]).unwrap(), 0);
    }
}
