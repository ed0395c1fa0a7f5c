//! What is counted, by service within a group: a direction and a peer. Of each group there is a bounded number, so that no
//! peer makes the metrics of a process grow without end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry::model::ClusterName;

use super::Direction;

/// Services of one group that are told apart: of as many the largest cluster planned for consists. Their histograms are
/// some twenty megabytes of text.
pub(super) const SERVICES_MAX: usize = 10_000;

/// Stands for all others of a group. No service is called so.
pub(super) const OTHERS: &str = "(others)";

/// A direction, and a peer where there is one.
pub(super) type Group = (Direction, Option<ClusterName>);

/// What is counted of each service of a group.
type Services<T> = HashMap<Arc<str>, Arc<T>>;

/// All that is counted of one kind.
#[derive(Debug)]
pub(super) struct Series<T>(Mutex<HashMap<Group, Services<T>>>);

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Series<T> {
    /// What is counted for a service, if something is.
    pub(super) fn find(&self, group: &Group, service: &str) -> Option<Arc<T>> {
        self.lock().get(group)?.get(service).cloned()
    }

    /// What is counted for a service from now on; for all that are too many together.
    pub(super) fn find_or_make(&self, group: &Group, service: &Arc<str>, make: impl FnOnce() -> T) -> Arc<T> {
        let mut groups = self.lock();
        let services = groups.entry(group.clone()).or_default();
        let too_many = services.len() >= SERVICES_MAX && !services.contains_key(service);
        let service = if too_many { OTHERS.into() } else { service.clone() };
        services.entry(service).or_insert_with(|| Arc::new(make())).clone()
    }

    /// Forgets what nothing counts any more.
    pub(super) fn forget_unused(&self) {
        self.lock().retain(|_, services| {
            services.retain(|_, counted| is_used(counted));
            !services.is_empty()
        });
    }

    /// All that is in use, in order. Taken out first: whoever shows it holds up nobody who counts.
    pub(super) fn used(&self) -> Vec<(Group, Arc<str>, Arc<T>)> {
        let groups = self.lock();
        let all = groups.iter().flat_map(|(group, services)| {
            let used = services.iter().filter(|(_, counted)| is_used(counted));
            used.map(|(service, counted)| (group.clone(), service.clone(), counted.clone()))
        });
        let mut all: Vec<_> = all.collect();
        drop(groups);
        all.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().values().map(HashMap::len).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Group, Services<T>>> {
        // Whoever panicked left maps that are whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something still counts: what is left to be forgotten is not shown.
fn is_used<T>(counted: &Arc<T>) -> bool {
    Arc::strong_count(counted) > 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_harms_no_other() {
        let series = Series::<usize>::default();
        let group = |peer: &str| (Direction::Outbound, ClusterName::new(peer).ok());
        let (east, north) = (group("east"), group("north"));
        let all: Vec<_> = (0..SERVICES_MAX + 500)
            .map(|n| series.find_or_make(&east, &format!("shop/s{n}").into(), || n))
            .collect();
        assert_eq!(series.len(), SERVICES_MAX + 1);
        let others = series.find(&east, OTHERS).unwrap();
        assert!(all[SERVICES_MAX..].iter().all(|counted| Arc::ptr_eq(counted, &others)));
        assert_eq!(*series.find_or_make(&east, &"shop/s7".into(), || 0), 7, "who has a place keeps it");
        assert_eq!(*series.find_or_make(&north, &"shop/cart".into(), || 1), 1);
        drop((all, others));
        series.forget_unused();
        assert_eq!((series.len(), series.used().len()), (0, 0));
    }
}
