//! HTTP messages: header fields, bodies, and the one judge of what may go on. Knows no service and opens no connection.

pub mod body;
pub mod fields;
pub mod message;
