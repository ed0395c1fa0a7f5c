//! A sidecar: the data plane of a gateway beside one workload, with a view that it is told.
//!
//! | file | holds |
//! |---|---|
//! | `proxy` | the front: names of the mesh, and what is to be done with all others |
//! | `names` | what names mean, asked of a gateway on their first use |
//! | `gateways` | the tunnels to the gateways of the own cluster |
//! | `register` | the endpoints of the workload, registered with one of them |
//! | `passthrough` | what goes out plainly, where that is allowed |
//! | [`admin`] | its admin port |
//!
//! All of it runs on one thread: a sidecar serves one workload.

pub mod admin;
mod gateways;
mod names;
mod passthrough;
mod proxy;
mod register;
pub mod registrar;

pub use gateways::hold;
pub use names::{Names, follow};
pub use proxy::Proxy;
pub use register::register;
