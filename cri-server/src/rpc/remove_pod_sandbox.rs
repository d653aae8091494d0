//! RemovePodSandbox.
//!
//! Rule (CRI, RemovePodSandbox): takes running containers with it; idempotent, and a pod that does not exist is removed.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{
    context::Context,
    error::{Error, Result},
    pod::remove,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::RemovePodSandboxRequest,
) -> Result<cri::RemovePodSandboxResponse> {
    let pod = match cx.store.pod(&request.pod_sandbox_id) {
        Ok(pod) => pod,
        Err(Error::NotFound { .. }) => return Ok(cri::RemovePodSandboxResponse {}),
        Err(error) => return Err(error),
    };
    pod.set_known();
    let (key, work_cx) = (format!("remove pod {}", pod.record.id), Arc::clone(cx));
    let work = || async move { remove::remove(&work_cx, &pod).await.map(|()| String::new()) };
    cx.operations.run(key, hash(&request), work).await?;
    Ok(cri::RemovePodSandboxResponse {})
}
