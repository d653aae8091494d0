//! UpdatePodSandboxResources.
//!
//! Rule (CRI, UpdatePodSandboxResources): the kubelet has resized its pod and tells the new sums; it changes the pod's cgroup
//! itself, too.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{context::Context, error::Result, pod::update};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::UpdatePodSandboxResourcesRequest,
) -> Result<cri::UpdatePodSandboxResourcesResponse> {
    let pod = cx.store.pod(&request.pod_sandbox_id)?;
    pod.set_known();
    let key = format!("update pod sandbox {}", pod.record.id);
    let hash = hash(&request);
    let shared = Arc::clone(cx);
    let work = || async move {
        let _member = pod.share().await;
        let containers = request.resources.unwrap_or_default();
        let overhead = request.overhead.unwrap_or_default();
        update::update(&shared, &pod, containers, &overhead)
            .await
            .map(|()| String::new())
    };
    cx.operations.run(key, hash, work).await?;
    Ok(cri::UpdatePodSandboxResourcesResponse {})
}
