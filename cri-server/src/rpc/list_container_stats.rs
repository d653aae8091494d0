//! ListContainerStats: from the cgroups, now. Containers that have ended are left out.

use std::sync::Arc;

use corten_proto::cri;

use super::{filter, views};
use crate::{context::Context, error::Result, stats};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ListContainerStatsRequest,
) -> Result<cri::ListContainerStatsResponse> {
    let filter = request.filter.map(|filter| cri::ContainerFilter {
        id: filter.id,
        state: None,
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
    });
    let mut containers = cx.store.containers();
    containers.retain(|container| {
        let state = views::container_state(&container.state());
        filter::container_fits(filter.as_ref(), container, state)
    });
    Ok(cri::ListContainerStatsResponse {
        stats: stats::of_containers(cx, containers).await?,
    })
}
