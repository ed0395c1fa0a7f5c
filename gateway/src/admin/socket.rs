//! The admin socket in the state directory: what changes something, for our own user and root on this host.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use proto::limits::REGISTER_MESSAGE_BYTES_MAX;
use proto::register::{Say, Told};
use registry::pure::registration::place::CameFrom;
use registry::store::Store;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::transport::server::{Router, UdsConnectInfo};
use tonic::{Request, Response, Status, Streaming};

use super::objects::Objects;
use crate::base::accept::{ACCEPT_PAUSE, here, is_own_user};
use crate::base::line::Line;
use crate::proxy::worker::{RegisterStream, Who};
use crate::telemetry::limited::limited;
use admin_api::rpc::{Admin, AdminServer, OBJECTS_BYTES_MAX, ObjectsServer};

/// Its name in the state directory.
pub const FILE: &str = "admin.sock";

/// Messages of one conversation that wait on either side.
const QUEUE: usize = 8;

/// How long calls under way are waited for as the process drains.
const DRAIN: Duration = Duration::from_secs(5);

/// What is behind the socket.
#[derive(Debug)]
struct Socket {
    registrars: mpsc::Sender<RegisterStream>,
}

/// Serves `listener` until `stop`: from then on no call is taken, on open connections neither, and
/// what is under way has a short time.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: UnixListener,
    registrars: mpsc::Sender<RegisterStream>,
    objects: Objects<impl Store>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let is_ours = objects.shared.accepts_changes.clone();
    let service =
        AdminServer::new(Socket { registrars }).max_decoding_message_size(REGISTER_MESSAGE_BYTES_MAX);
    let objects = ObjectsServer::new(objects)
        .max_decoding_message_size(OBJECTS_BYTES_MAX)
        .max_encoding_message_size(OBJECTS_BYTES_MAX);
    let services = Server::builder().add_service(service).add_service(objects);
    serve_until(services, listener, &is_ours, stop).await
}

/// Serves callers of our own user and of root; none while what they change `is_ours` no more.
async fn serve_until(
    services: Router,
    listener: UnixListener,
    is_ours: &watch::Sender<bool>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (hand, callers) = mpsc::channel(1);
    let accepting = async {
        // Gone with the last caller that is taken.
        let hand = hand;
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept(listener, is_ours, &hand) => {}
        }
    };
    let callers = ReceiverStream::new(callers);
    let serving = services.serve_with_incoming_shutdown(callers, stop.clone().cancelled_owned());
    let serving = async { tokio::join!(accepting, serving).1 };
    let over = async {
        stop.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = over => Ok(()),
    }
}

/// Accepts callers until nobody takes them.
async fn accept(
    listener: UnixListener,
    is_ours: &watch::Sender<bool>,
    hand: &mpsc::Sender<io::Result<UnixStream>>,
) {
    loop {
        match here(is_ours, listener.accept()).await {
            Ok((caller, _)) => match is_own_user(&caller) {
                Ok(()) if hand.send(Ok(caller)).await.is_err() => return,
                Ok(()) => {}
                Err(user) => limited!(WARN, STRANGERS, user, "Refused a caller of the admin socket.", user),
            },
            Err(error) => {
                limited!(WARN, STRANGERS, "", "Cannot accept a caller of the admin socket.", %error);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why a registrar is not taken.
fn turned_away(error: &TrySendError<RegisterStream>) -> Status {
    match error {
        TrySendError::Full(_) => {
            Status::resource_exhausted("too many registrars wait for this gateway; try again")
        }
        TrySendError::Closed(_) => {
            Status::unavailable("this gateway drains; try another one, or this one again")
        }
    }
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
        let stream =
            RegisterStream { who, from: CameFrom::Host, line: Line::Queues(heard, tell), room: None };
        self.registrars.try_send(stream).map_err(|error| turned_away(&error))?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tonic::Code;

    use super::*;
    use crate::cli::socket::connect;
    use admin_api::rpc::AdminClient;

    #[tokio::test]
    async fn a_drain_takes_no_call_on_connections_that_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let listener = UnixListener::bind(&path).unwrap();
        let is_ours = watch::Sender::new(true);
        let (registrars, mut taken) = mpsc::channel(1);
        let services = Server::builder().add_service(AdminServer::new(Socket { registrars }));
        let stop = CancellationToken::new();
        let (gate, stopped) = (is_ours.clone(), stop.clone());
        let serving = tokio::spawn(async move { serve_until(services, listener, &gate, stopped).await });
        let client = AdminClient::new(connect(path).await.unwrap());
        let register = || {
            let mut client = client.clone();
            async move { client.register(tonic::codegen::tokio_stream::pending()).await.map(drop) }
        };
        register().await.unwrap();
        assert_eq!(register().await.unwrap_err().code(), Code::ResourceExhausted, "one waits already");
        drop(taken.recv().await);
        register().await.unwrap();
        taken.close();
        assert_eq!(register().await.unwrap_err().code(), Code::Unavailable, "nobody takes any");

        let before = tokio::time::Instant::now();
        stop.cancel();
        // What waits is under way, and ends with its registrar.
        drop(taken.recv().await);
        serving.await.unwrap().unwrap();
        assert!(before.elapsed() < DRAIN);
        assert!(register().await.is_err());
    }
}
