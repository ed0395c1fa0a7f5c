//! A request of a peer on its way to an endpoint of this cluster. It is given no tunnels: a request crosses the WAN at
//! most once.

use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body::Body;
use proto::code::Code;
use proto::frame::{END, Frame, FrameKind, put_frame, put_frame_header};
use proto::head::ResponseHead;
use tokio::time::Instant;
use tracing::debug;
use tunnel::{Exchange, Peer, Receiver, Sender};

use crate::answer::{Answer, AnswerBody};
use crate::body::RequestBody;
use crate::clock::Activity;
use crate::endpoint::{self, Allowance, RequestHead};
use crate::fields::{self, Declared};
use crate::metrics::{Outcome, RequestCounters};
use crate::peers::PeerCluster;
use crate::retry::Failure;
use crate::view::LocalService;
use crate::worker::{PEER_REQUESTS_MAX, REQUESTS_MAX, Worker};

/// The head of a request must be whole by then: it fits a few packets, and the peer sent it at once.
const HEAD_WAIT: Duration = Duration::from_secs(5);

/// Why a request of a peer ends without an answer.
#[derive(Debug)]
struct Refusal(Code, Outcome);

/// Serves one exchange that `peer`, a gateway of `cluster`, opened.
pub async fn serve(worker: Rc<Worker>, cluster: &PeerCluster, peer: &Peer, exchange: Exchange) {
    let Exchange { mut sender, mut receiver } = exchange;
    let of_all = worker.shared.in_progress.enter(REQUESTS_MAX);
    let (Some(_of_all), Some(_of_peer)) = (of_all, cluster.asking.enter(PEER_REQUESTS_MAX)) else {
        return refuse(&mut sender, &mut receiver, Code::Overloaded);
    };
    let head = match tokio::time::timeout(HEAD_WAIT, receiver.frame()).await {
        Ok(Ok(Some(Frame::Head(head)))) => head,
        Ok(Ok(_)) | Err(_) => return refuse(&mut sender, &mut receiver, Code::Internal),
        Ok(Err(error)) => {
            debug!(peer = %peer.hello.cluster, %error, "No head.");
            return sender.reset(Code::Internal);
        }
    };
    let request = match Request::read(&worker, peer, &head) {
        Ok(request) => request,
        Err(Refusal(code, outcome)) => {
            debug!(peer = %peer.hello.cluster, code = code.as_str(), ?outcome, "Refused.");
            return refuse(&mut sender, &mut receiver, code);
        }
    };
    // Counted as cancelled unless something better is known when it is over.
    let mut counted = Counted { counters: request.counters.clone(), outcome: Outcome::Cancelled };
    let started = Instant::now();
    let is_here = receiver.end_is_here();
    let mut body = RequestBody::from_tunnel(
        receiver,
        request.declared,
        worker.shared.budget.reservation(),
        Activity::new(started),
    );
    if is_here {
        body.read_ahead(&mut Context::from_waker(Waker::noop()));
        body = body.or_empty();
    }
    if body.failed() {
        return sender.reset(Code::Internal);
    }
    let stopped = sender.stopped();
    let answered = tokio::select! {
        biased;
        answered = request.call(&worker, &body) => answered,
        () = stopped => return,
    };
    match answered {
        // The peer's body broke off: whatever the endpoint made of that is no answer.
        _ if body.failed() => sender.reset(Code::Internal),
        Ok(mut answer) => {
            if let Some(left) = request.deadline {
                answer.body.limit(left, Some(started + left), Activity::new(started));
            }
            request.local.durations.observe(started.elapsed());
            counted.outcome = forward(&mut sender, answer).await;
            if worker.shared.stop.is_cancelled() {
                // The drain closes the tunnel after the last request: what was written must have arrived by then.
                sender.stopped().await;
            }
        }
        Err(failure) => {
            counted.outcome = failure.into();
            let code = match failure {
                Failure::Connect | Failure::Unavailable | Failure::Refused => Code::Refused,
                Failure::Deadline => Code::Deadline,
                Failure::Cancelled => Code::Cancelled,
                _ => Code::Internal,
            };
            sender.reset(code);
        }
    }
}

/// A request that passed every check.
struct Request {
    local: std::sync::Arc<LocalService>,
    port: u16,
    head: RequestHead,
    /// The hash of its key.
    key: Option<u64>,
    allowance: Allowance,
    /// The length of its body.
    declared: Declared,
    /// What is left of the total deadline.
    deadline: Option<Duration>,
    counters: Option<RequestCounters>,
}

impl Request {
    /// Reads the head and checks the grant first, then the rest, all before any work.
    fn read(worker: &Worker, peer: &Peer, bytes: &Bytes) -> Result<Self, Refusal> {
        let (head, head_fields) =
            proto::head::RequestHead::decode(bytes).map_err(|_| Refusal(Code::Internal, Outcome::Broken))?;
        let view = worker.shared.view.load();
        let local = view
            .local(head.namespace, head.service)
            .ok_or(Refusal(Code::Unknown, Outcome::NotFound))?
            .clone();
        let asks = registry::model::ClusterName::new(&peer.hello.cluster)
            .map_err(|_| Refusal(Code::Denied, Outcome::Denied))?;
        if !local.grant.allows(&asks) {
            return Err(Refusal(Code::Denied, Outcome::Denied));
        }
        let counters = local.inbound(asks.as_str()).cloned();
        if local.endpoints(head.port).is_none() {
            return Err(Refusal(Code::Unknown, Outcome::NotFound));
        }
        let agrees =
            local.placement.as_ref().is_none_or(|p| p.agrees(head.generation, head.key_hash, head.owner));
        if !agrees && !head.insist {
            return Err(Refusal(Code::Misplaced, Outcome::Misplaced));
        }
        if !agrees {
            // The caller has looked again and still disagrees: served, and said.
            worker.shared.metrics.mismatch(&local.name, asks.as_str());
        }
        let broken = || Refusal(Code::Internal, Outcome::Broken);
        let mut headers = fields::to_headers(bytes, head_fields).ok_or_else(broken)?;
        fields::strip_hop_by_hop(&mut headers);
        let declared = Declared::of(&headers).map_err(|_| broken())?;
        headers.insert(HOST, HeaderValue::from_str(head.authority).map_err(|_| broken())?);
        let request_head = RequestHead {
            method: Method::from_bytes(head.method.as_bytes()).map_err(|_| broken())?,
            target: Uri::try_from(head.path).map_err(|_| broken())?,
            headers,
        };
        Ok(Self {
            port: head.port,
            head: request_head,
            declared,
            key: head.key_hash,
            allowance: Allowance {
                replayable: head.replayable,
                attempts: head.attempts_left.saturating_add(1),
            },
            deadline: (head.deadline_ms > 0).then(|| Duration::from_millis(head.deadline_ms)),
            counters,
            local,
        })
    }

    async fn call(&self, worker: &Rc<Worker>, body: &RequestBody) -> Result<Answer, Failure> {
        let port = self.local.port(self.port).ok_or(Failure::Unavailable)?;
        let calling = async {
            let clock = &worker.shared.clock;
            let response =
                endpoint::call(&worker.pool, port, clock, &self.head, body, self.key, self.allowance).await?;
            Answer::from(response).settle(&worker.shared.budget).await.map_err(|_| Failure::Reset)
        };
        match self.deadline {
            None => calling.await,
            Some(left) => tokio::time::timeout(left, calling).await.unwrap_or(Err(Failure::Deadline)),
        }
    }
}

/// Sends an answer to the peer.
async fn forward(sender: &mut Sender, answer: Answer) -> Outcome {
    let Answer { status, headers, mut body } = answer;
    let mut first = Vec::with_capacity(512);
    if put_head(&mut first, status, &headers).is_err() {
        sender.reset(Code::Internal);
        return Outcome::Broken;
    }
    if let AnswerBody::Whole(whole) = &body {
        if let Some(data) = whole.data() {
            put_frame_header(&mut first, FrameKind::Data, data.len());
            first.extend_from_slice(data);
        }
        if let Some(trailers) = whole.trailers() {
            // Trailers that do not fit are left out: they are never needed to understand the message.
            let _ = put_frame(&mut first, FrameKind::Trailers, |out| {
                proto::head::encode_fields(fields::of(trailers), out)
            });
        }
        first.extend_from_slice(&END);
        if sender.write(first.into()).await.is_err() {
            return Outcome::Cancelled;
        }
        sender.finish();
        return Outcome::Answered;
    }
    if sender.write(first.into()).await.is_err() {
        return Outcome::Cancelled;
    }
    let mut trailers = None;
    let stopped = sender.stopped();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        // A peer that stops while the endpoint is silent must not leave the endpoint working.
        let frame = tokio::select! {
            biased;
            frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
            () = &mut stopped => return Outcome::Cancelled,
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if sender.data(data).await.is_err() {
                        return Outcome::Cancelled;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(error)) => {
                debug!(%error, "The endpoint's answer broke off.");
                sender.reset(Code::Internal);
                return Outcome::Cut;
            }
            None => break,
        }
    }
    let mut encoded = Vec::new();
    let trailers = trailers.filter(|t| proto::head::encode_fields(fields::of(t), &mut encoded).is_ok());
    if sender.end(trailers.map(|_| encoded.as_slice())).await.is_err() {
        return Outcome::Cancelled;
    }
    // Much of it may still be on its way: a gateway that drains must not close under it. The peer's probes bound this.
    stopped.await;
    Outcome::Answered
}

fn put_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &http::HeaderMap,
) -> Result<(), proto::head::HeadError> {
    let head = ResponseHead { status: status.as_u16(), endpoint: None };
    put_frame(out, FrameKind::Head, |out| head.encode(fields::of(headers), out))
}

fn refuse(sender: &mut Sender, receiver: &mut Receiver, code: Code) {
    sender.reset(code);
    receiver.stop(code);
}

/// Counts the request when it is over.
struct Counted {
    counters: Option<RequestCounters>,
    outcome: Outcome,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(counters) = &self.counters {
            counters.ended(self.outcome);
        }
    }
}
