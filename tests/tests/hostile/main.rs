//! What a linked cluster may cost whose certificate is valid and which is granted nothing: it goes over each of its
//! budgets in turn, and over all of them together, and others and our own objects are unharmed.
#![allow(clippy::unwrap_used)]

mod addresses;
mod answers;
mod contracts;
mod epochs;
mod gateways;
mod mixed;
mod registry;
mod rings;
