//! The small HTTP server that stands for an endpoint in the demo: it says who it is.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::{Failure, block_on, gateway};
use super::DemoError;

/// Names the endpoint that answered: `cluster/service/id`.
pub(super) const SERVED_BY: &str = "x-served-by";

/// Connections served at once; the demo's three gateways need a few dozen.
const CONNECTIONS_MAX: usize = 1024;

/// One endpoint of the demo (started by `ringway demo`).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The cluster that this endpoint belongs to.
    #[arg(long)]
    cluster: String,
    /// The service that it serves.
    #[arg(long)]
    service: String,
    /// Its endpoint id.
    #[arg(long)]
    id: String,
}

/// Serves until it is killed or standard input ends.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    gateway::end_with_stdin();
    let name = format!("{}/{}/{}", args.cluster, args.service, args.id);
    let served = block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        serve(listener, name).await
    })?;
    let listen = args.listen;
    Ok(served.map_err(|source| DemoError::Backend { listen, source })?)
}

/// Answers every request of every connection with `name`; ends only when accepting fails for good.
async fn serve(listener: TcpListener, name: String) -> io::Result<()> {
    let header = HeaderValue::try_from(&name).map_err(io::Error::other)?;
    let body = Bytes::from(name + "\n");
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let (stream, _caller) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (header, body) = (header.clone(), body.clone());
        let answer = service_fn(move |_request: Request<Incoming>| {
            let mut answer = Response::new(Full::new(body.clone()));
            answer.headers_mut().insert(SERVED_BY, header.clone());
            async move { Ok::<_, Infallible>(answer) }
        });
        connections.spawn(async move {
            // A caller that goes away ends its connection and nothing else.
            let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::super::client::Client;
    use super::*;
    use http_body_util::Empty;
    use std::time::Duration;

    #[tokio::test]
    async fn says_who_it_is_on_a_kept_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, "west/web/a".into()));
        let mut client = Client::new(address.to_string());
        for _ in 0..3 {
            let request = Request::get("/").header("host", "web.shop.mesh").body(Empty::new()).unwrap();
            let answer = client.send(request, Duration::from_secs(3)).await.unwrap();
            assert_eq!(answer.headers()[SERVED_BY], "west/web/a");
            assert_eq!(answer.into_body(), "west/web/a\n");
        }
    }
}
