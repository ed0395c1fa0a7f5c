//! One connection to the endpoints of a port, for a caller that has it to itself.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use registry::model::HostPort;
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;

use super::connect::{ConnectError, is_ours};
use super::pool::NotConnected;
use super::search::{Next, Search, Taken, Way};
use super::{Watch, multiplex};
use crate::http::datagrams::Side;
use crate::http::join::{End, Ended};
use policy::balance::{EndpointState, InFlight};
use policy::retry::Failure;

/// The side that serves a connection or an upgraded exchange, ready for its first byte.
#[derive(Debug)]
pub struct Served {
    /// Where it is.
    pub end: End,
    /// That it counts at an endpoint of this cluster.
    pub held: Option<Held>,
}

/// A connection that counts at its endpoint until this is dropped; how it ended is to be told.
#[derive(Debug)]
pub struct Held {
    in_flight: InFlight,
    watch: Rc<Watch>,
    /// Its place on a connection of HTTP/2.
    _stream: Option<multiplex::Stream>,
}

impl Held {
    pub(super) fn new(in_flight: InFlight, watch: &Rc<Watch>, stream: Option<multiplex::Stream>) -> Self {
        Self { in_flight, watch: watch.clone(), _stream: stream }
    }

    /// Which endpoint it is at.
    pub fn endpoint(&self) -> &EndpointState {
        self.in_flight.endpoint()
    }

    /// How it ended, after so many bytes for its caller: an endpoint that breaks off without one may take connections for
    /// somebody who is not there.
    pub fn ended(&self, ended: Ended, sent: u64) {
        if ended == Ended::ByServer && sent == 0 {
            let change = self.in_flight.failed(self.watch.clock.now());
            self.watch.told(self.in_flight.endpoint(), change);
        } else {
            self.in_flight.completed();
        }
    }
}

/// A socket of its own to an endpoint, for a flow of datagrams: whether anybody is there, the first datagrams show.
///
/// # Errors
/// As [`dial`].
pub async fn dial_datagrams(way: &Way<'_>, connect: Duration) -> Result<Served, Failure> {
    let mut search = Search::new();
    loop {
        let Taken { index, endpoint, mut exchange, connect, in_haste } = search.take(way, connect)?;
        let why = match tokio::time::timeout(connect, socket(endpoint.address())).await {
            Ok(Ok(socket)) => {
                exchange.end(InFlight::answered);
                let Some(in_flight) = exchange.in_flight.take() else { return Err(Failure::Unavailable) };
                let held = Some(Held::new(in_flight, way.watch, None));
                return Ok(Served { end: End::Datagrams(Side::Socket(socket)), held });
            }
            Ok(Err(error)) if is_ours(&error) => ConnectError::Ours(error),
            Ok(Err(error)) => ConnectError::Refused(error),
            Err(_) => ConnectError::Unanswered(connect),
        };
        match search.not_connected(&exchange, &NotConnected::Failed(why), in_haste) {
            Next::Other | Next::Same => search.tried.push(index),
            Next::Nobody => return Err(search.failure),
        }
    }
}

async fn socket(address: &HostPort) -> io::Result<UdpSocket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((&*address.host, address.port)).await? {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Makes a connection to an endpoint, to others as long as that fails; each may take `connect` where no other is left. It
/// begins with `header`.
///
/// # Errors
/// What the last endpoint did; [`Failure::Unavailable`] when there is none.
pub async fn dial(way: &Way<'_>, connect: Duration, header: &[u8]) -> Result<Served, Failure> {
    let mut search = Search::new();
    loop {
        let Taken { index, endpoint, mut exchange, connect, in_haste } = search.take(way, connect)?;
        match way.pool.dial(&endpoint, way.watch.clock, connect).await {
            Ok(mut stream) => {
                // It is a few hundred bytes, and the socket is empty: that is never waited for.
                if !header.is_empty() && stream.write_all(header).await.is_err() {
                    exchange.end(InFlight::failed);
                    search.not_reached(Failure::Connect);
                    search.tried.push(index);
                    continue;
                }
                way.watch.tell(&endpoint, endpoint.connected(way.watch.clock.now()));
                // As fast as it took the connection: nothing else of it can be timed.
                exchange.end(InFlight::answered);
                let Some(in_flight) = exchange.in_flight.take() else { return Err(Failure::Unavailable) };
                let held = Some(Held::new(in_flight, way.watch, None));
                return Ok(Served { end: End::socket(stream, Bytes::new()), held });
            }
            Err(why) => match search.not_connected(&exchange, &why, in_haste) {
                Next::Other | Next::Same => search.tried.push(index),
                Next::Nobody => return Err(search.failure),
            },
        }
    }
}
