//! HTTP messages: header fields, bodies, and the one judge of what may go on; and bytes that are carried as they are, for
//! whom HTTP was but the beginning. Knows no service and opens no connection.

pub mod body;
pub mod datagrams;
pub mod fields;
pub mod forwarded;
pub mod join;
pub mod message;
pub mod upgrade;
mod websocket;
