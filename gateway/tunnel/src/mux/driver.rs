//! The task that owns the socket of a connection: reads, writes, listens for silence, and says farewell.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proto::code::CloseCode;
use proto::limits::{MUX_PAYLOAD_BYTES_MAX, TUNNEL_UNREAD_BYTES_MAX};
use proto::mux::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::state::Act;
use super::{Inner, micros};
use crate::error::CloseReason;

/// Between two pings, and between two looks whether anything was heard.
const PING_EVERY: Duration = Duration::from_secs(1);
/// Looks in a row that found silence: then the peer is gone. As long as QUIC's idle timeout.
const SILENT_LOOKS_MAX: u32 = 3;
/// How long the last frame may take, and then the peer's end of the connection.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);
/// Bytes read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Runs a connection on `io` until its end; `ending` tells, with the reason, that this side shuts down.
pub(crate) async fn run<S>(io: S, inner: Arc<Inner>, mut ending: watch::Receiver<Option<String>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    // Outlives the loop that fills it: what was begun is written to its end before the farewell.
    let mut out = BytesMut::with_capacity(READ_BYTES);
    let ended = tokio::select! {
        ended = read(&mut reader, &inner) => ended,
        failed = write(&mut writer, &mut out, &inner) => cut(&failed),
        () = silence(&inner) => CloseReason::timed_out(),
        // An endpoint that is dropped leaves its tunnels to their holders.
        Ok(told) = ending.wait_for(Option::is_some) => {
            let text = told.clone().unwrap_or_default();
            inner.close(CloseCode::Shutdown, &text, CloseReason::here());
            CloseReason::here()
        }
        ended = inner.closed() => ended,
    };
    inner.finish(ended);
    let farewell = inner.farewell.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some((code, text)) = farewell {
        Frame::Close(code.to_wire(), Bytes::from(text)).encode(&mut out);
        let said = async {
            writer.write_all_buf(&mut out).await?;
            writer.shutdown().await
        };
        if let Ok(Ok(())) = tokio::time::timeout(FAREWELL_WAIT, said).await {
            // A socket that is closed with something unread resets the connection, and the farewell may be lost.
            let mut nowhere = tokio::io::sink();
            let rest = tokio::io::copy(&mut reader, &mut nowhere);
            let _ = tokio::time::timeout(FAREWELL_WAIT, rest).await;
        }
    }
}

/// Reads until the end.
async fn read(reader: &mut (impl AsyncRead + Unpin), inner: &Inner) -> CloseReason {
    let mut buf = BytesMut::with_capacity(READ_BYTES);
    loop {
        buf.reserve(MUX_PAYLOAD_BYTES_MAX);
        match reader.read_buf(&mut buf).await {
            Ok(0) => return cut(&io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) => return cut(&error),
        }
        if let Err(reason) = take(&mut buf, inner) {
            return reason;
        }
    }
}

/// Takes every whole frame of `buf`.
fn take(buf: &mut BytesMut, inner: &Inner) -> Result<(), CloseReason> {
    let mut frames = 0;
    let mut state = inner.state();
    let ended = loop {
        let frame = match Frame::decode(buf) {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        };
        frames += 1;
        match state.receive(frame) {
            Ok(None) => {}
            Ok(Some(Act::Credit(more))) => {
                if inner.credit.available_permits() + more > TUNNEL_UNREAD_BYTES_MAX {
                    break Err("a window that was never granted".into());
                }
                inner.credit.add_permits(more);
            }
            Ok(Some(Act::Pong(token))) => {
                // The token came back from the peer: a wrong one must not make nonsense of the round trip.
                let sample = inner.clock().saturating_sub(token).min(micros(Duration::from_secs(10)));
                let before = inner.rtt_us.load(Ordering::Relaxed);
                inner.rtt_us.store((before * 7 + sample) / 8, Ordering::Relaxed);
            }
            Ok(Some(Act::Close(code, text))) => {
                return Err(CloseReason::said(CloseCode::from_wire(code.into()), &text));
            }
            Err(broken) => break Err(broken.to_owned()),
        }
    };
    drop(state);
    inner.heard.fetch_add(frames, Ordering::Relaxed);
    // Answers to what was read: grants, pongs, resets.
    inner.outgoing.notify_one();
    ended.map_err(|text| {
        let reason = CloseReason { code: Some(CloseCode::ProtocolError), text: text.clone(), cut: false };
        inner.close(CloseCode::ProtocolError, &text, reason.clone());
        reason
    })
}

/// Writes what there is, and returns the error that ends it.
async fn write(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut, inner: &Inner) -> io::Error {
    loop {
        let taken = inner.state().take(out);
        if out.is_empty() {
            if let Err(error) = writer.flush().await {
                return error;
            }
            inner.outgoing.notified().await;
            continue;
        }
        if let Err(error) = writer.write_all_buf(out).await {
            return error;
        }
        for (room, bytes) in inner.room.iter().zip(taken.data) {
            room.add_permits(bytes);
        }
    }
}

/// Pings, and returns when nothing was heard for so long.
async fn silence(inner: &Inner) {
    let mut looks = tokio::time::interval(PING_EVERY);
    // Where our own loop stalls, one look is late and none is made up for: the peer's words wait in the socket.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut silent) = (u64::MAX, 0);
    loop {
        looks.tick().await;
        let now = inner.heard.load(Ordering::Relaxed);
        silent = if now == heard { silent + 1 } else { 0 };
        heard = now;
        if silent >= SILENT_LOOKS_MAX {
            return;
        }
        let clock = inner.clock();
        inner.state().ping(clock);
        inner.outgoing.notify_one();
    }
}

/// The connection ended without a word.
fn cut(error: &io::Error) -> CloseReason {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(tls), _) => CloseReason { code: None, text: identity::reason(tls), cut: false },
        (None, io::ErrorKind::TimedOut) => CloseReason::timed_out(),
        (None, kind) => CloseReason { code: None, text: format!("cut without a word: {kind}"), cut: true },
    }
}
