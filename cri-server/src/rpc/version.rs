//! Version.

use std::sync::Arc;

use corten_proto::cri;

use crate::{context::Context, error::Result};

pub(super) async fn handle(
    _cx: &Arc<Context>,
    _request: cri::VersionRequest,
) -> Result<cri::VersionResponse> {
    Ok(cri::VersionResponse {
        // The kubelet's own API version, fixed since 2016.
        version: "0.1.0".into(),
        runtime_name: "corten".into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: "v1".into(),
    })
}
