//! Who we are to peers.

use std::sync::Arc;

use identity::{Credentials, Trust};

use crate::hello::HelloInfo;

/// Who we are: everything a handshake needs. Swapped whole when certificates or bundles change.
#[derive(Clone, Debug)]
pub struct Local {
    /// What we say in HELLO.
    pub hello: HelloInfo,
    /// Our certificate and key.
    pub credentials: Arc<Credentials>,
    /// Whom we trust for which cluster.
    pub trust: Arc<Trust>,
}
