//! ContainerStats: from its cgroup, now.
//!
//! Rule (CRI, ContainerStats): a container that does not exist is `NotFound`. One that has ended uses nothing any more.

use std::sync::Arc;

use corten_proto::cri;

use crate::{context::Context, error::Result, stats};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::ContainerStatsRequest,
) -> Result<cri::ContainerStatsResponse> {
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    let read = stats::of_containers(cx, vec![Arc::clone(&container)]).await?;
    match read.into_iter().next() {
        Some(stats) => Ok(cri::ContainerStatsResponse { stats: Some(stats) }),
        None => Err(container.in_state("exited", "only one that has not ended uses anything")),
    }
}
