//! The admin socket of a gateway on this host, as commands find it.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::client::{Client, ClientError};
use crate::admin::socket::FILE;

/// Longest wait for the head of an answer: more than a gateway takes for its longest call, a change of thousands of objects
/// in a slow registry, so that one which says nothing is stopped or hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(75);

/// Which gateway of this host is to do something.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AdminSocket {
    /// Admin socket of the gateway: `admin.sock` in its state directory [default: as the gateway at --admin says].
    #[arg(long, env = "RINGWAY_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: Option<PathBuf>,
    /// State directory of the gateway, in the place of --admin-socket.
    #[arg(long, value_name = "DIR", conflicts_with = "admin_socket")]
    state: Option<PathBuf>,
    #[command(flatten)]
    admin: super::Admin,
}

/// What is looked for in a gateway's status.
#[derive(Deserialize)]
struct Status {
    admin_socket: PathBuf,
}

impl AdminSocket {
    /// Where it is.
    ///
    /// # Errors
    /// When no option says so and no gateway answers at the admin address.
    pub(crate) async fn path(&self) -> Result<PathBuf, ClientError> {
        match (&self.admin_socket, &self.state) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(directory)) => Ok(directory.join(FILE)),
            (None, None) => {
                let (status, _) = Client::new(&self.admin.admin).get_json::<Status>("/v1/status").await?;
                Ok(status.admin_socket)
            }
        }
    }
}

/// Connects to the services behind the socket at `path`. A call that is not answered in time fails ([`is_silence`]).
///
/// # Errors
/// When nobody listens there, or it may not be opened.
pub(crate) async fn connect(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name goes into a header that nobody reads.
    let gateway = Endpoint::from_static("http://gateway").timeout(ANSWER_WAIT);
    gateway.connect_with_connector(connector).await
}

/// Whether a call failed because the gateway said nothing.
pub(crate) fn is_silence(status: &tonic::Status) -> bool {
    let mut causes = std::iter::successors(std::error::Error::source(status), |&error| error.source());
    causes.any(|cause| cause.is::<tonic::TimeoutExpired>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use admin_api::rpc::{GetRequest, ObjectsClient};

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_stopped_is_waited_for_a_bounded_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        // The system connects to it, and nobody is there to take the connection.
        let _stopped = tokio::net::UnixListener::bind(&path).unwrap();
        let mut gateway = ObjectsClient::new(connect(path).await.unwrap());
        let silent = gateway.get(GetRequest::default()).await.unwrap_err();
        assert!(is_silence(&silent), "{silent:?}");
    }
}
