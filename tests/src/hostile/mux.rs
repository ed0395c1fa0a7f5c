//! The client's side of a tunnel on TLS over TCP, spoken by hand: frames, windows, probes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use identity::Trust;
use proto::datagram::{DatagramKind, Probe};
use proto::mux::{Frame, StreamId, cost};
use proto::version::ALPN_MUX;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsConnector;

use crate::mesh::TRUST_DOMAIN;
use crate::peer::load;

/// What a gateway lets us send on one stream before it has read any of it.
const STREAM_WINDOW: usize = 4 * 1024 * 1024;
/// And on one connection.
const CONNECTION_WINDOW: usize = 256 * 1024 * 1024;
/// Frames that wait to be written; whoever has another waits.
const FRAMES_QUEUE: usize = 256;
/// Chunks of one stream that wait to be read, and streams that wait to be accepted.
const CHUNKS_QUEUE: usize = 1024;

/// A connection; it lives as long as a clone of it does.
#[derive(Clone, Debug)]
pub(crate) struct Mux {
    shared: Arc<Shared>,
    accepted: Arc<tokio::sync::Mutex<mpsc::Receiver<(MuxSend, MuxReceive)>>>,
}

#[derive(Debug)]
struct Shared {
    frames: mpsc::Sender<Frame>,
    credit: Semaphore,
    streams: Mutex<Streams>,
    /// Why it is over.
    ended: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: HashMap<StreamId, Arc<Stream>>,
}

#[derive(Debug)]
struct Stream {
    credit: Semaphore,
    /// Dropped when the other side's half is over.
    chunks: Mutex<Option<mpsc::Sender<Result<Bytes, u32>>>>,
}

/// Our half of a stream.
#[derive(Debug)]
pub(super) struct MuxSend {
    id: StreamId,
    stream: Arc<Stream>,
    shared: Arc<Shared>,
}

/// The other side's half.
#[derive(Debug)]
pub(super) struct MuxReceive {
    id: StreamId,
    chunks: mpsc::Receiver<Result<Bytes, u32>>,
    shared: Arc<Shared>,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a stream.
    fn begin(self: &Arc<Self>, id: StreamId) -> (MuxSend, MuxReceive) {
        let (sender, chunks) = mpsc::channel(CHUNKS_QUEUE);
        let stream =
            Arc::new(Stream { credit: Semaphore::new(STREAM_WINDOW), chunks: Mutex::new(Some(sender)) });
        self.streams().open.insert(id, stream.clone());
        (MuxSend { id, stream, shared: self.clone() }, MuxReceive { id, chunks, shared: self.clone() })
    }

    fn end(&self, why: &str) {
        self.ended.send_if_modified(|ended| ended.is_none().then(|| *ended = Some(why.into())).is_some());
        // Whoever still has a half of one hears of it, too.
        for (_, stream) in self.streams().open.drain() {
            stream.chunks.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.credit.close();
        }
        self.credit.close();
    }
}

impl Mux {
    /// Shakes hands with the gateway of `cluster` at `address`.
    pub(super) async fn connect(dir: &Path, cluster: &str, address: SocketAddr) -> Result<Self, String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        let credentials = load(dir)?;
        let (trust, problems) = Trust::load(dir, [(cluster, TRUST_DOMAIN)]);
        if let Some((_, problem)) = problems.first() {
            return Err(problem.to_string());
        }
        let tls = identity::client_config(&credentials, Arc::new(trust), cluster, &[ALPN_MUX]);
        let tls = tls.map_err(|e| said(&e))?;
        let stream = TcpStream::connect(address).await.map_err(|e| said(&e))?;
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let tls = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| said(&e))?;
        let (mut read, mut write) = tokio::io::split(tls);
        let (frames, mut to_write) = mpsc::channel::<Frame>(FRAMES_QUEUE);
        let (accept, accepted) = mpsc::channel(CHUNKS_QUEUE);
        let shared = Arc::new(Shared {
            frames,
            credit: Semaphore::new(CONNECTION_WINDOW),
            streams: Mutex::default(),
            ended: watch::Sender::new(None),
        });
        tokio::spawn(async move {
            let mut buffer = BytesMut::new();
            while let Some(frame) = to_write.recv().await {
                frame.encode(&mut buffer);
                while let Ok(frame) = to_write.try_recv() {
                    frame.encode(&mut buffer);
                }
                if write.write_all(&buffer).await.is_err() || write.flush().await.is_err() {
                    return;
                }
                buffer.clear();
            }
        });
        let reading = shared.clone();
        tokio::spawn(async move {
            let mut buffer = BytesMut::new();
            let why = loop {
                match Frame::decode(&mut buffer) {
                    Ok(Some(Frame::Close(code, reason))) => {
                        break format!("closed with {code:#x}: {}", String::from_utf8_lossy(&reason));
                    }
                    Ok(Some(frame)) => reading.take(frame, &accept).await,
                    Ok(None) => match read.read_buf(&mut buffer).await {
                        Ok(0) => break "the connection ended".into(),
                        Ok(_) => {}
                        Err(e) => break e.to_string(),
                    },
                    Err(e) => break e.to_string(),
                }
            };
            reading.end(&why);
        });
        Ok(Self { shared, accepted: Arc::new(tokio::sync::Mutex::new(accepted)) })
    }

    /// Opens a stream.
    pub(super) async fn open(&self) -> Result<(MuxSend, MuxReceive), String> {
        let id = {
            let mut streams = self.shared.streams();
            streams.next += 1;
            StreamId::new(streams.next - 1, true)
        };
        let halves = self.shared.begin(id);
        self.send(Frame::Open(id)).await?;
        Ok(halves)
    }

    /// The next stream that the gateway opens.
    pub(super) async fn accept(&self) -> Option<(MuxSend, MuxReceive)> {
        self.accepted.lock().await.recv().await
    }

    /// Waits for its end, and gives the reason.
    pub(super) async fn closed(&self) -> String {
        let mut ended = self.shared.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|ended| ended.clone()).unwrap_or_default()
    }

    /// Why it is over, if it is.
    pub(super) fn ended(&self) -> Option<String> {
        self.shared.ended.borrow().clone()
    }

    async fn send(&self, frame: Frame) -> Result<(), String> {
        self.shared.frames.send(frame).await.map_err(|_| "the connection ended".into())
    }
}

impl Shared {
    async fn take(self: &Arc<Self>, frame: Frame, accept: &mpsc::Sender<(MuxSend, MuxReceive)>) {
        let known = |id: &StreamId| self.streams().open.get(id).cloned();
        match frame {
            Frame::Open(id) => {
                let halves = self.begin(id);
                // Whoever does not accept has no use for it.
                let _ = accept.send(halves).await;
            }
            Frame::Data(id, bytes) => {
                let sender = known(&id)
                    .and_then(|stream| stream.chunks.lock().unwrap_or_else(PoisonError::into_inner).clone());
                if let Some(sender) = sender {
                    let _ = sender.send(Ok(bytes)).await;
                }
            }
            Frame::Fin(id) => {
                if let Some(stream) = known(&id) {
                    stream.chunks.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
            }
            Frame::Reset(id, code) => {
                let sender = known(&id)
                    .and_then(|stream| stream.chunks.lock().unwrap_or_else(PoisonError::into_inner).take());
                if let Some(sender) = sender {
                    let _ = sender.send(Err(code)).await;
                }
            }
            Frame::Stop(id, _) => {
                if let Some(stream) = known(&id) {
                    stream.credit.close();
                }
            }
            Frame::Window(None, more) => self.credit.add_permits(more as usize),
            Frame::Window(Some(id), more) => {
                if let Some(stream) = known(&id) {
                    stream.credit.add_permits(more as usize);
                }
            }
            Frame::Ping(token) => drop(self.frames.send(Frame::Pong(token)).await),
            Frame::Datagram(bytes) => {
                if let Some(ping) = Probe::decode(&bytes).filter(|probe| probe.kind == DatagramKind::Ping) {
                    let pong = Frame::Datagram(Bytes::copy_from_slice(&ping.pong().encode()));
                    let _ = self.frames.send(pong).await;
                }
            }
            Frame::Pong(_) | Frame::Close(..) => {}
        }
    }
}

impl MuxSend {
    /// Writes all of `bytes`, within the windows.
    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<(), String> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(proto::limits::MUX_PAYLOAD_BYTES_MAX));
            let takes = cost(chunk.len()) as u32;
            for credit in [&self.stream.credit, &self.shared.credit] {
                credit.acquire_many(takes).await.map_err(|_| "the stream ended")?.forget();
            }
            let data = Frame::Data(self.id, chunk);
            self.shared.frames.send(data).await.map_err(|_| "the connection ended")?;
        }
        Ok(())
    }

    /// Ends our half: whole, or with a code.
    pub(super) async fn end(&mut self, code: Option<u32>) {
        let frame = code.map_or(Frame::Fin(self.id), |code| Frame::Reset(self.id, code));
        let _ = self.shared.frames.send(frame).await;
    }
}

impl Drop for MuxReceive {
    fn drop(&mut self) {
        self.shared.streams().open.remove(&self.id);
    }
}

impl MuxReceive {
    /// The next bytes; none: it is whole.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>, String> {
        match self.chunks.recv().await {
            Some(Ok(bytes)) => {
                let more = cost(bytes.len()) as u32;
                for window in [Some(self.id), None] {
                    let _ = self.shared.frames.send(Frame::Window(window, more)).await;
                }
                Ok(Some(bytes))
            }
            Some(Err(code)) => Err(format!("reset with {code:#x}")),
            None => self.shared.ended.borrow().clone().map_or(Ok(None), Err),
        }
    }

    /// Wants no more of it.
    pub(super) async fn stop(&mut self, code: u32) {
        let _ = self.shared.frames.send(Frame::Stop(self.id, code)).await;
    }
}
