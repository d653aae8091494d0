//! ListPodSandbox: from memory alone.

use std::sync::Arc;

use corten_proto::cri;

use super::{filter, views};
use crate::{context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ListPodSandboxRequest,
) -> Result<cri::ListPodSandboxResponse> {
    let pods = cx.store.pods();
    let fitting = pods
        .iter()
        .filter(|pod| filter::pod_fits(request.filter.as_ref(), pod));
    Ok(cri::ListPodSandboxResponse {
        items: fitting.map(|pod| views::pod(pod)).collect(),
    })
}
