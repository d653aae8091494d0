//! UpdateRuntimeConfig: tells the node's pod addresses, one CIDR an IP family.

use std::sync::Arc;

use corten_proto::cri;

use crate::{context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::UpdateRuntimeConfigRequest,
) -> Result<cri::UpdateRuntimeConfigResponse> {
    let network = request
        .runtime_config
        .and_then(|config| config.network_config);
    let cidrs = network.map(|network| network.pod_cidr).unwrap_or_default();
    cx.cni.set_pod_cidrs(
        cidrs
            .split(',')
            .map(|cidr| cidr.trim().to_owned())
            .filter(|cidr| !cidr.is_empty())
            .collect(),
    );
    Ok(cri::UpdateRuntimeConfigResponse {})
}
