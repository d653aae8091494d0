//! PodSandboxStats: from its cgroup and its network, now.
//!
//! Rule (CRI, PodSandboxStats): a pod that does not exist is `NotFound`. One that was stopped uses nothing any more.

use std::sync::Arc;

use corten_proto::cri;

use crate::{
    context::Context,
    error::{Error, Result},
    stats,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::PodSandboxStatsRequest,
) -> Result<cri::PodSandboxStatsResponse> {
    let pod = cx.store.pod(&request.pod_sandbox_id)?;
    pod.set_known();
    if !pod.is_ready() {
        return Err(Error::State {
            subject: format!("pod sandbox {}", pod.record.id),
            state: "not ready",
            need: "only one that was not stopped uses anything",
        });
    }
    let read = stats::of_pods(cx, vec![pod]).await?;
    Ok(cri::PodSandboxStatsResponse {
        stats: read.into_iter().next(),
    })
}
