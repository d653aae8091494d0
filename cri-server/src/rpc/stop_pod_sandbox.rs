//! StopPodSandbox.
//!
//! Rule (CRI, StopPodSandbox): idempotent, and a pod that does not exist is stopped.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{
    context::Context,
    error::{Error, Result},
    pod::stop,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StopPodSandboxRequest,
) -> Result<cri::StopPodSandboxResponse> {
    let pod = match cx.store.pod(&request.pod_sandbox_id) {
        Ok(pod) => pod,
        Err(Error::NotFound { .. }) => return Ok(cri::StopPodSandboxResponse {}),
        Err(error) => return Err(error),
    };
    pod.set_known();
    let (key, work_cx) = (format!("stop pod {}", pod.record.id), Arc::clone(cx));
    let work = || async move { stop::stop(&work_cx, &pod).await.map(|()| String::new()) };
    cx.operations.run(key, hash(&request), work).await?;
    Ok(cri::StopPodSandboxResponse {})
}
