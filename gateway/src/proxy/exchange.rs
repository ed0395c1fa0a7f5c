//! One exchange on a stream of a tunnel: the side that asks ([`client`]), the side that serves ([`server`]), what both
//! agree on ([`codec`]); and both sides of a [`call`] of Thrift.

pub mod call;
pub mod client;
pub mod codec;
mod copy;
pub mod facts;
pub mod server;
