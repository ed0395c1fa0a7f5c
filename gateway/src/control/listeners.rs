//! The listeners that this gateway has, as they are declared from time to time; and where they lead.

use std::sync::Arc;
use std::time::Duration;

use registry::model::{Condition, ListenProtocol, Listener, Protocol, Reason};
use tokio::task::spawn_blocking;

use crate::proxy::outbound::connection;
use crate::proxy::worker::Shared;
use crate::view::View;

/// How often one is tried again that could not be bound.
const RETRY: Duration = Duration::from_secs(2);

/// Opens and closes them as views come, until the process drains.
pub async fn keep(shared: Arc<Shared>, gateway: String) {
    let mut news = shared.news.follow();
    let mut known = Vec::new();
    loop {
        let wanted = declared(&shared.view.load(), &gateway);
        if wanted != known || shared.listeners.lacks_some() {
            let (means, set) = (shared.clone(), wanted.clone());
            // Of Unix sockets the files are on a disk.
            if spawn_blocking(move || means.listeners.set(&set)).await.is_ok() {
                known = wanted;
            }
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = news.changed() => {}
            () = tokio::time::sleep(RETRY), if shared.listeners.lacks_some() => {}
        }
    }
}

/// Those of the gateway of this id, by name.
pub fn declared(view: &View, gateway: &str) -> Vec<Arc<Listener>> {
    let all = view.catalog.iter().flat_map(|catalog| catalog.declared.listeners.values());
    all.filter(|listener| listener.is_of(gateway)).cloned().collect()
}

/// Leads to nothing that could take a connection.
pub fn unresolved(shared: &Shared, view: &View) -> Vec<Condition> {
    let listeners = view.catalog.iter().flat_map(|catalog| catalog.declared.listeners.values());
    let mut conditions = Vec::new();
    for listener in listeners {
        let preferred = match listener.protocol {
            ListenProtocol::Tls => Protocol::Tls,
            ListenProtocol::Udp => Protocol::Udp,
            ListenProtocol::Thrift => Protocol::Thrift,
            ListenProtocol::Mux => Protocol::Mux,
            ListenProtocol::Http | ListenProtocol::Tcp | ListenProtocol::Detect => Protocol::Tcp,
        };
        let wrong = listener.leads().find_map(|lead| {
            let authority = lead.authority(&shared.domain);
            connection::find(view, &shared.domain, &authority, preferred).err()
        });
        if let Some(wrong) = wrong {
            conditions.push(Condition::new(listener.object(), Reason::BackendNotFound, wrong.details));
        }
    }
    conditions
}
