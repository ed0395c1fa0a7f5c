//! Which of a peer's services are asked for.

use std::collections::BTreeSet;

use proto::{limits, sync};

use crate::model::{Link, ServiceName};

/// The namespaces that a link's import rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// Every namespace: a rule names none, or there are more than one watch may select.
    All,
    /// These.
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
        match self {
            Self::All => Vec::new(),
            Self::Namespaces(namespaces) => {
                namespaces.iter().map(|namespace| sync::Selector { namespace: namespace.clone() }).collect()
            }
        }
    }
}
