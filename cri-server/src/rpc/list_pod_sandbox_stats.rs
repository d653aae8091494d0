//! ListPodSandboxStats: from the cgroups and the pods' networks, now. Pods that were stopped are left out.

use std::sync::Arc;

use corten_proto::cri;

use super::filter;
use crate::{context::Context, error::Result, stats};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ListPodSandboxStatsRequest,
) -> Result<cri::ListPodSandboxStatsResponse> {
    let filter = request.filter.map(|filter| cri::PodSandboxFilter {
        id: filter.id,
        state: None,
        label_selector: filter.label_selector,
    });
    let mut pods = cx.store.pods();
    pods.retain(|pod| pod.is_ready() && filter::pod_fits(filter.as_ref(), pod));
    Ok(cri::ListPodSandboxStatsResponse {
        stats: stats::of_pods(cx, pods).await?,
    })
}
