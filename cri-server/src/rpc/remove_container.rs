//! RemoveContainer.
//!
//! Rule (CRI, RemoveContainer): a running container is killed; idempotent, and one that does not exist is removed.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{
    container::remove,
    context::Context,
    error::{Error, Result},
    pod,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::RemoveContainerRequest,
) -> Result<cri::RemoveContainerResponse> {
    let container = match cx.store.container(&request.container_id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(cri::RemoveContainerResponse {}),
        Err(error) => return Err(error),
    };
    container.set_known();
    let (key, work_cx) = (
        format!("remove container {}", container.record.id),
        Arc::clone(cx),
    );
    let work = || async move {
        let _member = pod::share(&work_cx, &container).await;
        remove::remove(&work_cx, &container)
            .await
            .map(|()| String::new())
    };
    cx.operations.run(key, hash(&request), work).await?;
    Ok(cri::RemoveContainerResponse {})
}
