//! The one loop that moves a body into a tunnel.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use tunnel::Sender;

use crate::http::body::BodyError;
use crate::http::fields;

/// Why a body did not reach its end.
#[derive(Debug)]
pub(super) enum CopyError {
    /// Where it comes from broke off.
    Source(BodyError),
    /// The other side of the tunnel takes no more.
    Gone,
}

/// Sends `body` and its end, and tells `moved` how many bytes went each time. Ends at once when the other side takes no
/// more, even while nothing comes: whoever makes the body must not work in vain.
pub(super) async fn copy(
    sender: &mut Sender,
    mut body: impl Body<Data = Bytes, Error = BodyError> + Unpin,
    mut moved: impl FnMut(usize),
) -> Result<(), CopyError> {
    if let Some(bytes) = body.size_hint().exact() {
        sender.expect(bytes);
    }
    let mut trailers = None;
    let mut stopped = std::pin::pin!(sender.stopped());
    loop {
        let frame = tokio::select! {
            biased;
            frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
            () = &mut stopped => return Err(CopyError::Gone),
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let bytes = data.len();
                    sender.data(data).await.map_err(|_| CopyError::Gone)?;
                    moved(bytes);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(error)) => return Err(CopyError::Source(error)),
            None => break,
        }
    }
    end(sender, trailers.as_ref()).await
}

/// Ends a body. Trailers that do not fit are left out: they are never needed to understand the message.
async fn end(sender: &mut Sender, trailers: Option<&HeaderMap>) -> Result<(), CopyError> {
    let mut encoded = Vec::new();
    let trailers = trailers.filter(|t| proto::head::encode_fields(fields::of(t), &mut encoded).is_ok());
    sender.end(trailers.map(|_| encoded.as_slice())).await.map_err(|_| CopyError::Gone)
}
