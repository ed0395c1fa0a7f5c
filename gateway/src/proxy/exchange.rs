//! One exchange on a stream of a tunnel: the side that asks ([`client`]), the side that serves ([`server`]), and what
//! both agree on ([`codec`]).

pub mod client;
pub mod codec;
mod copy;
pub mod server;
