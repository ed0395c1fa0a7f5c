//! The data plane: listeners, flows, and both sides of an exchange. Requests take no lock here that another thread could
//! hold.

pub mod answer;
pub mod connection;
pub mod datagrams;
pub mod dataplane;
pub mod error;
pub mod exchange;
pub mod flow;
pub mod inbound;
pub mod listener;
pub mod listeners;
pub mod outbound;
pub mod worker;
