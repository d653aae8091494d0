//! StartContainer.
//!
//! Rule (CRI, StartContainer): the container runs on return; a program that cannot be run is told here.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{container::start, context::Context, error::Result};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::StartContainerRequest,
) -> Result<cri::StartContainerResponse> {
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    let key = format!("start container {}", container.record.id);
    let started = Arc::clone(&container);
    let work = || async move { start::start(&started).await.map(|()| String::new()) };
    cx.operations.run(key, hash(&request), work).await?;
    container.set_start_answered();
    Ok(cri::StartContainerResponse {})
}
