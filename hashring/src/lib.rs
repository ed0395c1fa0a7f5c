//! A consistent-hash ring of weighted nodes.
