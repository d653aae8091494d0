//! The contracts: the CRI, the admin service, the shim's protocol, ids, and the layout on disk.
//!
//! The shim uses this crate without the feature `grpc`, so that no gRPC code comes into it.
#![forbid(unsafe_code)]

/// The Kubernetes container runtime interface, `runtime.v1`; its comments are in `runtime/v1/api.proto`.
#[cfg(feature = "grpc")]
#[expect(
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The command line's private service; `admin/v1/admin.proto`.
#[cfg(feature = "grpc")]
#[expect(
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod admin {
    tonic::include_proto!("corten.admin.v1");
}

/// The daemon's records on disk; `record/v1/record.proto`.
#[cfg(feature = "grpc")]
pub mod record {
    include!(concat!(env!("OUT_DIR"), "/corten.record.v1.rs"));
}

pub mod id;
pub mod layout;

/// The protocol between daemon and shim; `shim/v1/shim.proto`.
#[expect(clippy::large_enum_variant, reason = "generated code")]
pub mod shim {
    include!(concat!(env!("OUT_DIR"), "/corten.shim.v1.rs"));
}
