//! The services of the admin socket, both ends of it (`proto/schema/admin.proto`).

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod schema {
    tonic::include_proto!("ringway.admin.v1");
}

pub use proto::objects::{
    Answer, ApplyRequest, Ask, Change, Changed, Condition, DeleteRequest, Found, GetRequest, Member, Name,
    Object, Placed, Placement, Problem, Refusal, Source, answer, ask,
};

pub use schema::AskRequest;
pub use schema::admin_client::AdminClient;
pub use schema::admin_server::{Admin, AdminServer};
pub use schema::objects_client::ObjectsClient;
pub use schema::objects_server::{Objects, ObjectsServer};

/// Bytes of one message about objects, either way: all manifests of a large cluster, and a bound for the memory of a
/// call.
pub const OBJECTS_BYTES_MAX: usize = 64 << 20;
