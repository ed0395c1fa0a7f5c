//! The admin socket of a gateway on this host, as commands find it.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::client::{Client, ClientError};
use crate::admin::socket::FILE;

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

/// Connects to the services behind the socket at `path`.
///
/// # Errors
/// When nobody listens there, or it may not be opened.
pub(crate) async fn connect(path: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The name goes into a header that nobody reads.
    Endpoint::from_static("http://gateway").connect_with_connector(connector).await
}
