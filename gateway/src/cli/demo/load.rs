//! The load of the demo and the readers of statuses: everything that talks to the gateways.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::backend::SERVED_BY;
use super::board::Board;
use super::judge::Exchange;
use super::layout::Layout;
use super::plan::{Cluster, KEYS, Service, key};
use crate::cli::client::Client;
use registry::base::causes::chain;

/// Callers at west, each with one kept connection.
pub(super) const CALLERS: usize = 32;

/// The pause between the requests of one caller: 32 callers make about 290 requests a second.
const PACE: Duration = Duration::from_millis(110);

/// How long a caller waits for its answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often each gateway is asked for its status: the error of the moments at which west shows a change.
const STATUS_EVERY: Duration = Duration::from_millis(10);

/// How often a gateway that does not answer is asked again.
const STATUS_RETRY: Duration = Duration::from_millis(50);

/// One caller: asks west for `web` and `cart` in turn until `stop`, and notes each exchange. An exchange that has
/// begun is brought to its end.
pub(super) async fn call(
    caller: usize,
    layout: Rc<Layout>,
    board: Rc<RefCell<Board>>,
    stop: CancellationToken,
) {
    let mut client = Client::new(layout.addresses(Cluster::West).http.to_string());
    // Evenly spread over one pace, so that the load has no beat.
    sleep(PACE * caller as u32 / CALLERS as u32).await;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0.. {
        tokio::select! {
            _ = pace.tick() => {}
            () = stop.cancelled() => return,
        }
        // Half of the callers begin with `cart`, so that both see the same load at any moment.
        let service = Service::ALL[(caller + turn) % 2];
        let key = (service == Service::Cart).then_some((caller + turn / 2 * CALLERS) % KEYS);

        let sent = board.borrow().now();
        let answer = client.send(request(service, key), PATIENCE).await;
        let answered = board.borrow().now();

        let outcome = answer.map_err(|error| chain(&error)).and_then(|answer| served_by(service, &answer));
        let (served, failure) = match outcome {
            Ok(cluster) => (Some(cluster), None),
            Err(why) => (None, Some(describe_failure(service, key, &why))),
        };
        board.borrow_mut().ended(Exchange { service, key, sent, answered, served }, failure);
    }
}

/// Reads the status of one gateway again and again, for as long as it is polled.
pub(super) async fn watch(cluster: Cluster, layout: Rc<Layout>, board: Rc<RefCell<Board>>) {
    let mut client = Client::new(layout.addresses(cluster).admin.to_string());
    loop {
        // A gateway that is not there (yet, or any more) is no error here: what waits for it has a deadline.
        let status = crate::cli::status::read(&mut client).await.ok().map(|(status, _bytes)| status);
        let pause = if status.is_some() { STATUS_EVERY } else { STATUS_RETRY };
        board.borrow_mut().heard(cluster, status);
        sleep(pause).await;
    }
}

fn request(service: Service, number: Option<usize>) -> Request<Empty<Bytes>> {
    let mut request = Request::get("/").header(header::HOST, service.host());
    if let Some(number) = number {
        request = request.header("x-user", key(number));
    }
    request.body(Empty::new()).expect("fixed names and `user-000` are valid in a request")
}

/// The cluster whose endpoint gave this answer, or why it does not count as one.
fn served_by(service: Service, answer: &Response<Bytes>) -> Result<Cluster, String> {
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if answer.status() != StatusCode::OK {
        let why = text("proxy-status").unwrap_or("without a Proxy-Status");
        return Err(format!("{} ({why})", answer.status()));
    }
    let name = text(SERVED_BY).ok_or("200, but no endpoint of the demo answered")?;
    let mut parts = name.split('/');
    let cluster = parts.next().and_then(Cluster::named);
    cluster.filter(|_| parts.next() == Some(service.name())).ok_or_else(|| format!("200, but from {name}"))
}

fn describe_failure(service: Service, number: Option<usize>, why: &str) -> String {
    let key = number.map(|number| format!(" for {}", key(number))).unwrap_or_default();
    format!("{}{key}: {why}", service.full_name())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn answer(status: u16, served_by: &str) -> Response<Bytes> {
        let answer = Response::builder().status(status).header(SERVED_BY, served_by);
        answer
            .header("proxy-status", "west.gateway; error=destination_unavailable")
            .body(Bytes::new())
            .unwrap()
    }

    #[test]
    fn only_a_200_of_an_endpoint_of_the_service_counts() {
        assert_eq!(served_by(Service::Cart, &answer(200, "east/cart/a")), Ok(Cluster::East));
        assert!(served_by(Service::Cart, &answer(200, "east/web/a")).is_err());
        assert!(served_by(Service::Cart, &answer(200, "south/cart/a")).is_err());
        let failed = served_by(Service::Cart, &answer(503, "east/cart/a")).unwrap_err();
        assert!(failed.contains("503") && failed.contains("destination_unavailable"), "{failed}");
    }

    #[test]
    fn the_callers_go_through_all_keys() {
        let turns = 2 * KEYS.div_ceil(CALLERS) * 4;
        let asked: BTreeSet<_> = (0..CALLERS)
            .flat_map(|caller| (0..turns).map(move |turn| (caller + turn / 2 * CALLERS) % KEYS))
            .collect();
        assert_eq!(asked.len(), KEYS);
    }

    #[test]
    fn only_cart_is_keyed() {
        assert_eq!(request(Service::Cart, Some(7)).headers()["x-user"], "user-007");
        assert!(!request(Service::Web, None).headers().contains_key("x-user"));
    }
}
