//! Where a registry is kept, as it is declared.

use std::path::PathBuf;

/// An etcd and how to speak with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Its members, such as `https://etcd-1.example:2379`: one is used, the others stand by.
    pub endpoints: Vec<String>,
    /// Stands before every key, so that several clusters share one etcd: such as `/west`, or nothing.
    pub prefix: String,
    /// Holds `ca.crt`, and `tls.crt` with `tls.key` if the members want to know who asks. Read anew with every
    /// connection.
    pub tls: Option<PathBuf>,
    /// Who asks, if the etcd has users.
    pub user: Option<EtcdUser>,
}

/// A user of an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// Its first line is the password. Read anew with every connection.
    pub password_file: PathBuf,
}
