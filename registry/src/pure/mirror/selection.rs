//! Which of a peer's services are asked for.

use std::collections::BTreeSet;

use proto::{limits, sync};

use crate::model::{Link, ServiceName};

/// Selects nothing: no namespace has this name, for it is no label. A watch without selectors would mean everything.
const NOTHING: &str = "-";

/// The namespaces that a link's import rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// Every namespace: a rule names none, or there are more than one watch may select.
    All,
    /// These; empty: nothing, though the watch still tells that the peer lives.
    Namespaces(BTreeSet<String>),
}

impl Selection {
    pub(super) fn of(link: &Link) -> Self {
        let namespaces: Option<BTreeSet<_>> = link.import.iter().map(|rule| rule.namespace.clone()).collect();
        match namespaces {
            Some(namespaces) if namespaces.len() <= limits::SYNC_SELECTORS_MAX => {
                Self::Namespaces(namespaces)
            }
            _ => Self::All,
        }
    }

    pub(super) fn takes(&self, name: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => namespaces.contains(&*name.namespace),
        }
    }

    pub(super) fn selectors(&self) -> Vec<sync::Selector> {
        let selector = |namespace: &str| sync::Selector { namespace: namespace.into() };
        match self {
            Self::All => Vec::new(),
            Self::Namespaces(namespaces) if namespaces.is_empty() => vec![selector(NOTHING)],
            Self::Namespaces(namespaces) => namespaces.iter().map(|namespace| selector(namespace)).collect(),
        }
    }
}
