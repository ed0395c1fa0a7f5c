//! The admin socket in the state directory: what changes something, for our own user and root on this host.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;

use proto::limits::REGISTER_MESSAGE_BYTES_MAX;
use proto::register::{Say, Told};
use registry::store::Store;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::codegen::tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::objects::Objects;
use crate::line::Line;
use crate::rpc::{Admin, AdminServer, OBJECTS_BYTES_MAX, ObjectsServer};
use crate::worker::{RegisterStream, Who};

/// Its name in the state directory.
pub const FILE: &str = "admin.sock";

/// Messages of one conversation that wait on either side.
const QUEUE: usize = 8;

/// What is behind the socket.
#[derive(Debug)]
struct Socket {
    registrars: mpsc::Sender<RegisterStream>,
}

/// Serves `listener`, whose file is `path`, until `stop`; conversations under way are cut then.
///
/// # Errors
/// When the file is gone already, or the listener fails.
pub async fn serve(
    listener: UnixListener,
    path: PathBuf,
    registrars: mpsc::Sender<RegisterStream>,
    objects: Objects<impl Store>,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ours = std::fs::metadata(path)?.uid();
    let callers = UnixListenerStream::new(listener).filter(move |caller| match caller {
        Ok(caller) => may_enter(caller, ours),
        Err(_) => true,
    });
    let service =
        AdminServer::new(Socket { registrars }).max_decoding_message_size(REGISTER_MESSAGE_BYTES_MAX);
    let objects = ObjectsServer::new(objects)
        .max_decoding_message_size(OBJECTS_BYTES_MAX)
        .max_encoding_message_size(OBJECTS_BYTES_MAX);
    let serving = Server::builder().add_service(service).add_service(objects).serve_with_incoming(callers);
    tokio::select! {
        served = serving => Ok(served?),
        () = stop.cancelled() => Ok(()),
    }
}

/// Whether whoever connected is our own user or root: the file's mode says so already, unless somebody has changed it.
fn may_enter(caller: &UnixStream, ours: u32) -> bool {
    let user = caller.peer_cred().map(|cred| cred.uid());
    let may = user.as_ref().is_ok_and(|user| *user == 0 || *user == ours);
    if !may {
        let user = user.map_or_else(|error: io::Error| error.to_string(), |user| user.to_string());
        warn!(user, "Refused a caller of the admin socket.");
    }
    may
}

#[tonic::async_trait]
impl Admin for Socket {
    type RegisterStream = Pin<Box<dyn Stream<Item = Result<Told, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<Say>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let caller = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let who = Who::Host(caller.ok_or_else(|| Status::internal("the caller has no user"))?.uid());
        let mut said = request.into_inner();
        let (say, heard) = mpsc::channel(QUEUE);
        let (tell, told) = mpsc::channel(QUEUE);
        let stream = RegisterStream { who, line: Line::Queues(heard, tell), room: None };
        let busy = |_| Status::resource_exhausted("too many registrars wait for this gateway; try again");
        self.registrars.try_send(stream).map_err(busy)?;
        // Ends with the caller, or with the gateway's half of the conversation.
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = said.message() => next,
                    () = say.closed() => return,
                };
                let Ok(Some(message)) = next else { return };
                if say.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told).map(Ok))))
    }
}
