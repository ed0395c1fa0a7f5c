//! The service of the admin socket, both ends of it (`proto/schema/admin.proto`).

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod schema {
    tonic::include_proto!("ringway.admin.v1");
}

pub use schema::admin_client::AdminClient;
pub use schema::admin_server::{Admin, AdminServer};
