//! StartContainer.
//!
//! Rule (CRI, StartContainer): the container runs on return; a program that cannot be run is told here.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{container::start, context::Context, error::Result, pod};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse> {
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    let key = format!("start container {}", container.record.id);
    let (started, work_cx) = (Arc::clone(&container), Arc::clone(cx));
    let work = || async move {
        let _member = pod::share(&work_cx, &started).await;
        start::start(&work_cx, &started)
            .await
            .map(|()| String::new())
    };
    cx.operations.run(key, hash(&request), work).await?;
    container.set_start_answered();
    Ok(cri::StartContainerResponse {})
}
