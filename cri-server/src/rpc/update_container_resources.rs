//! UpdateContainerResources.
//!
//! Rule (CRI, UpdateContainerResources): all fields take effect, or none; those that are 0 or empty stay as they are.

use std::sync::Arc;

use corten_proto::cri;

use super::hash;
use crate::{
    container::update,
    context::Context,
    error::{Error, Result},
    pod,
};

pub(super) async fn handle(
    cx: &Arc<Context>,
    request: cri::UpdateContainerResourcesRequest,
) -> Result<cri::UpdateContainerResourcesResponse> {
    if request.windows.is_some() {
        return Err(Error::invalid("windows", "this is Linux"));
    }
    let container = cx.store.container(&request.container_id)?;
    container.set_known();
    let key = format!("update container {}", container.record.id);
    let hash = hash(&request);
    let (cx, asked) = (Arc::clone(cx), request.linux.unwrap_or_default());
    let shared = Arc::clone(&cx);
    let work = || async move {
        let _member = pod::share(&shared, &container).await;
        update::update(&shared, &container, &asked)
            .await
            .map(|()| String::new())
    };
    cx.operations.run(key, hash, work).await?;
    Ok(cri::UpdateContainerResourcesResponse {})
}
