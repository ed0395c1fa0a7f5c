//! The admin interface of a gateway: the documents of its admin port (`/v1/*`) and the services of its admin socket
//! (`proto/schema/admin.proto`). Shared by the server, the command line and tests: what one writes the others read.

pub mod check;
pub mod explain;
pub mod registry;
pub mod rpc;
pub mod status;
